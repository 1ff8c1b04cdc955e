"""Activations and their gradients: the generic operators' numbers, in every layout of memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpconv import _generic
from xpconv._cpu import _kernels, activation
from xpconv.backends import load_backend, use_kernels

NUMPY = load_backend("numpy")
EXACT = {
    "relu": (),
    "leaky_relu": (0.01,),
    "leaky-relu-0": (0.0,),
    "leaky-relu-1.5": (1.5,),
    "leaky-relu-minus": (-0.3,),
}
LAYOUTS = {
    "channel-major": lambda a: a.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3),
    "channels-last": lambda a: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "sliced": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
}


def function(module, name):
    return getattr(module, name.split("-")[0] + "_relu" if name.startswith("leaky-") else name)


def gradient(module, name):
    return getattr(module, ("leaky_relu" if name.startswith("leaky") else name) + "_backward")


def values(rng, shape, dtype):
    """Numbers of both signs, among them some that need care."""
    x = np.asarray(rng.standard_normal(shape)).astype(dtype)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3e38, -3e38]
    flat = x.reshape(-1)
    if flat.size > 2 * len(special):
        flat[rng.permutation(flat.size)[: len(special)]] = special
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (4095,), (3, 5, 41, 167)])
def test_values_are_the_generic_operators(rng, isa, threads, name, dtype, shape):
    x, dy, parameters = values(rng, shape, dtype), values(rng, shape, dtype), EXACT[name]
    before = x.copy(), dy.copy()
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for ours, arguments in ((function, (x,)), (gradient, (dy, x))):
            got = ours(activation, name)(NUMPY, *arguments, *parameters)
            want = ours(_generic, name)(NUMPY, *arguments, *parameters)
            assert (got.shape, got.dtype) == (shape, np.dtype(dtype))
            np.testing.assert_array_equal(got, want)
    for array, copy in zip((x, dy), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_results_go_past_the_caches(rng, isa, dtype):
    """Of 2 MiB and more they are written in another way; with a last block that is not whole, and one not aligned."""
    count = (2 << 20) // np.dtype(dtype).itemsize + 301
    x, dy = values(rng, count, dtype), values(rng, count, dtype)
    y, dx = activation.relu(NUMPY, x), activation.relu_backward(NUMPY, dy, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, 0))
    memory = np.full(count + 2, -7, dtype)
    _kernels.activate(_kernels.RELU, x, None, memory[1:-1])
    np.testing.assert_array_equal(memory[1:-1], y)
    assert memory[[0, -1]].tolist() == [-7, -7]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_layouts(rng, layout, other):
    x, dy = LAYOUTS[layout](values(rng, (2, 3, 4, 5), "float32")), LAYOUTS[other](values(rng, (2, 3, 4, 5), "float32"))
    y, dx = activation.relu(NUMPY, x), activation.relu_backward(NUMPY, dy, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, 0))
    if layout in ("channel-major", "channels-last", "fortran"):
        assert y.strides == x.strides
        assert dx.strides == x.strides


@settings(max_examples=50, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(0, 5), max_size=5))
def test_axes_in_any_order(data, shape):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    order = data.draw(st.permutations(range(len(shape))))
    x, dy = (values(rng, [shape[axis] for axis in order], "float64").transpose(np.argsort(order)) for _ in range(2))
    y, dx = activation.relu(NUMPY, x), activation.relu_backward(NUMPY, dy, x)
    assert y.shape == dx.shape == tuple(shape)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, 0))


def test_results_are_fresh_and_small_ones_too(rng):
    x = np.abs(rng.standard_normal(9)).astype(np.float32)
    y = activation.relu(NUMPY, x)
    assert not np.shares_memory(x, y)
    y[0] = 5
    assert x[0] != 5


class TestCallsThatDoNotFit:
    @pytest.mark.parametrize(
        ("kept", "dy", "result", "message"),
        [
            (np.ones(3), None, np.ones(4), "3 elements, expected 4"),
            (np.ones(4), np.ones(5), np.ones(4), "5 elements, expected 4"),
            (np.ones(4, np.float32), None, np.ones(4), "two types"),
            (np.ones(4), None, np.ones(8)[::2], "contiguous"),
            (np.ones(4, int), None, np.ones(4), "expected float32 or float64"),
            (np.ones(4, ">f8"), None, np.ones(4), "expected float32 or float64"),
        ],
    )
    def test_arrays(self, kept, dy, result, message):
        with pytest.raises(ValueError, match=message):
            _kernels.activate(_kernels.RELU_BACKWARD, kept, dy, result)

    @pytest.mark.parametrize("number", [-1, 99])
    def test_functions(self, number):
        with pytest.raises(ValueError, match="function"):
            _kernels.activate(number, np.ones(4), None, np.ones(4))


def test_the_operators_serve_the_functions(rng):
    """Through `xpconv.functional`, in the layout of x, with the same bits as without kernels."""
    import xpconv.functional as F

    x = values(rng, (2, 3, 8, 8), "float32")
    results = []
    for mode in ("native", "generic"):
        with use_kernels(mode), np.errstate(invalid="ignore", over="ignore"):
            y, cache = F.relu(x)
            z, other = F.leaky_relu(x, 0.2)
            results.append([y, F.relu_backward(x, cache), z, F.leaky_relu_backward(x, other)])
    for native, generic in zip(*results, strict=True):
        np.testing.assert_array_equal(native, generic)
