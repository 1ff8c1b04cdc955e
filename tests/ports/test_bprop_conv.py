"""``bprop_conv``: filters stored with the input channel first, their gradient averaged over the batch."""

import pytest

import xpconv
from xpconv import functional as F
from xpconv.cs231n.im2col_cython import col2im_cython, im2col_cython
from xpconv.testing import naive


def bprop_conv(imgs, imgs_cols, convout_grad, filters, stride, pad):
    """The system's own call, on one operator; the columns are not needed, since `conv2d_backward` makes its own."""
    xp = xpconv.backends.backend_of(imgs=imgs).xp
    w = xp.permute_dims(filters, (1, 0, 2, 3))
    _, cache = F.conv2d(imgs, w, stride=stride, padding=pad)
    dx, dw, _ = F.conv2d_backward(convout_grad, cache)
    return dx, xp.permute_dims(dw, (1, 0, 2, 3)) / imgs.shape[0]


def bprop_conv_by_columns(imgs, imgs_cols, convout_grad, filters, stride, pad):
    """The system's own method: two matrix products around the columns it was given."""
    xp = xpconv.backends.backend_of(imgs=imgs).xp
    (n, c, height, width), (_, out_channels, kh, kw) = imgs.shape, filters.shape
    w = xp.permute_dims(filters, (1, 0, 2, 3))
    gradient = xp.reshape(xp.permute_dims(convout_grad, (1, 2, 3, 0)), (out_channels, -1))
    dw = xp.reshape(gradient @ xp.matrix_transpose(imgs_cols), w.shape)
    dcols = xp.matrix_transpose(xp.reshape(w, (out_channels, -1))) @ gradient
    return col2im_cython(dcols, n, c, height, width, kh, kw, pad, stride), xp.permute_dims(dw, (1, 0, 2, 3)) / n


@pytest.mark.parametrize("bprop", [bprop_conv, bprop_conv_by_columns])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [((3, 3), 1, 1), ((3, 2), 2, 0)])
def test_gradients_equal_the_loops(on, close, sparing, rng, bprop, kernel, stride, pad):
    sparing(stride == 1)
    imgs = rng.normal(size=(3, 2, 7, 6))
    filters = rng.normal(size=(2, 4, *kernel))
    w = filters.transpose(1, 0, 2, 3)
    geometry = ((stride, stride), ((pad, pad), (pad, pad)))
    grad = rng.normal(size=naive.conv2d(imgs, w, None, *geometry).shape)
    dx, dw, _ = naive.conv2d_backward(grad, imgs, w, *geometry)

    dtype = on.dtypes[-1]
    x, g, f = (on.asarray(a, dtype) for a in (imgs, grad, filters))
    dimgs, dfilters = bprop(x, im2col_cython(x, *kernel, pad, stride), g, f, stride, pad)

    close(dimgs, dx)
    close(dfilters, dw.transpose(1, 0, 2, 3) / 3)
