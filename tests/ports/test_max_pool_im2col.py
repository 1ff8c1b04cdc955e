"""``max_pool_forward_im2col`` and ``max_pool_backward_im2col``, also where the regions overlap or do not tile."""

import numpy as np
import pytest

from xpconv.cs231n.fast_layers import max_pool_backward_im2col, max_pool_forward_im2col
from xpconv.testing import naive


@pytest.mark.parametrize(("region", "stride"), [((2, 2), 2), ((3, 2), 1), ((3, 3), 2)])
def test_equal_the_loops(on, close, sparing, rng, region, stride):
    sparing(stride == 1)
    x = rng.integers(0, 4, (2, 3, 7, 8)).astype(float)  # with ties
    y, argmax = naive.max_pool2d(x, region, (stride, stride))
    dout = rng.normal(size=y.shape)
    pool_param = {"pool_height": region[0], "pool_width": region[1], "stride": stride}
    dtype = on.dtypes[-1]

    out, cache = max_pool_forward_im2col(on.asarray(x, dtype), pool_param)
    close(out, y)
    want = naive.max_pool2d_backward(dout, argmax, (7, 8), region, (stride, stride))
    close(max_pool_backward_im2col(on.asarray(dout, dtype), cache), want)


def test_what_the_windows_do_not_reach_gets_no_gradient(on, close):
    x = on.asarray(np.arange(9.0).reshape(1, 1, 3, 3), "float32")
    out, cache = max_pool_forward_im2col(x, {"pool_height": 2, "pool_width": 2, "stride": 2})
    close(out, [[[[4.0]]]])
    close(max_pool_backward_im2col(on.asarray([[[[7.0]]]], "float32"), cache), [[[[0, 0, 0], [0, 7, 0], [0, 0, 0]]]])
