"""A loss with class weights is divided by those of the whole batch, however many ranks and parts share it."""

import functools

import numpy as np
import pytest

from xpconv import data, layers, optim
from xpconv.backends import to_numpy
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Trainer, TrainingError

CLASSES = 5
WEIGHTS = (1e-3, 1.0, 50.0, 0.0, 7.0)  # shares whose labels are all of class 3 add up to 0
LOSS = functools.partial(softmax_cross_entropy, weight=WEIGHTS)


def make_data(count, dtype="float64", seed=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return (rng.normal(size=(count, 2, 4, 4)) + labels[:, None, None, None] / 2).astype(dtype), labels


def train(comm, loss=LOSS, *, count=70, dtype="float64", source=None, norm=False, epochs=6, **more):
    """A trainer after its run; 70 examples in batches of 16 leave a last batch of 6, 66 one of 2."""
    parts = [layers.Conv2d(2, 4, 3, padding=1, rng=1, dtype=dtype)]
    if norm:
        parts.append(layers.BatchNorm2d(4, dtype=dtype))
    net = layers.Sequential(*parts, layers.ReLU(), layers.Flatten(), layers.Linear(64, CLASSES, rng=2, dtype=dtype))
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    trainer = Trainer(net, loss, optimizer, comm=comm, seed=7, **more)
    pair = make_data(count, dtype) if source is None else source()
    trainer.fit(pair, epochs=epochs, batch_size=16, validation=make_data(23, dtype, seed=5))
    return trainer


def curves(trainer):
    return np.array([[r["loss"], r["accuracy"], r["val_loss"], r["val_accuracy"]] for r in trainer.history])


def assert_the_same_run(trainers, alone, tolerance=1e-10):
    for trainer in trainers:
        np.testing.assert_allclose(curves(trainer), curves(alone), rtol=tolerance, atol=tolerance)
        states = trainer.model.state_dict(), trainers[0].model.state_dict()
        assert all(np.array_equal(to_numpy(states[0][name]), to_numpy(states[1][name])) for name in states[0])
    for name, array in alone.model.state_dict().items():
        np.testing.assert_allclose(
            to_numpy(trainers[0].model.state_dict()[name]), to_numpy(array), rtol=10 * tolerance, atol=tolerance
        )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_run_is_that_of_whole_batches_in_one_process(run_ranks, ranks, accumulate, smoothing):
    """Accumulation in 5 parts has parts of one example, some of which weigh nothing."""
    loss = functools.partial(LOSS, label_smoothing=smoothing)
    together = run_ranks(ranks, lambda comm: train(comm, loss, accumulate=accumulate, check_ranks=1))
    assert_the_same_run(together, train(None, loss))


@pytest.mark.parametrize("norm", [False, True])
def test_a_rank_without_examples(run_ranks, norm):
    together = run_ranks(4, lambda comm: train(comm, count=66, norm=norm, sync_batch_norm=norm, clip_norm=0.5))
    assert_the_same_run(together, train(None, count=66, norm=norm, clip_norm=0.5), 1e-9 if norm else 1e-10)


def test_weights_as_an_array(run_ranks):
    loss = functools.partial(softmax_cross_entropy, weight=np.array(WEIGHTS))
    together = run_ranks(3, lambda comm: train(comm, loss, epochs=2))
    assert_the_same_run(together, train(None, epochs=2))


def test_mixed_labels_count_by_their_number(run_ranks):
    """They are probabilities, over which the mean is taken as in one process; labels of validation are not mixed."""

    def source():
        rng = np.random.default_rng(0)
        labels = rng.integers(0, CLASSES, 50)
        images = rng.integers(0, 256, (50, 2, 4, 4), dtype=np.uint8)
        return data.Batches(data.ArrayDataset(images, labels), 12, seed=1, dtype="float64", mixup=0.4)

    together = run_ranks(3, lambda comm: train(comm, source=source, accumulate=2))
    assert_the_same_run(together, train(None, source=source))


def test_on_every_backend(on, sparing, run_ranks):
    sparing(True)
    x, labels = make_data(12, "float32")

    def run(comm, accumulate):
        net = layers.Sequential(layers.Flatten(), layers.Linear(32, CLASSES, rng=2))
        optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        trainer = Trainer(net, LOSS, optimizer, comm=comm, accumulate=accumulate)
        trainer.fit((x, labels), epochs=2, batch_size=12, validation=(x, labels))
        return trainer

    alone = run(None, 1)
    for theirs in (run(None, 2), *run_ranks(2, functools.partial(run, accumulate=1))):
        np.testing.assert_allclose(curves(theirs), curves(alone), rtol=1e-5, atol=1e-5)


def test_evaluation_divides_by_the_weights_of_all_examples(run_ranks):
    """Whatever the size of the batches, one of a single example of no weight among them."""
    x, labels = make_data(23, seed=5)
    assert 3 in labels

    def run(comm):
        trainer = train(comm, epochs=1)
        return trainer.predict(x), [trainer.evaluate((x, labels), batch_size=size).loss for size in (1, 4, 23)]

    for scores, losses in (run(None), *run_ranks(3, run)):
        want = float(LOSS(scores, labels)[0])
        np.testing.assert_allclose(losses, [want] * 3, rtol=1e-12)


def test_a_batch_that_weighs_nothing_has_no_mean(run_ranks):
    """As in one process."""

    def run(comm):
        x, _ = make_data(12)
        with np.errstate(invalid="ignore", divide="ignore"):
            return train(comm, source=lambda: (x, np.full(12, 3)), epochs=1)

    for ranks in (1, 3):
        with pytest.raises(TrainingError):
            run_ranks(ranks, run)


def test_labels_out_of_range_are_an_error(run_ranks):
    x, labels = make_data(16)
    labels[5] = CLASSES
    with pytest.raises(ValueError, match="labels: expected integers from 0 to 4, the columns of scores, got 5"):
        run_ranks(2, lambda comm: train(comm, source=lambda: (x, labels), epochs=1))


def test_the_number_of_weights_is_checked(run_ranks):
    loss = functools.partial(softmax_cross_entropy, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"weight: expected shape \(5\)"):
        run_ranks(2, lambda comm: train(comm, loss, epochs=1))
