"""Pooling against plain loops and PyTorch, on every backend."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings

from xpconv import functional as F
from xpconv.backends import BackendMismatchError, get_backend, load_backend, use_kernels
from xpconv.testing import CASES, LAYOUTS, check_gradients, naive
from xpconv.testing.strategies import poolings

# kernel, stride, padding, dilation, ceil_mode: every one not square, with pixels left over, or beyond the image
WINDOWS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    ((3, 2), (2, 3), ((1, 0), (0, 1)), (1, 1), False),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), True),
    ((2, 3), (1, 2), ((1, 1), (1, 1)), (2, 1), False),
    ((1, 1), (3, 2), ((0, 0), (0, 0)), (1, 1), True),
]


def image(rng, shape=(2, 3, 7, 6)):
    """Pixels that differ by more than the step of a gradient check."""
    return rng.permutation(np.prod(shape)).reshape(shape) / 10.0


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool2d(on, close, sparing, rng, window):
    sparing(window is WINDOWS[1])
    x = image(rng)
    kernel, stride, padding, dilation, ceil_mode = window
    y, argmax = naive.max_pool2d(x, *window)
    dy = rng.normal(size=y.shape)
    dx = naive.max_pool2d_backward(dy, argmax, x.shape[2:], *window)
    for dtype in on.dtypes:
        got, cache = F.max_pool2d(
            on.asarray(x, dtype), kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )
        close(got, y, dtype)
        np.testing.assert_array_equal(on.to_numpy(cache.argmax), argmax)
        close(F.max_pool2d_backward(on.asarray(dy, dtype), cache), dx, dtype)


@pytest.mark.parametrize("window", [w for w in WINDOWS if w[3] == (1, 1)])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool2d(on, close, sparing, rng, window, count_include_pad):
    sparing(window is WINDOWS[1] and count_include_pad)
    x = image(rng)
    kernel, stride, padding, _, ceil_mode = window
    arguments = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    y = naive.avg_pool2d(x, kernel, stride, padding, **arguments)
    dy = rng.normal(size=y.shape)
    dx = naive.avg_pool2d_backward(dy, x.shape[2:], kernel, stride, padding, **arguments)
    for dtype in on.dtypes:
        got, cache = F.avg_pool2d(on.asarray(x, dtype), kernel, stride=stride, padding=padding, **arguments)
        close(got, y, dtype)
        close(F.avg_pool2d_backward(on.asarray(dy, dtype), cache), dx, dtype)


def bins(size, out):
    return [(int(np.floor(k * size / out)), int(np.ceil((k + 1) * size / out))) for k in range(out)]


@pytest.mark.parametrize("output_size", [1, (3, 2), (4, 5), (7, 6), (9, 8)])
def test_adaptive_avg_pool2d(on, close, sparing, rng, output_size):
    sparing(output_size == (3, 2))
    x = image(rng)
    out_h, out_w = (output_size, output_size) if isinstance(output_size, int) else output_size
    y, dx = np.zeros((2, 3, out_h, out_w)), np.zeros(x.shape)
    dy = rng.normal(size=y.shape)
    for p, (top, bottom) in enumerate(bins(7, out_h)):
        for q, (left, right) in enumerate(bins(6, out_w)):
            y[:, :, p, q] = x[:, :, top:bottom, left:right].mean(axis=(2, 3))
            share = dy[:, :, p, q] / ((bottom - top) * (right - left))
            dx[:, :, top:bottom, left:right] += share[:, :, None, None]
    for dtype in on.dtypes:
        got, cache = F.adaptive_avg_pool2d(on.asarray(x, dtype), output_size)
        close(got, y, dtype)
        close(F.adaptive_avg_pool2d_backward(on.asarray(dy, dtype), cache), dx, dtype)


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_avg_pool2d(on, close, sparing, rng, keepdims):
    sparing(not keepdims)
    x, dy = image(rng), rng.normal(size=(2, 3, 1, 1))
    for dtype in on.dtypes:
        y, cache = F.global_avg_pool2d(on.asarray(x, dtype), keepdims=keepdims)
        want = x.mean(axis=(2, 3), keepdims=keepdims)
        close(y, want, dtype)
        dx = F.global_avg_pool2d_backward(on.asarray(dy.reshape(want.shape), dtype), cache)
        close(dx, np.broadcast_to(dy / 42, x.shape), dtype)


POOLINGS = {
    "max": (lambda x, **k: F.max_pool2d(x, (3, 2), stride=2, padding=1, **k), F.max_pool2d_backward),
    "avg": (lambda x, **k: F.avg_pool2d(x, (3, 2), stride=2, padding=1, **k), F.avg_pool2d_backward),
    "adaptive": (lambda x, **k: F.adaptive_avg_pool2d(x, (3, 4), **k), F.adaptive_avg_pool2d_backward),
    "global": (lambda x, **k: F.global_avg_pool2d(x, keepdims=True, **k), F.global_avg_pool2d_backward),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_channels_last_layout(on, sparing, rng, name):
    forward, backward = POOLINGS[name]
    x = image(rng).astype("float32")
    sparing(False)
    y, cache = forward(on.asarray(x))
    last, last_cache = forward(on.asarray(x.transpose(0, 2, 3, 1)), layout="NHWC")
    np.testing.assert_array_equal(on.to_numpy(last), on.to_numpy(y).transpose(0, 2, 3, 1))
    dy = rng.normal(size=y.shape).astype("float32")
    dx = on.to_numpy(backward(on.asarray(dy), cache))
    last_dx = on.to_numpy(backward(on.asarray(dy.transpose(0, 2, 3, 1)), last_cache))
    np.testing.assert_array_equal(last_dx, dx.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_channels_last_needs_no_copy_of_the_images(name, padding):
    """Results are channels last in memory, and nothing of the size of the images is made on the way."""
    forward, backward = POOLINGS[name]
    padded = {} if name in ("adaptive", "global") else {"padding": padding}
    x = np.ones((4, 62, 61, 32), "float32")
    forwards = {
        "max": lambda: F.max_pool2d(x, 4, stride=4, layout="NHWC", **padded),
        "avg": lambda: F.avg_pool2d(x, 4, stride=4, layout="NHWC", **padded),
    }
    call = forwards.get(name, lambda: forward(x, layout="NHWC"))
    peaks = []
    for _ in range(2):  # the first call imports what it needs
        tracemalloc.start()
        try:
            y, cache = call()
            peaks.append(tracemalloc.get_traced_memory()[1])
            dy = np.array(y, order="C")
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            dx = backward(dy, cache)
            grown = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert y.flags.c_contiguous
    assert peaks[-1] < x.nbytes / 4
    if name in ("max", "avg"):
        assert dx.flags.c_contiguous
        assert grown < 1.1 * x.nbytes


# size, kernel, stride: the padding (before, behind) and the number of windows of TensorFlow's SAME
SAME = {(5, 2, 1): (0, 1, 5), (6, 3, 2): (0, 1, 3), (13, 6, 5): (1, 2, 3), (10, 2, 7): (0, 0, 2), (1, 4, 3): (1, 2, 1)}


@pytest.mark.parametrize("vertical", SAME)
@pytest.mark.parametrize("horizontal", [(5, 2, 1), (6, 3, 2)])
def test_same_padding(vertical, horizontal, rng):
    """TensorFlow's windows. Its means never count padding, which is ``count_include_pad=False``."""
    size, kernel, stride = zip(vertical, horizontal, strict=True)
    (top, bottom, out_h), (left, right, out_w) = SAME[vertical], SAME[horizontal]
    padding = ((top, bottom), (left, right))
    x = image(rng, (2, 3, *size))
    y, cache = F.max_pool2d(x, kernel, stride=stride, padding="same")
    want, argmax = naive.max_pool2d(x, kernel, stride, padding)
    assert y.shape == (2, 3, out_h, out_w)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(cache.argmax, argmax)
    for include in (False, True):
        y, cache = F.avg_pool2d(x, kernel, stride=stride, padding="same", count_include_pad=include)
        np.testing.assert_allclose(y, naive.avg_pool2d(x, kernel, stride, padding, False, include), rtol=1e-13)
        dx = naive.avg_pool2d_backward(y, size, kernel, stride, padding, False, include)
        np.testing.assert_allclose(F.avg_pool2d_backward(y, cache), dx, rtol=1e-12)


def test_a_mean_without_padding_is_that_of_the_pixels():
    ones = np.ones((1, 1, 5, 6))
    assert (F.avg_pool2d(ones, 3, stride=2, padding="same", count_include_pad=False)[0] == 1).all()
    assert F.avg_pool2d(ones, 3, stride=2, padding="same")[0].min() == 4 / 9


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients(on, rng, name):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    forward, backward = POOLINGS[name]
    check_gradients(forward, backward, [on.asarray(image(rng))])


@pytest.mark.parametrize("name", POOLINGS)
def test_empty_batch(on, sparing, name):
    sparing(False)
    forward, backward = POOLINGS[name]
    y, cache = forward(on.asarray(np.zeros((0, 3, 7, 6)), "float32"))
    assert y.shape[:2] == (0, 3)
    assert tuple(backward(y, cache).shape) == (0, 3, 7, 6)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_memory_layouts(rng, name, layout, kernels):
    forward, backward = POOLINGS[name]
    x = image(rng)
    with use_kernels(kernels):
        y, cache = forward(x)
        other, other_cache = forward(LAYOUTS[layout](x))
        np.testing.assert_allclose(other, y, rtol=1e-14)  # sums may run in another order
        dy = rng.normal(size=y.shape)
        got = backward(LAYOUTS[layout](dy), other_cache)
        np.testing.assert_allclose(got, backward(dy, cache), rtol=1e-14, atol=1e-15)


def test_results_are_no_views(rng):
    """A caller may overwrite what it gets, also where the pooling does nothing."""
    for forward in (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d):
        x = image(rng)
        before = x.copy()
        y, _ = forward(x, (7, 6) if forward is F.adaptive_avg_pool2d else 1)
        np.testing.assert_array_equal(y, x)
        y[...] = -1
        np.testing.assert_array_equal(x, before)


def test_nan_is_the_maximum(on):
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 1, 0] = np.nan
    x[0, 0, 2, 2] = np.inf
    y, cache = F.max_pool2d(on.asarray(x, "float32"), 2)
    np.testing.assert_array_equal(on.to_numpy(y), [[[[np.nan, 0], [0, np.inf]]]])
    np.testing.assert_array_equal(on.to_numpy(cache.argmax), [[[[2, 0], [0, 0]]]])


def test_an_argmax_of_another_dtype(on, sparing):
    sparing(False)
    for kernel, dtype in ((2, "uint8"), (16, "int32")):
        y, cache = F.max_pool2d(on.asarray(np.zeros((1, 1, 16, 16)), "float32"), kernel)
        argmax = on.asarray(on.to_numpy(cache.argmax), "int64")
        with pytest.raises(TypeError, match=rf"cache\.argmax: expected {dtype}, as max_pool2d gives it, got int64"):
            F.max_pool2d_backward(y, cache._replace(argmax=argmax))


def test_padding_is_never_the_maximum(on, sparing):
    """Also where every pixel is -inf, so that the gradient goes to a pixel."""
    sparing(False)
    x = on.asarray(np.full((1, 1, 2, 2), -np.inf), "float32")
    y, cache = F.max_pool2d(x, 2, padding=1)
    np.testing.assert_array_equal(on.to_numpy(cache.argmax), [[[[3, 2], [1, 0]]]])
    dx = F.max_pool2d_backward(on.asarray(np.ones(y.shape), "float32"), cache)
    np.testing.assert_array_equal(on.to_numpy(dx), np.ones((1, 1, 2, 2)))


def test_first_of_equal_maxima(on, sparing):
    sparing(False)
    y, cache = F.max_pool2d(on.asarray(np.ones((1, 1, 4, 4)), "float32"), 2)
    dx = F.max_pool2d_backward(on.asarray(np.ones(y.shape), "float32"), cache)
    np.testing.assert_array_equal(on.to_numpy(dx)[0, 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))


def test_large_kernel(on, close, sparing, rng):
    """More taps than a byte can count."""
    sparing(False)
    x = rng.permutation(18 * 19).reshape(1, 1, 18, 19) / 10.0
    y, cache = F.max_pool2d(on.asarray(x, "float32"), (17, 18), stride=1)
    want, argmax = naive.max_pool2d(x, (17, 18), (1, 1))
    close(y, want, "float32")
    np.testing.assert_array_equal(on.to_numpy(cache.argmax), argmax)
    dy = rng.normal(size=want.shape)
    dx = F.max_pool2d_backward(on.asarray(dy, "float32"), cache)
    close(dx, naive.max_pool2d_backward(dy, argmax, (18, 19), (17, 18), (1, 1)), "float32")


def test_cache_serves_either_kernel(rng):
    """Native and generic kernels understand each other's argmax."""
    x = image(rng)
    for first, second in (("auto", "generic"), ("generic", "auto")):
        with use_kernels(first):
            y, cache = F.max_pool2d(x, 3, stride=2)
            dy = rng.integers(-9, 9, size=y.shape).astype(float)  # sums are exact
            want = F.max_pool2d_backward(dy, cache)
        with use_kernels(second):
            np.testing.assert_array_equal(F.max_pool2d_backward(dy, cache), want)


@pytest.mark.parametrize("case", [c for c in CASES if c.id in ("numpy", "numpy-generic", "strict")], ids=lambda c: c.id)
@settings(max_examples=20)
@given(pooling=poolings(max_dilation=3))
def test_any_max_pooling(case, pooling):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, size=pooling.x_shape).astype("float32")  # many equal pixels
    window = pooling[1:]
    names = ("stride", "padding", "dilation", "ceil_mode")
    with case.active():
        y, cache = F.max_pool2d(case.asarray(x), window[0], **dict(zip(names, window[1:], strict=True)))
        want, argmax = naive.max_pool2d(x, *window)
        np.testing.assert_array_equal(case.to_numpy(y), want)
        np.testing.assert_array_equal(case.to_numpy(cache.argmax), argmax)
        dy = rng.integers(-4, 5, size=want.shape).astype("float32")
        dx = F.max_pool2d_backward(case.asarray(dy), cache)
        np.testing.assert_array_equal(case.to_numpy(dx), naive.max_pool2d_backward(dy, argmax, x.shape[2:], *window))


@pytest.mark.parametrize("case", [c for c in CASES if c.id in ("numpy", "numpy-generic", "strict")], ids=lambda c: c.id)
@pytest.mark.parametrize("count_include_pad", [True, False])
@settings(max_examples=15)
@given(pooling=poolings(max_dilation=1))
def test_any_avg_pooling(case, count_include_pad, pooling):
    rng = np.random.default_rng(0)
    x = rng.normal(size=pooling.x_shape)
    window = (*pooling[1:4], pooling.ceil_mode, count_include_pad)
    names = ("stride", "padding", "ceil_mode", "count_include_pad")
    with case.active():
        y, cache = F.avg_pool2d(case.asarray(x), window[0], **dict(zip(names, window[1:], strict=True)))
        want = naive.avg_pool2d(x, *window)
        np.testing.assert_allclose(case.to_numpy(y), want, rtol=1e-12, atol=1e-12)
        dy = rng.normal(size=want.shape)
        dx = F.avg_pool2d_backward(case.asarray(dy), cache)
        want_dx = naive.avg_pool2d_backward(dy, x.shape[2:], *window)
        np.testing.assert_allclose(case.to_numpy(dx), want_dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_agrees_with_torch(rng, ceil_mode, size):
    torch = pytest.importorskip("torch")
    x = image(rng, (2, 3, *size))
    xt = torch.tensor(x, requires_grad=True)
    calls = [
        (F.max_pool2d, F.max_pool2d_backward, {}),
        (F.avg_pool2d, F.avg_pool2d_backward, {"count_include_pad": True}),
        (F.avg_pool2d, F.avg_pool2d_backward, {"count_include_pad": False}),
    ]
    for forward, backward, more in calls:
        arguments = {"stride": (3, 2), "padding": 1, "ceil_mode": ceil_mode, **more}
        want = getattr(torch.nn.functional, forward.__name__)(xt, (3, 2), **arguments)
        y, cache = forward(x, (3, 2), **arguments)
        np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-14)
        dy = rng.normal(size=y.shape)
        (dx,) = torch.autograd.grad(want, xt, torch.tensor(dy))
        np.testing.assert_allclose(backward(dy, cache), dx.numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_adds_up_in_float32(rng, name):
    """A sum of 4096 ones stops at 2048 in float16."""
    torch = pytest.importorskip("torch")
    x = torch.ones((1, 1, 64, 64), dtype=getattr(torch, name))
    for forward in (lambda x: F.avg_pool2d(x, 64), F.global_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1)):
        y, _ = forward(x)
        assert y.dtype == x.dtype
        assert float(y.reshape(())) == 1.0
    y, cache = F.max_pool2d(x, 2)
    assert y.dtype == F.max_pool2d_backward(y, cache).dtype == x.dtype


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: F.max_pool2d(x[0], 2), ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3"),
        (lambda x: F.avg_pool2d(x[0], 2, layout="NHWC"), ValueError, r"x: expected 4 dimensions \(N, H, W, C\)"),
        (lambda x: F.max_pool2d(x, 2, layout="HWC"), ValueError, "layout: expected one of NCHW, NHWC, got 'HWC'"),
        (lambda x: F.max_pool2d(x, 0), ValueError, "kernel_size: must be at least 1, got 0"),
        (lambda x: F.max_pool2d(x, 2, stride=0), ValueError, "stride: must be at least 1, got 0"),
        (lambda x: F.avg_pool2d(x, 2, stride=-1), ValueError, "stride: must be at least 1, got -1"),
        (lambda x: F.avg_pool2d(x, 2, padding=-1), ValueError, "padding: must be at least 0, got -1"),
        (lambda x: F.max_pool2d(x, 2.5), TypeError, "kernel_size: expected an integer or a pair of integers, got 2.5"),
        (lambda x: F.max_pool2d(x, 8), ValueError, "kernel_size: kernel height 8 is larger than the padded input's, 7"),
        (lambda x: F.max_pool2d(x, 2, padding=2), ValueError, "padding: window 0 .* would see nothing but padding"),
        (lambda x: F.max_pool2d(x.astype("uint8"), 2), TypeError, "x: expected float32 or float64, got uint8"),
        (lambda x: F.max_pool2d([1.0], 2), TypeError, "x: expected an array, got builtins.list"),
        (lambda x: F.global_avg_pool2d(x[:, :, :0]), ValueError, "x: images need at least one pixel, got height 0"),
        (lambda x: F.adaptive_avg_pool2d(x, 0), ValueError, "output_size: must be at least 1, got 0"),
        (lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3)), ValueError, "output_size: expected an integer or a pair"),
    ],
)
def test_bad_arguments(rng, call, error, message):
    with pytest.raises(error, match=message):
        call(image(rng))


@pytest.mark.parametrize("name", POOLINGS)
def test_bad_gradients(rng, name):
    forward, backward = POOLINGS[name]
    y, cache = forward(image(rng))
    with pytest.raises(ValueError, match=r"dy: expected shape .* that of the forward result, got \(2, 3"):
        backward(np.concatenate([y, y], axis=3), cache)
    with pytest.raises(TypeError, match="dy: expected float64, the dtype of the forward result, got float32"):
        backward(y.astype("float32"), cache)


def test_gradient_of_another_backend(rng):
    pytest.importorskip("array_api_strict")
    y, cache = F.max_pool2d(image(rng), 2)
    with pytest.raises(BackendMismatchError, match="dy is an array of array_api_strict but argmax is one of numpy"):
        F.max_pool2d_backward(load_backend("array_api_strict").asarray(y), cache)


def test_inside_jit(rng):
    jax = pytest.importorskip("jax")
    x = image(rng, (1, 1, 4, 6)).astype("float32")

    def twice(x):
        y, cache = F.max_pool2d(x, 2)
        return F.max_pool2d_backward(y, cache)

    np.testing.assert_array_equal(jax.jit(twice)(jax.numpy.asarray(x)), twice(x))


def test_default_backend_is_not_used(on, rng):
    """The array decides: NumPy arrays stay NumPy arrays, whatever the default backend."""
    assert isinstance(F.max_pool2d(image(rng), 2)[0], np.ndarray)
    assert get_backend().name == on.backend
