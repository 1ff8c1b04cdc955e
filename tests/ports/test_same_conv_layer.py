"""A stride-1 layer whose output has the size of its input, with odd and even kernels."""

import numpy as np
import pytest

import xpconv
from xpconv import functional as F
from xpconv.testing import naive


class Conv2DSame:
    """A user's own layer, ported: it keeps its weights as plain arrays and returns all three gradients.

    The system pads ``ceil((k - 1) / 2)`` zeros before and, for an even kernel, one fewer behind.
    """

    def __init__(self, wts, b):
        self.wts, self.b = wts, b

    def forward(self, x):
        *_, kh, kw = self.wts.shape
        padding = tuple((k // 2, k - 1 - k // 2) for k in (kh, kw))
        net_in, self.cache = F.conv2d(x, self.wts, self.b, padding=padding)
        return net_in

    def backward_netIn_to_prevLayer_netAct(self, d_upstream):
        return F.conv2d_backward(d_upstream, self.cache)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (5, 4), (4, 1)])
def test_size_is_kept_and_gradients_equal_the_loops(on, close, sparing, rng, kernel):
    sparing(kernel == (5, 4))
    x, w, b = rng.normal(size=(2, 3, 6, 7)), rng.normal(size=(4, 3, *kernel)), rng.normal(size=4)
    pads = tuple((k // 2, k - 1 - k // 2) for k in kernel)
    grad = rng.normal(size=(2, 4, 6, 7))
    dtype = on.dtypes[-1]

    layer = Conv2DSame(on.asarray(w, dtype), on.asarray(b, dtype))
    close(layer.forward(on.asarray(x, dtype)), naive.conv2d(x, w, b, (1, 1), pads))
    got = layer.backward_netIn_to_prevLayer_netAct(on.asarray(grad, dtype))
    for mine, want in zip(got, naive.conv2d_backward(grad, x, w, (1, 1), pads), strict=True):
        close(mine, want)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
def test_the_layer_of_xpconv_keeps_the_size_too(on, close, rng, kernel):
    # its "same" is TensorFlow's: an odd pixel of padding goes behind, not before
    layer = xpconv.layers.Conv2d(3, 4, kernel, padding="same", bias=False)
    x = rng.normal(size=(2, 3, 6, 7))
    pads = tuple(((k - 1) // 2, k // 2) for k in kernel)
    w = np.asarray(on.to_numpy(layer.weight.data), np.float64)
    close(layer(on.asarray(x, "float32")), naive.conv2d(x, w, None, (1, 1), pads))
