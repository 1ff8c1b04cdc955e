"""Fixtures for all tests: the backend matrix, a seeded random generator, settings of Hypothesis."""

import os
import signal

# Several test processes share the cores; a BLAS whose threads spin for each other would take many times as long.
# NumPy reads the setting when it is first imported.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# A shell that starts the tests in the background makes them ignore Ctrl-C, which some of them are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from xpconv.testing import CASES  # noqa: E402

# derandomised, a test draws the same examples every time: what CI reports can be repeated
hypothesis.settings.register_profile("local", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)  # --hypothesis-profile=thorough
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


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


@pytest.fixture
def sparing(on):
    """``sparing(representative)`` skips on JAX unless told so: JAX compiles every call of a new shape, for seconds."""

    def check(representative):
        if on.backend == "jax" and not representative:
            pytest.skip("one representative is enough on JAX")

    return check
