"""A convolution layer class with ``backward_inputs``: the gradient to the input alone, without that of the weights."""

import numpy as np
import pytest

import xpconv
from xpconv.cs231n.im2col_cython import col2im_cython
from xpconv.testing import naive


class ConvLayer:
    """A user's own layer, ported: weights (F, C * k * k), square kernels."""

    def __init__(self, weights, input_shape, num_filters, kernel_size, pad, stride):
        self.weights, self.input_shape = weights, input_shape
        self.num_filters, self.kernel_size, self.pad, self.stride = num_filters, kernel_size, pad, stride

    def backward_inputs(self, grad_out):
        xp = xpconv.backends.backend_of(grad_out=grad_out).xp
        grad_out = xp.reshape(xp.permute_dims(grad_out, (1, 2, 3, 0)), (self.num_filters, -1))
        columns = xp.matrix_transpose(self.weights) @ grad_out
        k = self.kernel_size
        return col2im_cython(columns, *self.input_shape, k, k, self.pad, self.stride)


@pytest.mark.parametrize(("kernel_size", "pad", "stride"), [(3, 1, 1), (3, 0, 2), (2, 1, 2)])
def test_equals_the_loops_and_the_adjoint_layer(on, close, sparing, rng, kernel_size, pad, stride):
    sparing(kernel_size == 2)
    shape = (2, 3, 7, 6)
    w = rng.normal(size=(4, 3, kernel_size, kernel_size))
    geometry = ((stride, stride), ((pad, pad), (pad, pad)))
    grad = rng.normal(size=naive.conv2d(np.zeros(shape), w, None, *geometry).shape)
    want, _, _ = naive.conv2d_backward(grad, np.zeros(shape), w, *geometry)
    dtype = on.dtypes[-1]

    layer = ConvLayer(on.asarray(w.reshape(4, -1), dtype), shape, 4, kernel_size, pad, stride)
    close(layer.backward_inputs(on.asarray(grad, dtype)), want)

    mine = xpconv.layers.Conv2d(3, 4, kernel_size, stride, pad, bias=False, dtype=dtype)
    mine.weight.data = on.asarray(w, dtype)
    mine(on.asarray(np.zeros(shape), dtype))
    close(mine.backward(on.asarray(grad, dtype)), want)
