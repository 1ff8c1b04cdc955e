"""Columns through shared memory: when the kernel is taken, how it cuts its work, and that it gives the same columns."""

import numpy as np
import pytest

from xpconv import _generic
from xpconv._geometry import conv_window
from xpconv._gpu import columns, launch
from xpconv.backends import load_backend
from xpconv.testing.cuda_host import HostArray, thread_schedule


def window_of(size, kernel, padding, stride=1, dilation=1):
    return conv_window(size, kernel, stride, padding, dilation)


def tile(window, itemsize=4, row=None, image=None, elements=1):
    row = window.positions if row is None else row
    image = window.positions if image is None else image
    return columns.tile_for(window, itemsize, row, image, launch.index_for(elements))


class TestChoice:
    def test_takes_what_moves_pixel_by_pixel_in_whole_vectors(self):
        assert tile(window_of((32, 32), (3, 3), 1)) == (1, 32, 9)  # 8 vectors of 4 floats in a row, one more for 2 taps
        assert tile(window_of((8, 8), (3, 3), 1)) == (16, 8, 3)  # 16 vectors an image: 16 images for 256 threads
        assert tile(window_of((224, 224), (7, 7), 3)) == (1, 11, 58)  # strips of 11 rows
        assert tile(window_of((32, 32), (5, 5), 2), itemsize=8) == (1, 32, 18)
        assert tile(window_of((32, 32), (3, 3), 1), itemsize=2) == (2, 32, 5)

    @pytest.mark.parametrize("size", [(8, 8), (33, 64), (224, 224), (1, 4), (5, 1360)])
    @pytest.mark.parametrize("kernel", [3, 5, 7])
    @pytest.mark.parametrize("itemsize", [2, 4, 8])
    def test_fits_into_shared_memory(self, size, kernel, itemsize):
        found = tile(window_of(size, (kernel, kernel), kernel // 2), itemsize)
        if found is None:
            assert size[1] * itemsize % 16 or size[1] > 1000
        else:
            assert min(found) >= 1
            assert found.rows <= size[0]
            assert found.images == 1 or found.rows == size[0]
            assert found.images * (found.rows + kernel - 1) * found.pitch <= columns.TILE_VECTORS

    def test_leaves_the_rest_to_the_general_kernel(self):
        plain = window_of((8, 8), (3, 3), 1)
        assert tile(plain)
        for window in (
            window_of((8, 8), (3, 3), 1, stride=2),
            window_of((8, 8), (3, 3), 2, dilation=2),
            window_of((8, 8), (1, 1), 0),
            window_of((8, 8), (3, 5), (1, 2)),
            window_of((8, 8), (9, 9), 4),
            window_of((8, 9), (3, 3), 1),
            window_of((8, 8), (3, 3), 0),
            window_of((2, 8192), (3, 3), 1),
        ):
            assert tile(window) is None, window
        assert tile(plain, row=66) is None
        assert tile(plain, image=66) is None
        assert tile(plain, elements=2**31) is None


@pytest.mark.parametrize("vectors", [1024, 80])
@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize(
    ("shape", "kernel", "padding"),
    [((5, 2, 6, 8), 3, 1), ((3, 1, 11, 4), 3, ((0, 2), (2, 0))), ((2, 1, 9, 12), 5, 2), ((1, 2, 8, 16), 7, 3)],
)
def test_equals_the_generic_operator(host, rng, monkeypatch, shape, kernel, padding, misaligned, vectors):
    """Also in strips of few rows, and where the columns begin at no multiple of 16 bytes."""
    monkeypatch.setattr(columns, "TILE_VECTORS", vectors)
    asked = []
    get = host.kernels.get
    monkeypatch.setattr(host.kernels, "get", lambda *key: asked.append(key[1]) or get(*key))
    window = window_of(shape[2:], (kernel, kernel), padding)
    for dtype in (np.float32, np.float64):
        x = rng.normal(size=shape).astype(dtype)
        want = _generic.im2col(load_backend("numpy"), x, window)
        count = want.size
        memory = np.full(count + 4, np.nan, dtype).view(HostArray)
        result = memory[misaligned : count + misaligned].reshape(want.shape)
        with thread_schedule(3):
            columns.im2col_into(
                host, x.view(HostArray), result, window, window.positions, want.shape[1] * window.positions
            )
        np.testing.assert_array_equal(np.asarray(result), want)
        assert np.isnan(np.asarray(memory)[count + misaligned :]).all()
        assert np.isnan(np.asarray(memory)[:misaligned]).all()
    assert set(asked) == {"im2col_tiled"}
