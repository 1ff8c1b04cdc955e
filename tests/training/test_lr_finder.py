"""The range test leaves everything as it was, and its steps are those of a loop written out."""

import io

import numpy as np
import pytest
from PIL import Image

import xpconv
from xpconv import layers, optim
from xpconv.functional import mse, softmax_cross_entropy
from xpconv.training import LossScale, Trainer, TrainingError


def everything(trainer):
    arrays = [
        *(parameter.data for parameter in trainer.model.parameters()),
        *(array for _, array in trainer.model.named_buffers()),
    ]
    kept = trainer.optimizer.state_dict()
    return (
        [(id(array), xpconv.to_numpy(array).tobytes()) for array in arrays],
        [id(parameter.grad) for parameter in trainer.model.parameters()],
        {name: xpconv.to_numpy(array).tobytes() for name, array in kept["arrays"].items()},
        kept["settings"],
        [(layer.training, layer._keeps) for _, layer in trainer.model.named_layers()],
        (trainer.step, trainer.epoch, trainer.epoch_step, trainer.best, list(trainer.history)),
        None if trainer.loss_scale is None else trainer.loss_scale.state_dict(),
        [(layer._key, layer._uses) for _, layer in trainer.model.named_layers() if isinstance(layer, layers.Dropout)],
    )


@pytest.mark.parametrize("options", [{}, {"mixed_precision": "float16"}, {"ema": 0.9, "accumulate": 2}], ids=str)
@pytest.mark.parametrize("trained", [False, True])
def test_nothing_has_changed(make_trainer, make_batches, options, trained):
    trainer = make_trainer(**options)
    if trained:
        trainer.fit(make_batches(), epochs=1)
    getattr(trainer.model, "0").eval()
    before = everything(trainer)
    if trainer.loss_scale is not None:
        trainer.loss_scale = LossScale(1024.0, good_steps=3)
        before = everything(trainer)
    trainer.find_lr(make_batches(), end=1.0, steps=15)
    trainer.profile(make_batches(), steps=2)
    assert everything(trainer) == before
    assert all(layer._stack == [] for _, layer in trainer.model.named_layers())


def test_a_run_with_and_without_is_the_same(make_trainer, make_batches):
    runs = []
    for rehearsed in (False, True):
        trainer = make_trainer()
        if rehearsed:
            trainer.find_lr(make_batches(), steps=12)
        trainer.fit(make_batches(), epochs=1)
        if rehearsed:
            trainer.profile(make_batches(), steps=1)
        trainer.fit(make_batches(), epochs=2)
        runs.append([{k: v for k, v in record.items() if k != "seconds"} for record in trainer.history])
    assert runs[0] == runs[1]


def test_the_losses_are_those_of_a_loop_written_out(make_net, make_batches):
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.3), seed=11)
    found = trainer.find_lr(make_batches(), start=1e-3, end=1e-1, steps=11)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 1e-1, 11), rtol=1e-12)

    net = make_net()
    optimizer = optim.SGD(net.parameters(), lr=0.0)
    batches, losses = make_batches(), []
    every = [*batches.epoch(0), *batches.epoch(1)]
    for step, rate in enumerate(np.geomspace(1e-3, 1e-1, 11)):
        x, labels = every[step]
        optimizer.lr = float(rate)
        net.begin_step(step, 11)
        net.zero_grad()
        loss, dscores = softmax_cross_entropy(net.forward(x), labels)
        net.backward(dscores)
        optimizer.step()
        losses.append(float(loss))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    weights = [0.9 ** (10 - i) for i in range(11)]
    assert found.smoothed[-1] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def _line():
    """A linear regression whose steps diverge from a learning rate of 1 on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1)).astype(np.float32)
    x /= np.sqrt((x**2).mean())  # the loss has the curvature 2
    net = layers.Linear(1, 1, bias=False, rng=0)
    y = 5 * x + 0.3 * rng.normal(size=x.shape).astype(np.float32)
    return Trainer(net, mse, optim.SGD(net.parameters())), (x, y)


def test_the_suggestion_trains_and_the_end_is_seen():
    trainer, pairs = _line()
    found = trainer.find_lr(pairs, start=1e-5, end=100.0, steps=120, batch_size=16)
    assert 0.005 < found.suggestion < 0.5
    trainer.optimizer.lr = found.suggestion
    history = trainer.fit(pairs, epochs=20, batch_size=16)
    assert history[-1]["loss"] < 0.15 < history[0]["loss"]  # down to the noise, 0.3**2
    assert found.rates[-1] < 20  # it ended when the loss was 4 times as large, or not finite
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 120
    assert np.isfinite(found.losses).all()


def test_no_suggestion_where_nothing_becomes_better():
    trainer, pairs = _line()
    assert trainer.find_lr(pairs, start=2.0, end=4.0, steps=10, batch_size=64).suggestion is None


def test_a_first_loss_that_is_not_finite():
    trainer, (x, y) = _line()
    with pytest.raises(TrainingError, match="loss is nan at the first step, with learning rate 1e-06"):
        trainer.find_lr((np.full_like(x, np.nan), y))
    assert np.isfinite(trainer.evaluate((x, y)).loss)


def test_the_picture(tmp_path):
    trainer, pairs = _line()
    trainer.find_lr(pairs, batch_size=64).draw(tmp_path / "lr.png")
    with Image.open(io.BytesIO((tmp_path / "lr.png").read_bytes())) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"start": 0.0}, "start: expected a number above 0"),
        ({"start": 0.1, "end": 0.1}, r"end: expected a number above 0\.1"),
        ({"steps": 9}, "steps: must be at least 10, got 9"),
    ],
)
def test_wrong_arguments(options, match):
    trainer, pairs = _line()
    with pytest.raises(ValueError, match=match):
        trainer.find_lr(pairs, **options)


def test_without_an_optimizer(make_net, make_batches):
    with pytest.raises(ValueError, match="optimizer: a trainer that trains needs one"):
        Trainer(make_net(), softmax_cross_entropy, None).find_lr(make_batches())
