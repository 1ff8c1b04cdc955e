"""The layers against independent computations: loops of `xpconv.testing.naive`, differences, formulas."""

import math

import numpy as np
import pytest

from xpconv import BackendMismatchError
from xpconv.cs231n import layers
from xpconv.testing import check_gradients, naive

GEOMETRIES = [  # images, filters, stride, padding
    ((2, 3, 7, 6), (4, 3, 3, 2), 2, 1),
    ((1, 2, 5, 8), (3, 2, 1, 4), 1, 0),
    ((2, 1, 6, 6), (2, 1, 2, 3), 3, 2),
]


@pytest.mark.parametrize(("image", "filters", "stride", "pad"), GEOMETRIES)
def test_naive_convolution(image, filters, stride, pad, rng):
    x, w, b = (rng.standard_normal(shape) for shape in (image, filters, filters[:1]))
    out, cache = layers.conv_forward_naive(x, w, b, {"stride": stride, "pad": pad})
    geometry = {"stride": (stride, stride), "padding": ((pad, pad), (pad, pad))}
    np.testing.assert_allclose(out, naive.conv2d(x, w, b, **geometry), rtol=0, atol=1e-12)
    dout = rng.standard_normal(out.shape)
    want = naive.conv2d_backward(dout, x, w, **geometry)
    for got, expected in zip(layers.conv_backward_naive(dout, cache), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("window", "stride"), [((2, 2), 2), ((3, 2), 1), ((1, 3), 2)])
def test_naive_pooling(window, stride, rng):
    x = rng.integers(0, 4, size=(2, 3, 7, 6)).astype(float)  # with many equal maxima: the first one counts
    parameters = {"pool_height": window[0], "pool_width": window[1], "stride": stride}
    out, cache = layers.max_pool_forward_naive(x, parameters)
    want, argmax = naive.max_pool2d(x, window, (stride, stride))
    np.testing.assert_array_equal(out, want)
    dout = rng.standard_normal(out.shape)
    expected = naive.max_pool2d_backward(dout, argmax, (7, 6), window, (stride, stride))
    np.testing.assert_allclose(layers.max_pool_backward_naive(dout, cache), expected, rtol=0, atol=1e-14)


BN = {"mode": "train", "eps": 1e-3}
NORMS = {
    "batchnorm": (layers.batchnorm_forward, layers.batchnorm_backward, (5, 4), (4,), (BN,)),
    "batchnorm_alt": (layers.batchnorm_forward, layers.batchnorm_backward_alt, (5, 4), (4,), (BN,)),
    "layernorm": (layers.layernorm_forward, layers.layernorm_backward, (5, 4), (4,), ({"eps": 1e-3},)),
    "spatial_batchnorm": (
        layers.spatial_batchnorm_forward, layers.spatial_batchnorm_backward, (2, 3, 4, 5), (3,), (BN,),
    ),
    "spatial_groupnorm": (
        layers.spatial_groupnorm_forward, layers.spatial_groupnorm_backward, (2, 6, 4, 5), (1, 6, 1, 1), (2, {}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_gradients_of_normalisation(name, rng):
    forward, backward, shape, vector, rest = NORMS[name]
    arrays = [rng.standard_normal(shape), rng.standard_normal(vector), rng.standard_normal(vector)]
    rest = [dict(r) if isinstance(r, dict) else r for r in rest]
    check_gradients(lambda *a: forward(*a, *rest), backward, arrays, names=["x", "gamma", "beta"])


# over which axes numbers are normalised, after images have been grouped
AXES = {"batchnorm": 0, "layernorm": 1, "spatial_batchnorm": (0, 2, 3), "spatial_groupnorm": 2}


@pytest.mark.parametrize("name", AXES)
def test_normalised_numbers_have_mean_and_deviation_of_beta_and_gamma(name, rng):
    forward, _, shape, vector, rest = NORMS[name]
    rest = [dict(r, eps=1e-9) if isinstance(r, dict) else r for r in rest]
    x = 4 * rng.standard_normal(shape) + 10
    out, _ = forward(x, np.full(vector, 3.0), np.full(vector, -5.0), *rest)
    if name == "spatial_groupnorm":
        out = out.reshape(2, 2, -1)
    np.testing.assert_allclose(out.mean(axis=AXES[name]), -5, rtol=1e-9)
    np.testing.assert_allclose(out.std(axis=AXES[name]), 3, rtol=1e-6)


def test_running_statistics_weigh_the_old_value_and_take_the_biased_variance(on):
    parameters = {"mode": "train", "momentum": 0.75, "running_mean": on.asarray(np.array([8.0, 4.0], "float32"))}
    x = on.asarray(np.array([[1.0, 5.0], [3.0, 5.0]], "float32"))
    ones, zeros = (on.asarray(np.full(2, value, "float32")) for value in (1, 0))
    layers.batchnorm_forward(x, ones, zeros, parameters)
    np.testing.assert_allclose(on.to_numpy(parameters["running_mean"]), [6.5, 4.25])
    np.testing.assert_allclose(on.to_numpy(parameters["running_var"]), [0.25, 0.0])
    parameters["mode"] = "test"
    out, cache = layers.batchnorm_forward(x, ones, zeros, parameters)
    np.testing.assert_allclose(on.to_numpy(out)[:, 0], (np.array([1, 3]) - 6.5) / math.sqrt(0.25 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(on.to_numpy(parameters["running_mean"]), [6.5, 4.25])
    with pytest.raises(ValueError, match='only in mode "train"'):
        layers.batchnorm_backward(out, cache)


def test_dropout_keeps_with_probability_p(on):
    x = on.asarray(np.full((200, 200), 10.0, "float32"))
    for p in (0.25, 0.7):
        parameters = {"mode": "train", "p": p, "seed": 7}
        out, cache = layers.dropout_forward(x, parameters)
        values = on.to_numpy(out)
        assert np.mean(values == 0) == pytest.approx(1 - p, abs=0.01)
        assert values.mean() == pytest.approx(10, abs=0.2)
        # the mask is what NumPy's global generator gives after that seed: the same on every backend
        want = (np.random.RandomState(7).rand(200, 200) < p) / p
        np.testing.assert_allclose(on.to_numpy(layers.dropout_backward(x, cache)), 10 * want, rtol=1e-6)
    assert layers.dropout_forward(x, {"mode": "test", "p": 0.25})[0] is x
    out, cache = layers.dropout_forward(x, {"mode": "test", "p": 0.25})
    assert layers.dropout_backward(x, cache) is x


def test_losses(rng):
    x, y = 3 * rng.standard_normal((6, 4)), rng.integers(4, size=6)
    margins = np.maximum(0, x - x[range(6), y][:, None] + 1)
    margins[range(6), y] = 0
    loss, dx = layers.svm_loss(x, y)
    assert loss == pytest.approx(margins.sum() / 6)
    check_gradients(lambda x: (float(layers.svm_loss(x, y)[0]), x), lambda d, x: d * layers.svm_loss(x, y)[1], [x])
    loss, dx = layers.softmax_loss(x, y)
    assert isinstance(loss, np.float64)  # a number, as in the course
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(p[range(6), y]).mean())
    p[range(6), y] -= 1
    np.testing.assert_allclose(dx, p / 6, rtol=1e-12, atol=1e-15)


# ---- bad input --------------------------------------------------------------------------------------------------

ROWS, FEATURES = np.ones((3, 4)), np.ones(4)


@pytest.mark.parametrize("mode", ["training", None, ""])
def test_an_invalid_mode_is_named(mode):
    with pytest.raises(ValueError, match=f"Invalid mode {mode!r}"):
        layers.batchnorm_forward(ROWS, FEATURES, FEATURES, {"mode": mode})
    with pytest.raises(ValueError, match=f"Invalid mode {mode!r}"):
        layers.dropout_forward(ROWS, {"mode": mode, "p": 0.5})


@pytest.mark.parametrize("p", [0, -0.5, 1.5])
def test_an_impossible_probability_is_named(p):
    with pytest.raises(ValueError, match=rf'dropout_param\["p"\].*got {p}'):
        layers.dropout_forward(ROWS, {"mode": "train", "p": p})


IMAGES = np.ones((1, 2, 4, 4))
WRONG = {
    "more filters' channels": (
        lambda: layers.conv_forward_naive(IMAGES, np.ones((1, 3, 2, 2)), np.ones(1), {"stride": 1, "pad": 0}),
        "filters of 3 channels, but x has 2",
    ),
    "filters too large": (
        lambda: layers.conv_forward_naive(IMAGES, np.ones((1, 2, 7, 2)), np.ones(1), {"stride": 1, "pad": 1}),
        "height: a kernel of 7 does not fit into 4 pixels with padding 1",
    ),
    "stride 0": (
        lambda: layers.max_pool_forward_naive(IMAGES, {"pool_height": 2, "pool_width": 2, "stride": 0}),
        "stride: must be at least 1, got 0",
    ),
    "features": (lambda: layers.affine_forward(IMAGES, np.ones((5, 2)), np.ones(2)), "w: has 5 rows, .* has 32"),
    "rank": (lambda: layers.batchnorm_forward(IMAGES, FEATURES, FEATURES, {"mode": "train"}), r"expected 2 .*\(N, D\)"),
    "images": (
        lambda: layers.spatial_batchnorm_forward(ROWS, FEATURES, FEATURES, {"mode": "train"}), r"\(N, C, H, W\)"
    ),
    "groups": (
        lambda: layers.spatial_groupnorm_forward(IMAGES, np.ones((1, 2, 1, 1)), np.ones((1, 2, 1, 1)), 3, {}),
        "must divide the 2 channels, got 3",
    ),
    "labels": (lambda: layers.softmax_loss(ROWS, np.array([0, 4, 1])), "got 4 at index 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_shapes_and_values_are_named(what):
    call, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_and_two_backends_are_errors(on):
    with pytest.raises(TypeError, match="expected floating-point arrays, got x int64, w int64, b int64"):
        layers.affine_forward(np.ones((2, 3), int), np.ones((3, 2), int), np.ones(2, int))
    if on.backend == "numpy":
        return
    x = on.asarray(np.ones((2, 3), "float32"))
    with pytest.raises(BackendMismatchError, match="w is an array of numpy"):
        layers.affine_forward(x, np.ones((3, 2), "float32"), np.ones(2, "float32"))


def test_empty_batches():
    out, cache = layers.affine_forward(np.ones((0, 2, 3)), np.ones((6, 4)), np.ones(4))
    assert out.shape == (0, 4)
    dx, dw, db = layers.affine_backward(out, cache)
    assert (dx.shape, dw.shape, db.shape) == ((0, 2, 3), (6, 4), (4,))
    assert not dw.any()
    out, _ = layers.conv_forward_naive(
        np.ones((0, 2, 4, 4)), np.ones((3, 2, 2, 2)), np.ones(3), {"stride": 1, "pad": 0}
    )
    assert out.shape == (0, 3, 3, 3)
