"""What the tests of the compiled kernels share: memory of any shape with a watched margin, and numbers of threads."""

import numpy as np
import pytest

import xpconv
from xpconv import _generic
from xpconv._cpu import _kernels
from xpconv.backends import load_backend

MARGIN = -77.0


class Scattered:
    """An array of a given shape somewhere in a larger one: axes in any order, steps of 1, 2 or -1, margins around.

    Attributes
    ----------
    view
        The array, filled with the margin's number.
    """

    def __init__(self, rng, shape, dtype):
        order = rng.permutation(len(shape))
        self.parent = np.full([2 * shape[axis] + 3 for axis in order], MARGIN).astype(dtype)
        slices = []
        for axis in order:
            size = shape[axis]
            step = int(rng.choice([1, 2, -1]))
            slices.append(np.s_[1 : 1 + size] if step == 1 else np.s_[1 : 1 + 2 * size : 2])
            if step == -1:
                slices[-1] = np.s_[size:0:-1]
        self.place = tuple(slices)
        self.view = self.parent[self.place].transpose(np.argsort(order))
        assert self.view.shape == tuple(shape)

    def margin_is_whole(self):
        """Whether nothing outside of the view has changed."""
        parent = self.parent.copy()
        parent[self.place] = np.asarray(MARGIN).astype(parent.dtype)
        return bool((parent == np.asarray(MARGIN).astype(parent.dtype)).all())


@pytest.fixture
def scattered(rng):
    """``scattered(shape, dtype)`` or ``scattered(values)``: a `Scattered` array, of the values if there are any."""

    def make(shape_or_values, dtype=None):
        if dtype is not None:
            return Scattered(rng, shape_or_values, dtype)
        array = Scattered(rng, shape_or_values.shape, shape_or_values.dtype)
        array.view[...] = shape_or_values
        return array

    return make


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """Run the test with that many threads."""
    if request.param > 1 and not _kernels.THREADED:
        pytest.skip("the kernels were built without threads")
    before = xpconv.get_num_threads()
    xpconv.set_num_threads(request.param)
    yield request.param
    xpconv.set_num_threads(before)


@pytest.fixture
def far_memory(tmp_path):
    """``far_memory(shape)``: float32 (2, ...) in a file of holes, its halves 2**31 + 64 elements apart."""

    def make(shape):
        assert shape[0] == 2
        distance = 2**31 + 64
        size = int(np.prod(shape[1:]))
        path = tmp_path / "holes"
        try:
            with open(path, "wb") as file:
                file.truncate(4 * (distance + size))
            flat = np.memmap(path, np.float32, "r+")
        except OSError as error:
            pytest.skip(f"no file of 8 GiB, not even an empty one: {error}")
        strides = np.empty(shape[1:], np.float32).strides
        return np.lib.stride_tricks.as_strided(flat, shape, (4 * distance, *strides))

    return make


@pytest.fixture(scope="session")
def engine_results():
    """``engine_results(engine, x, w, b, dy, geometry, need_dx=True)``: [y, dx, dw, db] of one engine of convolution.

    dy is y backwards if None; dx and db are None where they are not needed.
    """

    def results(engine, x, w, b, dy, geometry, need_dx=True):
        y = engine.forward(x, w, b, geometry, False)
        dy = np.ascontiguousarray(y[::-1]) if dy is None else dy
        dx = engine.input_gradient(dy, w, geometry) if need_dx else None
        dw, db = engine.weight_gradient(dy, x, geometry, b is not None)
        if need_dx and hasattr(engine, "gradients"):
            together = engine.gradients(dy, x, w, geometry, b is not None)
            for one, other in zip((dx, dw, db), together, strict=True):
                assert (one is None) == (other is None)
                np.testing.assert_array_equal(one, other)
        return [y, dx, dw, db]

    return results


@pytest.fixture(scope="session")
def generic_results():
    """The same of the generic operators, without the engine."""
    backend = load_backend("numpy")

    def results(x, w, b, dy, geometry, need_dx=True):
        y = _generic.conv2d(backend, x, w, b, geometry)
        dy = np.ascontiguousarray(y[::-1]) if dy is None else dy
        return [y, *_generic.conv2d_backward(backend, dy, x, w, need_dx, b is not None, geometry)]

    return results


@pytest.fixture(params=_kernels.instruction_sets())
def isa(request):
    """Run the test with that instruction set."""
    before = _kernels.instruction_set()
    _kernels.use_instruction_set(request.param)
    yield request.param
    _kernels.use_instruction_set(before)
