"""``avg_pool_backward_im2col``: right also where regions overlap, are not square or do not tile the image."""

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.cs231n.fast_layers import avg_pool_backward_im2col, avg_pool_forward_im2col
from xpconv.testing import naive

REGIONS = {
    "tiles": ((2, 2), 2),
    "overlap": ((3, 3), 1),
    "not square": ((3, 2), 2),
    "left-over pixels": ((2, 4), 3),
}


@pytest.mark.parametrize(("region", "stride"), REGIONS.values(), ids=REGIONS)
def test_gradient_equals_the_loops(on, close, sparing, rng, region, stride):
    sparing(stride == 1)
    x = rng.normal(size=(2, 3, 6, 8))
    dout = rng.normal(size=naive.avg_pool2d(x, region, (stride, stride)).shape)
    want = naive.avg_pool2d_backward(dout, (6, 8), region, (stride, stride))
    dtype = on.dtypes[-1]
    here, gradient = on.asarray(x, dtype), on.asarray(dout, dtype)

    pool_param = {"pool_height": region[0], "pool_width": region[1], "stride": stride}
    out, cache = avg_pool_forward_im2col(here, pool_param)
    close(out, naive.avg_pool2d(x, region, (stride, stride)))
    close(avg_pool_backward_im2col(gradient, cache), want)

    _, cache = F.avg_pool2d(here, region, stride=stride)
    close(F.avg_pool2d_backward(gradient, cache), want)


def test_every_pixel_of_a_tile_gets_the_same_share(on, close):
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    out, cache = avg_pool_forward_im2col(on.asarray(x, "float32"), {"pool_height": 2, "pool_width": 2, "stride": 2})
    close(out, [[[[2.5, 4.5], [10.5, 12.5]]]])
    dx = avg_pool_backward_im2col(on.asarray([[[[4.0, 8.0], [12.0, 16.0]]]], "float32"), cache)
    close(dx, np.kron([[1.0, 2.0], [3.0, 4.0]], np.ones((2, 2)))[None, None])
