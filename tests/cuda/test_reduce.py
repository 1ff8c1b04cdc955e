"""How sums are cut into chunks, and the kernels of sums by themselves."""

import numpy as np
import pytest

from xpconv._gpu import launch, reduce
from xpconv._gpu.reduce import VECTOR, chunks_for, column_sums, row_sums
from xpconv.testing.cuda_host import HostArray, thread_schedule


class Device:
    """As much of a GPU as the geometry of launches asks for."""

    multiprocessors = 132


@pytest.mark.parametrize("rows", [1, 16, 64, 2048])
@pytest.mark.parametrize("length", [128 * 32 * 32, 256 * 56 * 56])
def test_few_rows_fill_a_device_as_well_as_many(rows, length):
    chunks, chunk = chunks_for(Device(), rows, length)
    slots = Device.multiprocessors * launch.BLOCKS_PER_MULTIPROCESSOR
    least = min(slots, rows * length / (launch.THREADS * 8))  # a block for every 8 elements a thread is enough
    assert 0.8 * least <= rows * chunks <= max(2 * slots, 2 * rows)
    assert (chunks - 1) * chunk < length <= chunks * chunk


@pytest.mark.parametrize("rows", [1, 3, 70_000])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 5000, 123_457, 2**33 + 5])
def test_chunks_begin_at_vectors_and_none_is_empty(rows, length):
    chunks, chunk = chunks_for(Device(), rows, length)
    assert chunk % VECTOR == 0
    assert chunks >= 1
    assert (chunks - 1) * chunk < max(length, 1) <= chunks * chunk
    assert chunks <= 2**31 - 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(5, 4100), (3, 129), (300, 2), (1, 1), (0, 3), (3, 0)])
def test_sums(host, rng, shape, dtype):
    x = np.asarray(rng.normal(size=shape), dtype).view(HostArray)
    exact = np.asarray(x, np.float64)
    scale = np.abs(exact).sum() + 1
    for schedule in (0, 2):
        with thread_schedule(schedule):
            for got, want in ((row_sums(host, x), exact.sum(axis=1)), (column_sums(host, x), exact.sum(axis=0))):
                assert got.dtype == dtype
                np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=scale * np.finfo(dtype).eps)


def test_more_rows_than_a_grid_has_in_y(host, rng, monkeypatch):
    """CUDA takes 65535 blocks there, here 2: the rest comes in further launches."""
    assert reduce.MAX_ROWS == 65_535
    monkeypatch.setattr(reduce, "MAX_ROWS", 2)
    x = rng.normal(size=(5, 40))
    np.testing.assert_allclose(np.asarray(row_sums(host, x.view(HostArray))), x.sum(axis=1), rtol=1e-12)
