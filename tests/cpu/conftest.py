"""What the tests of the compiled kernels share: memory of any shape with a watched margin, and numbers of threads."""

import numpy as np
import pytest

import xpconv
from xpconv._cpu import _kernels

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
