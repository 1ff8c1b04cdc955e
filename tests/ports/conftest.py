"""What the ports share: comparison on any backend, columns in the orders of the ported systems, host geometry."""

import numpy as np
import pytest

from xpconv.testing import naive

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture
def close(on):
    """``close(got, want)`` asserts that ``got`` is of the backend and equals host values, relative to the largest."""

    def check(got, want):
        values = on.to_numpy(got)
        want = np.asarray(want)
        assert values.shape == want.shape
        scale = np.abs(want).max(initial=1.0)
        np.testing.assert_allclose(values, want, rtol=0, atol=TOLERANCE[values.dtype.name] * scale)

    return check


@pytest.fixture
def columns_by_position():
    """``(x, kernel, stride, pad)`` to host columns (C * kh * kw, out_h * out_w * N): the image varies fastest."""

    def columns(x, kernel, stride, pad):
        batched = naive.im2col(x, kernel, (stride, stride), ((pad, pad), (pad, pad)))
        return batched.transpose(1, 2, 0).reshape(batched.shape[1], -1)

    return columns
