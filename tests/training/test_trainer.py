import math
import os
import signal
import threading

import numpy as np
import pytest

import xpconv
from xpconv import data, layers, optim
from xpconv.backends import load_backend
from xpconv.functional import mse, softmax_cross_entropy
from xpconv.training import Callback, Trainer, TrainingError


class Recorder(Callback):
    """Notes every call."""

    def __init__(self):
        self.calls = []
        self.losses = []

    def on_fit_start(self, trainer):
        self.calls.append("start")

    def on_step_end(self, trainer):
        self.calls.append("step")
        self.losses.append(trainer.losses[-1])

    def on_epoch_end(self, trainer, record):
        assert trainer.history[-1] is record
        self.calls.append("epoch")

    def on_interrupt(self, trainer):
        self.calls.append("interrupt")

    def on_fit_end(self, trainer):
        self.calls.append("end")


class DoAt(Callback):
    """Calls something after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            self.action(trainer)


def weights(trainer):
    return {name: xpconv.to_numpy(array).tobytes() for name, array in trainer.model.state_dict().items()}


def test_it_learns(make_trainer, make_batches, test_set):
    trainer = make_trainer(steps=60)
    before = trainer.evaluate(test_set)
    # evaluation needs the training set's normalisation
    transform = make_batches().transform
    validation = data.Batches(test_set, 4, shuffle=False, transform=transform)
    history = trainer.fit(make_batches(), epochs=10, validation=validation)
    assert history is trainer.history
    assert [record["epoch"] for record in history] == list(range(1, 11))
    assert [record["step"] for record in history] == list(range(6, 61, 6))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    after = trainer.evaluate(validation)
    assert after.accuracy > 0.9
    assert after.loss < before.loss
    assert after == (history[-1]["val_loss"], history[-1]["val_accuracy"])
    best = max(history, key=lambda record: (record["val_accuracy"], -record["val_loss"]))
    assert trainer.best == {name: best[name] for name in ("epoch", "val_loss", "val_accuracy")}


def test_the_losses_are_those_of_a_loop_written_out(make_net, make_batches):
    recorder = Recorder()
    net, schedule = make_net(), optim.OneCycleSchedule(2e-2, 12)
    trainer = Trainer(
        net, softmax_cross_entropy, optim.AdamW(net.parameters(), lr=1.0), schedule=schedule, callbacks=[recorder],
        seed=11, clip_norm=0.5,
    )  # fmt: skip
    trainer.fit(make_batches(), epochs=2)

    net = make_net()
    optimizer = optim.AdamW(net.parameters(), lr=1.0)
    batches, step, expected, hits = make_batches(), 0, [], 0
    for epoch in range(2):
        total, hits = 0.0, 0
        for x, labels in batches.epoch(epoch):
            optimizer.lr = schedule(step)
            net.begin_step(step, 11)
            net.zero_grad()
            scores = net.forward(x)
            loss, dscores = softmax_cross_entropy(scores, labels)
            net.backward(dscores)
            optim.clip_grad_norm(net.parameters(), 0.5)
            optimizer.step()
            expected.append(float(loss))
            total += float(loss) * len(x)
            hits += int((scores.argmax(axis=1) == labels).sum())
            step += 1
    assert recorder.losses == expected
    assert trainer.history[-1]["loss"] == total / 42
    assert trainer.history[-1]["accuracy"] == hits / 42
    assert trainer.history[-1]["lr"] == schedule(11)
    assert weights(trainer) == {name: array.tobytes() for name, array in net.state_dict().items()}


def test_the_same_losses_on_every_backend(on, make_net, train_set):
    """A run of 8 steps: NumPy's native kernels are the reference, for all the promise is equality to rounding."""

    def losses(dtype):
        net, recorder = make_net(dtype), Recorder()
        optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
        trainer = Trainer(net, softmax_cross_entropy, optimizer, callbacks=[recorder], seed=11)
        transform = data.standard_transform(train_set, dtype=dtype)
        batches = data.Batches(train_set, 11, seed=3, transform=transform, dtype=dtype)
        trainer.fit(batches, epochs=2, validation=(train_set.images / np.float32(255), train_set.labels))
        scores = xpconv.to_numpy(trainer.predict(train_set.images[:5] / np.dtype(dtype).type(255)))
        assert scores.dtype == dtype
        return np.array([*recorder.losses, trainer.history[-1]["val_loss"], *scores.ravel()])

    for dtype in on.dtypes:
        got = losses(dtype)
        with xpconv.use_backend("numpy"), xpconv.backends.use_kernels("auto"):
            expected = losses(dtype)
        np.testing.assert_allclose(got, expected, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-5)


def test_jax(train_set):
    pytest.importorskip("jax")

    def run():
        conv, linear = layers.Conv2d(1, 2, 3, rng=1), layers.Linear(72, 3, rng=2)
        net = layers.Sequential(conv, layers.ReLU(), layers.Flatten(), linear)
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1))
        return [record["loss"] for record in trainer.fit(train_set, epochs=3, batch_size=21)]

    with xpconv.use_backend("jax"):
        losses = run()
    assert losses == pytest.approx(run(), rel=1e-5)


def test_callbacks_in_order(make_trainer, make_batches):
    recorder = Recorder()
    make_trainer(callbacks=[recorder]).fit(make_batches(), epochs=2)
    assert recorder.calls == ["start", *(["step"] * 6 + ["epoch"]) * 2, "end"]


def test_epochs_is_the_total(make_trainer, make_batches):
    one, two = make_trainer(), make_trainer()
    one.fit(make_batches(), epochs=3)
    two.fit(make_batches(), epochs=1)
    two.fit(make_batches(), epochs=3)
    two.fit(make_batches(), epochs=2)  # nothing left to do
    assert weights(one) == weights(two)
    assert len(two.history) == 3


def test_without_a_schedule_the_rate_stays(make_net, make_batches):
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.03))
    assert trainer.fit(make_batches(), epochs=1)[0]["lr"] == 0.03


# ---- data -------------------------------------------------------------------------------------------------------


def test_three_forms_of_the_same_data(make_trainer, train_set):
    x = train_set.images.astype(np.float32) / 255
    runs = [make_trainer() for _ in range(4)]
    runs[0].fit((x, train_set.labels), epochs=1, batch_size=10)
    runs[1].fit(data.ArrayDataset(x, train_set.labels), epochs=1, batch_size=10)
    runs[2].fit(data.Batches(data.ArrayDataset(x, train_set.labels), 10, seed=11), epochs=1)
    runs[3].fit([x, train_set.labels.tolist()], epochs=1, batch_size=10)
    assert len({str(weights(trainer)) for trainer in runs}) == 1


def test_arrays_of_the_backend(on, make_trainer, train_set):
    x = train_set.images.astype(np.float32) / 255
    on_device, on_host = make_trainer(), make_trainer()
    on_device.fit((on.asarray(x), on.asarray(train_set.labels)), epochs=1, batch_size=10)
    on_host.fit((x, train_set.labels), epochs=1, batch_size=10)
    assert weights(on_device) == weights(on_host)
    metrics = on_device.evaluate((on.asarray(x), on.asarray(train_set.labels)))
    assert metrics == on_device.evaluate((x, train_set.labels))


def test_the_model_decides_where_batches_are_made(make_trainer, train_set):
    pytest.importorskip("array_api_strict")
    with xpconv.use_backend("array_api_strict:device1"):
        trainer = make_trainer()
    trainer.fit(train_set, epochs=1)
    assert xpconv.get_backend().name == "numpy"
    scores = trainer.predict(train_set.images[:2] / np.float32(255))
    assert xpconv.backends.backend_of(scores=scores).name == "array_api_strict:device1"


def test_regression_has_no_accuracy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 2))).astype(np.float32)
    net = layers.Linear(4, 2, rng=0)
    trainer = Trainer(net, mse, optim.Adam(net.parameters(), lr=0.05))
    history = trainer.fit((x, y), epochs=30, validation=(x, y), batch_size=10)
    assert history[-1]["loss"] < 0.05 * history[0]["loss"]
    assert math.isnan(history[-1]["accuracy"])
    assert math.isnan(history[-1]["val_accuracy"])
    best = min(history, key=lambda record: record["val_loss"])
    assert trainer.best["epoch"] == best["epoch"]
    assert math.isnan(trainer.best["val_accuracy"])


def test_a_validation_set_is_not_augmented(make_trainer, make_batches):
    trainer = make_trainer()
    augmenting = make_batches()
    plain = data.Batches(
        augmenting.dataset, 7, shuffle=False, transform=data.standard_transform(augmenting.dataset, augment=False)
    )
    assert trainer.evaluate(augmenting) == trainer.evaluate(plain)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda x, y: 3, TypeError, "data: expected Batches, an ArrayDataset or a pair .*, got int"),
        (lambda x, y: (x,), TypeError, "data: expected Batches"),
        (lambda x, y: (x, y[:-1]), ValueError, "labels: expected 42, one for each image, got 41"),
        (lambda x, y: (x, y + 0.5), TypeError, "labels: expected integers from 0 to 2, got float"),
        (lambda x, y: (x, np.where(y == 1, np.nan, y)), TypeError, "labels: expected integers .* NaN"),
        (lambda x, y: (x, y - 1), ValueError, "labels: expected 0 .. K - 1, got -1 for image 0"),
        (lambda x, y: (x, y + 1), ValueError, "labels: expected integers from 0 to 2, .* got 3"),
        (lambda x, y: (x * np.nan, y), ValueError, "image 0 has a NaN"),
        (lambda x, y: (x[:, 0], y), ValueError, "x: expected 4 dimensions"),
        (lambda x, y: (x.astype(np.int32), y), TypeError, "images: expected uint8 or floating-point, got int32"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "images: the set is empty"),
        (lambda x, y: (x[:, 0].astype(np.uint8), y), TypeError, "x: expected floating-point, got uint8"),
        (lambda x, y: (x[:0, 0], y[:0]), ValueError, "x: expected at least one example"),
        (lambda x, y: (x[:, 0], y[:-2]), ValueError, "y: expected 42 targets, one for each row of x, got 40"),
    ],
)
def test_bad_data(make_trainer, train_set, make, error, match):
    x = train_set.images.astype(np.float32) / 255
    with pytest.raises(error, match=match):
        make_trainer().fit(make(x, train_set.labels), epochs=1)


def test_arrays_of_a_third_backend(make_trainer, train_set):
    strict = pytest.importorskip("array_api_strict")
    x = strict.asarray(train_set.images.astype(np.float32))
    with pytest.raises(xpconv.BackendMismatchError, match="x is an array of array_api_strict but the"):
        make_trainer().fit((x, train_set.labels), epochs=1)
    with pytest.raises(xpconv.BackendMismatchError, match="x is an array of array_api_strict but the"):
        make_trainer().predict(x)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"epochs": -1}, "epochs: .* -1"), ({"epochs": 1.5}, "epochs: .* 1.5"), ({"epochs": 1, "batch_size": 0}, "got 0")],
)
def test_bad_arguments_of_fit(make_trainer, train_set, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make_trainer().fit(train_set, **options)


@pytest.mark.parametrize(("options", "match"), [({"seed": -1}, "seed: .* -1"), ({"clip_norm": 0}, "clip_norm: .* 0")])
def test_bad_arguments_of_the_trainer(make_net, options, match):
    net = make_net()
    with pytest.raises(ValueError, match=match):
        Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1.0},
        {"seed": "1"},
        {"seed": True},
        {"clip_norm": "1"},
        {"clip_norm": True},
        {"clip_norm": [1.0]},
        {"callbacks": 3},
        {"metrics": [len]},
    ],
)
def test_arguments_of_another_type(make_net, options):
    net = make_net()
    with pytest.raises(TypeError, match=rf"^{next(iter(options))}: expected "):
        Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()), **options)


def test_a_seed_of_numpy(make_net, train_set, tmp_path):
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()), seed=np.int64(3))
    assert type(trainer.seed) is int
    trainer.save(tmp_path / "net")


def test_without_an_optimizer(make_net, train_set, tmp_path):
    trainer = Trainer(make_net(), softmax_cross_entropy, None)
    with pytest.raises(ValueError, match=r"^optimizer: a trainer that trains needs one, got None"):
        trainer.fit(train_set, epochs=1)
    with pytest.raises(ValueError, match=r"^optimizer: "):
        trainer.save(tmp_path / "net")
    with pytest.raises(TypeError, match=r"^batch_size: expected an integer, got 1\.5"):
        trainer.predict(np.zeros((2, 1, 8, 8), np.float32), batch_size=1.5)


# ---- evaluation -------------------------------------------------------------------------------------------------


def test_predict_in_parts(make_trainer, train_set):
    trainer = make_trainer()
    x = train_set.images.astype(np.float32) / 255
    whole = trainer.predict(x, batch_size=100)
    assert whole.shape == (42, 3)
    np.testing.assert_allclose(trainer.predict(x, batch_size=5), whole, rtol=1e-5, atol=1e-6)
    assert trainer.predict(x[:0]).shape == (0, 3)
    assert trainer.model.training
    trainer.model.eval()
    trainer.predict(x[:3])
    assert not trainer.model.training


def test_evaluate_changes_nothing(make_trainer, train_set, test_set):
    trainer = make_trainer()
    before = weights(trainer)
    metrics = trainer.evaluate(test_set, batch_size=4)
    assert weights(trainer) == before
    x = test_set.images.astype(np.float32) / 255
    scores = trainer.predict(x)
    assert metrics.accuracy == (scores.argmax(axis=1) == test_set.labels).mean()
    assert metrics.loss == pytest.approx(float(softmax_cross_entropy(scores, test_set.labels)[0]), rel=1e-5)


def test_frozen_layers_stay_frozen(make_trainer, train_set):
    trainer = make_trainer()
    trainer.model[1].eval()
    trainer.evaluate(train_set)
    trainer.predict(np.zeros((2, 1, 8, 8), np.float32))
    assert [layer.training for layer in trainer.model] == [True, False, True, True, True, True, True]
    assert trainer.model.training


# ---- stopping ---------------------------------------------------------------------------------------------------


def test_a_callback_stops_and_fit_goes_on(make_trainer, make_batches):
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2)
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder, DoAt(8, Trainer.stop)])
    trainer.fit(make_batches(), epochs=2)
    assert (trainer.step, trainer.epoch, trainer.epoch_step) == (8, 1, 2)
    assert not trainer.interrupted
    assert recorder.calls[-1] == "end"
    trainer.fit(make_batches(), epochs=2)
    assert weights(trainer) == weights(whole)
    for record in (*trainer.history, *whole.history):
        del record["seconds"]
    assert trainer.history == whole.history


def test_other_batches_in_the_middle_of_an_epoch(make_trainer, make_batches):
    trainer = make_trainer(callbacks=[DoAt(8, Trainer.stop)])
    trainer.fit(make_batches(), epochs=2)
    with pytest.raises(ValueError, match=r"epoch 2 was left after 2 steps of .*'batch_size': 7.* 'batch_size': 14"):
        trainer.fit(make_batches(14), epochs=2)


def press_ctrl_c(trainer):
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_step(make_trainer, make_batches):
    recorder = Recorder()
    trainer = make_trainer(callbacks=[DoAt(8, press_ctrl_c), recorder])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_batches(), epochs=2)
    assert (trainer.step, trainer.epoch, trainer.epoch_step) == (8, 1, 2)
    assert trainer.interrupted
    assert recorder.calls[-2:] == ["step", "interrupt"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2)
    trainer.fit(make_batches(), epochs=2)
    assert not trainer.interrupted
    assert weights(trainer) == weights(whole)


def test_ctrl_c_in_the_middle_of_a_step(make_net, make_trainer, make_batches):
    """The step goes to its end first."""
    net = make_net()
    forward = net.forward

    def interrupted_forward(x):
        if trainer.step == 4:
            press_ctrl_c(trainer)
        return forward(x)

    object.__setattr__(net, "forward", interrupted_forward)
    trainer = make_trainer(net=net)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_batches(), epochs=2)
    assert trainer.step == 5


def test_a_second_ctrl_c_stops_at_once(make_trainer, make_batches):
    recorder = Recorder()

    def twice(trainer):
        press_ctrl_c(trainer)
        press_ctrl_c(trainer)

    trainer = make_trainer(callbacks=[DoAt(3, twice), recorder])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_batches(), epochs=2)
    assert not trainer.interrupted
    assert "interrupt" not in recorder.calls
    assert recorder.calls.count("step") == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_during_validation_repeats_only_that(make_trainer, make_batches, test_set):
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2, validation=test_set)
    calls = []

    def loss(scores, labels):
        if len(scores) == len(test_set):
            calls.append(trainer.step)
            if len(calls) == 1:
                press_ctrl_c(trainer)
        return softmax_cross_entropy(scores, labels)

    trainer = make_trainer()
    trainer.loss = loss
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_batches(), epochs=2, validation=test_set)
    assert (trainer.step, trainer.epoch, trainer.epoch_step, trainer.history) == (6, 0, 6, [])
    assert trainer.model.training
    trainer.fit(make_batches(), epochs=2, validation=test_set)
    assert calls == [6, 6, 12]
    assert weights(trainer) == weights(whole)
    assert trainer.best == whole.best


def test_ctrl_c_while_the_run_ends(make_trainer, make_batches):
    class PressAtTheEnd(Callback):
        def on_fit_end(self, trainer):
            press_ctrl_c(trainer)

    recorder = Recorder()
    trainer = make_trainer(callbacks=[PressAtTheEnd(), recorder])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_batches(), epochs=1)
    assert trainer.interrupted
    assert recorder.calls[-1] == "end"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_stay(make_trainer, make_batches):
    seen = []
    old = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        trainer = make_trainer(callbacks=[DoAt(2, press_ctrl_c)])
        trainer.fit(make_batches(), epochs=1)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, old)
    assert seen == [signal.SIGINT]
    assert trainer.epoch == 1


def test_in_another_thread(make_trainer, make_batches):
    trainer, reference = make_trainer(), make_trainer()
    thread = threading.Thread(target=trainer.fit, args=(make_batches(),), kwargs={"epochs": 1})
    thread.start()
    thread.join(60)
    reference.fit(make_batches(), epochs=1)
    assert weights(trainer) == weights(reference)


# ---- a loss that is not finite ----------------------------------------------------------------------------------


def test_a_loss_that_explodes(make_net, train_set):
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=1e30))
    with (
        np.errstate(all="ignore"),
        pytest.raises(TrainingError, match=r"loss became (nan|inf) at step [1-9]\d*, with learning rate 1e\+30"),
    ):
        trainer.fit(train_set, epochs=30, batch_size=7)
    assert trainer.step <= 51  # noticed at the next reading, at the latest


def test_the_newest_steps_are_not_waited_for(make_trainer, monkeypatch, rng):
    x, labels = rng.normal(size=(100, 1, 8, 8)).astype(np.float32), rng.integers(0, 2, 100)
    trainer, marked, read = make_trainer(), [], []
    backend = load_backend("numpy")

    def mark():
        marked.append(trainer.step)
        last = trainer._sums.pending[-1].number

        def to_numpy(value):
            assert any(
                value is step.loss or value is step.hits for step in trainer._sums.pending if step.number <= last
            )
            read.append(trainer.step)
            return backend.to_numpy(value)

        return to_numpy

    monkeypatch.setattr(backend, "mark", mark)
    monkeypatch.setattr(backend, "owns", lambda value: isinstance(value, (np.ndarray, np.generic)))
    (record,) = trainer.fit((x, labels), epochs=1, batch_size=1)
    assert marked == [42, 84]
    assert sorted(set(read)) == [50, 92]
    assert math.isfinite(record["loss"])  # all of them are in it


def test_a_bad_loss_is_noticed_fifty_steps_later_at_the_latest(make_trainer, rng):
    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return (float("nan") if trainer.step == 45 else value), dscores

    trainer = make_trainer()
    trainer.loss = loss
    x, labels = rng.normal(size=(120, 1, 8, 8)).astype(np.float32), rng.integers(0, 2, 120)
    with pytest.raises(TrainingError, match="loss became nan at step 45, with"):
        trainer.fit((x, labels), epochs=1, batch_size=1)
    assert trainer.step <= 45 + 51


def test_the_step_of_the_first_bad_loss_is_named(make_trainer, make_batches):
    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return (float("inf") if trainer.step == 3 else value), dscores

    trainer = make_trainer()
    trainer.loss = loss
    with pytest.raises(TrainingError, match=r"loss became inf at step 3, with"):
        trainer.fit(make_batches(), epochs=1)


def test_a_validation_loss_that_is_not_finite(make_trainer, train_set):
    bad = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64)
    trainer = make_trainer()

    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return (value if trainer.model.training else float("nan")), dscores

    trainer.loss = loss
    with pytest.raises(TrainingError, match=r"validation loss became nan in epoch 1, after step 2, with learning rate"):
        trainer.fit(train_set, epochs=2, batch_size=21, validation=bad)
    assert trainer.best is None
    assert trainer.history == []


def test_no_checkpoint_of_a_bad_loss(make_trainer, make_batches, tmp_path):
    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return (float("nan") if trainer.step == 3 else value), dscores

    path = tmp_path / "net"
    trainer = make_trainer(callbacks=[DoAt(2, lambda t: t.save(path)), DoAt(4, lambda t: t.save(path))])
    trainer.loss = loss
    with pytest.raises(TrainingError):
        trainer.fit(make_batches(), epochs=1)
    assert trainer.step == 4
    with pytest.raises(TrainingError, match="at step 3"):
        trainer.save(path)
    assert make_trainer(path).step == 2


def test_gradients_that_are_not_finite_with_clipping(make_net, train_set):
    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return value, dscores * float("nan")

    net = make_net()
    trainer = Trainer(net, loss, optim.SGD(net.parameters(), lr=0.125), clip_norm=1.0)
    with pytest.raises(TrainingError, match=r"step 0, with learning rate 0\.125: the norm of the gradients is nan"):
        trainer.fit(train_set, epochs=1)
