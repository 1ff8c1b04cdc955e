"""CuPy without a GPU: what it says where it cannot start, and its wiring, on a stand-in made of NumPy.

The stand-in is as strict as CuPy about devices: an operation on an array of another device than the current one fails.
Its CUDA kernels run on the host.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv.backends import backend_of
from xpconv.testing.cuda_host import HostArray, HostModule, find_compiler


@pytest.fixture(autouse=True)
def _registry(clean_registry):
    clean_registry._loaded.pop("cupy", None)
    clean_registry._by_type.clear()


def fake_cupy(count):
    """A module like cupy, as far as the search for devices goes; ``count`` is called to count them."""
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.0.0"
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count))
    return cupy


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        xpconv.BackendUnavailableError, match=r"cupy is not installed: pip install \"xpconv\[cuda13\]\""
    ):
        xpconv.set_backend("cupy")
    assert "cupy" not in xpconv.available_backends()
    assert xpconv.get_backend().name == "numpy"


def test_no_driver_or_device(monkeypatch):
    def count():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count))
    with pytest.raises(xpconv.BackendUnavailableError) as caught:
        xpconv.set_backend("cupy")
    text = str(caught.value)
    assert text.startswith(
        "cupy 14.0.0 is installed but finds no usable NVIDIA driver or device: cudaErrorInsufficient"
    )
    assert "nvidia-smi" in text
    assert 'pip install "xpconv[cuda13]"' in text
    assert "cupy" not in xpconv.available_backends()
    with (
        pytest.raises(xpconv.BackendUnavailableError, match="finds no usable NVIDIA driver"),
        xpconv.use_backend("cupy"),
    ):
        pass
    assert xpconv.get_backend().name == "numpy"


def test_a_library_of_cuda_is_missing(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "cupy", Broken("cupy"))
    with pytest.raises(xpconv.BackendUnavailableError, match=r"libcudart\.so\.13: cannot open"):
        xpconv.set_backend("cupy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cupy:2", "cupy has no device 2: this machine has 2"),
        ("cupy:x", "cupy devices are numbers, as in 'cupy:1', got 'x'"),
        ("cupy:-1", "cupy devices are numbers, as in 'cupy:1', got '-1'"),
    ],
)
def test_no_such_device(monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 2))
    with pytest.raises(xpconv.BackendUnavailableError, match=message):
        xpconv.set_backend(name)


# ---- the stand-in ----------------------------------------------------------------------------------------------------

current = [0]  # stack of current devices


class Device:
    attributes = {"MultiProcessorCount": 2}  # noqa: RUF012

    def __init__(self, number):
        self.id = number

    def __enter__(self):
        current.append(self.id)

    def __exit__(self, *exception):
        current.pop()

    def __eq__(self, other):
        return self.id == other.id

    __hash__ = None

    def synchronize(self):
        assert current


class GPUArray(np.ndarray):
    """An array that knows its device, and works on the current device only."""

    number = None

    def __array_finalize__(self, parent):
        self.number = getattr(parent, "number", None)

    @property
    def device(self):
        return Device(self.number)

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        plain = [host(a) for a in inputs]
        options.update({"out": tuple(host(a) for a in out)} if out else {})
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out else on_current(result)

    def __array_function__(self, function, types, arguments, options):
        return on_current(function(*plain_of(arguments), **{k: plain_of(v) for k, v in options.items()}))


def host(array):
    """The values, for an operation of the current device."""
    if isinstance(array, GPUArray):
        assert array.number == current[-1], f"array of device {array.number}, current is {current[-1]}"
        return array.view(np.ndarray)
    return array


def plain_of(value):
    return type(value)(plain_of(v) for v in value) if isinstance(value, (tuple, list)) else host(value)


def on_current(array):
    array = np.asarray(array).view(GPUArray) if isinstance(array, (np.ndarray, np.generic)) else array
    array.number = current[-1]
    return array


class RawModule:
    """`cupy.RawModule`, compiled for the host."""

    def __init__(self, code, options, name_expressions):
        if find_compiler() is None:
            pytest.skip("no C++ compiler")
        defined = [option for option in options if option.startswith("-D")]
        self.module = HostModule(code, ("-DXPCONV_ON_HOST", *defined), name_expressions)

    def compile(self):
        assert current

    def get_function(self, name):
        def launch(grid, block, arguments):
            on_host = [host(a).view(HostArray) if isinstance(a, GPUArray) else a for a in arguments]
            self.module.get_function(name)(grid, block, on_host)

        return launch


@pytest.fixture
def two_gpus(monkeypatch):
    cupy = fake_cupy(lambda: 2)
    cupy.ndarray = GPUArray
    cupy.RawModule = RawModule
    cupy.ascontiguousarray = lambda array: on_current(np.ascontiguousarray(host(array)))
    cupy.cuda.compiler = SimpleNamespace(CompileException=SyntaxError)
    cupy.cuda.Device = Device
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"name": f"GPU {number}".encode()}
    cupy.asnumpy = lambda array: np.array(array.view(np.ndarray))

    def asarray(obj, dtype=None):
        obj = obj.view(np.ndarray) if isinstance(obj, GPUArray) else obj
        return on_current(np.array(obj, dtype=dtype))

    cupy.asarray = asarray
    namespace = ModuleType("array_api_compat.cupy")
    namespace.__getattr__ = lambda name: getattr(np, name)
    for name in ("empty", "zeros", "full", "arange"):  # they take a device and do not look at it
        make = getattr(np, name)
        setattr(namespace, name, lambda *a, make=make, device=None, **o: on_current(make(*a, **o)))
    import array_api_compat

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
    monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
    xpconv.register_backend("cupy", xpconv.backends.registry._builtin("cupy"), packages=(__name__, "cupy"))


@pytest.mark.parametrize("name", ["cupy", "cupy:1"])
def test_everything_happens_on_the_device_of_the_arrays(two_gpus, name, rng):
    x, w, b = (rng.standard_normal(s) for s in ((3, 4, 6, 7), (4, 2, 3, 2), (4,)))
    arguments = {"padding": 1, "stride": 2, "groups": 2}
    expected, cache = F.conv2d(x, w, b, **arguments)
    gradients = F.conv2d_backward(expected, cache)
    with xpconv.use_backend(name) as backend:
        assert backend.describe() == f"cupy 14.0.0, GPU {name.partition(':')[2] or 0}"
        arrays = [xpconv.asarray(a) for a in (x, w, b)]
    assert current == [0]
    assert all(backend_of(a=a) is backend for a in arrays)
    y, cache = F.conv2d(*arrays, **arguments)
    for ours, reference in zip((y, *F.conv2d_backward(y, cache)), (expected, *gradients), strict=True):
        assert backend_of(a=ours) is backend
        np.testing.assert_allclose(xpconv.to_numpy(ours), reference, rtol=1e-12, atol=1e-12)
    for array in (
        backend.empty((2,), "float32"),
        backend.zeros((2,), "float32"),
        backend.full((2,), 1.0, "float32"),
        backend.arange(2, "int32"),
        backend.astype(backend.zeros((2,), "float32"), "float64"),
        backend.rng(0).normal((2,)),
    ):
        assert backend_of(a=array) is backend
    backend.synchronize()


def test_arrays_of_two_gpus_are_not_mixed(two_gpus):
    x = xpconv.asarray(np.ones((1, 1, 2, 2)), backend="cupy")
    w = xpconv.asarray(np.ones((1, 1, 2, 2)), backend="cupy:1")
    with pytest.raises(
        xpconv.BackendMismatchError, match="w is an array of cupy:1 but x is one of cupy; move one with"
    ):
        F.conv2d(x, w)
    moved = xpconv.asarray(w, backend="cupy")
    assert backend_of(a=moved).name == "cupy"
    with pytest.raises(xpconv.BackendMismatchError, match="w is an array of numpy but x is one of cupy"):
        F.conv2d(x, np.ones((1, 1, 2, 2)))


def test_half_precision_and_dtypes(two_gpus):
    array = xpconv.asarray([1.0, 2.0], "float16", backend="cupy")
    assert array.dtype == np.float16
    with pytest.raises(TypeError, match="dtype: cupy has no 'bfloat16'"):
        xpconv.asarray([1.0], "bfloat16", backend="cupy")
