"""What the tests of the course's modules share."""

import numpy as np
import pytest


@pytest.fixture
def float64(on):
    """Only cases that have float64: JAX has none by default."""
    if "float64" not in on.dtypes:
        pytest.skip("no float64")
    return on


@pytest.fixture
def space(float64):
    """``space(first, last, *shape)``: evenly spaced float64 numbers, how the course makes its inputs."""

    def make(first, last, *shape):
        return float64.asarray(np.linspace(first, last, num=int(np.prod(shape))).reshape(shape))

    return make
