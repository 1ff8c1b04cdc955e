"""The pooling kernels: any memory of all arrays, long rows, many taps, threads, offsets beyond 32 bits."""

from contextlib import nullcontext

import numpy as np
import pytest

from xpconv import _generic
from xpconv._cpu import _kernels, columns, pool
from xpconv._geometry import pool_window
from xpconv.backends import load_backend
from xpconv.testing import naive


def random_window(rng, most_dilation=2):
    """A random pooling of which every window sees a pixel, and the arguments of the naive loops for it."""
    while True:
        kernel, stride = (tuple(rng.integers(1, high, 2).tolist()) for high in (5, 4))
        dilation = tuple(rng.integers(1, most_dilation + 1, 2).tolist())
        padding = tuple(tuple(rng.integers(0, 3, 2).tolist()) for _ in range(2))
        size, ceil_mode = tuple(rng.integers(1, 12, 2).tolist()), bool(rng.integers(2))
        try:
            window = pool_window(size, kernel, stride, padding, dilation, ceil_mode)
        except ValueError:
            continue
        return window, (kernel, stride, padding), dilation, ceil_mode


def arguments_of(window):
    return (window.kernel_h, window.kernel_w, *columns.steps(window))


def special(rng, shape, dtype):
    """Few different numbers, so that there are many ties, and some NaN and infinities."""
    x = rng.integers(-2, 3, shape).astype(dtype)
    if rng.integers(2):
        x[rng.random(shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    if rng.integers(4) == 0:
        x[rng.random(shape) < 0.8] = -np.inf
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", ["uint8", "int32"])
def test_max_in_any_memory(dtype, index, rng, scattered):
    for _ in range(40):
        window, arguments, dilation, ceil_mode = random_window(rng)
        n, c = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 9]))  # nine: enough for loops over channels
        x = scattered(special(rng, (n, c, window.height, window.width), dtype))
        expected, at = naive.max_pool2d(x.view, *arguments, dilation, ceil_mode)
        y, argmax = scattered(expected.shape, dtype), scattered(expected.shape, index)
        _kernels.max_pool(x.view, y.view, argmax.view, *arguments_of(window))
        assert np.array_equal(y.view, expected, equal_nan=True)
        assert np.array_equal(argmax.view, at)

        y.view[...] = rng.integers(-9, 9, y.view.shape)
        dx = scattered(x.view.shape, dtype)
        size = (window.height, window.width)
        _kernels.max_pool_backward(y.view, argmax.view, dx.view, *arguments_of(window))
        assert np.array_equal(dx.view, naive.max_pool2d_backward(y.view, at, size, *arguments, dilation, ceil_mode))
        assert all(array.margin_is_whole() for array in (y, argmax, dx))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_in_any_memory(dtype, count_include_pad, rng, scattered):
    for _ in range(40):
        window, arguments, _, ceil_mode = random_window(rng, most_dilation=1)
        n, c = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 9]))  # nine: enough for loops over channels
        x = scattered(rng.integers(-9, 9, (n, c, window.height, window.width)).astype(dtype))
        counted = pool._counted(count_include_pad, window)
        expected = naive.avg_pool2d(x.view, *arguments, ceil_mode, count_include_pad)
        y = scattered(expected.shape, dtype)
        _kernels.avg_pool(x.view, y.view, *arguments_of(window), *counted)
        np.testing.assert_allclose(y.view, expected, rtol=1e-6 if dtype == "float32" else 1e-15)

        dx = scattered(x.view.shape, dtype)
        size = (window.height, window.width)
        _kernels.avg_pool_backward(y.view, dx.view, *arguments_of(window), *counted)
        expected = naive.avg_pool2d_backward(y.view, size, *arguments, ceil_mode, count_include_pad)
        np.testing.assert_allclose(dx.view, expected, rtol=0, atol=2e-5 if dtype == "float32" else 1e-13)
        assert y.margin_is_whole()
        assert dx.margin_is_whole()


# kernel, stride, padding, dilation: those with loops of their own, and those just beside
KINDS = {
    "2x2": ((2, 2), (2, 2), 0, 1),
    "2x2, padded": ((2, 2), (2, 2), 1, 1),
    "2x2, overlapping": ((2, 2), (1, 2), 0, 1),
    "3x3, stride 2": ((3, 3), (2, 2), 1, 1),
    "1x5, stride 2": ((1, 5), (1, 2), ((0, 0), (2, 1)), 1),
    "4x4, stride 2": ((4, 4), (2, 2), ((1, 2), (0, 2)), 1),
    "3x3, stride 1": ((3, 3), (1, 1), 1, 1),
    "3x3, dilated": ((3, 3), (2, 2), 1, 2),
    "3x2, stride 3": ((3, 2), (3, 3), 0, 1),
    "16x16": ((16, 16), (16, 16), 0, 1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 33, 47), (1, 1, 37, 1101), (6, 4, 64, 64)], ids=["odd", "long rows", "many"])
def test_large_arrays_whatever_the_threads(threads, dtype, kind, shape, rng):
    """Rows longer than one chunk, planes for several threads; the generic operators add in another order."""
    backend = load_backend("numpy")
    kernel, stride, padding, dilation = KINDS[kind]
    window = pool_window(shape[2:], kernel, stride, padding, dilation, True)
    x = np.round(rng.standard_normal(shape) * 8).astype(dtype)
    x[rng.random(shape) < 0.01] = np.nan
    y, argmax = pool.max_pool2d(backend, x, window)
    expected, at = _generic.max_pool2d(backend, x, window)
    assert np.array_equal(y, expected, equal_nan=True)
    assert np.array_equal(argmax, at)
    assert argmax.dtype == (np.uint8 if window.taps <= 255 else np.int32)
    dy = rng.integers(-8, 9, y.shape).astype(dtype)
    dx = pool.max_pool2d_backward(backend, dy, argmax, window)
    assert np.array_equal(dx, _generic.max_pool2d_backward(backend, dy, at, window))

    if dilation == 1:
        x = np.nan_to_num(x)
        tolerance = {"rtol": 0, "atol": 1e-4 if dtype == "float32" else 1e-12}
        for count_include_pad in (False, True):
            y = pool.avg_pool2d(backend, x, count_include_pad, window)
            np.testing.assert_allclose(y, _generic.avg_pool2d(backend, x, count_include_pad, window), **tolerance)
            dx = pool.avg_pool2d_backward(backend, dy, count_include_pad, window)
            expected = _generic.avg_pool2d_backward(backend, dy, count_include_pad, window)
            np.testing.assert_allclose(dx, expected, **tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["2x2", "2x2, overlapping", "3x3, stride 2", "3x3, dilated", "16x16"])
def test_channels_last_whatever_the_threads(threads, dtype, kind, rng):
    """More channels than one chunk; results are channels last in memory too."""
    backend = load_backend("numpy")
    kernel, stride, padding, dilation = KINDS[kind]
    window = pool_window((19, 22), kernel, stride, padding, dilation, True)
    x = rng.integers(-9, 10, (3, 19, 22, 300)).astype(dtype).transpose(0, 3, 1, 2)
    y, argmax = pool.max_pool2d(backend, x, window)
    expected, at = _generic.max_pool2d(backend, x, window)
    assert np.array_equal(y, expected)
    assert np.array_equal(argmax, at)
    dy = np.empty_like(y)
    dy[...] = rng.integers(-8, 9, y.shape)
    dx = pool.max_pool2d_backward(backend, dy, argmax, window)
    assert np.array_equal(dx, _generic.max_pool2d_backward(backend, dy, at, window))
    results = [y, argmax, dx]
    if dilation == 1:
        for count_include_pad in (False, True):
            mean = pool.avg_pool2d(backend, x, count_include_pad, window)
            expected = _generic.avg_pool2d(backend, x, count_include_pad, window)
            np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-14)
            dx = pool.avg_pool2d_backward(backend, dy, count_include_pad, window)
            expected = _generic.avg_pool2d_backward(backend, dy, count_include_pad, window)
            np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-4 if dtype == "float32" else 1e-13)
            results += [mean, dx]
    assert all(result.transpose(0, 2, 3, 1).flags.c_contiguous for result in results)


def inside(rng, values):
    """The same numbers in rows of a larger array, around which something else lies, and that array."""
    parent = np.full([size + 2 for size in values.shape], -77).astype(values.dtype)
    view = parent[1:-1, 1:-1, 1:-1, 1:-1]
    view[...] = values
    return view, parent


def margin_is_whole(parent):
    frame = parent.copy()
    frame[1:-1, 1:-1, 1:-1, 1:-1] = np.asarray(-77).astype(parent.dtype)
    return bool((frame == np.asarray(-77).astype(parent.dtype)).all())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_windows_over_contiguous_rows(isa, dtype, rng):
    """Windows that are taken apart in columns and rows: every stride, padding and dilation, bands of many rows."""
    for _ in range(60):
        kernel, stride, dilation = (tuple(rng.integers(1, high, 2).tolist()) for high in (9, 18, 4))
        padding = tuple(tuple(rng.integers(0, 5, 2).tolist()) for _ in range(2))
        size = tuple(rng.integers(1, 90, 2).tolist())
        try:
            window = pool_window(size, kernel, stride, padding, dilation, bool(rng.integers(2)))
        except ValueError:
            continue
        x, _ = inside(rng, special(rng, (2, 2, *size), dtype))
        expected, at = _generic.max_pool2d(load_backend("numpy"), x, window)
        y, of_y = inside(rng, np.zeros_like(expected))
        argmax, of_argmax = inside(rng, np.zeros(y.shape, np.uint8))
        dx, of_dx = inside(rng, np.zeros_like(x))
        _kernels.max_pool(x, y, argmax, *arguments_of(window))
        assert np.array_equal(y, expected, equal_nan=True)
        assert np.array_equal(argmax, at)
        y[...] = rng.integers(-9, 9, y.shape)
        _kernels.max_pool_backward(y, argmax, dx, *arguments_of(window))
        assert np.array_equal(dx, _generic.max_pool2d_backward(load_backend("numpy"), y, at, window))
        if dilation == (1, 1):
            x[...] = rng.integers(-9, 9, x.shape)
            counted = pool._counted(bool(rng.integers(2)), window)
            include = any(counted) or not any(map(any, padding))
            _kernels.avg_pool(x, y, *arguments_of(window), *counted)
            expected = _generic.avg_pool2d(load_backend("numpy"), x, include, window)
            tolerance = 1e-5 if dtype == "float32" else 1e-13
            np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)
            _kernels.avg_pool_backward(y, dx, *arguments_of(window), *counted)
            expected = _generic.avg_pool2d_backward(load_backend("numpy"), y, include, window)
            np.testing.assert_allclose(dx, expected, rtol=0, atol=10 * tolerance)
        assert all(map(margin_is_whole, (of_y, of_argmax, of_dx)))


@pytest.mark.parametrize("size", [(64, 64), (61, 67)])
def test_results_past_the_caches(isa, size, rng):
    backend = load_backend("numpy")
    x = np.round(rng.standard_normal((13, 11, *size)) * 8).astype("float32")
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
        window = pool_window(size, kernel, stride, padding, 1, False)
        y, argmax = pool.max_pool2d(backend, x, window)
        dy = rng.integers(-8, 9, y.shape).astype("float32")
        dx = pool.max_pool2d_backward(backend, dy, argmax, window)
        assert np.array_equal(dx, _generic.max_pool2d_backward(backend, dy, argmax, window))
        dx = pool.avg_pool2d_backward(backend, dy, True, window)
        want = _generic.avg_pool2d_backward(backend, dy, True, window)
        np.testing.assert_allclose(dx, want, rtol=0, atol=1e-5)
    for bins in ((1, 1), (5, 7)):
        y = pool.adaptive_avg_pool2d(backend, x, bins)
        np.testing.assert_allclose(y, _generic.adaptive_avg_pool2d(backend, x, bins), rtol=0, atol=1e-5)
        dx = pool.adaptive_avg_pool2d_backward(backend, y, size)
        np.testing.assert_allclose(dx, _generic.adaptive_avg_pool2d_backward(backend, y, size), rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (3, 3), (7, 7)])
@pytest.mark.parametrize("tap", [9, 255, 0])
def test_wrong_taps_among_good_ones(isa, place, tap, rng):
    window = pool_window((15, 15), 3, 2, 1, 1, False)
    argmax = np.full((1, 2, 8, 8), 4, np.uint8)
    dx = np.zeros((1, 2, 15, 15), np.float32)
    _kernels.max_pool_backward(np.ones((1, 2, 8, 8), np.float32), argmax, dx, *arguments_of(window))
    argmax[0, 1, *place] = tap
    inner = tap == 0 and min(place) > 0
    with nullcontext() if inner else pytest.raises(ValueError, match="argmax"):
        _kernels.max_pool_backward(np.ones((1, 2, 8, 8), np.float32), argmax, dx, *arguments_of(window))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adaptive_average_in_any_memory(isa, dtype, rng, scattered):
    backend = load_backend("numpy")
    for _ in range(40):
        shape = (int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 9])), *rng.integers(1, 25, 2).tolist())
        x, out = scattered(rng.integers(-9, 9, shape).astype(dtype)), rng.integers(1, 9, 2).tolist()
        y = scattered((*shape[:2], *out), dtype)
        _kernels.adaptive_avg_pool(x.view, y.view)
        for p in range(out[0]):
            for q in range(out[1]):
                rows = slice(p * shape[2] // out[0], -(-(p + 1) * shape[2] // out[0]))
                columns = slice(q * shape[3] // out[1], -(-(q + 1) * shape[3] // out[1]))
                expected = x.view[:, :, rows, columns].mean(axis=(2, 3), dtype="float64")
                tolerance = 1e-6 if dtype == "float32" else 1e-14
                np.testing.assert_allclose(y.view[:, :, p, q], expected, rtol=0, atol=tolerance)
        assert y.margin_is_whole()
        dx = scattered(shape, dtype)
        _kernels.adaptive_avg_pool_backward(y.view, dx.view)
        expected = _generic.adaptive_avg_pool2d_backward(backend, y.view.astype("float64"), shape[2:])
        np.testing.assert_allclose(dx.view, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        assert dx.margin_is_whole()


def test_adaptive_average_whatever_the_threads(threads, rng):
    backend = load_backend("numpy")
    for memory in ((0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3)):
        x = np.array(rng.standard_normal((5, 270, 33, 41)).transpose(memory), order="C").transpose(np.argsort(memory))
        for size in ((1, 1), (4, 7)):
            y = pool.adaptive_avg_pool2d(backend, x, size)
            np.testing.assert_allclose(y, _generic.adaptive_avg_pool2d(backend, x, size), rtol=0, atol=1e-14)
            dx = pool.adaptive_avg_pool2d_backward(backend, y, (33, 41))
            want = _generic.adaptive_avg_pool2d_backward(backend, y, (33, 41))
            np.testing.assert_allclose(dx, want, rtol=0, atol=1e-14)
            assert memory == (0, 2, 3, 1) or dx.strides == x.strides


@pytest.mark.parametrize("channels", [1, 8])
def test_means_of_many_pixels_keep_their_digits(channels):
    """A running sum in float32 would be off by some percent."""
    x = np.full((1, 1024, 2048, channels), 0.1, np.float32).transpose(0, 3, 1, 2)
    y = np.empty((1, channels, 1, 1), np.float32)
    if channels > 1:  # else every pixel is a loop of its own
        _kernels.avg_pool(x, y, 1024, 2048, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0)
        assert np.all(y == np.float32(0.1))
    y[...] = 0
    _kernels.adaptive_avg_pool(x, y)
    assert np.all(y == np.float32(0.1))
    rows = np.full((1, 1, 3000, 256), 0.1, np.float32)
    y = np.empty((1, 1, 1, 128), np.float32)
    _kernels.avg_pool(rows, y, 3000, 2, 2, 2, 0, 0, 1, 1, 0, 0, 0, 0)
    assert np.all(y == np.float32(0.1))


def test_wrong_arrays_of_the_adaptive_average():
    x = np.ones((2, 3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="differ in batch or channels"):
        _kernels.adaptive_avg_pool(x, np.empty((2, 4, 1, 1), np.float32))
    with pytest.raises(ValueError, match="expected at least one pixel"):
        _kernels.adaptive_avg_pool(x, np.empty((2, 3, 0, 1), np.float32))
    with pytest.raises(ValueError, match="expected at least one pixel"):
        _kernels.adaptive_avg_pool(x[:, :, :0], np.empty((2, 3, 1, 1), np.float32))


def test_overlapping_windows_add_up_in_one_order(rng):
    """Gradients that do not add up exactly: the sums are the same to the last bit for any number of threads."""
    import xpconv

    backend = load_backend("numpy")
    window = pool_window((300, 400), 3, 1, 1, 1, False)
    dy = rng.standard_normal((1, 2, 300, 400)).astype(np.float32)
    _, argmax = pool.max_pool2d(backend, np.ascontiguousarray(dy[..., ::-1]), window)
    before = xpconv.get_num_threads()
    results = []
    for number in (1, 2, 3, 7):
        xpconv.set_num_threads(number)
        results.append(
            (
                pool.max_pool2d_backward(backend, dy, argmax, window),
                pool.avg_pool2d(backend, dy, True, window),
                pool.avg_pool2d_backward(backend, dy, True, window),
            )
        )
    xpconv.set_num_threads(before)
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_planes_keep_the_order_of_their_memory(rng):
    """Between two convolutions, which both work channel-major, pooling does not mix the memory up."""
    backend = load_backend("numpy")
    window = pool_window((4, 6), 2, 2, 0, 1, False)
    x = rng.standard_normal((3, 2, 4, 6)).transpose(1, 0, 2, 3)
    y, argmax = pool.max_pool2d(backend, x, window)
    dx = pool.max_pool2d_backward(backend, y, argmax, window)
    for result in (y, argmax, dx, pool.avg_pool2d(backend, x, True, window)):
        assert result.transpose(1, 0, 2, 3).flags.c_contiguous
    near = pool.max_pool2d(backend, np.ascontiguousarray(x), window)
    assert all(a.flags.c_contiguous for a in near)
    assert all(np.array_equal(a, b) for a, b in zip(near, (y, argmax), strict=True))


def test_empty_arrays():
    backend = load_backend("numpy")
    window = pool_window((4, 6), 2, 2, 0, 1, False)
    for shape in ((0, 3, 4, 6), (3, 0, 4, 6)):
        x = np.empty(shape, np.float32)
        y, argmax = pool.max_pool2d(backend, x, window)
        assert y.shape == argmax.shape == (*shape[:2], 2, 3)
        assert pool.max_pool2d_backward(backend, y, argmax, window).shape == shape
        assert pool.avg_pool2d(backend, x, True, window).shape == y.shape
        assert pool.avg_pool2d_backward(backend, y, True, window).shape == shape


# ---- beyond 32 bits -------------------------------------------------------------------------------------------------


def test_positions_beyond_32_bits():
    x = np.broadcast_to(np.float32(3), (1, 1, 5, 2**34))
    y, argmax = np.empty((1, 1, 4, 5), np.float32), np.empty((1, 1, 4, 5), np.uint8)
    _kernels.max_pool(x, y, argmax, 2, 2, 1, 2**33, 0, 2**33 + 1, 1, 1)
    # output q sees columns q * 2**33 - 2**33 - 1 and the next one: of q = 1 the first is padding, of q = 3 the second
    assert y.tolist() == [[[[-np.inf, 3, 3, 3, -np.inf]] * 4]]
    assert argmax[..., 1:4].tolist() == [[[[1, 0, 0]] * 4]]
    _kernels.avg_pool(x, y, 2, 2, 1, 2**33, 0, 2**33 + 1, 1, 1, 0, 0, 2**33 + 1, 2**40)
    assert y.tolist() == [[[[0, 1.5, 3, 1.5, 0]] * 4]]


def test_memory_beyond_32_bits(far_memory):
    x = far_memory((2, 2, 3, 4))
    x[...] = np.arange(48).reshape(x.shape) % 7
    near = np.array(x)
    y, argmax = np.empty((2, 2, 2, 3), np.float32), np.empty((2, 2, 2, 3), np.uint8)
    _kernels.max_pool(x, y, argmax, 2, 2, 1, 1, 0, 0, 1, 1)
    expected, at = naive.max_pool2d(near, (2, 2), (1, 1))
    assert np.array_equal(y, expected)
    assert np.array_equal(argmax, at)
    _kernels.max_pool_backward(y, argmax, x, 2, 2, 1, 1, 0, 0, 1, 1)
    assert np.array_equal(x, naive.max_pool2d_backward(y, at, (3, 4), (2, 2), (1, 1)))
    near = np.array(x)
    _kernels.avg_pool(x, y, 2, 2, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0)
    assert np.array_equal(y, naive.avg_pool2d(near, (2, 2), (1, 1)))
    _kernels.avg_pool_backward(y, x, 2, 2, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0)
    np.testing.assert_allclose(x, naive.avg_pool2d_backward(y, (3, 4), (2, 2), (1, 1)), rtol=1e-6)


# ---- calls that do not fit ------------------------------------------------------------------------------------------

X, Y = (2, 3, 5, 4), (2, 3, 4, 3)
STEPS = (2, 2, 1, 1, 0, 0, 1, 1)
NOTHING = (0, 0, 0, 0)


def calls(x, y, argmax, arguments, counted=NOTHING):
    yield lambda: _kernels.max_pool(x, y, argmax, *arguments)
    yield lambda: _kernels.max_pool_backward(y, argmax, x, *arguments)
    yield lambda: _kernels.avg_pool(x, y, *arguments, *counted)
    yield lambda: _kernels.avg_pool_backward(y, x, *arguments, *counted)


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        ((1, 3, 5, 4), Y, STEPS, "differ in batch or channels"),
        (X, (2, 2, 4, 3), STEPS, "differ in batch or channels"),
        (X, Y, (0, 2, *STEPS[2:]), "taps"),
        (X, Y, (2**16, 2**16, *STEPS[2:]), "taps"),
        (X, Y, (2, 2, 0, 1, 0, 0, 1, 1), "stride and dilation must be at least 1"),
        (X, Y, (2, 2, 1, 1, 0, 0, 1, -3), "stride and dilation must be at least 1"),
        (X, Y, (2, 2, 1, 2**62, 0, 0, 1, 1), "exceed the address space"),
    ],
)
def test_a_wrong_call_is_refused(x, y, arguments, message):
    for call in calls(np.zeros(x), np.zeros(y), np.zeros(y, np.uint8), arguments):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("tap", [4, 200])
def test_an_argmax_that_is_no_tap_is_refused(tap):
    """In images of both memory orders."""
    for memory in ((0, 1, 2, 3), (0, 2, 3, 1)):
        x, y = (np.zeros([shape[axis] for axis in memory]) for shape in ((1, 9, 4, 4), (1, 9, 2, 2)))
        x, y = x.transpose(np.argsort(memory)), y.transpose(np.argsort(memory))
        argmax = np.zeros_like(y, np.uint8)
        argmax[0, 8, 1, 1] = tap
        with pytest.raises(ValueError, match="argmax: has an entry that is no tap of its window inside the image"):
            _kernels.max_pool_backward(y, argmax, x, 2, 2, 2, 2, 0, 0, 1, 1)


def test_an_argmax_that_does_not_fit_is_refused():
    x, y = np.zeros(X), np.zeros(Y)
    with pytest.raises(ValueError, match="argmax: axis 3 has length 4, expected 3"):
        _kernels.max_pool(x, y, np.zeros((2, 3, 4, 4), np.uint8), *STEPS)
    with pytest.raises(ValueError, match="argmax: axis 0 has length 1, expected 2"):
        _kernels.max_pool_backward(y, np.zeros((1, 3, 4, 3), np.uint8), x, *STEPS)
    with pytest.raises(ValueError, match="taps"):  # 256 taps do not fit into one byte
        _kernels.max_pool(np.zeros((1, 1, 16, 16)), np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1), np.uint8),
                          16, 16, *STEPS[2:])  # fmt: skip
    with pytest.raises((ValueError, TypeError)):
        _kernels.max_pool(x, y, np.zeros(Y, np.int64), *STEPS)


def test_a_negative_count_is_refused():
    for call in list(calls(np.zeros(X), np.zeros(Y), np.zeros(Y, np.uint8), STEPS, (0, -1, 0, 0)))[2:]:
        with pytest.raises(ValueError, match="at least 0"):
            call()


@pytest.mark.parametrize("index", ["uint8", "int32"])
@pytest.mark.parametrize("size", [(5, 4), (8, 6)], ids=["overlapping", "2x2"])
@pytest.mark.parametrize("wrong", [4, 200, -1])
def test_an_argmax_that_points_outside_is_an_error(index, size, wrong):
    """A cache of another pooling, or one that was written to: nothing is written elsewhere."""
    steps = STEPS if size == (5, 4) else (2, 2, 2, 2, 0, 0, 1, 1)
    if wrong < 0 and index == "uint8":
        wrong = 255
    argmax = np.zeros(Y, index)
    argmax[1, 2, 3, 1] = wrong
    with pytest.raises(ValueError, match="argmax: has an entry that is no tap"):
        _kernels.max_pool_backward(np.ones(Y), argmax, np.zeros((2, 3, *size)), *steps)


def test_an_argmax_in_the_padding_is_an_error():
    argmax = np.zeros((1, 1, 3, 3), np.uint8)  # tap 0 of the first windows is padding
    with pytest.raises(ValueError, match="argmax"):
        _kernels.max_pool_backward(np.ones((1, 1, 3, 3)), argmax, np.zeros((1, 1, 4, 4)), 2, 2, 2, 2, 1, 1, 1, 1)
