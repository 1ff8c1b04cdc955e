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


# of the result, in units of the last place; of numbers of any size, so far as the result is a normal number
MOST_ULPS = {"sigmoid": 2.5, "tanh": 2.0, "silu": 3.0}


def of_all_sizes(rng, dtype):
    """Numbers of both signs near 0, far from it, and where exponentials end."""
    parts = [rng.standard_normal(4000) * scale for scale in (0.01, 0.3, 1, 4, 20)]
    parts += [np.linspace(-110, 110, 4001), 10 ** rng.uniform(-30, 2, 2000), -(10 ** rng.uniform(-30, 2, 2000))]
    if dtype == "float64":
        parts.append(np.linspace(-760, 760, 4001))
    return np.concatenate(parts).astype(dtype)


def exactly(name, x):
    """The function in the longest floating-point numbers that there are."""
    x = x.astype(np.longdouble)
    if name == "tanh":
        return np.tanh(x)
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e) * (x if name == "silu" else 1)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="long double is no longer than double")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MOST_ULPS)
def test_accuracy(rng, isa, name, dtype):
    x = of_all_sizes(rng, dtype)
    want, got = exactly(name, x), function(activation, name)(NUMPY, x)
    normal = np.abs(want) > 4 * np.finfo(dtype).tiny * np.maximum(np.abs(x), 1)
    ulps = np.abs(got.astype(np.longdouble) - want)[normal] / np.spacing(np.abs(want[normal].astype(dtype)))
    assert ulps.max() < MOST_ULPS[name]
    np.testing.assert_allclose(got[~normal], want[~normal].astype(dtype), rtol=0, atol=200 * np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu"])
def test_functions_and_gradients_are_the_generic_ones(rng, isa, threads, name, dtype):
    x, dy = of_all_sizes(rng, dtype), rng.standard_normal(of_all_sizes(rng, dtype).size).astype(dtype)
    y, ulp = function(activation, name)(NUMPY, x), float(np.finfo(dtype).eps)
    with np.errstate(under="ignore", over="ignore"):
        want = function(_generic, name)(NUMPY, x)
        kept = want if name in ("sigmoid", "tanh") else x
        got, gradient = (
            np.asarray(getattr(module, f"{name}_backward")(NUMPY, dy, kept)) for module in (activation, _generic)
        )
    tiny = float(np.finfo(dtype).tiny) * 300
    # far out the exponent of gelu's tail is rounded before the exponential
    rounding = 8 * ulp + (ulp * x * x if name == "gelu" else 0)
    assert (np.abs(y - want) <= rounding * np.abs(want) + tiny).all()
    scale = np.maximum(np.abs(x), 1)  # of the terms that cancel
    assert (np.abs(got - gradient) <= 8 * ulp * scale * np.abs(dy) + tiny).all()


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_the_line(isa, name, dtype):
    x = np.asarray([math.nan, math.inf, -math.inf, 0.0, -0.0, 3e38, -3e38, 1e-40, -1e-40], dtype)
    for arguments in ((x,), (np.ones_like(x), x)):
        operator = name if len(arguments) == 1 else f"{name}_backward"
        with np.errstate(all="ignore"):
            want = getattr(_generic, operator)(NUMPY, *arguments)
        np.testing.assert_allclose(getattr(activation, operator)(NUMPY, *arguments), want, rtol=1e-6, err_msg=operator)


@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu"])
def test_an_element_does_not_depend_on_its_place(rng, isa, name):
    x = of_all_sizes(rng, "float32")[:1003]
    y = getattr(activation, name)(NUMPY, x)
    for first in (1, 5, 990, 1002):
        np.testing.assert_array_equal(getattr(activation, name)(NUMPY, x[first:].copy()), y[first:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_and_products(rng, isa, dtype):
    a, b = values(rng, (3, 5, 7), dtype), values(rng, (3, 5, 7), dtype)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for one in (a, a[:, ::-1], a.transpose(2, 0, 1)):
            other = b if one.shape == b.shape else b.transpose(2, 0, 1).copy()
            np.testing.assert_array_equal(activation.add(one, other), one + other)
            np.testing.assert_array_equal(activation.multiply(one, other), one * other)


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


def test_results_are_fresh(rng):
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
