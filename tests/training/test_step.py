"""A batch in parts gives the step of the whole batch."""

import functools

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.functional import mse, softmax_cross_entropy
from xpconv.training import Callback, Trainer


class Sizes(layers.ReLU):
    """Notes how many examples come through."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.shape[0])
        return super().forward(x)


class Gradients(Callback):
    def __init__(self):
        self.after = []

    def on_step_end(self, trainer):
        self.after.append([xpconv.to_numpy(p.grad) for p in trainer.model.parameters()])


def run(x, y, accumulate, loss=softmax_cross_entropy, **options):
    net = layers.Sequential(
        layers.Conv2d(1, 3, 3, rng=1, dtype="float64"),
        Sizes(),
        layers.Flatten(),
        layers.Linear(108, 3, rng=2, dtype="float64"),
    )
    seen = Gradients()
    trainer = Trainer(
        net, loss, optim.SGD(net.parameters(), lr=0.1, momentum=0.9), callbacks=[seen], accumulate=accumulate, **options
    )
    trainer.fit((x, y), epochs=2, batch_size=10)
    return trainer, seen, getattr(net, "1").seen


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [2, 4, 10])
def test_class_weights_divide_by_those_of_the_batch(rng, accumulate, smoothing):
    """Not by those of a part, which may add up to 0: every third example weighs nothing."""
    x, y = rng.normal(size=(25, 1, 8, 8)), np.arange(25) % 3
    loss = functools.partial(softmax_cross_entropy, weight=[0.01, 30.0, 0.0], label_smoothing=smoothing)
    whole, want, _ = run(x, y, 1, loss)
    parted, got, _ = run(x, y, accumulate, loss)
    np.testing.assert_allclose([r["loss"] for r in parted.history], [r["loss"] for r in whole.history], rtol=1e-12)
    for a, b in zip(got.after, want.after, strict=True):
        for gradient, expected in zip(a, b, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "error", "match"),
    [
        (3.0, TypeError, "weight: expected an array"),
        ([[1.0, 2.0, 3.0]], ValueError, "weight: expected 1 dim"),
        (np.ones(2), ValueError, r"weight: expected shape \(3\)"),
        (np.ones(3, int), TypeError, "weight: expected floating-point"),
        ([1.0, -1.0, 1.0], ValueError, "weight: expected finite numbers of at least 0"),
    ],
    ids=["number", "rows", "two", "integers", "negative"],
)
def test_wrong_class_weights(rng, weight, error, match):
    loss = functools.partial(softmax_cross_entropy, weight=weight)
    with pytest.raises(error, match=match):
        run(rng.normal(size=(10, 1, 8, 8)), np.arange(10) % 3, 2, loss)


@pytest.mark.parametrize("accumulate", [2, 3, 4, 10, 11])
def test_parts_add_up_to_the_batch(rng, accumulate):
    """25 examples in batches of 10, 10 and 5; parts of uneven size where they do not come out even."""
    x, y = rng.normal(size=(25, 1, 8, 8)), rng.integers(0, 3, 25)
    whole, want, sizes = run(x, y, 1, clip_norm=0.7)
    assert sizes == [10, 10, 5] * 2
    parted, got, sizes = run(x, y, accumulate, clip_norm=0.7)
    split = {2: [5, 5], 3: [4, 4, 2], 4: [3, 3, 3, 1], 10: [1] * 10, 11: [1] * 10}[accumulate]
    rest = {2: [3, 2], 3: [2, 2, 1], 4: [2, 2, 1], 10: [1] * 5, 11: [1] * 5}[accumulate]
    assert sizes == (split * 2 + rest) * 2
    for step, (a, b) in enumerate(zip(got.after, want.after, strict=True)):
        for gradient, expected in zip(a, b, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-13, err_msg=f"step {step}")
    assert parted.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-12)
    assert parted.history[-1]["accuracy"] == whole.history[-1]["accuracy"]
    assert (parted.step, parted.epoch) == (whole.step, whole.epoch) == (6, 2)


def test_numbers_as_targets(rng):
    x, y = rng.normal(size=(13, 1, 8, 8)), rng.normal(size=(13, 3))
    _, want, _ = run(x, y, 1, mse)
    _, got, _ = run(x, y, 3, mse)
    np.testing.assert_allclose(got.after[-1][0], want.after[-1][0], rtol=1e-9, atol=1e-13)


def test_on_every_backend(on, make_net, train_set):
    """Batch normalisation sees parts, so what compares is NumPy's run of the same parts."""

    def losses():
        net = make_net(dropout=0.0)
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.05), accumulate=3, clip_norm=1.0)
        trainer.fit(train_set, epochs=1, batch_size=14)
        return trainer.history[-1]["loss"], trainer.history[-1]["accuracy"]

    got = losses()
    with xpconv.use_backend("numpy"), xpconv.backends.use_kernels("auto"):
        assert got == pytest.approx(losses(), rel=1e-4)


def test_parts_have_masks_of_their_own(rng):
    """Dropout that drew the same mask for every part would drop the same places of equal images."""
    net = layers.Sequential(layers.Dropout(0.5, rng=0), layers.Flatten(), layers.Linear(64, 2, rng=1))
    masks = []
    forward = getattr(net, "1").forward
    getattr(net, "1").__dict__["forward"] = lambda x: (masks.append(np.array(x != 0)), forward(x))[1]
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()), accumulate=2)
    trainer.fit((np.ones((2, 1, 8, 8), np.float32), np.array([0, 1])), epochs=1, batch_size=2)
    assert len(masks) == 2
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize(("accumulate", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_wrong_count(make_trainer, accumulate, error):
    with pytest.raises(error, match="accumulate: "):
        make_trainer(accumulate=accumulate)
