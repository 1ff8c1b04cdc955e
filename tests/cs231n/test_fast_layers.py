"""The fast layers against the naive ones, and the columns against their definition."""

import numpy as np
import pytest

from xpconv.cs231n import fast_layers, layers
from xpconv.cs231n.im2col import col2im_indices, get_im2col_indices, im2col_indices
from xpconv.cs231n.im2col_cython import col2im_6d_cython, col2im_cython, im2col_cython

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

GEOMETRIES = [  # images, filters, stride, padding
    ((3, 3, 7, 9), (4, 3, 3, 3), 2, 1),
    ((2, 2, 6, 5), (3, 2, 2, 3), 1, 0),  # filters that are not square
    ((2, 1, 7, 4), (2, 1, 1, 4), 3, 3),  # a padding of nearly a filter
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["fast", "im2col", "strides"])
@pytest.mark.parametrize(("image", "filters", "stride", "pad"), GEOMETRIES)
def test_convolution(image, filters, stride, pad, form, dtype, rng):
    x, w, b = (rng.standard_normal(shape) for shape in (image, filters, filters[:1]))
    parameters = {"stride": stride, "pad": pad}
    want, cache = layers.conv_forward_naive(x, w, b, parameters)
    dout = rng.standard_normal(want.shape)
    gradients = layers.conv_backward_naive(dout, cache)
    arrays = [a.astype(dtype) for a in (x, w, b)]
    forward, backward = (getattr(fast_layers, f"conv_{way}_{form}") for way in ("forward", "backward"))
    out, cache = forward(*arrays, parameters)
    for got, expected in zip((out, *backward(dout.astype(dtype), cache)), (want, *gradients), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max())


@pytest.mark.parametrize("form", ["fast", "strides"])
def test_sizes_are_rounded_down_as_in_the_naive_form(form, float64, rng, sparing):
    sparing(False)
    x, w, b, dout = (rng.standard_normal(shape) for shape in ((2, 2, 6, 8), (3, 2, 3, 2), (3,), (2, 3, 2, 3)))
    parameters = {"stride": 3, "pad": 1}  # 1 + 5 / 3 rows, 1 + 8 / 3 columns
    out, cache = layers.conv_forward_naive(x, w, b, parameters)
    want = (out, *layers.conv_backward_naive(dout, cache))
    forward, backward = (getattr(fast_layers, f"conv_{way}_{form}") for way in ("forward", "backward"))
    out, cache = forward(*(float64.asarray(a) for a in (x, w, b)), parameters)
    for got, expected in zip((out, *backward(float64.asarray(dout), cache)), want, strict=True):
        np.testing.assert_allclose(float64.to_numpy(got), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["naive", "fast", "im2col", "strides"])
def test_a_gradient_of_another_dtype_meets_the_arrays_in_the_wider(form, float64, rng, sparing):
    sparing(False)
    module = layers if form == "naive" else fast_layers
    forward, backward = (getattr(module, f"conv_{way}_{form}") for way in ("forward", "backward"))
    host = [rng.standard_normal(shape).astype("float32") for shape in ((1, 2, 4, 4), (2, 2, 3, 3), (2,), (1, 2, 2, 2))]
    want = None
    for dtypes in (("float64", "float64"), ("float64", "float32"), ("float32", "float64")):
        arrays = [float64.asarray(a.astype(d)) for a, d in zip(host, [dtypes[0]] * 3 + [dtypes[1]], strict=True)]
        _, cache = forward(*arrays[:3], {"stride": 1, "pad": 0})
        got = [float64.to_numpy(gradient) for gradient in backward(arrays[3], cache)]
        assert {g.dtype.name for g in got} == {"float64"}
        want = want or got
        for gradient, expected in zip(got, want, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float32", "float64")])
def test_a_gradient_of_another_dtype_is_pooled_in_the_wider(kind, dtypes, float64, rng, sparing):
    sparing(False)
    forward, backward = (getattr(fast_layers, f"{kind}_pool_{way}_fast") for way in ("forward", "backward"))
    x, dout = (float64.asarray(np.ones(s, d)) for s, d in zip(((1, 1, 3, 3), (1, 1, 2, 2)), dtypes, strict=True))
    _, cache = forward(x, {"pool_height": 2, "pool_width": 2, "stride": 1})
    dx = float64.to_numpy(backward(dout, cache))
    assert (dx.dtype, dx.sum()) == (np.dtype("float64"), 4)


WINDOWS = [  # images, window, stride
    ((2, 3, 4, 6), (2, 2), 2),
    ((2, 3, 7, 6), (3, 2), 1),  # overlapping, not square
    ((2, 2, 7, 7), (2, 2), 2),  # pixels are left over
    ((1, 2, 8, 5), (2, 1), 3),  # pixels lie between the windows
]


@pytest.mark.parametrize(("image", "window", "stride"), WINDOWS)
def test_pooling(image, window, stride, rng):
    x = rng.standard_normal(image)
    parameters = {"pool_height": window[0], "pool_width": window[1], "stride": stride}
    want, cache = layers.max_pool_forward_naive(x, parameters)
    dout = rng.standard_normal(want.shape)
    gradient = layers.max_pool_backward_naive(dout, cache)
    for form in ("fast", "im2col"):
        out, cache = getattr(fast_layers, f"max_pool_forward_{form}")(x, parameters)
        np.testing.assert_array_equal(out, want)
        dx = getattr(fast_layers, f"max_pool_backward_{form}")(dout, cache)
        np.testing.assert_allclose(dx, gradient, rtol=0, atol=1e-14)

    height, width = window
    mean, shares = np.zeros(want.shape), np.zeros(image)
    for i in range(want.shape[2]):
        for j in range(want.shape[3]):
            part = (..., slice(i * stride, i * stride + height), slice(j * stride, j * stride + width))
            mean[:, :, i, j] = x[part].mean(axis=(2, 3))
            shares[part] += dout[:, :, i : i + 1, j : j + 1] / (height * width)
    for form in ("fast", "im2col"):
        out, cache = getattr(fast_layers, f"avg_pool_forward_{form}")(x, parameters)
        np.testing.assert_allclose(out, mean, rtol=0, atol=1e-14)
        dx = getattr(fast_layers, f"avg_pool_backward_{form}")(dout, cache)
        np.testing.assert_allclose(dx, shares, rtol=0, atol=1e-14)


def test_ties_are_shared_by_the_reshape_form_and_go_to_the_first_in_the_im2col_form(on):
    if on.backend == "jax":
        pytest.skip("JAX compiles for seconds")
    x = on.asarray(np.array([[[[5, 1, 2, 2], [0, 5, 2, 2]]]], "float32"))
    dout = on.asarray(np.array([[[[6.0, 8.0]]]], "float32"))
    parameters = {"pool_height": 2, "pool_width": 2, "stride": 2}
    out, cache = fast_layers.max_pool_forward_fast(x, parameters)
    assert cache[0] == "reshape"
    np.testing.assert_array_equal(on.to_numpy(out), [[[[5, 2]]]])
    dx = on.to_numpy(fast_layers.max_pool_backward_fast(dout, cache))
    np.testing.assert_array_equal(dx, [[[[3, 0, 2, 2], [0, 3, 2, 2]]]])
    _, cache = fast_layers.max_pool_forward_im2col(x, parameters)
    dx = on.to_numpy(fast_layers.max_pool_backward_im2col(dout, cache))
    np.testing.assert_array_equal(dx, [[[[6, 0, 8, 0], [0, 0, 0, 0]]]])
    _, cache = layers.max_pool_forward_naive(x, parameters)
    np.testing.assert_array_equal(on.to_numpy(layers.max_pool_backward_naive(dout, cache)), dx)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_the_form_follows_from_the_windows(kind):
    forward = getattr(fast_layers, f"{kind}_pool_forward_fast")
    forms = {
        (4, 4, 2, 2, 2): "reshape",
        (4, 5, 2, 2, 2): "im2col",
        (4, 4, 2, 2, 1): "im2col",
        (4, 4, 2, 1, 2): "im2col",
    }
    for (height, width, pool_height, pool_width, stride), form in forms.items():
        parameters = {"pool_height": pool_height, "pool_width": pool_width, "stride": stride}
        assert forward(np.ones((1, 1, height, width)), parameters)[1][0] == form


def test_a_nan_is_the_maximum_and_gets_the_gradient():
    x = np.array([[[[np.nan, 1.0], [2.0, 3.0]]]])
    for form in ("fast", "im2col"):
        out, cache = getattr(fast_layers, f"max_pool_forward_{form}")(
            x, {"pool_height": 2, "pool_width": 2, "stride": 2}
        )
        assert np.isnan(out).all()
        dx = getattr(fast_layers, f"max_pool_backward_{form}")(np.full((1, 1, 1, 1), 5.0), cache)
        np.testing.assert_array_equal(dx, [[[[5, 0], [0, 0]]]])


# ---- columns ----------------------------------------------------------------------------------------------------

SHAPE, KERNEL, STRIDE, PAD = (2, 3, 5, 7), (2, 3), 2, 1
OUT = (3, 4)


def columns(x):
    """Straight from the definition, (C, kh, kw, N, out_h, out_w)."""
    padded = np.pad(x, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
    cols = np.zeros((SHAPE[1], *KERNEL, SHAPE[0], *OUT))
    for i, j, p, q in np.ndindex(*KERNEL, *OUT):
        cols[:, i, j, :, p, q] = padded[:, :, STRIDE * p + i, STRIDE * q + j].T
    return cols


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_im2col_cython_has_the_batch_last(dtype, rng):
    x = rng.standard_normal(SHAPE).astype(dtype)
    cols = im2col_cython(x, *KERNEL, PAD, STRIDE)
    assert cols.dtype == dtype
    np.testing.assert_array_equal(cols, columns(x).transpose(0, 1, 2, 4, 5, 3).reshape(18, 24))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_col2im_in_both_orders_is_the_adjoint(dtype, rng):
    x, c = rng.standard_normal(SHAPE), rng.standard_normal((3, *KERNEL, 2, *OUT)).astype(dtype)
    images = col2im_6d_cython(c, *SHAPE, *KERNEL, PAD, STRIDE)
    assert images.dtype == dtype
    assert images.shape == SHAPE
    rounding = 1e-5 if dtype == "float32" else 1e-12
    assert np.vdot(images, x) == pytest.approx(np.vdot(c, columns(x)), rel=rounding)
    last = np.ascontiguousarray(c.transpose(0, 1, 2, 4, 5, 3).reshape(18, 24))
    np.testing.assert_array_equal(col2im_cython(last, *SHAPE, *KERNEL, PAD, STRIDE), images)


def test_indices_say_where_the_columns_come_from(rng):
    x = rng.standard_normal((2, 3, 5, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    k, i, j = get_im2col_indices(x.shape, 3, 3, padding=1, stride=2)
    assert (k.shape, i.shape, j.shape) == ((27, 1), (27, 12), (27, 12))
    want = padded[:, k, i, j].transpose(1, 2, 0).reshape(27, -1)
    np.testing.assert_array_equal(im2col_indices(x, 3, 3, padding=1, stride=2), want)
    back = np.zeros(padded.shape)
    np.add.at(back, (slice(None), k, i, j), want.reshape(27, 12, 2).transpose(2, 0, 1))
    got = col2im_indices(want, x.shape, 3, 3, padding=1, stride=2)
    np.testing.assert_allclose(got, back[:, :, 1:-1, 1:-1], rtol=0, atol=1e-14)


# ---- bad input --------------------------------------------------------------------------------------------------

IMAGES, FILTERS, BIAS = np.ones((1, 2, 6, 5)), np.ones((3, 2, 3, 3)), np.ones(3)


def test_the_im2col_form_insists_on_sizes_that_divide():
    with pytest.raises(AssertionError, match=r"height does not work: .*6 \+ 2 \* pad 0 - kernel 3\) = 3 .*stride 2"):
        fast_layers.conv_forward_im2col(IMAGES, FILTERS, BIAS, {"stride": 2, "pad": 0})
    with pytest.raises(AssertionError, match=r"width does not work: .*5 \+ 2 \* pad 1 - kernel 3\) = 4 .*stride 3"):
        fast_layers.conv_forward_im2col(IMAGES, FILTERS, BIAS, {"stride": 3, "pad": 1})


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(("height", "width", "stride"), [(2, 2, 1), (2, 3, 2), (2, 2, 2), (4, 4, 4)])
def test_the_reshape_form_takes_square_windows_that_tile(kind, height, width, stride):
    parameters = {"pool_height": height, "pool_width": width, "stride": stride}
    with pytest.raises(AssertionError, match=f"Invalid pool params.*{height}.*{width}"):
        getattr(fast_layers, f"{kind}_pool_forward_reshape")(IMAGES, parameters)


def test_other_mistakes_are_named():
    with pytest.raises(AssertionError, match="height does not work"):
        im2col_indices(IMAGES, 3, 3, padding=0, stride=2)
    with pytest.raises(AssertionError, match="width does not work"):
        get_im2col_indices((1, 2, 5, 6), 3, 3, padding=0, stride=2)
    with pytest.raises(ValueError, match=r"cols: expected shape \(18, 12\).*got \(18, 11\)"):
        col2im_cython(np.ones((18, 11)), 1, 2, 6, 5, 3, 3, 0, 1)
    with pytest.raises(ValueError, match=r"cols: expected shape \(2, 3, 3, 1, 4, 3\)"):
        col2im_6d_cython(np.ones((2, 3, 3, 1, 4, 4)), 1, 2, 6, 5, 3, 3, 0, 1)
    with pytest.raises(ValueError, match="Unrecognized method 'naive', expected 'reshape' or 'im2col'"):
        fast_layers.max_pool_backward_fast(IMAGES, ("naive", None))
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        fast_layers.conv_forward_fast(IMAGES, FILTERS, BIAS, {"stride": 0, "pad": 0})


@pytest.mark.parametrize("size", [6, 7])  # by the reshape form, by the im2col form
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_gradient_of_another_shape_is_never_broadcast(kind, size):
    forward, backward = (getattr(fast_layers, f"{kind}_pool_{way}_fast") for way in ("forward", "backward"))
    _, cache = forward(np.ones((2, 3, size, size)), {"pool_height": 2, "pool_width": 2, "stride": 2})
    with pytest.raises(ValueError, match=r"expected shape \(2, 3, 3, 3\), .*, got \(2, 3, 1, 1\)"):
        backward(np.ones((2, 3, 1, 1)), cache)


@pytest.mark.parametrize("form", ["max_pool_forward_fast", "avg_pool_forward_fast", "max_pool_forward_reshape"])
def test_windows_of_no_pixel_are_named(form):
    with pytest.raises(ValueError, match="stride: must be at least 1, got 0"):
        getattr(fast_layers, form)(IMAGES, {"pool_height": 0, "pool_width": 0, "stride": 0})


@pytest.mark.parametrize("form", ["fast", "im2col", "strides"])
def test_a_convolution_without_a_bias_is_named(form):
    with pytest.raises(TypeError, match="b: expected an array, got None"):
        getattr(fast_layers, f"conv_forward_{form}")(
            np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), None, {"stride": 1, "pad": 0}
        )
