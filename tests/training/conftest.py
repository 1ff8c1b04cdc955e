"""A small net with everything that has state or chance in it, and images that it can learn."""

import numpy as np
import pytest

from xpconv import data, layers, optim
from xpconv.functional import softmax_cross_entropy
from xpconv.testing import CASES
from xpconv.training import Trainer


@pytest.fixture(params=[case for case in CASES if case.id not in ("jax", "numpy-readonly")], ids=lambda case: case.id)
def on(request):
    """The backend matrix without JAX, which compiles every operator for every shape: it has a test of its own."""
    case = request.param
    reason = case.why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with case.active():
        yield case


def _images(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 90, (count, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 3] += 120  # a bright band, its height is the class
    return data.ArrayDataset(images, labels)


@pytest.fixture(scope="session")
def train_set():
    """42 images of 8 x 8 in 3 classes."""
    return _images(42, 1)


@pytest.fixture(scope="session")
def test_set():
    """15 more."""
    return _images(15, 2)


@pytest.fixture
def make_net():
    """``make_net()``: the same initial weights each time."""

    def make(dtype="float32", dropout=0.3):
        rng = np.random.default_rng(5)
        return layers.Sequential(
            layers.Conv2d(1, 4, 3, padding=1, rng=rng, dtype=dtype),
            layers.BatchNorm2d(4, dtype=dtype),
            layers.ReLU(),
            layers.MaxPool2d(2),
            layers.Dropout(dropout, rng=rng),
            layers.Flatten(),
            layers.Linear(64, 3, rng=rng, dtype=dtype),
        )

    return make


@pytest.fixture
def make_trainer(make_net):
    """``make_trainer(path=None, **options)``: a new Trainer, or the one of a checkpoint."""

    def make(path=None, *, net=None, callbacks=(), steps=24, **options):
        net = net or make_net()
        optimizer = optim.AdamW(net.parameters(), lr=1e-2)
        schedule = optim.OneCycleSchedule(2e-2, steps)
        if path is None:
            return Trainer(
                net, softmax_cross_entropy, optimizer, schedule=schedule, callbacks=callbacks, seed=11, **options
            )
        return Trainer.resume(
            path, net, softmax_cross_entropy, optimizer, schedule=schedule, callbacks=callbacks, **options
        )

    return make


@pytest.fixture
def make_batches(train_set):
    """``make_batches()``: shuffled and augmented batches, 6 in an epoch."""

    def make(batch_size=7):
        transform = data.standard_transform(train_set)
        return data.Batches(train_set, batch_size, seed=3, transform=transform)

    return make
