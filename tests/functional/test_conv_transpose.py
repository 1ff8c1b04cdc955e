"""conv_transpose2d and its gradients against plain loops and the convolution it is the adjoint of, on every backend."""

import tracemalloc

import numpy as np
import pytest

import xpconv
from xpconv import functional as F
from xpconv._cpu.conv import _slices
from xpconv.backends import backend_of, use_kernels
from xpconv.testing import LAYOUTS, check_gradients

# name: x shape, w shape, stride, padding, output_padding, dilation, groups
CASES = {
    "upsampling": ((2, 3, 4, 5), (3, 4, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 1), 1),
    "1x1": ((2, 3, 4, 5), (3, 2, 1, 1), (1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1), 1),
    "1x1, not all of it": ((2, 2, 3, 4), (2, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 0), (2, 1), 1),
    "not square": ((1, 2, 3, 6), (2, 3, 4, 2), (3, 1), ((0, 2), (1, 0)), (2, 0), (1, 1), 1),
    "stride > kernel": ((2, 1, 3, 2), (1, 2, 2, 1), (3, 4), ((0, 0), (0, 0)), (1, 3), (1, 1), 1),
    "dilation": ((2, 2, 4, 3), (2, 3, 3, 2), (1, 2), ((2, 1), (0, 3)), (1, 2), (2, 3), 1),
    "groups": ((2, 4, 3, 4), (4, 3, 2, 3), (2, 1), ((1, 0), (1, 1)), (0, 0), (1, 1), 2),
    "depthwise": ((2, 3, 4, 3), (3, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (0, 1), (1, 1), 3),
    "padding > kernel": ((1, 2, 7, 6), (2, 1, 1, 2), (1, 1), ((3, 2), (0, 4)), (0, 0), (1, 1), 1),
    "one pixel": ((1, 2, 1, 1), (2, 3, 3, 2), (2, 2), ((0, 0), (0, 0)), (0, 0), (1, 1), 1),
    "empty batch": ((0, 4, 3, 5), (4, 3, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 1), 2),
}
NAMES = ("stride", "padding", "output_padding", "dilation", "groups")
ON_JAX = ("one pixel",)  # it compiles each shape anew

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}


def arguments_of(name):
    return dict(zip(NAMES, CASES[name][2:], strict=True))


def draw(rng, name, dtype="float64"):
    x_shape, w_shape, *_, groups = CASES[name]
    return [rng.normal(size=shape).astype(dtype) for shape in (x_shape, w_shape, (w_shape[1] * groups,))]


def windows(x, w, stride, padding, output_padding, dilation, groups):
    """The shape of the result, and which of its pixels each pixel of x reaches through which tap."""
    (n, _, height, width), (_, per_group, kh, kw) = x.shape, w.shape
    out = [
        (size - 1) * s + d * (k - 1) + 1 + more - sum(p)
        for size, s, d, k, more, p in zip(
            (height, width), stride, dilation, (kh, kw), output_padding, padding, strict=True
        )
    ]
    reached = []
    for p in range(height):
        for q in range(width):
            for i in range(kh):
                for j in range(kw):
                    r = p * stride[0] + i * dilation[0] - padding[0][0]
                    s = q * stride[1] + j * dilation[1] - padding[1][0]
                    if 0 <= r < out[0] and 0 <= s < out[1]:
                        reached.append((p, q, i, j, r, s))
    return (n, per_group * groups, *out), reached


def naive(x, w, b, dy=None, **arguments):
    """(y, dx, dw, db) from the definition."""
    shape, reached = windows(x, w, **arguments)
    y = np.zeros(shape) + b[:, None, None]
    dy = np.zeros(shape) if dy is None else dy
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for c in range(x.shape[1]):
        first = c // (x.shape[1] // arguments["groups"]) * w.shape[1]
        for p, q, i, j, r, s in reached:
            for f in range(w.shape[1]):
                y[:, first + f, r, s] += x[:, c, p, q] * w[c, f, i, j]
                dx[:, c, p, q] += dy[:, first + f, r, s] * w[c, f, i, j]
                dw[c, f, i, j] += (dy[:, first + f, r, s] * x[:, c, p, q]).sum()
    return y, dx, dw, dy.sum(axis=(0, 2, 3))


def assert_close(actual, expected, tolerance):
    """The largest error is small compared with the largest value."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=0)


@pytest.mark.parametrize("name", CASES)
def test_result_and_gradients_are_the_definition(on, name, rng):
    if on.backend == "jax" and name not in ON_JAX:
        pytest.skip("the other cases show it")
    arguments = arguments_of(name)
    for dtype in on.dtypes:
        x, w, b = draw(rng, name, dtype)
        y, cache = F.conv_transpose2d(*(on.asarray(a) for a in (x, w, b)), **arguments)
        dy = rng.normal(size=tuple(y.shape)).astype(dtype)
        gradients = F.conv_transpose2d_backward(on.asarray(dy), cache)
        for actual, expected in zip((y, *gradients), naive(x, w, b, dy, **arguments), strict=True):
            host = on.to_numpy(actual)
            assert host.dtype == dtype
            assert_close(host, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["upsampling", "groups"])
def test_gradients_are_differences(on, name, rng):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    arrays, arguments = [on.asarray(a) for a in draw(rng, name)], arguments_of(name)
    check_gradients(lambda *a: F.conv_transpose2d(*a, **arguments), F.conv_transpose2d_backward, arrays)
    check_gradients(lambda *a: F.conv_transpose2d(*a, **arguments), F.conv_transpose2d_backward, [*arrays[:2], None])


@pytest.mark.parametrize("name", [n for n in CASES if n != "empty batch"])
def test_it_is_the_adjoint_of_the_convolution(name, rng):
    """<conv2d(z), x> = <z, conv_transpose2d(x)> for the same weights."""
    x, w, _ = draw(rng, name)
    arguments = arguments_of(name)
    y, _ = F.conv_transpose2d(x, w, **arguments)
    del arguments["output_padding"]
    z = rng.normal(size=y.shape)
    convolved, cache = F.conv2d(z, w, **arguments)
    if convolved.shape != x.shape:  # output padding of a stride or more makes room for another window
        convolved = convolved[:, :, : x.shape[2], : x.shape[3]]
    assert (convolved * x).sum() == pytest.approx((z * y).sum(), rel=1e-11)
    if convolved.shape == cache.x.shape[:1] + x.shape[1:]:
        return
    assert_close(F.conv2d_backward(x, cache)[0], y, 1e-12)


@pytest.mark.parametrize("padding", ["same", "SAME"])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [((3, 4), (2, 3), (1, 1)), ((2, 1), (3, 2), (2, 1))])
def test_same_padding_multiplies_the_size_by_the_stride(padding, kernel, stride, dilation, rng):
    """The gradient of TensorFlow's SAME convolution of images of that size."""
    x, w = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(3, 2, *kernel))
    y, cache = F.conv_transpose2d(x, w, stride=stride, padding=padding, dilation=dilation)
    assert y.shape == (2, 2, 4 * stride[0], 5 * stride[1])
    _, conv_cache = F.conv2d(np.zeros(y.shape), w, stride=stride, padding="same", dilation=dilation)
    assert_close(y, F.conv2d_backward(x, conv_cache)[0], 1e-12)
    dx, _, _ = F.conv_transpose2d_backward(y, cache)
    assert_close(dx, F.conv2d(y, w, stride=stride, padding="same", dilation=dilation)[0], 1e-12)


def test_valid_padding(rng):
    x, w, b = draw(rng, "upsampling")
    assert np.array_equal(F.conv_transpose2d(x, w, b, padding="valid")[0], F.conv_transpose2d(x, w, b)[0])


def test_without_a_bias_and_without_dx(on, sparing, rng):
    sparing(False)
    arguments = arguments_of("groups")
    x, w, b = (on.asarray(a, "float32") for a in draw(rng, "groups"))
    y, cache = F.conv_transpose2d(x, w, **arguments)
    _, dw, db = F.conv_transpose2d_backward(y, cache)
    assert db is None
    no_dx, same_dw, db = F.conv_transpose2d_backward(y, F.conv_transpose2d(x, w, b, **arguments)[1], need_dx=False)
    assert no_dx is None
    assert np.array_equal(on.to_numpy(same_dw), on.to_numpy(dw))
    assert_close(on.to_numpy(db), on.to_numpy(y).sum(axis=(0, 2, 3)), 1e-5)


def test_channels_last(on, sparing, rng):
    sparing(False)
    arguments = arguments_of("groups")
    x, w, _ = draw(rng, "groups", "float32")
    y, cache = F.conv_transpose2d(on.asarray(x.transpose(0, 2, 3, 1)), on.asarray(w), layout="NHWC", **arguments)
    dy = rng.normal(size=tuple(y.shape)).astype("float32")
    dx, dw, _ = F.conv_transpose2d_backward(on.asarray(dy), cache)
    expected = naive(x, w, np.zeros(6), dy.transpose(0, 3, 1, 2), **arguments)
    assert_close(on.to_numpy(y), expected[0].transpose(0, 2, 3, 1), 1e-5)
    assert_close(on.to_numpy(dx), expected[1].transpose(0, 2, 3, 1), 1e-5)
    assert_close(on.to_numpy(dw), expected[2], 1e-5)


@pytest.mark.parametrize("kernels", ["auto", "generic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["groups", "1x1"])
def test_any_memory(kernels, layout, name, rng):
    """Small integers make every sum exact, in whatever order it is formed."""
    place, arguments = LAYOUTS[layout], arguments_of(name)
    x, w, b = (rng.integers(-4, 5, a.shape).astype("float32") for a in draw(rng, name))
    with use_kernels(kernels):
        y, cache = F.conv_transpose2d(*(place(a) for a in (x, w, b)), **arguments)
        dy = rng.integers(-4, 5, y.shape).astype("float32")
        gradients = F.conv_transpose2d_backward(place(dy), cache)
    for actual, expected in zip((y, *gradients), naive(x, w, b, dy, **arguments), strict=True):
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("cache_bytes", [1, 3000, 20_000])
@pytest.mark.parametrize("name", ["upsampling", "dilation", "groups", "1x1", "stride > kernel"])
def test_however_the_batch_is_cut(cache_bytes, name, rng, monkeypatch):
    """By images and by rows of one image; small integers make every sum exact."""
    arguments = arguments_of(name)
    x, w, b = (rng.integers(-4, 5, a.shape).astype("float64") for a in draw(rng, name))
    monkeypatch.setattr(_slices, "_CACHE_BYTES", cache_bytes)
    y, cache = F.conv_transpose2d(x, w, b, **arguments)
    dy = rng.integers(-4, 5, y.shape).astype("float64")
    gradients = F.conv_transpose2d_backward(dy, cache)
    for actual, expected in zip((y, *gradients), naive(x, w, b, dy, **arguments), strict=True):
        assert np.array_equal(actual, expected)


def test_a_batch_under_a_cap_gives_the_same(on, rng):
    if on.backend == "jax":
        pytest.skip("it compiles each slice anew")
    x, w, b = rng.normal(size=(5, 2, 96, 96)), rng.normal(size=(2, 4, 2, 1)), rng.normal(size=4)
    arrays = [on.asarray(a, "float32") for a in (x, w, b)]
    y, cache = F.conv_transpose2d(*arrays, stride=(2, 1))
    whole = (y, *F.conv_transpose2d_backward(y, cache))
    before = xpconv.get_workspace_mb()
    xpconv.set_workspace_mb(1)
    try:
        cut, cache = F.conv_transpose2d(*arrays, stride=(2, 1))
        gradients = F.conv_transpose2d_backward(y, cache)
    finally:
        xpconv.set_workspace_mb(before)
    for actual, expected in zip((cut, *gradients), whole, strict=True):
        assert_close(on.to_numpy(actual), on.to_numpy(expected), 1e-5)


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_no_zeros_are_put_between_the_pixels(kernels):
    """Those of 16 channels would take 16 times the memory of the result."""
    x, w = np.ones((4, 16, 64, 64), "float32"), np.ones((16, 1, 1, 1), "float32")
    with use_kernels(kernels):
        F.conv_transpose2d(x, w, stride=8)
        tracemalloc.start()
        try:
            y, _ = F.conv_transpose2d(x, w, stride=8)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert y.shape == (4, 1, 505, 505)
    assert peak <= 2 * y.nbytes + x.nbytes


@pytest.mark.parametrize(("backend", "dtype"), [("numpy", "float16"), ("torch", "bfloat16"), ("cuda-host", "float16")])
def test_half_precision(backend, dtype, rng):
    if backend != "cuda-host":
        pytest.importorskip(backend)
    elif (reason := next(c for c in xpconv.testing.CASES if c.id == backend).why_unavailable()) is not None:
        pytest.skip(reason)
    arguments = arguments_of("groups")
    with xpconv.use_backend(backend):
        arrays = [xpconv.asarray(a, dtype) for a in draw(rng, "groups", "float32")]
        y, cache = F.conv_transpose2d(*arrays, **arguments)
        dy = xpconv.asarray(rng.normal(size=tuple(y.shape)), dtype)
        results = (y, *F.conv_transpose2d_backward(dy, cache))
    x, w, b, host_dy = (xpconv.to_numpy(a).astype("float64") for a in (*arrays, dy))
    for actual, expected in zip(results, naive(x, w, b, host_dy, **arguments), strict=True):
        assert backend_of(a=actual).dtype_name(actual) == dtype
        assert_close(xpconv.to_numpy(actual).astype("float64"), expected, {"float16": 2e-3, "bfloat16": 1e-2}[dtype])


def test_results_are_fresh(rng):
    x, w, b = draw(rng, "1x1")
    y, cache = F.conv_transpose2d(x, w, b)
    for result in (y, *F.conv_transpose2d_backward(y, cache)):
        assert not any(np.shares_memory(result, other) for other in (x, w, b) + ((y,) if result is not y else ()))


X, W, B = np.ones((2, 4, 5, 6)), np.ones((4, 3, 3, 2)), np.ones(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3 with shape \(4, 5, 6\)"),
        ({"x": X[0], "layout": "NHWC"}, ValueError, r"x: expected 4 dimensions \(N, H, W, C\), got 3"),
        ({"w": W[0]}, ValueError, r"w: expected 4 dimensions \(C, F/groups, kh, kw\), got 3"),
        ({"b": np.ones(4)}, ValueError, r"b: expected shape \(3\) \(F,\), got \(4,\)"),
        ({"groups": 2}, ValueError, r"b: expected shape \(6\) \(F,\), got \(3,\)"),
        ({"w": W[:3]}, ValueError, "w: has filters for 3 input channels, but x has 4"),
        ({"layout": "NHWC"}, ValueError, "w: has filters for 4 input channels, but x has 6"),
        ({"layout": "HWC"}, ValueError, "layout: expected one of NCHW, NHWC, got 'HWC'"),
        ({"groups": 3}, ValueError, "groups: 3 must divide the input channels, got 4"),
        ({"groups": 0}, ValueError, "groups: must be at least 1, got 0"),
        ({"stride": 0}, ValueError, "stride: must be at least 1, got 0"),
        ({"dilation": 1.5}, TypeError, "dilation: expected an integer or a pair of integers, got 1.5"),
        ({"padding": -1}, ValueError, "padding: must be at least 0, got -1"),
        ({"padding": "full"}, ValueError, "padding: expected 'valid', 'same', .* got 'full'"),
        (
            {"padding": (0, 4)},
            ValueError,
            r"padding: leaves no output, the width would be \(6 - 1\) \* 1 \+ 2 \+ 0 - 4 - 4 = -1",
        ),
        ({"padding": 10**30}, ValueError, r"padding: too large, must be at most 2\*\*62"),
        ({"output_padding": -1}, ValueError, "output_padding: must be at least 0, got -1"),
        (
            {"output_padding": (1, 2), "stride": 2},
            ValueError,
            "output_padding: must be smaller than stride or dilation, got 2 for the width, with stride 2 and",
        ),
        ({"output_padding": 1, "padding": "same", "stride": 2}, ValueError, "output_padding: padding='same' gives"),
        ({"stride": 10**13}, ValueError, r"x: the result would have 40000000000003 x .* more than 2\*\*40"),
        ({"x": X[:, :, :0]}, ValueError, "x: images need at least one pixel, got height 0 and width 6"),
        ({"w": W[:, :0], "b": None}, ValueError, r"w: needs at least one filter, .* got shape \(4, 0, 3, 2\)"),
        ({"x": X.astype("int64"), "w": W.astype("int64")}, TypeError, "x: expected float32 or float64, got int64"),
        ({"w": W.astype("float32")}, TypeError, "w: expected float64 like x, got float32"),
        ({"w": None}, TypeError, r"w: expected an array \(C, F/groups, kh, kw\), got None"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"x": X, "w": W, "b": B, **change}
    with pytest.raises(error, match=message):
        F.conv_transpose2d(arguments.pop("x"), arguments.pop("w"), arguments.pop("b"), **arguments)


def test_wrong_gradients():
    y, cache = F.conv_transpose2d(X, W, B)
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3, 7, 7\), that of the forward result, got \(2, 4"):
        F.conv_transpose2d_backward(X, cache)
    with pytest.raises(TypeError, match="dy: expected float64, the dtype of the forward result, got float32"):
        F.conv_transpose2d_backward(y.astype("float32"), cache)
    with pytest.raises(TypeError, match="cache: expected the ConvTranspose2dCache"):
        F.conv_transpose2d_backward(y, F.conv2d(X, W[:, :, :1, :1].transpose(1, 0, 2, 3))[1])
