"""A convolution layer whose parameters take their own optimizer steps inside ``backward``."""

import numpy as np

import xpconv
from xpconv import functional as F
from xpconv.testing import naive

LR, MOMENTUM = 0.1, 0.9


class SelfUpdatingConv:
    """A user's own layer, ported: an optimizer for each of its parameters, stepped as soon as the gradient is known."""

    def __init__(self, w, b, stride, pad):
        self.w, self.b, self.stride, self.pad = xpconv.Parameter(w), xpconv.Parameter(b), stride, pad
        self.wupdate = xpconv.optim.SGD([self.w], lr=LR, momentum=MOMENTUM)
        self.bupdate = xpconv.optim.SGD([self.b], lr=LR, momentum=MOMENTUM)

    def forward(self, x):
        y, self.cache = F.conv2d(x, self.w.data, self.b.data, stride=self.stride, padding=self.pad)
        return y

    def backward(self, dout):
        dx, self.w.grad, self.b.grad = F.conv2d_backward(dout, self.cache)
        self.wupdate.step()
        self.bupdate.step()
        return dx


def test_two_steps_equal_the_loops(on, close, sparing, rng):
    sparing(False)
    x, w, b = rng.normal(size=(2, 2, 5, 6)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)
    geometry = ((2, 2), ((1, 1), (1, 1)))
    dtype = on.dtypes[-1]
    layer = SelfUpdatingConv(on.asarray(w, dtype), on.asarray(b, dtype), 2, 1)

    velocity_w, velocity_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(2):
        y = naive.conv2d(x, w, b, *geometry)
        dx, dw, db = naive.conv2d_backward(y, x, w, *geometry)  # of half the sum of squares
        out = layer.forward(on.asarray(x, dtype))
        close(out, y)
        close(layer.backward(out), dx)  # by the weights before the step
        velocity_w, velocity_b = MOMENTUM * velocity_w + dw, MOMENTUM * velocity_b + db
        w, b = w - LR * velocity_w, b - LR * velocity_b
        close(layer.w.data, w)
        close(layer.b.data, b)
        w, b = (np.array(on.to_numpy(p.data), np.float64) for p in (layer.w, layer.b))  # rounding shall not add up
