"""Normalisation against its definition in float64 and against PyTorch, on every backend."""

import math

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.backends import BackendMismatchError, load_backend
from xpconv.testing import LAYOUTS, check_gradients

EPS = 1e-5


def parameters(rng, *shape):
    return rng.normal(size=shape), rng.normal(size=shape)


def standardised(x, axes):
    """From the definition; mean and biased variance over axes."""
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + EPS)


def per_channel(vector, x):
    return vector.reshape(1, -1, *(1,) * (x.ndim - 2))


def numbers(on, dtype, *arrays):
    return [None if a is None else on.asarray(a, dtype) for a in arrays]


BATCH_SHAPES = [(5, 3), (4, 3, 5, 2), (2, 3, 1, 1)]


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_batch_norm_training(on, close, sparing, rng, shape):
    sparing(shape == BATCH_SHAPES[1])
    x = rng.normal(2, 3, size=shape)
    weight, bias = parameters(rng, 3)
    mean, var = rng.normal(size=3), rng.random(3) + 1
    axes = (0, *range(2, x.ndim))
    for dtype in on.dtypes:
        arrays = numbers(on, dtype, x, weight, bias, mean, var)
        y, cache = F.batch_norm(*arrays, training=True, momentum=0.2)
        close(y, standardised(x, axes) * per_channel(weight, x) + per_channel(bias, x), dtype, 4)
        close(cache.running_mean, 0.8 * mean + 0.2 * x.mean(axis=axes), dtype)
        close(cache.running_var, 0.8 * var + 0.2 * x.var(axis=axes, ddof=1), dtype, 4)
        np.testing.assert_array_equal(on.to_numpy(arrays[3]), mean.astype(dtype))


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_batch_norm_inference(on, close, sparing, rng, shape):
    sparing(shape == BATCH_SHAPES[1])
    x = rng.normal(2, 3, size=shape)
    weight, bias = parameters(rng, 3)
    mean, var = rng.normal(size=3), rng.random(3) + 1
    normalised = (x - per_channel(mean, x)) / np.sqrt(per_channel(var, x) + EPS)
    for dtype in on.dtypes:
        y, cache = F.batch_norm(*numbers(on, dtype, x, weight, bias, mean, var), training=False)
        close(y, normalised * per_channel(weight, x) + per_channel(bias, x), dtype, 4)
        close(cache.running_mean, mean, dtype)
        close(cache.running_var, var, dtype)


def test_batch_norm_without_parameters(on, close, rng):
    x = rng.normal(size=(4, 3, 5, 2))
    y, cache = F.batch_norm(on.asarray(x, "float32"), None, None, None, None, training=True)
    close(y, standardised(x, (0, 2, 3)), "float32", 4)
    assert cache.running_mean is None
    assert cache.running_var is None
    dx, dw, db = F.batch_norm_backward(y, cache)
    assert dw is None
    assert db is None
    close(dx, np.zeros(x.shape), "float32", 30)  # scaling x leaves the result as it is, and dy is along that direction


@pytest.mark.parametrize("shape", BATCH_SHAPES[:2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kinds", ["weight and bias", "weight", "bias", "neither"])
def test_batch_norm_gradients(on, rng, shape, training, kinds):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    weight, bias = (
        v if name in kinds else None for name, v in zip(("weight", "bias"), parameters(rng, 3), strict=True)
    )
    x, weight, bias, mean, var = numbers(
        on, "float64", rng.normal(2, 3, size=shape), weight, bias, rng.normal(size=3), rng.random(3) + 1
    )
    check_gradients(
        lambda x, w, b: F.batch_norm(x, w, b, mean, var, training=training),
        F.batch_norm_backward,
        [x, weight, bias],
        names=["x", "weight", "bias"],
    )


def relu(x):
    return np.where(x < 0, 0, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_batch_norm_relu_is_the_chain(on, close, sparing, rng, training, with_residual):
    sparing(training and with_residual)
    x, residual, dy = rng.normal(2, 3, size=(3, 4, 3, 5, 2))
    residual = residual if with_residual else None
    weight, bias = parameters(rng, 3)
    mean, var = rng.normal(size=3), rng.random(3) + 1
    for dtype in on.dtypes:
        arrays = numbers(on, dtype, x, weight, bias, mean, var)
        beside, gradient = numbers(on, dtype, residual, dy)
        plain, plain_cache = F.batch_norm(*arrays, training=training, momentum=0.2)
        want, relu_cache = F.relu(plain if beside is None else plain + beside)
        y, cache = F.batch_norm_relu(*arrays, residual=beside, training=training, momentum=0.2)
        close(y, on.to_numpy(want), dtype, 4)
        for name in ("running_mean", "running_var", "mean", "inv_std"):
            close(getattr(cache, name), on.to_numpy(getattr(plain_cache, name)), dtype)
        masked = F.relu_backward(gradient, relu_cache)
        dx, dw, db, dresidual = F.batch_norm_relu_backward(gradient, cache)
        for got, expected in zip((dx, dw, db), F.batch_norm_backward(masked, plain_cache), strict=True):
            close(got, on.to_numpy(expected), dtype, 30)
        assert (dresidual is None) == (beside is None)
        if beside is not None:
            np.testing.assert_array_equal(on.to_numpy(dresidual), on.to_numpy(masked))


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 2)])
def test_batch_norm_relu_from_the_definition(on, close, sparing, rng, shape):
    sparing(False)
    x, residual = rng.normal(2, 3, size=(2, *shape))
    weight, bias = parameters(rng, 3)
    want = standardised(x, (0, *range(2, x.ndim))) * per_channel(weight, x) + per_channel(bias, x)
    for dtype in on.dtypes:
        x_, w_, b_, r_ = numbers(on, dtype, x, weight, bias, residual)
        close(F.batch_norm_relu(x_, w_, b_, None, None, residual=r_, training=True)[0], relu(want + residual), dtype, 4)
        close(F.batch_norm_relu(x_, w_, b_, None, None, training=True)[0], relu(want), dtype, 4)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_gradients(on, rng, training):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    x, residual = rng.normal(2, 3, size=(2, 4, 3, 3, 2))
    weight, bias = parameters(rng, 3)
    mean, var = rng.normal(size=3), rng.random(3) + 1
    x, weight, bias, residual, mean, var = numbers(on, "float64", x, weight, bias, residual, mean, var)
    check_gradients(
        lambda x, w, b, r: F.batch_norm_relu(x, w, b, mean, var, residual=r, training=training),
        F.batch_norm_relu_backward,
        [x, weight, bias, residual],
        names=["x", "weight", "bias", "residual"],
    )


def test_what_relu_cuts_off_is_lost_whatever_it_is(on, sparing):
    """As in the chain of single operators: NaN and infinities count where the result is positive, and only there."""
    sparing(False)
    x = on.asarray([[[[1.0, -1.0, 2.0, -2.0]]]], "float32")
    zero, one = on.asarray([0.0], "float32"), on.asarray([1.0], "float32")
    _, cache = F.batch_norm_relu(x, None, None, zero, one, residual=x, training=False, eps=0.0)
    dy = on.asarray([[[[3.0, math.nan, math.inf, -math.inf]]]], "float32")
    dx, _, _, dresidual = F.batch_norm_relu_backward(dy, cache)
    want = [[[[3.0, 0.0, math.inf, 0.0]]]]
    np.testing.assert_array_equal(on.to_numpy(dx), want)
    np.testing.assert_array_equal(on.to_numpy(dresidual), want)


@pytest.mark.parametrize("training", [True, False])
def test_nhwc_batch_norm(on, close, sparing, rng, training):
    sparing(training)
    x, residual, dy = rng.normal(2, 3, size=(3, 4, 3, 5, 2))
    vectors = (*parameters(rng, 3), rng.normal(size=3), rng.random(3) + 1)

    def last(array):
        return None if array is None else np.moveaxis(array, 1, -1)

    dtype = on.dtypes[-1]
    vectors = numbers(on, dtype, *vectors)
    for beside in (None, residual):
        inputs = numbers(on, dtype, x, beside, dy)
        inputs_last = numbers(on, dtype, last(x), last(beside), last(dy))
        results = []
        for (a, r, g), layout in ((inputs, "NCHW"), (inputs_last, "NHWC")):
            y, cache = F.batch_norm(a, *vectors, training=training, layout=layout)
            z, relu_cache = F.batch_norm_relu(a, *vectors, residual=r, training=training, layout=layout)
            dx, dw, db = F.batch_norm_backward(g, cache)
            dz, dw_relu, db_relu, dr = F.batch_norm_relu_backward(g, relu_cache)
            results.append([y, z, dx, dz, *([] if r is None else [dr]), dw, db, dw_relu, db_relu])
        for first, second in zip(*results, strict=True):
            want = on.to_numpy(first)
            close(second, last(want) if want.ndim == 4 else want, dtype, 30)


def test_nhwc_copies_nothing(rng):
    """What comes in channels-last memory goes through in it, on NumPy."""
    x = rng.normal(size=(4, 5, 2, 3))
    y, cache = F.batch_norm(x, None, None, None, None, training=True, layout="NHWC")
    assert y.flags.c_contiguous
    assert F.batch_norm_backward(y, cache)[0].flags.c_contiguous
    y, cache = F.batch_norm_relu(x, None, None, None, None, residual=x, training=True, layout="NHWC")
    assert y.flags.c_contiguous
    assert all(array.flags.c_contiguous for array in F.batch_norm_relu_backward(y, cache) if array is not None)
    assert np.shares_memory(F.norm._flat(load_backend("numpy"), x, "NHWC"), x)


@pytest.mark.parametrize("kinds", ["weight and bias", "weight", "bias", "neither"])
@pytest.mark.parametrize("axes", [1, 2, 4])
def test_layer_norm(on, close, sparing, rng, kinds, axes):
    sparing(axes == 2 and kinds == "weight and bias")
    x = rng.normal(2, 3, size=(4, 3, 5, 2))
    shape = x.shape[-axes:]
    weight, bias = (
        v if name in kinds else None for name, v in zip(("weight", "bias"), parameters(rng, *shape), strict=True)
    )
    want = standardised(x, tuple(range(4 - axes, 4)))
    want = want if weight is None else want * weight
    want = want if bias is None else want + bias
    for dtype in on.dtypes:
        y, _ = F.layer_norm(*numbers(on, dtype, x, weight, bias), normalized_shape=shape)
        close(y, want, dtype, 4)
    if "float64" in on.dtypes:
        check_gradients(
            lambda x, w, b: F.layer_norm(x, w, b, normalized_shape=shape),
            F.layer_norm_backward,
            numbers(on, "float64", x, weight, bias),
        )


def grouped(x, groups):
    n, c = x.shape[:2]
    split = x.reshape(n, groups, c // groups, -1)
    return standardised(split, (2, 3)).reshape(x.shape)


@pytest.mark.parametrize("kinds", ["weight and bias", "weight", "bias", "neither"])
@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 3, 2), 2), ((2, 6, 5), 3), ((3, 4), 1), ((2, 4, 3, 2, 2), 4)])
def test_group_norm(on, close, sparing, rng, kinds, shape, groups):
    sparing(groups == 2 and kinds == "weight and bias")
    x = rng.normal(2, 3, size=shape)
    weight, bias = (
        v if name in kinds else None for name, v in zip(("weight", "bias"), parameters(rng, shape[1]), strict=True)
    )
    want = grouped(x, groups)
    want = want if weight is None else want * per_channel(weight, x)
    want = want if bias is None else want + per_channel(bias, x)
    for dtype in on.dtypes:
        x_array, weight_array, bias_array = numbers(on, dtype, x, weight, bias)
        y, _ = F.group_norm(x_array, groups, weight_array, bias_array)
        close(y, want, dtype, 4)
    if "float64" in on.dtypes:
        check_gradients(
            lambda x, w, b: F.group_norm(x, groups, w, b),
            F.group_norm_backward,
            numbers(on, "float64", x, weight, bias),
        )


def test_instance_norm(on, close, rng):
    x = rng.normal(2, 3, size=(3, 4, 3, 2))
    weight, bias = parameters(rng, 4)
    want = standardised(x, (2, 3)) * per_channel(weight, x) + per_channel(bias, x)
    for dtype in on.dtypes:
        close(F.instance_norm(*numbers(on, dtype, x, weight, bias))[0], want, dtype, 4)
    if "float64" in on.dtypes:
        check_gradients(F.instance_norm, F.instance_norm_backward, numbers(on, "float64", x, weight, bias))


def all_norms(x, weight, bias):
    """Every normalisation of (N, 4, 3, 2) with parameters (4,): name, function of x, its backward."""
    zero, one = np.zeros(4), np.ones(4)
    w, b = np.tile(weight[:, None, None], (3, 2)), np.tile(bias[:, None, None], (3, 2))
    return {
        "batch, training": (lambda x: F.batch_norm(x, weight, bias, None, None, training=True), F.batch_norm_backward),
        "batch, ReLU": (
            lambda x: F.batch_norm_relu(x, weight, bias, None, None, residual=x, training=True),
            F.batch_norm_relu_backward,
        ),
        "batch, inference": (lambda x: F.batch_norm(x, weight, bias, zero, one, training=False), F.batch_norm_backward),
        "layer": (lambda x: F.layer_norm(x, w, b), F.layer_norm_backward),
        "group": (lambda x: F.group_norm(x, 2, weight, bias), F.group_norm_backward),
        "instance": (lambda x: F.instance_norm(x, weight, bias), F.instance_norm_backward),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(rng, layout):
    x, dy = rng.normal(size=(3, 4, 3, 2)), rng.normal(size=(3, 4, 3, 2))
    for name, (forward, backward) in all_norms(x, *parameters(rng, 4)).items():
        y, cache = forward(x)
        other, other_cache = forward(LAYOUTS[layout](x))
        np.testing.assert_allclose(other, y, rtol=1e-12, atol=1e-12, err_msg=name)
        gradients = backward(LAYOUTS[layout](dy), other_cache)
        for got, want in zip(gradients, backward(dy, cache), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=name)


def test_batch_norm_keeps_the_memory_order(rng):
    """Channel-major in, as convolutions make it, is channel-major out, and nothing is copied into another order."""
    x = rng.normal(size=(4, 3, 5, 2)).transpose(1, 0, 2, 3)
    y, cache = F.batch_norm(x, None, None, None, None, training=True)
    assert y.strides == x.strides
    assert F.batch_norm_backward(y, cache)[0].strides == x.strides


def test_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, dy = rng.normal(1, 2, size=(3, 4, 3, 2)), rng.normal(size=(3, 4, 3, 2))
    weight, bias = parameters(rng, 4)
    w, b = np.tile(weight[:, None, None], (3, 2)), np.tile(bias[:, None, None], (3, 2))
    zero, one = np.zeros(4), np.ones(4)
    zero_t, one_t = torch.tensor(zero), torch.tensor(one)
    calls = [
        (
            lambda: F.batch_norm(x, weight, bias, zero, one, training=True),
            F.batch_norm_backward,
            lambda x, w, b: functional.batch_norm(x, zero_t, one_t, w, b, training=True),
            (weight, bias),
        ),
        (
            lambda: F.batch_norm(x, weight, bias, zero + 0.3, one * 2, training=False),
            F.batch_norm_backward,
            lambda x, w, b: functional.batch_norm(x, torch.tensor(zero + 0.3), torch.tensor(one * 2), w, b),
            (weight, bias),
        ),
        (
            lambda: F.layer_norm(x, w, b),
            F.layer_norm_backward,
            lambda x, w, b: functional.layer_norm(x, (4, 3, 2), w, b),
            (w, b),
        ),
        (
            lambda: F.group_norm(x, 2, weight, bias),
            F.group_norm_backward,
            lambda x, w, b: functional.group_norm(x, 2, w, b),
            (weight, bias),
        ),
        (
            lambda: F.instance_norm(x, weight, bias),
            F.instance_norm_backward,
            lambda x, w, b: functional.instance_norm(x, weight=w, bias=b),
            (weight, bias),
        ),
    ]
    for ours, backward, theirs, vectors in calls:
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, *vectors)]
        want = theirs(*leaves)
        y, cache = ours()
        np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(want, leaves, torch.tensor(dy))
        for got, gradient in zip(backward(dy, cache), gradients, strict=True):
            np.testing.assert_allclose(got, gradient.numpy(), rtol=1e-12, atol=1e-12)
        if isinstance(cache, F.norm.BatchNormCache) and cache.training:
            np.testing.assert_allclose(cache.running_mean, zero_t.numpy(), rtol=1e-14)
            np.testing.assert_allclose(cache.running_var, one_t.numpy(), rtol=1e-14)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_a_large_offset_costs_no_accuracy(on, sparing, rng, offset):
    """E[x**2] - E[x]**2 would lose every digit in float32."""
    sparing(False)
    x = (rng.normal(size=(8, 4, 6, 5)) + offset).astype("float32")
    exact = x.astype("float64")
    for forward, axes in (
        (lambda x: F.batch_norm(x, None, None, None, None, training=True), (0, 2, 3)),
        (lambda x: F.layer_norm(x, None, None, normalized_shape=(4, 6, 5)), (1, 2, 3)),
    ):
        np.testing.assert_allclose(on.to_numpy(forward(on.asarray(x))[0]), standardised(exact, axes), atol=3e-5)


def test_constant_channels_become_their_bias(on, sparing, rng):
    """Exactly: rounding of the mean must not be blown up by a standard deviation of zero."""
    sparing(False)
    x = np.broadcast_to(np.asarray([1e4 + 0.1, 1 / 3, -7e-3, 0.0])[:, None, None], (7, 4, 5, 3))
    bias = rng.normal(size=4).astype("float32")
    want = np.broadcast_to(bias[:, None, None], x.shape)
    x, bias, weight = on.asarray(x, "float32"), on.asarray(bias), on.asarray(np.ones(4), "float32")
    for y, _ in (
        F.batch_norm(x, weight, bias, None, None, training=True),
        F.instance_norm(x, weight, bias),
    ):
        np.testing.assert_allclose(on.to_numpy(y), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(rng, name):
    """The sum of the squares, 4 million, is beyond float16."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(rng.normal(30, 20, size=(4, 2, 32, 32))).to(getattr(torch, name))
    vector = torch.ones(2, dtype=x.dtype)
    running = torch.zeros(2, dtype=torch.float32)
    exact = x.double().numpy()
    y, cache = F.batch_norm(x, vector, vector, running, running, training=True)
    np.testing.assert_allclose(y.double().numpy(), standardised(exact, (0, 2, 3)) + 1, atol=2e-2)
    assert cache.running_var.dtype == torch.float32
    np.testing.assert_allclose(cache.running_var.numpy(), 0.1 * exact.var(axis=(0, 2, 3), ddof=1), rtol=1e-5)
    assert F.batch_norm(x, vector, vector, vector, vector, training=True)[1].running_var.dtype == x.dtype
    results = [*F.batch_norm_backward(y, cache), y]
    results += [F.batch_norm(x, vector, vector, running, running + 1, training=False)[0]]
    for forward, backward in (
        (
            lambda: F.batch_norm_relu(x, vector, vector, None, None, residual=x / 100, training=True),
            F.batch_norm_relu_backward,
        ),
        (lambda: F.group_norm(x, 1, vector, vector), F.group_norm_backward),
        (lambda: F.layer_norm(x, x[0], x[0]), F.layer_norm_backward),
    ):
        y, cache = forward()
        results += [y, *backward(y, cache)]
    assert all(r.dtype == x.dtype and bool(torch.isfinite(r).all()) for r in results)


def test_empty_batch(on, sparing):
    sparing(False)
    x = on.asarray(np.zeros((0, 4, 3, 2)), "float32")
    weight, bias = numbers(on, "float32", np.ones(4), np.zeros(4))
    full = on.asarray(np.ones((4, 3, 2)), "float32")
    for (y, cache), backward in (
        (F.batch_norm(x, weight, bias, bias, weight, training=False), F.batch_norm_backward),
        (F.batch_norm_relu(x, weight, bias, bias, weight, residual=x, training=False), F.batch_norm_relu_backward),
        (F.layer_norm(x, full, full), F.layer_norm_backward),
        (F.group_norm(x, 2, weight, bias), F.group_norm_backward),
        (F.instance_norm(x, weight, bias), F.instance_norm_backward),
    ):
        assert tuple(y.shape) == tuple(x.shape)
        dx, dw, db = backward(y, cache)[:3]
        assert tuple(dx.shape) == tuple(x.shape)
        assert not on.to_numpy(dw).any()
        assert not on.to_numpy(db).any()


def test_nan_stays_in_its_channel(on, sparing):
    sparing(False)
    x = np.arange(24.0).reshape(2, 3, 4, 1)
    x[0, 1, 2, 0] = math.nan
    y, _ = F.batch_norm(on.asarray(x, "float32"), None, None, None, None, training=True)
    np.testing.assert_array_equal(np.isnan(on.to_numpy(y)).any(axis=(0, 2, 3)), [False, True, False])


X, VECTOR = np.ones((2, 4, 3, 2)), np.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: F.batch_norm(X[0], VECTOR, VECTOR, None, None, training=True),
            ValueError,
            r"x: expected 2 dimensions \(N, C\) or 4 \(N, C, H, W\), got 3 with shape \(4, 3, 2\)",
        ),
        (
            lambda: F.batch_norm(X, VECTOR[:3], None, None, None, training=True),
            ValueError,
            r"weight: expected shape \(4\) \(C,\), got \(3,\)",
        ),
        (
            lambda: F.batch_norm(X, None, None, VECTOR[:, None], None, training=True),
            ValueError,
            r"running_mean: expected 1 dimensions \(C,\), got 2",
        ),
        (
            lambda: F.batch_norm(X[:1, :, :1, :1], None, None, None, None, training=True),
            ValueError,
            r"x: training needs more than one value per channel, got 1 with shape \(1, 4, 1, 1\)",
        ),
        (
            lambda: F.batch_norm(X[:0], None, None, None, None, training=True),
            ValueError,
            "x: training needs more than one value per channel, got 0",
        ),
        (
            lambda: F.batch_norm(X, None, None, VECTOR, None, training=False),
            ValueError,
            "running_var: with training=False x is normalised by the running statistics, got None",
        ),
        (
            lambda: F.batch_norm(X, None, None, VECTOR.astype("float32"), None, training=True),
            TypeError,
            "running_mean: expected float64, since x is float64, got float32",
        ),
        (
            lambda: F.batch_norm(X.astype("float16"), None, None, VECTOR, None, training=True),
            TypeError,
            "running_mean: expected float16 or float32, since x is float16, got float64",
        ),
        (
            lambda: F.batch_norm(X, VECTOR.astype("float32"), None, None, None, training=True),
            TypeError,
            "weight: expected float64 like x, got float32",
        ),
        (
            lambda: F.batch_norm(X, None, None, None, None, training=True, momentum=1.5),
            ValueError,
            "momentum: expected a number between 0 and 1, got 1.5",
        ),
        (
            lambda: F.batch_norm(X, None, None, None, None, training=True, eps=-1),
            ValueError,
            "eps: expected a number of at least 0, got -1",
        ),
        (
            lambda: F.batch_norm(X, None, None, None, None, training=True, layout="NWHC"),
            ValueError,
            "layout: expected one of NCHW, NHWC, got 'NWHC'",
        ),
        (
            lambda: F.batch_norm(X, np.ones(2), VECTOR[:2], VECTOR, None, training=True, layout="NHWC"),
            ValueError,
            r"running_mean: expected shape \(2\) \(C,\), got \(4,\)",
        ),
        (
            lambda: F.batch_norm_relu(X, None, None, None, None, residual=X[:1], training=True),
            ValueError,
            r"residual: expected shape \(2, 4, 3, 2\) like x, got \(1, 4, 3, 2\)",
        ),
        (
            lambda: F.batch_norm_relu(X, None, None, None, None, residual=X.astype("float32"), training=True),
            TypeError,
            "residual: expected float64 like x, got float32",
        ),
        (
            lambda: F.layer_norm(X, None, None, eps="small"),
            ValueError,
            "normalized_shape: needed where weight and bias are None",
        ),
        (
            lambda: F.layer_norm(X, VECTOR, None),
            ValueError,
            r"x: the last axes must be \(4,\), at least one and none of length 0, got shape \(2, 4, 3, 2\)",
        ),
        (
            lambda: F.layer_norm(X, None, None, normalized_shape=()),
            ValueError,
            r"x: the last axes must be \(\), at least one",
        ),
        (
            lambda: F.layer_norm(X, X[0], X[0, 0]),
            ValueError,
            "bias: expected 3 dimensions like the last axes of x, got 2",
        ),
        (
            lambda: F.layer_norm(X, X[0], None, eps="small"),
            TypeError,
            "eps: expected a number of at least 0, got 'small'",
        ),
        (
            lambda: F.group_norm(X, 3, None, None),
            ValueError,
            "num_groups: 3 must divide the channels of x, got 4",
        ),
        (lambda: F.group_norm(X, 0, None, None), ValueError, "num_groups: must be at least 1, got 0"),
        (lambda: F.group_norm(X, 2.0, None, None), TypeError, "num_groups: expected an integer, got 2.0"),
        (lambda: F.group_norm(VECTOR, 2), ValueError, r"x: expected at least 2 dimensions \(N, C, ...\), got 1"),
        (lambda: F.group_norm(X[:, :, :0], 2), ValueError, "x: examples need at least one channel and one pixel"),
        (
            lambda: F.instance_norm(X[:, :, :1, :1]),
            ValueError,
            r"x: a channel needs more than one pixel, got shape \(2, 4, 1, 1\)",
        ),
        (lambda: F.instance_norm(X[:, :, 0, 0]), ValueError, "x: expected at least 3 dimensions"),
        (lambda: F.layer_norm(None, VECTOR, VECTOR), TypeError, "x: expected an array .*, got None"),
        (lambda: F.instance_norm(X.astype(int)), TypeError, "x: expected float32 or float64, got int64"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_mixed_backends():
    pytest.importorskip("array_api_strict")
    strict = load_backend("array_api_strict").asarray(VECTOR)
    with pytest.raises(BackendMismatchError, match="running_var is an array of array_api_strict but x is one of numpy"):
        F.batch_norm(X, None, None, VECTOR, strict, training=False)


def test_bad_gradients(rng):
    for name, (forward, backward) in all_norms(X, VECTOR, VECTOR).items():
        y, cache = forward(X)
        with pytest.raises(ValueError, match=r"dy: expected shape \(2, 4, 3, 2\), that of the forward result, got"):
            backward(y[:1], cache)
        with pytest.raises(TypeError, match="dy: expected float64, the dtype of the forward result, got float32"):
            backward(y.astype("float32"), cache)
        assert name
