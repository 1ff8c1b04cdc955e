"""``bprop_max_pool`` with cached columns and positions of the maxima: all of the gradient goes to the first maximum."""

import numpy as np
import pytest

import xpconv
from xpconv import functional as F
from xpconv.cs231n.im2col_cython import col2im_cython, im2col_cython
from xpconv.testing import naive


def pool_columns(imgs, pool_height, pool_width, stride):
    """Each channel as an image of its own: columns (kh * kw, out_h * out_w * N * C), and where each is largest."""
    xp = xpconv.backends.backend_of(imgs=imgs).xp
    n, c, height, width = imgs.shape
    columns = im2col_cython(xp.reshape(imgs, (n * c, 1, height, width)), pool_height, pool_width, 0, stride)
    return columns, xp.argmax(columns, axis=0)


def bprop_max_pool(imgs, imgs_cols, imgs_argmax, poolout_grad, pool_height, pool_width, stride):
    """The system's own call, on the array API: a comparison puts the gradient where the maximum was."""
    backend = xpconv.backends.backend_of(imgs=imgs)
    xp, (n, c, height, width) = backend.xp, imgs.shape
    gradient = xp.reshape(xp.permute_dims(poolout_grad, (2, 3, 0, 1)), (1, -1))
    taps = backend.arange(imgs_cols.shape[0], imgs_argmax.dtype)[:, None]
    columns = xp.where(taps == imgs_argmax[None, :], gradient, xp.zeros_like(gradient))
    dx = col2im_cython(columns, n * c, 1, height, width, pool_height, pool_width, 0, stride)
    return xp.reshape(dx, imgs.shape)


@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), 2), ((3, 2), 1), ((2, 3), 3)])
def test_gradient_equals_the_loops(on, close, sparing, rng, kernel, stride):
    sparing(stride == 1)
    # few distinct values, so that there are ties in nearly every window
    imgs = rng.integers(0, 3, (2, 3, 7, 6)).astype(float)
    y, argmax = naive.max_pool2d(imgs, kernel, (stride, stride))
    grad = rng.normal(size=y.shape)
    want = naive.max_pool2d_backward(grad, argmax, (7, 6), kernel, (stride, stride))
    dtype = on.dtypes[-1]
    x, gradient = on.asarray(imgs, dtype), on.asarray(grad, dtype)

    columns, where = pool_columns(x, *kernel, stride)
    close(bprop_max_pool(x, columns, where, gradient, *kernel, stride), want)

    _, cache = F.max_pool2d(x, kernel, stride=stride)
    close(F.max_pool2d_backward(gradient, cache), want)


def test_of_equal_pixels_the_first_gets_it_all(on, close):
    x = on.asarray(np.ones((1, 1, 2, 2)), "float32")
    _, cache = F.max_pool2d(x, 2)
    close(F.max_pool2d_backward(on.asarray([[[[5.0]]]], "float32"), cache), [[[[5.0, 0.0], [0.0, 0.0]]]])
