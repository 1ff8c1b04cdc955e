"""`import xpconv` imports nothing that is optional or slow, and all of it works without what is optional."""

import subprocess
import sys

import pytest

import xpconv

OPTIONAL = (
    *("torch", "jax", "jaxlib", "cupy", "array_api_strict", "hypothesis", "pytest", "_pytest", "rich", "matplotlib"),
    *("PIL", "h5py", "safetensors", "threadpoolctl", "ml_dtypes", "onnx", "onnxruntime", "scipy", "sklearn"),
)
SLOW = ("numpy.ma", "numpy.testing", "importlib.metadata", "asyncio", "unittest", "multiprocessing", "urllib.request")


def run(code, *options):
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["xpconv", "xpconv.functional", "xpconv.layers", "xpconv.optim", "xpconv.testing"])
def test_nothing_optional_is_imported(module):
    code = f"import sys, {module}; print([name for name in {OPTIONAL} if name in sys.modules])"
    assert run(code) == "[]"


def test_nothing_slow_is_imported():
    code = f"""
import sys, numpy
before = set(sys.modules)
import xpconv
new = set(sys.modules) - before
print(*(name for name in new if name in {SLOW} or name.startswith("xpconv.")))
"""
    new = run(code).split()
    assert "xpconv.backends.dispatch" in new
    assert not set(SLOW) & set(new)
    for late in ("functional", "layers", "training", "data", "backends.numpy", "_generic", "_cpu"):
        assert f"xpconv.{late}" not in new


BLOCK = f"import sys\nfor name in {OPTIONAL}: sys.modules[name] = None\n"

WORK = """
import numpy as np, xpconv
import xpconv.functional as F
x = np.ones((2, 3, 5, 5), dtype=np.float32)
y, cache = F.conv2d(x, np.ones((4, 3, 3, 3), dtype=np.float32), padding=1)
dx, dw, db = F.conv2d_backward(y, cache)
print(dx.shape)
"""


def test_it_works_without_anything_optional():
    shape, backends = run(BLOCK + WORK + "print(*xpconv.available_backends())", "-W", "error").split("\n")
    assert shape == "(2, 3, 5, 5)"
    assert backends in ("numpy", "numpy cuda-host")  # the second takes a C++ compiler


def test_every_public_name_can_be_had_without_anything_optional():
    code = BLOCK + "import xpconv\nfor name in xpconv.__all__: assert getattr(xpconv, name) is not None\nprint('all')"
    assert run(code) == "all"


def test_it_works_with_optimised_bytecode():
    assert run(WORK, "-OO") == "(2, 3, 5, 5)"


def test_public_names():
    assert set(xpconv.__all__) <= set(dir(xpconv))
    for name in xpconv.__all__:
        assert getattr(xpconv, name) is not None
    with pytest.raises(AttributeError, match="module 'xpconv' has no attribute 'conv2d'"):
        xpconv.conv2d  # noqa: B018


@pytest.mark.parametrize("package", ["backends", "functional", "testing"])
def test_what_a_package_exports_exists(package):
    module = getattr(xpconv, package)
    assert sorted(module.__all__, key=str.casefold) == sorted(set(module.__all__), key=str.casefold)
    for name in module.__all__:
        assert hasattr(module, name), name


def test_workspace_from_the_environment(monkeypatch):
    code = "import xpconv; print(xpconv.get_workspace_mb())"
    for value, expected in (("7", "7"), ("", "64"), (" 12 ", "12")):
        monkeypatch.setenv("XPCONV_WORKSPACE_MB", value)
        assert run(code) == expected
    monkeypatch.delenv("XPCONV_WORKSPACE_MB")
    assert run(code) == "64"


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "64 MB", "lots"])
def test_wrong_workspace_in_the_environment(monkeypatch, value):
    monkeypatch.setenv("XPCONV_WORKSPACE_MB", value)
    done = subprocess.run(
        [sys.executable, "-c", "import xpconv; xpconv.get_workspace_mb()"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        f"ValueError: XPCONV_WORKSPACE_MB: expected MiB, from 1 to {sys.maxsize >> 20}, got {value!r}"
    )
