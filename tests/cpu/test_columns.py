"""The kernels im2col and col2im: any memory of both arrays, part of the rows, threads, offsets beyond 32 bits."""

import numpy as np
import pytest

from xpconv._cpu import _kernels, columns
from xpconv._geometry import Window, conv_window
from xpconv.backends import load_backend
from xpconv.testing import naive


def random_window(rng):
    """A random geometry of an image that the kernel fits into, and the arguments of the naive loops for it."""
    kernel, stride = (tuple(rng.integers(1, high, 2).tolist()) for high in (5, 4))
    dilation = tuple(rng.integers(1, 3, 2).tolist())
    padding = tuple(tuple(rng.integers(0, 4, 2).tolist()) for _ in range(2))
    size = tuple(
        max(1, (k - 1) * d + 1 - sum(p)) + int(rng.integers(0, 6))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return conv_window(size, kernel, stride, padding, dilation), (kernel, stride, padding, dilation)


def six_axes(cols, window):
    return cols.reshape(cols.shape[0], -1, window.kernel_h, window.kernel_w, window.out_h, window.out_w)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_memory_on_both_sides(dtype, rng, scattered):
    for _ in range(60):
        window, arguments = random_window(rng)
        n, c = (int(k) for k in rng.integers(1, 4, 2))
        x = scattered(rng.integers(-9, 9, (n, c, window.height, window.width)).astype(dtype))
        x.parent.flags.writeable = x.view.flags.writeable = False
        expected = six_axes(naive.im2col(x.view, *arguments), window)
        cols = scattered(expected.shape, dtype)
        _kernels.im2col(x.view, cols.view, *columns.steps(window))
        assert np.array_equal(cols.view, expected)
        assert cols.margin_is_whole()

        cols.view[...] = rng.integers(-9, 9, expected.shape)
        cols.parent.flags.writeable = cols.view.flags.writeable = False
        back = scattered(x.view.shape, dtype)
        _kernels.col2im(cols.view, back.view, *columns.steps(window))
        flat = cols.view.reshape(n, c * window.taps, window.positions)
        size = (window.height, window.width)
        expected = naive.col2im(flat, size, *arguments)
        assert np.array_equal(back.view, expected)
        _kernels.col2im(cols.view, back.view, *columns.steps(window), accumulate=True)
        assert np.array_equal(back.view, 2 * expected)
        assert back.margin_is_whole()


SAME = conv_window((9, 7), 3, 1, 1, 1)


@pytest.mark.parametrize(
    "window",
    [
        SAME,
        conv_window((9, 7), (5, 3), 1, ((2, 2), (2, 0)), 1),  # as wide as the image, unlike left and right
        conv_window((9, 7), (1, 7), 1, ((0, 3), (3, 3)), 1),
        conv_window((2, 3), (3, 9), 1, ((4, 4), (4, 4)), 1),  # taps that see nothing but padding
        conv_window((9, 7), (3, 2), 1, ((1, 1), (3, 3)), (1, 6)),
        conv_window((8, 16), 3, 2, 1, 1),
    ],
    ids=["same", "unlike", "wide", "padding", "dilated", "stride 2"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contiguous_memory_takes_the_fast_paths_to_the_same_end(window, dtype, rng):
    """Whole images are copied in one block there, and the ends of the rows set to zero afterwards."""
    x = rng.integers(-9, 9, (2, 3, window.height, window.width)).astype(dtype)
    arguments = (
        (window.kernel_h, window.kernel_w),
        (window.stride_h, window.stride_w),
        ((window.pad_top, window.pad_bottom), (window.pad_left, window.pad_right)),
        (window.dilation_h, window.dilation_w),
    )
    backend = load_backend("numpy")
    cols = columns.im2col(backend, x, window)
    assert np.array_equal(cols, naive.im2col(x, *arguments))
    assert np.array_equal(
        columns.col2im(backend, cols, window), naive.col2im(cols, (window.height, window.width), *arguments)
    )


@pytest.mark.parametrize("window", [SAME, conv_window((11, 8), (3, 2), (2, 1), ((2, 1), (1, 0)), (2, 3))])
def test_some_rows_of_the_outputs(window, rng):
    """Convolution cuts large images so: a negative pad says where in the image the rows are."""
    x = rng.standard_normal((2, 2, window.height, window.width))
    whole = np.empty((2, 2, window.kernel_h, window.kernel_w, window.out_h, window.out_w))
    _kernels.im2col(x, whole, *columns.steps(window))
    total = np.zeros_like(x)
    for first in range(0, window.out_h, 2):
        last = min(first + 2, window.out_h)
        steps = columns.steps(window._replace(pad_top=window.pad_top - first * window.stride_h))
        part = np.full_like(whole[..., first:last, :], np.nan)
        _kernels.im2col(x, part, *steps)
        assert np.array_equal(part, whole[..., first:last, :])
        _kernels.col2im(part, total, *steps, accumulate=True)
    together = np.empty_like(x)
    _kernels.col2im(whole, together, *columns.steps(window))
    np.testing.assert_allclose(total, together, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [((5, 7, 40, 31), (3, 3), (1, 1)), ((1, 1, 700, 300), (2, 5), (2, 1)), ((3, 2, 50, 601), (3, 3), (2, 2))],
    ids=["many planes", "one plane", "wide rows"],
)
def test_large_arrays_whatever_the_threads(threads, dtype, shape, kernel, stride, rng):
    """Large enough for several chunks of work and several bands of rows; to the last bit as with one thread."""
    backend = load_backend("numpy")
    window = conv_window(shape[2:], kernel, stride, 1, 1)
    x = rng.standard_normal(shape).astype(dtype)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    cols = columns.im2col(backend, x, window)
    parts = six_axes(cols, window)
    back = np.zeros_like(padded)
    for i in range(window.kernel_h):
        for j in range(window.kernel_w):
            place = (..., window.rows(i), window.columns(j))
            assert np.array_equal(parts[:, :, i, j], padded[place])
            back[place] += parts[:, :, i, j]  # tap by tap, which is the kernel's order too
    assert np.array_equal(columns.col2im(backend, cols, window), back[..., 1:-1, 1:-1])


def test_empty_arrays():
    for shape in ((0, 3, 5, 5), (2, 0, 5, 5)):
        cols = np.empty((*shape[:2], 3, 3, 3, 3))
        x = np.empty(shape)
        _kernels.im2col(x, cols, 1, 1, 0, 0, 1, 1)
        _kernels.col2im(cols, x, 1, 1, 0, 0, 1, 1)
    x = np.full((2, 3, 5, 5), 7.0)
    _kernels.col2im(np.empty((2, 3, 3, 3, 0, 0)), x, 1, 1, 0, 0, 1, 1)  # no columns: sums of nothing
    assert (x == 0).all()
    cols = np.full((2, 3, 2, 2, 3, 3), 7.0)
    _kernels.im2col(np.empty((2, 3, 0, 4)), cols, 1, 1, 1, 1, 1, 1)  # no pixels: nothing but padding
    assert (cols == 0).all()


# ---- beyond 32 bits -------------------------------------------------------------------------------------------------


def test_positions_beyond_32_bits():
    """An image of 5 x 2**34 pixels that is one number in memory; stride and pad of that size. Then 2**34 x 5."""
    x = np.broadcast_to(np.float32(3), (1, 1, 5, 2**34))
    cols = np.full((1, 1, 1, 2, 1, 4), np.nan, np.float32)
    _kernels.im2col(x, cols, 1, 2**33, 0, 2**33, 1, 1)
    # output q sees columns q * 2**33 - 2**33 and the next one: q = 0 and 3 see padding
    expected = np.array([0, 3, 3, 0], np.float32)
    assert (cols == expected).all()
    cols[...] = np.nan
    _kernels.im2col(x.swapaxes(2, 3), cols.swapaxes(2, 3).swapaxes(4, 5), 2**33, 1, 2**33, 0, 1, 1)
    assert (cols == expected).all()


def test_memory_beyond_32_bits(far_memory):
    """Planes that lie more than 2**31 elements apart."""
    x = far_memory((2, 2, 3, 4))
    x[...] = np.arange(48).reshape(x.shape)
    cols = np.empty((2, 2, 2, 2, 2, 3), np.float32)
    _kernels.im2col(x, cols, 1, 1, 0, 0, 1, 1)
    near = np.array(x)
    assert np.array_equal(cols.reshape(2, 8, 6), naive.im2col(near, (2, 2)))
    _kernels.col2im(cols, x, 1, 1, 0, 0, 1, 1)
    assert np.array_equal(x, naive.col2im(cols.reshape(2, 8, 6), (3, 4), (2, 2)))


# ---- calls that do not fit ------------------------------------------------------------------------------------------

IMAGE, COLUMNS = (2, 3, 5, 4), (2, 3, 2, 2, 4, 3)


@pytest.mark.parametrize(
    ("image", "cols", "steps", "message"),
    [
        ((1, 3, 5, 4), COLUMNS, (1, 1, 0, 0, 1, 1), "differ in batch or channels"),
        ((2, 2, 5, 4), COLUMNS, (1, 1, 0, 0, 1, 1), "differ in batch or channels"),
        (IMAGE, COLUMNS, (0, 1, 0, 0, 1, 1), "stride and dilation must be at least 1"),
        (IMAGE, COLUMNS, (1, -1, 0, 0, 1, 1), "stride and dilation must be at least 1"),
        (IMAGE, COLUMNS, (1, 1, 0, 0, 1, 0), "stride and dilation must be at least 1"),
        (IMAGE, COLUMNS, (2**61, 1, 0, 0, 1, 1), "exceed the address space"),
        (IMAGE, COLUMNS, (1, 1, 2**62, 0, 1, 1), "exceed the address space"),
        (IMAGE, COLUMNS, (1, 1, 0, 0, 1, 2**61), "exceed the address space"),
    ],
)
@pytest.mark.parametrize("kernel", ["im2col", "col2im"])
def test_a_wrong_call_is_refused(kernel, image, cols, steps, message):
    arrays = [np.zeros(image), np.zeros(cols)]
    with pytest.raises(ValueError, match=message):
        getattr(_kernels, kernel)(*(arrays if kernel == "im2col" else arrays[::-1]), *steps)


def test_memory_that_cannot_be_written_or_read_is_refused():
    x, cols = np.zeros(IMAGE), np.zeros(COLUMNS)
    steps = (1, 1, 0, 0, 1, 1)
    cols.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _kernels.im2col(x, cols, *steps)
    for wrong in (np.zeros(COLUMNS, np.float32), np.zeros(COLUMNS, int), np.zeros(COLUMNS, ">f8")):
        with pytest.raises((ValueError, TypeError)):
            _kernels.im2col(x, wrong, *steps)
    raw = np.zeros(x.nbytes + 8, np.uint8)[1 : 1 + x.nbytes].view(x.dtype).reshape(x.shape)
    with pytest.raises(ValueError, match="not aligned"):
        _kernels.im2col(raw, np.zeros(COLUMNS), *steps)


def test_strides_of_single_entries_do_not_matter(rng):
    """NumPy calls such arrays aligned, whatever it says there."""
    values = rng.standard_normal(6)
    x = np.lib.stride_tricks.as_strided(values, (1, 1, 6, 1), (3, 7, 8, 5))
    assert x.flags.aligned
    cols = np.empty((1, 1, 2, 1, 5, 1))
    _kernels.im2col(x, cols, 1, 1, 0, 0, 1, 1)
    assert np.array_equal(cols[0, 0, :, 0, :, 0], [values[:-1], values[1:]])


def test_a_window_larger_than_the_image_reads_only_padding():
    """Whatever is asked for, nothing outside of the image is read."""
    cols = np.full((1, 1, 3, 3, 2, 2), np.nan)
    _kernels.im2col(np.full((1, 1, 1, 1), 5.0), cols, 1000, 1000, 2, 2, 1, 1)
    expected = np.zeros(cols.shape)
    expected[0, 0, 2, 2, 0, 0] = 5
    assert np.array_equal(cols, expected)


def test_window_fields_are_in_the_kernels_order():
    window = Window(9, 9, 2, 2, stride_h=1, stride_w=2, pad_top=3, pad_bottom=9, pad_left=4, pad_right=9,
                    dilation_h=5, dilation_w=6, out_h=1, out_w=1)  # fmt: skip
    assert columns.steps(window) == (1, 2, 3, 4, 5, 6)
