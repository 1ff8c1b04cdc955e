"""What the tests of the examples share."""

import importlib.util
from pathlib import Path

import pytest

import xpconv
from xpconv.backends import dispatch, registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """``example("deblur.py")`` gives the module; what it registers or sets ends with the test."""
    for module, name in ((dispatch, "_operators"), (dispatch, "_kernels")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setattr(registry, "_default", None)
    if not EXAMPLES.exists():
        pytest.skip("the examples are in the repository, not in the package")

    def load(path):
        file = EXAMPLES / path
        spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.syspath_prepend(file.parent)
        spec.loader.exec_module(module)
        return module

    with xpconv.use_backend("numpy"):
        yield load
