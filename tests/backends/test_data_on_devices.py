"""Batches on one of several GPUs, by the stand-in for CuPy: all their work is on the device of the arrays."""

import numpy as np
import pytest

import xpconv
from xpconv.backends import backend_of
from xpconv.backends.protocol import Backend
from xpconv.data import ArrayDataset, Batches, Compose, Normalize, RandomFlip, ShiftCrop
from xpconv.training.pairs import ArrayPairs

X = np.random.default_rng(2).integers(0, 256, (13, 2, 5, 4), dtype=np.uint8)
DATASET = ArrayDataset(X, np.arange(13) % 3)
TRANSFORMS = [
    None,
    Compose([ShiftCrop(1), RandomFlip(), Normalize(0.3, 0.4)]),
    Compose([RandomFlip(), ShiftCrop(1)]),
    lambda images, rng, training: images * 2 + images,
]


def assert_same(batches, expected, backend):
    for got, want in zip(batches, expected, strict=True):
        for array, values in zip(got, want, strict=True):
            assert backend_of(array=array) is backend
            np.testing.assert_array_equal(xpconv.to_numpy(array), values)


@pytest.mark.parametrize("placement", ["auto", "device", "host"])
@pytest.mark.parametrize("name", ["cupy", "cupy:1"])
def test_batches(two_gpus, monkeypatch, name, placement):
    backend = xpconv.backends.load_backend(name)
    monkeypatch.setattr(backend, "prefetch", lambda arrays: Backend.prefetch(backend, arrays))  # it has no streams
    for transform in TRANSFORMS:
        options = {"transform": transform, "seed": 4}
        expected = Batches(DATASET, 5, backend="numpy", **options)
        assert_same(Batches(DATASET, 5, backend=name, placement=placement, **options), expected, backend)
    floats = ArrayDataset(X / 255, DATASET.labels)
    expected = Batches(floats, 5, backend="numpy", transform=TRANSFORMS[1])
    assert_same(Batches(floats, 5, backend=name, placement=placement, transform=TRANSFORMS[1]), expected, backend)


@pytest.mark.parametrize("sides", ["host", "device", "both"])
def test_pairs(two_gpus, monkeypatch, sides):
    backend = xpconv.backends.load_backend("cupy:1")
    monkeypatch.setattr(backend, "prefetch", lambda arrays: Backend.prefetch(backend, arrays))
    x, y = X / 255, DATASET.labels
    options = {"shuffle": True, "seed": 4, "dtype": "float32"}
    expected = list(ArrayPairs(x, y, 5, **options).epoch(1, 1))
    with xpconv.use_backend("cupy:1"):
        x, y = (x if sides == "host" else xpconv.asarray(x)), (xpconv.asarray(y) if sides == "device" else y)
        assert_same(ArrayPairs(x, y, 5, **options).epoch(1, 1), expected, backend)


def test_a_set_that_is_too_large_for_the_device(two_gpus):
    two_gpus.full.add(1)
    with pytest.raises(xpconv.backends.DeviceMemoryError, match="data set: cupy:1 is out of memory: asked for"):
        Batches(ArrayDataset(X, DATASET.labels), 5, backend="cupy:1", placement="device").epoch(0)


def test_free_memory(two_gpus):
    two_gpus.held[1] = 5
    assert xpconv.backends.load_backend("cupy:1").free_bytes() == 100 * 2**20
