"""Comparison of results on any backend with reference values on the host."""

import numpy as np
import pytest

TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-6, "float64": 1e-13}


@pytest.fixture
def close(on):
    """``close(got, want, dtype)`` asserts backend, dtype, shape and values, the latter relative to the largest."""

    def check(got, want, dtype, factor=1):
        want = np.asarray(want, dtype=np.float64)
        values = on.to_numpy(got)
        assert values.dtype == dtype
        assert values.shape == want.shape
        scale = np.abs(want[np.isfinite(want)]).max(initial=1.0)
        np.testing.assert_allclose(values, want, rtol=0, atol=factor * TOLERANCE[dtype] * scale)

    return check
