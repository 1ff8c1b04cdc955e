"""``conv_forward_strides`` and ``conv_backward_strides``, and a layer class on ``col2im_6d``.

Columns are ordered (C, kh, kw, N, out_h, out_w).
"""

import pytest

import xpconv
from xpconv.cs231n.fast_layers import conv_backward_strides, conv_forward_strides
from xpconv.cs231n.im2col_cython import col2im_6d_cython
from xpconv.testing import naive

GEOMETRIES = [((3, 3), 1, 1), ((3, 2), 2, 0)]


def data(rng, kernel, stride, pad):
    """Images, filters, bias and outputs, with windows that tile the image."""
    height, width = (stride * 3 + k - 2 * pad for k in kernel)
    x, w, b = rng.normal(size=(2, 3, height, width)), rng.normal(size=(4, 3, *kernel)), rng.normal(size=4)
    return x, w, b, naive.conv2d(x, w, b, (stride, stride), ((pad, pad), (pad, pad)))


@pytest.mark.parametrize(("kernel", "stride", "pad"), GEOMETRIES)
def test_equal_the_loops(on, close, sparing, rng, kernel, stride, pad):
    sparing(stride == 1)
    x, w, b, y = data(rng, kernel, stride, pad)
    dout = rng.normal(size=y.shape)
    dtype = on.dtypes[-1]
    out, cache = conv_forward_strides(*(on.asarray(a, dtype) for a in (x, w, b)), {"stride": stride, "pad": pad})
    close(out, y)
    want = naive.conv2d_backward(dout, x, w, (stride, stride), ((pad, pad), (pad, pad)))
    for mine, expected in zip(conv_backward_strides(on.asarray(dout, dtype), cache), want, strict=True):
        close(mine, expected)


def test_col2im_6d_sums_what_overlaps(on, close, rng):
    kernel, stride, pad = (3, 2), 2, 1
    columns = rng.normal(size=(3, *kernel, 2, 4, 4))
    batched = columns.transpose(3, 0, 1, 2, 4, 5).reshape(2, 3 * 6, 16)
    want = naive.col2im(batched, (7, 6), kernel, (stride, stride), ((pad, pad), (pad, pad)))
    close(col2im_6d_cython(on.asarray(columns, on.dtypes[-1]), 2, 3, 7, 6, *kernel, pad, stride), want)


class ConvLayer:
    """A user's own layer, ported; its optimizers step in ``backward`` if it has any."""

    def __init__(self, weights, bias, stride, padding, weight_opt=None, bias_opt=None):
        self.weights, self.bias, self.stride, self.padding = weights, bias, stride, padding
        self.weight_opt, self.bias_opt = weight_opt, bias_opt

    def forward(self, x):
        out, (self.x, *_, self.x_cols) = conv_forward_strides(
            x, self.weights, self.bias, {"stride": self.stride, "pad": self.padding}
        )
        return out

    def backward(self, dout):
        xp = xpconv.backends.backend_of(dout=dout).xp
        (n, c, height, width), (filters, _, kh, kw) = self.x.shape, self.weights.shape
        *_, out_h, out_w = dout.shape
        self.db = xp.sum(dout, axis=(0, 2, 3))
        dout = xp.reshape(xp.permute_dims(dout, (1, 0, 2, 3)), (filters, -1))
        self.dw = xp.reshape(dout @ xp.matrix_transpose(self.x_cols), self.weights.shape)
        columns = xp.matrix_transpose(xp.reshape(self.weights, (filters, -1))) @ dout
        columns = xp.reshape(columns, (c, kh, kw, n, out_h, out_w))
        dx = col2im_6d_cython(columns, n, c, height, width, kh, kw, self.padding, self.stride)
        if self.weight_opt is not None:
            self.weights = self.weight_opt(self.weights, self.dw)
            self.bias = self.bias_opt(self.bias, self.db)
        return dx


@pytest.mark.parametrize("steps_itself", [False, True])
def test_a_layer_class_on_it(on, close, sparing, rng, steps_itself):
    sparing(steps_itself)
    x, w, b, y = data(rng, (3, 3), 2, 1)
    dout = rng.normal(size=y.shape)
    dx, dw, db = naive.conv2d_backward(dout, x, w, (2, 2), ((1, 1), (1, 1)))
    dtype = on.dtypes[-1]
    step = (lambda value, gradient: value - 0.1 * gradient) if steps_itself else None

    layer = ConvLayer(on.asarray(w, dtype), on.asarray(b, dtype), 2, 1, step, step)
    close(layer.forward(on.asarray(x, dtype)), y)
    close(layer.backward(on.asarray(dout, dtype)), dx)
    close(layer.dw, dw)
    close(layer.db, db)
    close(layer.weights, w - 0.1 * dw if steps_itself else w)
    close(layer.bias, b - 0.1 * db if steps_itself else b)


def test_pixels_behind_the_last_window_are_left_out(on, close, sparing, rng):
    sparing(False)
    x, w, b = rng.normal(size=(2, 3, 8, 6)), rng.normal(size=(4, 3, 3, 2)), rng.normal(size=4)
    geometry = ((2, 2), ((1, 1), (1, 1)))
    dtype = on.dtypes[-1]
    out, cache = conv_forward_strides(*(on.asarray(a, dtype) for a in (x, w, b)), {"stride": 2, "pad": 1})
    close(out, naive.conv2d(x, w, b, *geometry))  # (8 + 2 - 3) // 2 + 1 rows: the last one of zeros is in none
    dout = rng.normal(size=(2, 4, 4, 4))
    want = naive.conv2d_backward(dout, x, w, *geometry)
    for mine, expected in zip(conv_backward_strides(on.asarray(dout, dtype), cache), want, strict=True):
        close(mine, expected)
