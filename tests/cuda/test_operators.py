"""Every operator on CUDA kernels against the same one in plain array API: dtypes, index widths, schedules, layouts."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

from xpconv import _generic, _gpu
from xpconv._gpu import launch
from xpconv.backends import load_backend
from xpconv.testing import LAYOUTS
from xpconv.testing.cuda_host import HostArray, thread_schedule

_spec = importlib.util.spec_from_file_location("cuda_operators", Path(__file__).with_name("operators.py"))
operators = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(operators)

# of the largest number in the result, by the length of the longest sums here (some hundred terms)
TOLERANCE = {"float64": 1e-12, "float32": 5e-6, "float16": 4e-3, "bfloat16": 3e-2}


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


def offset(array):
    """In C order, but an element behind a multiple of 16 bytes, where no vector can be read."""
    memory = np.empty(array.size + 16 // array.itemsize, array.dtype)
    first = (1 - memory.ctypes.data // array.itemsize) % (16 // array.itemsize)
    view = memory[first : first + array.size].reshape(array.shape)
    view[...] = array
    return view


def channel_major(array):
    """The first two axes are swapped in memory, as convolution on a GPU leaves its results."""
    return np.array(array.swapaxes(0, 1), order="C").swapaxes(0, 1) if array.ndim > 2 else np.array(array)


def device(array, layout="contiguous"):
    """A `HostArray` whose memory is laid out so."""
    return np.asarray({**LAYOUTS, "offset": offset, "channel-major": channel_major}[layout](array)).view(HostArray)


def arguments_for(call, dtype, make):
    """The arguments of a call, floating-point arrays rounded to ``dtype``, through ``make``.

    They cannot be written to, but by steps of optimizers and copies: others may be repeated when memory runs out.
    """

    def made(value):
        if not isinstance(value, np.ndarray):
            return value
        array = make(value.astype(dtype) if value.dtype.kind == "f" else value)
        array.flags.writeable = call.operator.endswith("_steps") or call.operator == "copy_tensors"
        return array

    return [
        [made(a) for a in argument] if isinstance(argument, list) else made(argument) for argument in call.arguments
    ]


def flat(results):
    """The arrays among results, which may be lists of them; None stays."""
    results = results if isinstance(results, tuple) else (results,)
    return [array for result in results for array in (result if isinstance(result, list) else [result])]


def reference(call, dtype):
    """Results of the generic operator on NumPy; of bfloat16, which NumPy cannot compute with, in float32."""
    wide = np.float32 if dtype.name == "bfloat16" else dtype
    with np.errstate(all="ignore"):
        arguments = arguments_for(call, dtype, lambda a: np.array(a, wide) if a.dtype == dtype else np.array(a))
        results = getattr(_generic, call.operator)(load_backend("numpy"), *arguments)
    return flat(results)


def check(host, call, dtype, layout="contiguous"):
    arguments = arguments_for(call, dtype, lambda a: device(a, layout))
    function = host.engines[call.operator][0].function
    with np.errstate(all="ignore"):
        results = function(host, *arguments)
    results, expected = flat(results), reference(call, dtype)
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        if want is None:
            assert got is None
            continue
        want = np.asarray(want)
        assert isinstance(got, HostArray)
        assert got.shape == want.shape
        if want.dtype.kind != "f":
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(np.asarray(got), want)
            continue
        if dtype.name != "bfloat16":
            assert got.dtype == want.dtype
        finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
        atol = TOLERANCE[dtype.name] * max(finite.max(initial=0.0), 1e-30)
        np.testing.assert_allclose(
            np.asarray(got, np.float64), want.astype(np.float64), rtol=TOLERANCE[dtype.name], atol=atol, err_msg=call[0]
        )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("group", list(operators.GROUPS))
def test_equals_the_generic_operator(host, rng, group, dtype):
    dtype = dtype_of(dtype)
    for call in operators.GROUPS[group](rng):
        check(host, call, dtype)


@pytest.mark.parametrize("group", list(operators.GROUPS))
def test_64_bit_indices(host, rng, group, monkeypatch):
    monkeypatch.setattr(launch, "INT32_LIMIT", -1)
    asked = []
    get = host.kernels.get
    monkeypatch.setattr(host.kernels, "get", lambda *key: asked.append(key) or get(*key))
    for call in operators.GROUPS[group](rng):
        check(host, call, np.dtype(np.float32))
    assert asked
    assert all(key[3] == "int64" for key in asked), asked


@pytest.mark.parametrize("schedule", [1, 2, 3])
@pytest.mark.parametrize("group", list(operators.GROUPS))
def test_any_order_of_threads(host, rng, group, schedule):
    with thread_schedule(schedule):
        for call in operators.GROUPS[group](rng):
            check(host, call, np.dtype(np.float32))


@pytest.mark.parametrize(
    "layout", ["fortran", "transposed", "channels-last", "sliced", "negative", "offset", "channel-major"]
)
@pytest.mark.parametrize("group", list(operators.GROUPS))
def test_memory_layouts(host, rng, group, layout):
    for call in operators.GROUPS[group](rng):
        check(host, call, np.dtype(np.float32), layout)


@pytest.mark.parametrize("group", ["batch_norm", "batch_norm_relu", "row_norms"])
def test_more_channels_than_a_grid_has_in_y(host, rng, group, monkeypatch):
    monkeypatch.setattr("xpconv._gpu.norm.MAX_ROWS", 2)
    for call in operators.GROUPS[group](rng):
        check(host, call, np.dtype(np.float32))


@pytest.mark.parametrize("operator", list(_gpu.ENGINES))
def test_signature_is_that_of_the_generic_operator(operator):
    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    for _, function, _ in _gpu.ENGINES[operator]:
        assert parameters(function) == parameters(getattr(_generic, operator))


def test_every_operator_is_called_here(rng):
    called = {call.operator for group in operators.GROUPS.values() for call in group(rng)}
    assert called == set(_gpu.ENGINES)


def test_every_kernel_is_run(host, rng, monkeypatch):
    """Every template of the sources, with every argument besides type and index."""
    asked = set()
    get = host.kernels.get
    monkeypatch.setattr(host.kernels, "get", lambda *key: asked.add(key) or get(*key))
    for group in operators.GROUPS.values():
        for call in group(rng):
            check(host, call, np.dtype(np.float32))
    known = {
        (file, kernel, "float32", *argument.split(", "))
        for file, templates in _gpu.module.INSTANCES.items()
        for kernel, arguments in templates
        for argument in arguments
        if not argument.startswith("int64")
    }
    assert asked == known
