"""Operators and kernels that are registered from outside of the package."""

import io
import re

import numpy as np
import pytest

import xpconv
from xpconv import _generic
from xpconv import functional as F
from xpconv.backends import (
    BackendUnavailableError,
    KernelUnavailableError,
    dispatch,
    load_backend,
    operators,
    register_kernel,
    register_operator,
    run,
    serving,
    use_kernels,
)
from xpconv.backends.cuda import CudaModule
from xpconv.testing import CASES


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    """What a test registers ends with it."""
    for name in ("_operators", "_kernels"):
        monkeypatch.setattr(dispatch, name, dict(getattr(dispatch, name)))


def scaled_square(backend, x, factor):
    return factor * x * x


def test_an_operator_runs_on_every_backend(on):
    register_operator("scaled_square", scaled_square)
    y = run(load_backend(on.backend), "scaled_square", on.asarray([1.0, 2.0, 3.0], "float32"), 2.0)
    assert on.to_numpy(y).tolist() == [2.0, 8.0, 18.0]


def test_operators_tells_all():
    assert operators() == _generic.__all__
    register_operator("scaled_square", scaled_square)
    assert operators() == [*_generic.__all__, "scaled_square"]


def test_a_kernel_takes_the_calls_that_it_supports():
    seen = []

    def kernel(backend, x, factor):
        seen.append(backend.dtype_name(x))
        return scaled_square(backend, x, factor)

    register_operator("scaled_square", scaled_square)
    register_kernel(
        "scaled_square", kernel, backend="numpy", name="mine", supports=lambda dtype, geometry: dtype == "float32"
    )
    numpy = load_backend("numpy")
    assert serving(numpy, "scaled_square", "float32").name == "mine"
    assert serving(numpy, "scaled_square", "float64").name == "generic"
    run(numpy, "scaled_square", np.ones(3, np.float32), 1.0)
    run(numpy, "scaled_square", np.ones(3), 1.0)
    assert seen == ["float32"]
    with use_kernels("generic"):
        assert serving(numpy, "scaled_square", "float32").name == "generic"
    with use_kernels("native"), pytest.raises(KernelUnavailableError, match=r"scaled_square: .* \(mine\) supports"):
        serving(numpy, "scaled_square", "float64")


@pytest.mark.parametrize(
    "on",
    [case for case in CASES if case.id in ("numpy", "numpy-generic", "torch")],
    ids=lambda case: case.id,
    indirect=True,
)
def test_a_kernel_of_a_known_operator_goes_before_the_compiled_one(on):
    before = serving(load_backend("numpy"), "tanh", "float32").name
    register_kernel("tanh", lambda backend, x: 2 * x, backend="numpy")
    x = on.asarray([0.5], "float32")
    y = on.to_numpy(F.tanh(x)[0])
    assert (y == 1) if on.id == "numpy" else (y < 0.5)
    register_kernel("tanh", lambda backend, x: 3 * x, backend="numpy", name="other")
    numpy = load_backend("numpy")
    with use_kernels("auto"):
        assert serving(numpy, "tanh", "float32").name == "other"
    names = [engine.name for engine in dispatch._kernels["numpy", "tanh"]]
    assert names == ["other", "<lambda>"]
    assert before in ("cpu", "generic")


def test_a_kernel_is_for_all_devices_of_a_backend():
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    register_kernel("relu", lambda backend, x: x, backend="array_api_strict", name="mine")
    for device in ("array_api_strict", "array_api_strict:device1"):
        assert serving(load_backend(device), "relu", "float32").name == "mine"


def test_the_same_name_again_replaces():
    for factor in (2.0, 3.0):
        register_operator("scaled", lambda backend, x, factor=factor: factor * x)
    numpy, x = load_backend("numpy"), np.ones(1)
    assert run(numpy, "scaled", x) == 3
    for factor in (4.0, 5.0):
        register_kernel("scaled", lambda backend, x, factor=factor: factor * x, backend="numpy", name="mine")
    assert run(numpy, "scaled", x) == 5
    assert len(dispatch._kernels["numpy", "scaled"]) == 1


def test_show_config_has_them():
    register_operator("scaled_square", scaled_square)
    register_kernel("scaled_square", scaled_square, backend="numpy", name="mine")
    text = io.StringIO()
    xpconv.show_config(text)
    assert re.search(r"^  scaled_square +mine\b", text.getvalue(), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "function", "error", "message"),
    [
        (3, scaled_square, TypeError, "name: expected a string, got 3"),
        ("a b", scaled_square, ValueError, "name: expected an identifier, got 'a b'"),
        ("relu", scaled_square, ValueError, "'relu' is an operator of xpconv; register_kernel gives it another kernel"),
        ("mine", None, TypeError, "function: expected a callable that takes a backend and the arguments, got None"),
    ],
)
def test_wrong_operators(name, function, error, message):
    with pytest.raises(error, match=re.escape(message)):
        register_operator(name, function)
    assert operators() == _generic.__all__


@pytest.mark.parametrize(
    ("operator", "function", "options", "error", "message"),
    [
        ("rleu", scaled_square, {}, ValueError, "operator: unknown 'rleu'; xpconv.backends.register_operator makes"),
        ("relu", None, {}, TypeError, "function: expected a callable"),
        ("relu", scaled_square, {}, TypeError, "relu is called as relu(backend, x), by position: missing a required"),
        ("relu", abs, {"supports": "float32"}, TypeError, "supports: expected a callable that takes a dtype's name"),
        ("relu", lambda b, x: x, {"backend": "nunpy"}, ValueError, "backend: expected a registered name, got 'nunpy'"),
        ("relu", lambda b, x: x, {"backend": "cupy:1"}, ValueError, "a registered name without its device, got"),
    ],
    ids=["operator", "none", "arguments", "supports", "backend", "device"],
)
def test_wrong_kernels(operator, function, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        register_kernel(operator, function, **{"backend": "numpy", **options})
    assert not dispatch._kernels


def test_an_unknown_operator():
    with pytest.raises(ValueError, match=r"operator: unknown 'scaled_square'; xpconv\.backends\.register_op"):
        run(load_backend("numpy"), "scaled_square", np.ones(1))


# ---- CUDA source ---------------------------------------------------------------------------------------------------

SOURCE = """
template <class T> __global__ void scale(const T* x, T* y, T factor, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        y[i] = factor * x[i];
}
template <class T> __global__ void reverse(const T* x, T* y) {  // of a block
    SHARED_ARRAY(T, all, 64);
    all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def module():
    return CudaModule(SOURCE, ["scale<float>", "scale<double>", "reverse<float>"])


@pytest.fixture(params=["cuda-host", "cupy"])
def device(request):
    try:
        return load_backend(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_grid_stride_loop(module, device, count):
    x = device.asarray(np.arange(count, dtype=np.float32))
    y = device.zeros((count,), "float32")
    module.launch(device, "scale<float>", count, (x, y, np.float32(3), np.int64(count)))
    assert np.array_equal(xpconv.to_numpy(y), 3 * np.arange(count))


def test_blocks_and_threads(module, device):
    x, y = device.asarray(np.arange(32, dtype=np.float32)), device.zeros((64,), "float32")
    module.launch(device, "reverse<float>", (2,), (x, y), threads=32)
    assert np.array_equal(xpconv.to_numpy(y), np.tile(np.arange(31, -1, -1), 2))


def test_it_is_compiled_once_a_device(module, device, monkeypatch):
    x = device.asarray(np.ones(1))
    module.launch(device, "scale<double>", 1, (x, x, np.float64(2), np.int64(1)))
    monkeypatch.setattr(device, "raw_module", None)
    module.launch(device, "scale<double>", 1, (x, x, np.float64(2), np.int64(1)))
    assert float(x[0]) == 4


def test_source_from_a_file_and_the_compilers_words(tmp_path, device):
    file = tmp_path / "wrong.cu"
    file.write_text("template <class T> __global__ void wrong(T* x) {\n    x[0] = no_such_name;\n}\n")
    with pytest.raises(KernelUnavailableError, match=r"(?s)wrong<float>: cannot be compiled; .*wrong\.cu.2.*no_such_"):
        CudaModule(file, ["wrong<float>"]).launch(device, "wrong<float>", 1, ())


def test_shared_memory_is_checked_on_the_host():
    try:
        host = load_backend("cuda-host")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    plain = CudaModule("__global__ void f(float* x) { __shared__ float a[2]; a[0] = x[0]; }", ["f"])
    with pytest.raises(KernelUnavailableError, match=r"declare shared memory as SHARED_ARRAY\(T, name, size\)"):
        plain.launch(host, "f", (1,), (host.zeros((1,), "float32"),))


@pytest.mark.parametrize(
    ("kernel", "grid", "arguments", "options", "error", "message"),
    [
        ("scale<half>", 1, (), {}, ValueError, "kernel: expected one of scale<float>, scale<double>, reverse<float>, "),
        ("scale<float>", 1, (1.0,), {}, TypeError, "kernel argument 0: a Python number 1.0, whose size the kernel"),
        ("scale<float>", -1, (), {}, ValueError, "grid: must be at least 0, got -1"),
        ("scale<float>", (), (), {}, ValueError, "grid: expected one to three axes, got 0"),
        ("scale<float>", 1.5, (), {}, TypeError, "grid: expected an integer"),
        ("scale<float>", 1, (), {"threads": 2048}, ValueError, "threads: must be between 1 and 1024, got 2048"),
    ],
)
def test_wrong_launches(module, device, kernel, grid, arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        module.launch(device, kernel, grid, arguments, **options)


def test_arrays_with_gaps_are_refused(module, device):
    x = device.zeros((4,), "float32")[::2]
    with pytest.raises(ValueError, match=r"kernel argument 0: strides \(8,\) of shape \(2,\) would be ignored"):
        module.launch(device, "scale<float>", 2, (x, x, np.float32(1), np.int64(2)))


def test_other_backends_run_no_cuda(module):
    with pytest.raises(TypeError, match=r"backend: expected one that runs CUDA kernels \(cupy or cuda-host\), got nu"):
        module.launch(load_backend("numpy"), "scale<float>", 1, ())
    with pytest.raises(TypeError, match=r"\(cupy or cuda-host\), got 'cupy'"):
        module.launch("cupy", "scale<float>", 1, ())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, ["f"]), TypeError, "source: expected a text or a path, got int"),
        (("text", "f<float>"), TypeError, "kernels: expected a sequence of strings, got 'f<float>'"),
        (("text", []), ValueError, "kernels: expected the name of at least one"),
    ],
)
def test_wrong_modules(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CudaModule(*arguments)
