"""Max pooling in four forms: naive, reshape (tiles only; equal maxima share), im2col (the first takes all), and fast,
which chooses."""

import numpy as np
import pytest

from xpconv.cs231n import fast_layers, layers
from xpconv.testing import naive

TILES = {"pool_height": 2, "pool_width": 2, "stride": 2}
OVERLAP = {"pool_height": 3, "pool_width": 2, "stride": 1}

FORMS = {
    "naive": (layers.max_pool_forward_naive, layers.max_pool_backward_naive),
    "fast": (fast_layers.max_pool_forward_fast, fast_layers.max_pool_backward_fast),
    "reshape": (fast_layers.max_pool_forward_reshape, fast_layers.max_pool_backward_reshape),
    "im2col": (fast_layers.max_pool_forward_im2col, fast_layers.max_pool_backward_im2col),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pool_param", [TILES, OVERLAP], ids=["tiles", "overlap"])
def test_without_ties_all_forms_agree(on, close, sparing, rng, form, pool_param):
    sparing(form == "fast")
    forward, backward = FORMS[form]
    x = rng.permutation(2 * 2 * 4 * 6).reshape(2, 2, 4, 6).astype(float)
    here = on.asarray(x, "float32")
    if form == "reshape" and pool_param is OVERLAP:
        with pytest.raises(AssertionError):
            forward(here, pool_param)
        return
    region, stride = (pool_param["pool_height"], pool_param["pool_width"]), pool_param["stride"]
    y, argmax = naive.max_pool2d(x, region, (stride, stride))
    dout = rng.normal(size=y.shape)
    out, cache = forward(here, pool_param)
    close(out, y)
    want = naive.max_pool2d_backward(dout, argmax, (4, 6), region, (stride, stride))
    close(backward(on.asarray(dout, "float32"), cache), want)


def test_of_ties_reshape_shares_and_im2col_chooses(on, close):
    x, dout = on.asarray(np.ones((1, 1, 2, 2)), "float32"), on.asarray([[[[8.0]]]], "float32")
    _, cache = fast_layers.max_pool_forward_reshape(x, TILES)
    close(fast_layers.max_pool_backward_reshape(dout, cache), [[[[2.0, 2.0], [2.0, 2.0]]]])
    _, cache = fast_layers.max_pool_forward_im2col(x, TILES)
    close(fast_layers.max_pool_backward_im2col(dout, cache), [[[[8.0, 0.0], [0.0, 0.0]]]])
