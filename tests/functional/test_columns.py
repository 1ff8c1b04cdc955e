"""im2col and col2im against loops, PyTorch's unfold and fold, and each other: they are adjoint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xpconv
from xpconv.backends import use_kernels
from xpconv.functional import col2im, im2col
from xpconv.testing import LAYOUTS, check_gradients, naive, strategies

# name: x shape, kernel, stride, padding, dilation
CASES = {
    "3x3": ((2, 3, 5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "1x1": ((2, 3, 4, 5), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "not square": ((1, 2, 5, 9), (2, 4), (2, 1), ((1, 1), (0, 0)), (1, 1)),
    "stride > kernel": ((2, 1, 9, 8), (2, 1), (3, 5), ((0, 0), (0, 0)), (1, 1)),
    "left-over pixels": ((1, 2, 8, 7), (3, 2), (4, 3), ((0, 0), (0, 0)), (1, 1)),
    "four paddings": ((1, 2, 3, 4), (2, 2), (1, 2), ((0, 3), (2, 1)), (1, 1)),
    "padding > kernel": ((1, 1, 2, 2), (1, 2), (1, 1), ((3, 2), (4, 0)), (1, 1)),
    "dilation": ((1, 2, 8, 7), (3, 2), (1, 2), ((1, 1), (2, 2)), (2, 3)),
    "kernel is the image": ((2, 2, 4, 3), (4, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "one pixel": ((1, 1, 1, 1), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "huge stride": ((1, 1, 7, 5), (2, 2), (1000, 10**9), ((0, 0), (0, 0)), (1, 1)),
    "empty batch": ((0, 2, 5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "no channels": ((2, 0, 5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
}
ON_JAX = ("1x1", "four paddings", "stride > kernel", "empty batch")  # it compiles each shape anew


@pytest.fixture(params=CASES)
def case(request, on):
    if on.backend == "jax" and request.param not in ON_JAX:
        pytest.skip("the other cases show it")
    shape, kernel, *window = CASES[request.param]
    return shape, kernel, dict(zip(("stride", "padding", "dilation"), window, strict=True))


def close(actual, expected, tolerance):
    """Whether the largest error is small compared with the largest value."""
    assert actual.shape == expected.shape
    scale = np.abs(expected).max(initial=0)
    return bool(np.all(np.abs(actual - expected) <= tolerance * scale))


def test_im2col_is_the_definition(on, case, rng):
    shape, kernel, window = case
    for dtype in on.dtypes:
        x = rng.standard_normal(shape).astype(dtype)
        cols = on.to_numpy(im2col(on.asarray(x), kernel, **window))
        assert cols.dtype == dtype
        assert np.array_equal(cols, naive.im2col(x, kernel, **window))


def test_col2im_is_the_definition(on, case, rng):
    shape, kernel, window = case
    shape_of_cols = naive.im2col(np.zeros(shape), kernel, **window).shape
    for dtype in on.dtypes:
        cols = rng.standard_normal(shape_of_cols).astype(dtype)
        x = on.to_numpy(col2im(on.asarray(cols), shape[2:], kernel, **window))
        assert x.dtype == dtype
        assert close(x, naive.col2im(cols, shape[2:], kernel, **window), 1e-6 if dtype == "float32" else 1e-14)


def test_they_are_pytorchs_unfold_and_fold(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 9, 8))
    arguments = {"dilation": (2, 1), "padding": (1, 2), "stride": (2, 3)}
    cols = im2col(x, (3, 2), **arguments)
    assert np.array_equal(cols, torch.nn.functional.unfold(torch.tensor(x), (3, 2), **arguments).numpy())
    theirs = torch.nn.functional.fold(torch.tensor(cols), (9, 8), (3, 2), **arguments).numpy()
    np.testing.assert_allclose(col2im(cols, (9, 8), (3, 2), **arguments), theirs, rtol=1e-13, atol=1e-13)


def test_col2im_counts_the_windows_over_each_pixel(on):
    cols = im2col(on.asarray(np.ones((1, 1, 3, 4), dtype="float32")), 2)
    counts = on.to_numpy(col2im(cols, (3, 4), 2))
    assert counts.tolist() == [[[[1, 2, 2, 1], [2, 4, 4, 2], [1, 2, 2, 1]]]]


@pytest.mark.parametrize(
    ("backend", "kernels"), [("numpy", "auto"), ("numpy", "generic"), ("array_api_strict", "auto")]
)
@given(
    case=strategies.convolutions(),
    of_x=strategies.layouts(),
    of_cols=strategies.layouts(),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_they_are_adjoint_whatever_the_geometry_and_memory(backend, kernels, case, of_x, of_cols, dtype, seed):
    """The inner products <im2col x, c> and <x, col2im c> are equal; small integers make them exact."""
    if backend != "numpy":
        pytest.importorskip(backend)
    rng = np.random.default_rng(seed)
    x = LAYOUTS[of_x](rng.integers(-8, 9, case.x_shape).astype(dtype))
    expected = naive.im2col(x, case.kernel_size, **case.window_arguments)
    c = LAYOUTS[of_cols](rng.integers(-8, 9, expected.shape).astype(dtype))
    before = x.copy(), c.copy()
    with xpconv.use_backend(backend), use_kernels(kernels):
        cols = xpconv.to_numpy(im2col(xpconv.asarray(x), case.kernel_size, **case.window_arguments))
        back = col2im(xpconv.asarray(c), case.x_shape[2:], case.kernel_size, **case.window_arguments)
    back = xpconv.to_numpy(back)
    assert np.array_equal(cols, expected)
    assert cols.dtype == back.dtype == np.dtype(dtype)
    assert back.shape == x.shape
    assert (cols.astype(float) * c).sum() == (x.astype(float) * back).sum()
    assert np.array_equal(x, before[0])
    assert np.array_equal(c, before[1])


def test_col2im_is_the_gradient_of_im2col(on, rng):
    if "float64" not in on.dtypes:
        pytest.skip("no float64")
    arguments = {"stride": 2, "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
    check_gradients(
        lambda x: (im2col(x, (3, 2), **arguments), None),
        lambda dcols, _: col2im(dcols, (5, 6), (3, 2), **arguments),
        [on.asarray(rng.standard_normal((2, 2, 5, 6)))],
    )


@pytest.mark.parametrize("kernels", ["auto", "generic"])
@pytest.mark.parametrize("kernel", [1, 2])
def test_results_are_fresh(kernels, kernel):
    with use_kernels(kernels):
        x = np.ones((1, 1, 2, 2))
        cols = im2col(x, kernel)
        back = col2im(cols, (2, 2), kernel)
    assert not np.shares_memory(cols, x)
    assert not np.shares_memory(back, cols)
    cols[...] = 7
    back[...] = 7
    assert x.max() == 1


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_arrays_that_repeat_themselves_in_memory(kernels):
    x = np.broadcast_to(np.arange(4.0), (2, 3, 5, 4))
    with use_kernels(kernels):
        assert np.array_equal(im2col(x, (2, 3)), naive.im2col(x, (2, 3)))


@pytest.mark.parametrize(("backend", "dtype"), [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16")])
def test_half_precision_adds_up_in_float32(backend, dtype):
    """In half precision itself the sums of ones would stop at 2048 or 256."""
    if backend != "numpy":
        pytest.importorskip(backend)
    cols = xpconv.asarray(np.ones((1, 64 * 64, 64 * 64)), dtype, backend=backend)
    image = col2im(cols, (127, 127), 64)
    assert xpconv.backends.backend_of(image=image).dtype_name(image) == dtype
    assert xpconv.to_numpy(image)[0, 0, 63, 63] == 4096  # all windows see the pixel in the middle


# ---- what is wrong is said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "arguments", "error", "message"),
    [
        (np.ones((2, 5, 5)), {}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3 with shape \(2, 5, 5\)"),
        (np.ones((1, 1, 5, 5), dtype="uint8"), {}, TypeError, "x: expected float32 or float64, got uint8; convert it"),
        (np.ones((1, 1, 5, 5), dtype=bool), {}, TypeError, "x: expected float32 or float64, got bool"),
        (np.ones((1, 1, 5, 5), dtype=complex), {}, TypeError, "x: expected float32 or float64, got complex128"),
        (np.ones((1, 1, 5, 5), dtype=np.longdouble), {}, TypeError, "x: expected float32 or float64, got"),
        (None, {}, TypeError, "x: expected an array, got None"),
        ([[[[1.0]]]], {}, TypeError, r"x: expected an array, got builtins\.list"),
        (np.ones((1, 1, 5, 5)), {"kernel_size": 6}, ValueError, "kernel_size: kernel height 6 is larger than"),
        (np.ones((1, 1, 5, 5)), {"stride": 0}, ValueError, "stride: must be at least 1, got 0"),
        (np.ones((1, 1, 5, 5)), {"stride": -1}, ValueError, "stride: must be at least 1, got -1"),
        (np.ones((1, 1, 5, 5)), {"padding": -1}, ValueError, "padding: must be at least 0, got -1"),
        (np.ones((1, 1, 5, 5)), {"dilation": 1.5}, TypeError, r"dilation: expected an integer or a pair .* got 1\.5"),
        (np.ones((1, 1, 0, 5)), {"padding": 3}, ValueError, "x: images need at least one pixel, got height 0"),
    ],
)
def test_wrong_arguments_of_im2col(x, arguments, error, message):
    with pytest.raises(error, match=message):
        im2col(x, **{"kernel_size": 2, **arguments})


@pytest.mark.parametrize(
    ("shape", "image_size", "message"),
    [
        ((1, 4), (3, 3), r"cols: expected 3 dimensions \(N, C \* kh \* kw, out_h \* out_w\), got 2"),
        ((1, 4, 5), (3, 3), r"cols: expected shape \(any, any, 4\) .* got \(1, 4, 5\)"),
        ((1, 6, 4), (3, 3), r"cols: 6 rows are no multiple of kh \* kw = 2 \* 2"),
        ((1, 4, 4), (3, 0), "image_size: must be at least 1, got 0"),
        ((1, 4, 4), (3, 3, 3), r"image_size: expected an integer or a pair of integers, got \(3, 3, 3\)"),
        ((1, 4, 4), (1, 3), "kernel_size: kernel height 2 is larger than the padded input's, 1 "),
    ],
)
def test_wrong_arguments_of_col2im(shape, image_size, message):
    with pytest.raises(ValueError, match=message):
        col2im(np.ones(shape), image_size, 2)


def test_col2im_takes_no_integers():
    with pytest.raises(TypeError, match="cols: expected float32 or float64, got int64"):
        col2im(np.ones((1, 4, 4), dtype="int64"), (3, 3), 2)
