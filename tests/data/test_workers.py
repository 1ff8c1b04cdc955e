"""Batches made by threads: the same in every bit, errors where they belong, no thread left over."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import xpconv
from xpconv.data import ArrayDataset, Batches, ColorJitter, Compose, Cutout, DataError, Normalize, RandomFlip, ShiftCrop
from xpconv.data.background import in_background
from xpconv.data.order import ImageRandom, step_generator, uniforms

N = 41
X = np.random.default_rng(6).integers(0, 256, (N, 3, 6, 5), dtype=np.uint8)
DATASET = ArrayDataset(X, np.arange(N) % 7)
CHAIN = Compose([ShiftCrop(2), RandomFlip(), ColorJitter(0.4, 0.4, 0.4, 0.2), Normalize(0.3, 0.4), Cutout(2)])


class Uneven(ArrayDataset):
    """Takes longer for some images, so that batches are done in another order than they were begun."""

    def read(self, indices):
        time.sleep(0.004 * (int(indices[0]) % 3))
        return super().read(indices)


def workers_now():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("xpconv-data")]


def pairs(batches):
    return [(xpconv.to_numpy(x), xpconv.to_numpy(y)) for x, y in batches]


def assert_same(got, expected):
    assert len(got) == len(expected)
    for (x, y), (u, v) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_no_bit(workers, mixup):
    dataset = Uneven(X, DATASET.labels)
    options = {"seed": 3, "transform": CHAIN, "mixup": mixup}
    expected = pairs(Batches(DATASET, 4, **options).epoch(2))
    batches = Batches(dataset, 4, workers=workers, **options)
    assert_same(pairs(batches.epoch(2)), expected)
    assert_same(pairs(batches.epoch(2, 4)), expected[4:])  # as a resumed run begins
    assert not workers_now()


def test_workers_on_every_backend(on):
    options = {"seed": 3, "transform": Compose([ShiftCrop(2), RandomFlip(), Normalize(0.3, 0.4)]), "drop_last": True}
    expected = pairs(Batches(DATASET, 8, backend="numpy", **options).epoch(1))
    assert_same(pairs(Batches(DATASET, 8, workers=2, placement="host", **options).epoch(1)), expected)


def test_other_seeds_and_epochs_are_others():
    first = np.concatenate([x for x, _ in pairs(Batches(DATASET, 8, seed=1, transform=CHAIN).epoch(0))])
    for seed, number in ((2, 0), (1, 1)):
        other = np.concatenate([x for x, _ in pairs(Batches(DATASET, 8, seed=seed, transform=CHAIN).epoch(number))])
        assert not np.array_equal(first, other)


def by_image(batches, number):
    order = np.concatenate([y for _, y in pairs(batches.epoch(number))])
    images = np.concatenate([x for x, _ in pairs(batches.epoch(number))])
    return images[np.argsort(order)]


def test_an_image_is_augmented_alike_in_any_batch():
    dataset = ArrayDataset(X, np.arange(N))
    expected = by_image(Batches(dataset, 4, seed=5, transform=CHAIN, training=True), 3)
    np.testing.assert_array_equal(by_image(Batches(dataset, 13, seed=5, transform=CHAIN), 3), expected)
    unshuffled = Batches(dataset, 7, seed=5, transform=CHAIN, shuffle=False, training=True, workers=2)
    np.testing.assert_array_equal(by_image(unshuffled, 3), expected)


def test_the_numbers_of_an_image_are_philox():
    # the published test vector of Philox 4x32-10 with counter and key zero, and NumPy's words of the same seed
    from xpconv.data.order import _philox

    zero = np.zeros(1, np.uint64)
    assert [hex(int(w)) for w in _philox((zero,) * 4, (0, 0))[:, 0]] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8",
    ]  # fmt: skip
    ones = np.full(1, 0xFFFFFFFF, np.uint64)
    assert [hex(int(w)) for w in _philox((ones,) * 4, (0xFFFFFFFF, 0xFFFFFFFF))[:, 0]] == [
        "0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd",
    ]  # fmt: skip


def test_numbers_of_images_are_drawn_in_turn():
    indices = np.array([5, 0, 2**40])
    whole = ImageRandom(1, 2, indices).uniform(7)
    assert whole.shape == (3, 7)
    assert ((whole >= 0) & (whole < 1)).all()
    parts = ImageRandom(1, 2, indices[::-1])
    np.testing.assert_array_equal(np.hstack([parts.uniform(2), parts.uniform(1), parts.uniform(4)]), whole[::-1])
    assert len(np.unique(whole)) == whole.size
    many = ImageRandom(0, 0, np.arange(4000)).uniform(3)
    np.testing.assert_allclose(many.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(many.T), np.eye(3), atol=0.06)


def test_a_part_of_a_batch_gets_numbers_of_the_step():
    rng = step_generator(1, 2, 3, np.arange(5))
    assert isinstance(rng, np.random.Generator)
    np.testing.assert_array_equal(uniforms(rng, 5, 2), ImageRandom(1, 2, np.arange(5)).uniform(2))
    again = step_generator(1, 2, 3).random((4, 2))
    np.testing.assert_array_equal(uniforms(rng, 4, 2), again)


# ---- errors, ends, other processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_with_its_batch(workers):
    class Damaged(ArrayDataset):
        def read(self, indices):
            if 9 in indices:
                raise DataError("image 9: damaged")
            return super().read(indices)

    epoch = Batches(Damaged(X, DATASET.labels), 4, shuffle=False, workers=workers).epoch(0)
    next(epoch)
    next(epoch)
    with pytest.raises(DataError, match="image 9: damaged") as caught:
        next(epoch)
    assert "while making the batch of step 2 of epoch 0, of the images 8, 9, 10, 11" in caught.value.__notes__
    assert not workers_now()
    assert next(epoch, None) is None


def test_an_error_of_a_transform_comes_with_its_batch():
    def transform(images, rng, training):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        next(Batches(DATASET, 4, transform=transform, workers=1).epoch(0))
    assert "while making the batch of step 0" in caught.value.__notes__[0]


def test_no_thread_is_left_after_an_early_stop():
    batches = Batches(DATASET, 4, transform=CHAIN, workers=2)
    for _ in batches:
        assert len(workers_now()) <= 2
        break
    epoch = batches.epoch(0)
    next(epoch)
    epoch.close()
    next(batches.epoch(1))  # dropped
    gc.collect()
    assert not workers_now()


def test_closing_waits_for_what_is_being_made():
    begun, ended = [], []

    def make(item):
        begun.append(item)
        time.sleep(0.1 if item else 0)
        ended.append(item)

    items = in_background(make, range(50), 2, 4)
    next(items)
    items.close()
    assert not workers_now()
    assert sorted(ended) == sorted(begun)
    assert len(begun) <= 5  # the rest was not begun, on however slow a machine: 4 ahead of the first


def test_no_more_is_made_than_asked_for():
    made = []
    items = in_background(made.append, range(100), 2, 3)
    next(items)
    items.close()
    assert len(made) <= 4


def test_workers_see_the_context_of_the_epoch():
    import contextvars

    name = contextvars.ContextVar("name", default="none")
    name.set("mine")
    assert list(in_background(lambda item: name.get(), range(3), 2, 2)) == ["mine"] * 3


def test_a_child_process_goes_on_by_itself():
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python warns of a fork with threads: that is what this is about
import numpy as np
from xpconv.data import ArrayDataset, Batches
X = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
batches = Batches(ArrayDataset(X, np.arange(40)), 4, seed=1, workers=2)
expected = [y.tolist() for _, y in batches.epoch(0)]
epoch = batches.epoch(0)
got = [next(epoch)[1].tolist()]
child = os.fork()
got += [y.tolist() for _, y in epoch]
if child == 0:
    os._exit(0 if got == expected and [y.tolist() for _, y in batches.epoch(0)] == expected else 7)
assert got == expected
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_ctrl_c_ends_a_waiting_epoch():
    script = """
import threading, time
import numpy as np
from xpconv.data import ArrayDataset, Batches
class Slow(ArrayDataset):
    def read(self, indices):
        time.sleep(0.05 if indices[0] < 4 else 1.5)
        return super().read(indices)
X = np.zeros((40, 1, 1, 1), np.uint8)
try:
    for x, y in Batches(Slow(X, np.zeros(40, int)), 4, shuffle=False, workers=2, prefetch=2):
        print("waiting", flush=True)
except KeyboardInterrupt:
    assert threading.active_count() == 1, threading.enumerate()
    print("stopped", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workers": -1}, ValueError, "workers: must be between 0 and 1024, got -1"),
        ({"workers": 1.5}, TypeError, "workers: expected an integer, got 1.5"),
        ({"prefetch": -1}, ValueError, "prefetch: must be at least 0, got -1"),
        ({"mixup": -0.1}, ValueError, "mixup: expected a number of at least 0, got -0.1"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Batches(DATASET, 4, **options)


# ---- mixup ------------------------------------------------------------------------------------------------------


def test_mixup_mixes_images_and_labels_in_the_same_ratio(on):
    labels = np.arange(16) % 4
    images = np.zeros((16, 4, 1, 1), np.float32)
    images[np.arange(16), labels] = 1  # an image is its label, one-hot
    dataset = ArrayDataset(images, labels)
    for x, targets in Batches(dataset, 16, seed=2, mixup=1.0, placement="host"):
        x, targets = on.to_numpy(x), on.to_numpy(targets)
        assert targets.dtype == np.float32
        np.testing.assert_array_equal(x[:, :, 0, 0], targets)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        assert ((targets > 0) & (targets < 1)).any()


def test_mixup_is_for_training_alone():
    batches = Batches(DATASET, 4, mixup=0.3, seed=1)
    for other in (batches.for_evaluation(), Batches(DATASET, 4, mixup=0.3, training=False, seed=1)):
        assert [y.ndim for _, y in other] == [1] * 11
    _, targets = next(iter(batches))
    assert targets.shape == (4, 7)
    loss, dscores = xpconv.functional.softmax_cross_entropy(np.zeros((4, 7), np.float32), targets)
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)
    assert dscores.shape == (4, 7)


def test_for_evaluation_leaves_nothing_out():
    batches = Batches(DATASET, 4, seed=9, transform=CHAIN, drop_last=True, workers=2, prefetch=3)
    plain = batches.for_evaluation()
    assert (plain.workers, plain.prefetch, plain.dtype) == (2, 3, "float32")
    images = np.concatenate([x for x, _ in plain])
    np.testing.assert_array_equal(images, Normalize(0.3, 0.4)(X, None, False))
