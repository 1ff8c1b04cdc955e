"""The example of moving a network of the course to another device."""

import importlib.util
from pathlib import Path

import pytest

from xpconv.backends import registry

EXAMPLE = Path(__file__).parents[2] / "examples" / "cs231n_on_a_gpu.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are in the repository, not in the package")
def test_it_is_the_same_run_on_every_backend(on, capsys, monkeypatch):
    if on.id not in ("numpy", "torch", "cuda-host", "cupy"):
        pytest.skip("some backends are enough")
    spec = importlib.util.spec_from_file_location("cs231n_on_a_gpu", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(registry, "_default", None)  # what the example sets ends with the test
    accuracy = module.main(["--backend", on.backend, "--small"])
    assert accuracy == pytest.approx(0.28, abs=0.021)  # one image of fifty
    assert "(Epoch 1 / 1) train acc: 0.2" in capsys.readouterr().out
