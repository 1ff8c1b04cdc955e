"""``conv_forward_im2col`` and ``conv_backward_im2col``: columns ordered (C * kh * kw) x (out_h * out_w * N)."""

import numpy as np
import pytest

from xpconv.cs231n.fast_layers import conv_backward_im2col, conv_forward_im2col
from xpconv.cs231n.im2col_cython import col2im_cython, im2col_cython
from xpconv.testing import naive

GEOMETRIES = [((3, 3), 1, 1), ((3, 2), 2, 0), ((4, 4), 2, 1)]


@pytest.mark.parametrize(("kernel", "stride", "pad"), GEOMETRIES)
def test_equal_the_loops(on, close, sparing, rng, kernel, stride, pad):
    sparing(stride == 1)
    height, width = (stride * 3 + k - 2 * pad for k in kernel)  # windows that tile, which the system demands
    x, w, b = rng.normal(size=(2, 3, height, width)), rng.normal(size=(4, 3, *kernel)), rng.normal(size=4)
    geometry = ((stride, stride), ((pad, pad), (pad, pad)))
    y = naive.conv2d(x, w, b, *geometry)
    dout = rng.normal(size=y.shape)
    dtype = on.dtypes[-1]

    out, cache = conv_forward_im2col(*(on.asarray(a, dtype) for a in (x, w, b)), {"stride": stride, "pad": pad})
    close(out, y)
    gradients = conv_backward_im2col(on.asarray(dout, dtype), cache)
    for got, want in zip(gradients, naive.conv2d_backward(dout, x, w, *geometry), strict=True):
        close(got, want)


@pytest.mark.parametrize(("kernel", "stride", "pad"), GEOMETRIES)
def test_order_of_the_columns(on, close, sparing, rng, columns_by_position, kernel, stride, pad):
    sparing(False)
    x = rng.normal(size=(2, 3, 8, 6))
    columns = im2col_cython(on.asarray(x, "float32"), *kernel, pad, stride)
    want = columns_by_position(x, kernel, stride, pad)
    close(columns, want)

    # the adjoint sums what overlaps: <im2col(x), c> = <x, col2im(c)>
    c = rng.normal(size=want.shape)
    image = col2im_cython(on.asarray(c, "float32"), 2, 3, 8, 6, *kernel, pad, stride)
    np.testing.assert_allclose((on.to_numpy(image) * x).sum(), (want * c).sum(), rtol=1e-4)
