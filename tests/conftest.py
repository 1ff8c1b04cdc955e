"""Fixtures for all tests: the backend matrix and a seeded random generator."""

import numpy as np
import pytest

from xpconv.testing import CASES


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def on(request):
    """Run the test once for each backend case, with that backend the default one."""
    case = request.param
    reason = case.why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with case.active():
        yield case


@pytest.fixture
def rng():
    """A host generator, the same numbers in every test."""
    return np.random.default_rng(20240229)
