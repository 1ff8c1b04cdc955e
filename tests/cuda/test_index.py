"""Arrays of more elements than 32 bits count take the kernels with 64-bit indices: on paper, without their memory."""

from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from xpconv._geometry import conv_window, pool_window
from xpconv._gpu import columns, elementwise, launch, loss, norm, pool, reduce


class Paper:
    """An array with a shape and no memory, in C order or with its first two axes swapped in memory."""

    def __init__(self, shape, dtype="float32", channel_major=False):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.size, self.ndim = prod(self.shape), len(self.shape)
        order = (1, 0, *range(2, self.ndim)) if channel_major else tuple(range(self.ndim))
        steps = {axis: prod(self.shape[after] for after in order[i + 1 :]) for i, axis in enumerate(order)}
        self.strides = tuple(steps[axis] * self.dtype.itemsize for axis in range(self.ndim))
        self.flags = SimpleNamespace(c_contiguous=not channel_major)

    def __getitem__(self, key):
        return self  # which part it is does not matter here


class PaperBackend:
    """A GPU that notes which kernels it is asked for."""

    multiprocessors = 132

    def __init__(self):
        self.asked = []
        self.kernels = SimpleNamespace(get=lambda *key: self.asked.append(key) or (lambda grid, block, args: None))
        self.xp = SimpleNamespace(
            permute_dims=lambda array, axes: Paper([array.shape[a] for a in axes], array.dtype, axes[0] == 1),
            reshape=lambda array, shape: Paper(shape, array.dtype),
        )

    def empty(self, shape, dtype):
        return Paper(shape, dtype)

    def contiguous(self, array):
        return array

    def astype(self, array, dtype):
        return Paper(array.shape, dtype)

    def dtype_name(self, array):
        return array.dtype.name

    def accumulator(self, array):
        return np.dtype("float32")


def batch_norm_relu(backend, x):
    n, c = x.shape[:2]
    flat = Paper((n, c, prod(x.shape[2:])), channel_major=not x.flags.c_contiguous)
    vector = Paper((c,))
    norm.batch_norm_relu(backend, flat, vector, vector, flat, vector, vector, 0.1, 1e-5)
    norm.batch_norm_relu_backward(backend, flat, flat, flat, vector, vector, vector, True, True)


def group_norm(backend, x):
    n, c = x.shape[:2]
    flat = Paper((n, c, prod(x.shape[2:])))
    norm.group_norm(backend, flat, Paper((c,)), Paper((c,)), 2, 1e-5)
    norm.group_norm_backward(backend, flat, flat, None, Paper((2 * n, 1)), Paper((2 * n, 1)), 2)


def columns_of(backend, x):
    # the columns have nine times as many elements as the images
    window = conv_window(x.shape[2:], (3, 3), 1, 1, 1)
    columns.col2im(backend, columns.im2col(backend, x, window), window)


def max_pool(backend, x):
    window = pool_window(x.shape[2:], 2, 1, 0, 1, False)
    y, argmax = pool.max_pool2d(backend, x, window)
    pool.max_pool2d_backward(backend, y, argmax, window)


def avg_pool(backend, x):
    window = pool_window(x.shape[2:], 2, 1, 0, 1, False)
    pool.avg_pool2d_backward(backend, pool.avg_pool2d(backend, x, True, window), True, window)
    pool.adaptive_avg_pool2d_backward(backend, pool.adaptive_avg_pool2d(backend, x, (1, 1)), x.shape[2:])


def others(backend, x):
    rows = Paper((x.shape[0], prod(x.shape[1:])))
    elementwise.relu_backward(backend, rows, elementwise.relu(backend, rows))
    elementwise.add_bias(backend, rows, Paper((rows.shape[0],)))
    elementwise.add_bias_to_rows(backend, rows, Paper((rows.shape[1],)))
    reduce.column_sums(backend, rows)
    loss.mse(backend, rows, rows)
    loss.multiclass_hinge(backend, rows, Paper((x.shape[0],), "int64"), 1.0)


# besides sums over chunks, whose index follows from the number of the chunks
FINISHING = {"finish_row_sums", "partial_row_sums"}


@pytest.mark.parametrize("channel_major", [False, True])
@pytest.mark.parametrize("call", [batch_norm_relu, group_norm, columns_of, max_pool, avg_pool, others])
def test_large_arrays_take_64_bit_indices(call, channel_major):
    for batch, wanted in ((2, "int"), (70_000, "int64")):
        backend = PaperBackend()
        x = Paper((batch, 8, 64, 64), channel_major=channel_major)
        assert (x.size > 2**31) == (wanted == "int64")
        call(backend, x)
        assert backend.asked
        wrong = [key for key in backend.asked if key[3] != wanted and key[1] not in FINISHING]
        assert not wrong


def test_what_counts_is_the_largest_array():
    """Images that fit into 32 bits, whose columns do not."""
    backend = PaperBackend()
    columns_of(backend, Paper((10_000, 8, 64, 64)))
    assert {key[3] for key in backend.asked} == {"int64"}


def test_steps_count_beside_the_elements():
    """A few channels of many: offsets into the memory between them do not fit."""
    x = Paper((70_000, 8, 64, 64))
    image, channel = 8 * 64 * 64, 64 * 64
    assert launch.Planes(SimpleNamespace(shape=(70_000, 1, 64, 64)), image, channel).extent > 2**31
    assert launch.index_for(launch.planes(PaperBackend(), x).extent).name == "int64"
