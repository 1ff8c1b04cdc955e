"""Memory that NumPy's operators keep: it goes back on demand, and before an operator gives up."""

import numpy as np
import pytest

import xpconv
from xpconv.backends import compute, load_backend, run, use_kernels
from xpconv.backends import registry as registry_module
from xpconv.backends.dispatch import Engine
from xpconv.backends.numpy import NumpyBackend

_kernels = pytest.importorskip("xpconv._cpu._kernels", reason="xpconv was built without kernels")

MIB = 1 << 20


def keep_some():
    """Leave memory behind that is kept for later."""
    x = np.ones((2 * MIB,), np.float32)
    y = load_backend("numpy").add(x, x)
    assert float(y[-1]) == 2
    del y
    assert _kernels.memory_sizes()[1] >= 8 * MIB


def test_free_memory_gives_all_of_it_back():
    keep_some()
    assert xpconv.free_memory() is None
    assert _kernels.memory_sizes()[1] == 0
    assert load_backend("numpy").free_memory() is False


def test_every_started_backend_is_asked_once(monkeypatch):
    class Counting(NumpyBackend):
        asked = 0

        def free_memory(self):
            self.asked += 1
            return True

    first, second = Counting(), Counting()
    monkeypatch.setattr(registry_module, "_loaded", {"a": first, "a:0": first, "b": second})
    xpconv.free_memory()
    assert (first.asked, second.asked) == (1, 1)


@pytest.mark.parametrize("how", ["run", "compute"])
def test_an_operator_is_tried_again_with_the_memory_that_was_kept(how):
    backend, seen = NumpyBackend(), []

    def hungry(*arguments):
        seen.append(_kernels.memory_sizes()[1])
        if seen[-1]:
            raise MemoryError("no 8 bytes for a result")
        return "enough"

    backend.engines = {"im2col": (Engine("hungry", hungry, lambda dtype, geometry: True),)}
    keep_some()
    if how == "compute":
        assert compute(backend, "hungry", hungry) == "enough"
    else:
        with use_kernels("auto"):
            assert run(backend, "im2col", np.ones(3, np.float32)) == "enough"
    assert seen[0] >= 8 * MIB
    assert seen[1:] == [0]


def test_without_kernels_there_is_nothing_to_free():
    backend = NumpyBackend()
    backend.engines = {}
    assert backend.free_memory() is False


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (64, 16, 8, 8)])
def test_add(shape):
    backend, rng = load_backend("numpy"), np.random.default_rng(1)
    a, b = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    for one, other in ((a, b), (a.T, b.T), (np.asfortranarray(a), b)):
        y = backend.add(one, other)
        np.testing.assert_array_equal(y, one + other)
        assert y.dtype == np.float32
        assert not np.shares_memory(y, one)
        assert not np.shares_memory(y, other)
