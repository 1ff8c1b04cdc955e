"""``conv_forward`` and ``conv_backward`` by sliding windows: any stride that fits, sizes by floor division."""

import pytest

from xpconv import functional as F
from xpconv.cs231n.layers import conv_backward_naive, conv_forward_naive
from xpconv.testing import naive


# the second leaves a row and two columns over
@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [((4, 4), (3, 3), 1, 1), ((6, 7), (3, 2), 4, 1)])
def test_equal_the_loops(on, close, sparing, rng, size, kernel, stride, pad):
    sparing(False)
    x, w, b = rng.normal(size=(2, 2, *size)), rng.normal(size=(2, 2, *kernel)), rng.normal(size=2)
    geometry = ((stride, stride), ((pad, pad), (pad, pad)))
    y = naive.conv2d(x, w, b, *geometry)
    dout = rng.normal(size=y.shape)
    want = naive.conv2d_backward(dout, x, w, *geometry)
    here = [on.asarray(a, on.dtypes[-1]) for a in (x, w, b)]
    gradient = on.asarray(dout, on.dtypes[-1])

    out, cache = conv_forward_naive(*here, {"stride": stride, "pad": pad})
    close(out, y)
    for mine, expected in zip(conv_backward_naive(gradient, cache), want, strict=True):
        close(mine, expected)

    out, cache = F.conv2d(*here, stride=stride, padding=pad)
    close(out, y)
    for mine, expected in zip(F.conv2d_backward(gradient, cache), want, strict=True):
        close(mine, expected)
