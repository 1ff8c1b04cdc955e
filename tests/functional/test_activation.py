"""Activations against their definitions, PyTorch and 40 digits, on every backend."""

import math
import warnings

import numpy as np
import pytest

from xpconv import functional as F
from xpconv._generic import activation as generic
from xpconv.testing import LAYOUTS, check_gradients


def normal(x):
    return np.asarray([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape)


def logistic(x):
    return 1 / (1 + np.exp(-x))


DEFINITIONS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * normal(x),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "silu": lambda x: x * logistic(x),
    "sigmoid": logistic,
    "tanh": np.tanh,
}
DERIVATIVES = {
    "relu": lambda x: np.where(x > 0, 1.0, 0),
    "leaky_relu": lambda x: np.where(x > 0, 1.0, 0.01),
    "hardtanh": lambda x: np.where(np.abs(x) < 1, 1.0, 0),
    "gelu": lambda x: normal(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "silu": lambda x: logistic(x) * (1 + x * (1 - logistic(x))),
    "sigmoid": lambda x: logistic(x) * (1 - logistic(x)),
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
}
# limits for x of ±1e4: value below, value above, derivative below, derivative above
LIMITS = {
    "relu": (0, 1e4, 0, 1),
    "leaky_relu": (-100, 1e4, 0.01, 1),
    "gelu": (0, 1e4, 0, 1),
    "hardtanh": (-1, 1, 0, 0),
    "silu": (0, 1e4, 0, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
}


def forward_of(name):
    return getattr(F, name)


def backward_of(name):
    return getattr(F, f"{name}_backward")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_values(on, close, rng, name):
    x, dy = rng.normal(0, 3, size=(4, 5, 6)), rng.normal(size=(4, 5, 6))
    for dtype in on.dtypes:
        y, cache = forward_of(name)(on.asarray(x, dtype))
        close(y, DEFINITIONS[name](x), dtype)
        close(backward_of(name)(on.asarray(dy, dtype), cache), dy * DERIVATIVES[name](x), dtype, 2)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_gradients(on, rng, name):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    x = rng.normal(size=(3, 7))
    x += np.copysign(0.1, x)  # away from the kink of relu
    check_gradients(forward_of(name), backward_of(name), [on.asarray(x)])


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_arguments(on, sparing, name, dtype):
    """No overflow, no NaN, and no warning, which would be an error here."""
    sparing(name == "gelu")
    if dtype not in on.dtypes:
        pytest.skip(f"no {dtype}")
    x = on.asarray([-1e4, 1e4, -0.0, 0.0], dtype)
    y, cache = forward_of(name)(x)
    dx = backward_of(name)(on.asarray(np.ones(4), dtype), cache)
    low, high, low_slope, high_slope = LIMITS[name]
    np.testing.assert_allclose(on.to_numpy(y)[:2], [low, high], rtol=1e-6)
    np.testing.assert_allclose(on.to_numpy(dx)[:2], [low_slope, high_slope], rtol=1e-6)
    assert np.isfinite(on.to_numpy(dx)).all()


def test_largest_numbers(on, sparing):
    """Where even the square overflows; those functions that have a limit there reach it."""
    sparing(False)
    for name in ("relu", "gelu", "silu", "sigmoid", "tanh"):
        largest = 3e38
        y, cache = forward_of(name)(on.asarray([-largest, largest], "float32"))
        dx = on.to_numpy(backward_of(name)(on.asarray([1.0, 1.0], "float32"), cache))
        above = 1 if name in ("sigmoid", "tanh") else largest
        np.testing.assert_allclose(on.to_numpy(y), [-1 if name == "tanh" else 0, above], rtol=1e-6)
        np.testing.assert_allclose(dx, [0, 0 if name in ("sigmoid", "tanh") else 1], rtol=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_stays_nan(on, name):
    y, _ = forward_of(name)(on.asarray([math.nan, 1.0], "float32"))
    np.testing.assert_array_equal(np.isnan(on.to_numpy(y)), [True, False])


@pytest.mark.parametrize("name", DEFINITIONS)
def test_empty_and_zero_dimensional(on, sparing, name):
    sparing(False)
    for shape in ((0, 3), ()):
        x = on.asarray(np.ones(shape), "float32")
        y, cache = forward_of(name)(x)
        assert tuple(y.shape) == shape
        dx = backward_of(name)(x, cache)
        assert tuple(dx.shape) == shape
        on.to_numpy(dx)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(rng, name, layout):
    x, dy = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5))
    y, cache = forward_of(name)(x)
    other, other_cache = forward_of(name)(LAYOUTS[layout](x))
    np.testing.assert_allclose(other, y, rtol=1e-14)
    got = backward_of(name)(LAYOUTS[layout](dy), other_cache)
    np.testing.assert_allclose(got, backward_of(name)(dy, cache), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_agrees_with_torch(rng, name):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch, name) if name in ("sigmoid", "tanh") else getattr(torch.nn.functional, name)
    x, dy = rng.normal(0, 4, size=200), rng.normal(size=200)
    leaf = torch.tensor(x, requires_grad=True)
    want = theirs(leaf)
    y, cache = forward_of(name)(x)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-15)
    (dx,) = torch.autograd.grad(want, leaf, torch.tensor(dy))
    np.testing.assert_allclose(backward_of(name)(dy, cache), dx.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(rng, name, dtype):
    """Computed in float32 and rounded once: within one unit of the last place."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(rng.normal(0, 3, size=500)).to(getattr(torch, dtype))
    exact = x.double().numpy()
    y, cache = forward_of(name)(x)
    unit = torch.finfo(x.dtype).eps
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y.double().numpy(), DEFINITIONS[name](exact), rtol=unit, atol=1e-7)
    dx = backward_of(name)(torch.ones_like(x), cache)
    assert dx.dtype == x.dtype
    np.testing.assert_allclose(dx.double().numpy(), DERIVATIVES[name](exact), rtol=0, atol=4 * unit)


def test_relu_gradient_at_zero(on):
    """0, as in PyTorch, for both zeros."""
    _, cache = F.relu(on.asarray([0.0, -0.0], "float32"))
    np.testing.assert_array_equal(on.to_numpy(F.relu_backward(on.asarray([5.0, 5.0], "float32"), cache)), [0, 0])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_relu_cuts_off_has_no_gradient_whatever_comes_back(on, bad):
    x = np.array([-np.inf, 0.0, 2.0, 3.0, -4.0], dtype="float32")
    dy = np.array([bad, bad, bad, -2.0, 1.0], dtype="float32")
    for y, cache, backward in (
        (*F.relu(on.asarray(x)), F.relu_backward),
        (*F.leaky_relu(on.asarray(x), 0.0), F.leaky_relu_backward),
    ):
        assert on.to_numpy(y).tolist() == [0, 0, 2, 3, 0]
        np.testing.assert_array_equal(on.to_numpy(backward(on.asarray(dy), cache)), [0, 0, bad, -2, 0])


def test_leaky_relu_slopes(on, sparing):
    sparing(False)
    x = on.asarray([-2.0, 3.0], "float32")
    for slope in (0, 0.5, 2, -1):
        y, cache = F.leaky_relu(x, slope)
        np.testing.assert_allclose(on.to_numpy(y), [-2 * slope, 3])
        np.testing.assert_allclose(on.to_numpy(F.leaky_relu_backward(x, cache)), [-2 * slope, 3])


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 2.0**-23), ("float64", 2.0**-52)])
def test_gelu_to_the_last_place(dtype, unit):
    """Also in the tail, where 1 + erf would have lost every digit."""
    mpmath = pytest.importorskip("mpmath")
    x = np.linspace(-8, 8, 401).astype(dtype)
    y = F.gelu(x)[0].astype("float64")
    with mpmath.workdps(30):
        want = np.asarray([float(mpmath.mpf(float(v)) * mpmath.ncdf(float(v))) for v in x])
    np.testing.assert_allclose(y, want, rtol=12 * unit, atol=0)


@pytest.mark.parametrize(("table", "degree"), [("_TAIL_FLOAT32", 10), ("_TAIL_FLOAT64", 22)])
def test_coefficients_of_the_normal_tail(table, degree):
    """Repeats their computation: interpolation at the Chebyshev nodes, then powers of t."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        nodes = [mpmath.cos(mpmath.pi * (2 * j + 1) / (2 * (degree + 1))) for j in range(degree + 1)]

        def tail(t):
            x = 5 * (1 + t) / (1 - t)
            return mpmath.exp(x * x / 2) * mpmath.erfc(x / mpmath.sqrt(2)) / 2

        powers = mpmath.matrix(degree + 1, degree + 1)
        for row, node in enumerate(nodes):
            for column in range(degree + 1):
                powers[row, column] = node**column
        want = mpmath.lu_solve(powers, mpmath.matrix([tail(node) for node in nodes]))
        np.testing.assert_allclose(getattr(generic, table), [float(c) for c in want], rtol=1e-15)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_bad_arguments(name):
    for x, message in (
        (np.arange(3), "x: expected float32 or float64, got int64"),
        ([1.0, 2.0], "x: expected an array, got builtins.list"),
        (np.ones(2, dtype=complex), "x: expected float32 or float64, got complex128"),
    ):
        with pytest.raises(TypeError, match=message):
            forward_of(name)(x)
    _, cache = forward_of(name)(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3\), that of the forward result, got \(3, 2\)"):
        backward_of(name)(np.ones((3, 2)), cache)
    with pytest.raises(TypeError, match="dy: expected float64, the dtype of the forward result, got float32"):
        backward_of(name)(np.ones((2, 3), dtype="float32"), cache)


@pytest.mark.parametrize(
    ("slope", "error"), [(math.nan, ValueError), (math.inf, ValueError), ("0.1", TypeError), (True, TypeError)]
)
def test_bad_slope(slope, error):
    with pytest.raises(error, match="negative_slope: expected a finite number, got"):
        F.leaky_relu(np.ones(2), slope)


def test_hardtanh_bounds(on, sparing):
    """Also infinite ones; a number on a bound has no gradient, as in PyTorch."""
    sparing(False)
    x, dy = on.asarray([-7.0, 0.0, 2.5, 6.0, 9.0], "float32"), on.asarray([1.0, 2.0, 3.0, 4.0, math.inf], "float32")
    for bounds, values, gradients in (
        ((0, 6), [0, 0, 2.5, 6, 6], [0, 0, 3, 0, 0]),
        ((-math.inf, 2.5), [-7, 0, 2.5, 2.5, 2.5], [1, 2, 0, 0, 0]),
        ((-7.5, math.inf), [-7, 0, 2.5, 6, 9], [1, 2, 3, 4, math.inf]),
    ):
        y, cache = F.hardtanh(x, *bounds)
        assert on.to_numpy(y).tolist() == values
        assert on.to_numpy(F.hardtanh_backward(dy, cache)).tolist() == gradients


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ((1, 1), ValueError, "must be smaller than the second, got 1.0 and 1.0"),
        ((math.nan, 1), ValueError, "must be smaller"),
        ((0, "6"), TypeError, "max_val: expected a number, got '6'"),
        ((None, 6), TypeError, "min_val: expected a number, got None"),
    ],
)
def test_bad_bounds(bounds, error, message):
    with pytest.raises(error, match=message):
        F.hardtanh(np.ones(2), *bounds)


def test_inside_jit():
    jax = pytest.importorskip("jax")
    x = np.linspace(-3, 3, 7, dtype="float32")

    def there_and_back(x):
        y, cache = F.gelu(x)
        return F.gelu_backward(y, cache)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = jax.jit(there_and_back)(jax.numpy.asarray(x))
    np.testing.assert_allclose(got, there_and_back(x), rtol=1e-5, atol=1e-6)
