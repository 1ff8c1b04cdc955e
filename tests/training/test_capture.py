"""Recorded steps: the same run bit for bit, and a reason where a step cannot be recorded.

Recorded and replayed by the stand-in of the device; the CUDA graphs themselves need a GPU.
"""

import warnings

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.backends import BackendUnavailableError
from xpconv.functional import mse, softmax_cross_entropy
from xpconv.testing.cuda_host import HostReadError, no_host_reads
from xpconv.training import Callback, Trainer, TrainingError
from xpconv.training.capture import WARM_UP, _Buffers


@pytest.fixture(autouse=True)
def device():
    try:
        with xpconv.use_backend("cuda-host") as backend:
            yield backend
    except BackendUnavailableError as error:
        pytest.skip(str(error))


class Losses(Callback):
    """Loss and accuracy of each epoch, gradients of each step, and which steps were replayed."""

    def __init__(self):
        self.losses, self.replayed, self.gradients = [], [], []

    def on_step_end(self, trainer):
        self.gradients.append([xpconv.to_numpy(p.grad).tobytes() for p in trainer.model.parameters()])
        self.replayed.append(trainer._graph is not None and trainer.batch_images == 7)

    def on_epoch_end(self, trainer, record):
        self.losses += [record["loss"], record["accuracy"]]


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.5),
}


@pytest.fixture
def train(make_net, train_set):
    """``train(capture, ...)``: a run over batches of 7 images, the last one of each epoch smaller."""

    def run(capture, *, kind="adam", epochs=2, net=None, path=None, callbacks=(), clip_norm=0.5, **options):
        net, recorder = net or make_net(), Losses()
        optimizer = OPTIMIZERS[kind](list(net.parameters()))
        arguments = {
            "schedule": optim.OneCycleSchedule(2e-2, 18),
            "callbacks": [recorder, *callbacks],
            "clip_norm": clip_norm,
            "capture": capture,
            **options,
        }
        if path is None:
            trainer = Trainer(net, softmax_cross_entropy, optimizer, seed=11, **arguments)
        else:
            trainer = Trainer.resume(path, net, softmax_cross_entropy, optimizer, **arguments)
        images = train_set.images[:39].astype(np.float32) / 255
        trainer.fit((images, train_set.labels[:39]), epochs=epochs, batch_size=7)
        return trainer, recorder

    return run


def state(trainer):
    arrays = {name: xpconv.to_numpy(a).tobytes() for name, a in trainer.model.state_dict().items()}
    kept = trainer.optimizer.state_dict()
    return arrays, {name: a.tobytes() for name, a in kept["arrays"].items()}, kept["settings"]


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_the_same_run_bit_for_bit(train, kind):
    eager, as_always = train(False, kind=kind, epochs=3)
    captured, replayed = train(True, kind=kind, epochs=3)
    assert captured.capture_reason is None
    epoch = [True] * 5 + [False]
    assert replayed.replayed == [False] * WARM_UP + epoch[WARM_UP:] + epoch * 2
    assert replayed.losses == as_always.losses
    assert replayed.gradients == as_always.gradients
    assert state(captured) == state(eager)


def test_parts_of_a_batch_and_averaged_weights(train):
    states = []
    for capture in (False, True):
        trainer, recorder = train(capture, accumulate=2, ema=0.9)
        assert any(recorder.replayed) == capture
        with trainer.averaged_weights():
            averaged = [xpconv.to_numpy(p.data).tobytes() for p in trainer.model.parameters()]
        states.append((state(trainer), recorder.losses, recorder.gradients, averaged))
    assert states[0] == states[1]


def test_every_loss_is_that_of_its_step(train):
    """However late it is read: a slot of the ring that is read for another step would show here."""

    class Late(Callback):
        def on_step_end(self, trainer):
            if trainer.step % 6 == 0:
                seen.append(trainer.losses)

    runs = []
    for capture in (False, True):
        seen = []
        train(capture, epochs=3, callbacks=[Late()])
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len(set(map(tuple, runs[0]))) == 3


class StopAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            trainer.save(self.path)
            trainer.stop()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_saved_in_the_middle_and_resumed(train, tmp_path, kind):
    path = tmp_path / "middle.safetensors"
    whole, _ = train(False, kind=kind, epochs=3)
    for before, after in ((True, True), (True, False), (False, True)):
        train(before, kind=kind, epochs=3, callbacks=[StopAt(10, path)])
        resumed, recorder = train(after, kind=kind, epochs=3, path=path)
        assert resumed.step == 18
        assert any(recorder.replayed) == after
        assert state(resumed) == state(whole)
        assert resumed.history == [
            {**mine, "seconds": record["seconds"]} for mine, record in zip(whole.history, resumed.history, strict=True)
        ]


def test_a_frozen_layer_and_a_change_of_settings_are_recorded_anew(train):
    class Change(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 5:
                trainer.model[1].eval()
            if trainer.step == 9:
                trainer.clip_norm = 0.1
                trainer.optimizer.param_groups[0]["betas"] = (0.8, 0.9)
            if trainer.step == 13:
                trainer.model.load_state_dict({n: a * 0.5 for n, a in trainer.model.state_dict().items() if a.size > 1},
                                              strict=False)  # fmt: skip

    runs = [train(capture, epochs=3, callbacks=[Change()]) for capture in (False, True)]
    assert runs[1][1].losses == runs[0][1].losses
    assert state(runs[1][0]) == state(runs[0][0])
    assert any(runs[1][1].replayed[6:9])
    assert runs[1][0].capture_reason is None


def test_regression_without_hits_and_without_clipping(device):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(24, k)).astype(np.float32) for k in (4, 2))

    def run(capture):
        net = layers.Linear(4, 2, rng=0)
        trainer = Trainer(net, mse, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), capture=capture)
        return [record["loss"] for record in trainer.fit((x, y), epochs=3, batch_size=4)], state(trainer)

    assert run(True) == run(False)


def test_a_loss_that_is_not_finite_is_found_behind(train, make_net):
    for clip_norm in (0.5, None):
        net = make_net()
        trouble = pytest.raises(TrainingError, match=r"(at|step) \d+, with learning rate 1e\+30")
        with trouble, np.errstate(all="ignore"):
            train(True, kind="sgd", net=net, clip_norm=clip_norm, schedule=lambda step: 1e30)


# ---- what cannot be recorded -----------------------------------------------------------------------------------------


class Reads(layers.Identity):
    """A layer of a user's own that looks at its values."""

    def forward(self, x):
        if float(x[0, 0]) > 1e9:
            raise OverflowError
        return super().forward(x)


class DrawsOnTheHost(layers.Identity):
    def forward(self, x):
        noise = xpconv.get_backend().rng(0).normal(tuple(x.shape))
        return super().forward(x + noise * 0)


class Grows(layers.Identity):
    def __init__(self):
        self.register_buffer("seen", xpconv.asarray(np.zeros(1, np.float32)))

    def forward(self, x):
        backend = xpconv.get_backend()
        self.seen = backend.xp.concat([self.seen, self.seen])
        return super().forward(x)


def plain_average(net):
    net[1].momentum = None
    return net


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net.append(Reads()), "float() reads a value of the device"),
        (lambda net: net.append(DrawsOnTheHost()), "asarray brings values of the host to the device"),
        (lambda net: net.append(Grows()), "a buffer of the model changes its shape"),
        (plain_average, "int() reads a value of the device"),
    ],
)
def test_an_ordinary_run_with_a_reason(train, make_net, change, reason):
    with pytest.warns(RuntimeWarning, match="capture: steps are not recorded") as warned:
        captured, replayed = train(True, net=change(make_net()))
    assert len(warned) == 1
    assert reason in captured.capture_reason
    assert not any(replayed.replayed)
    eager, as_always = train(False, net=change(make_net()))
    assert replayed.losses == as_always.losses
    assert state(captured) == state(eager)


@pytest.mark.parametrize("name", ["numpy", "array_api_strict", "torch"])
def test_backends_that_record_nothing(train, name):
    pytest.importorskip(name)
    with xpconv.use_backend(name), pytest.warns(RuntimeWarning, match="capture: steps are not recorded") as warned:
        trainer, _ = train(True)
    assert trainer.capture_reason == f"the backend {name} records no graphs"
    assert len(warned) == 1


def test_generic_kernels(train):
    with xpconv.backends.use_kernels("generic"), pytest.warns(RuntimeWarning, match="optimizer: "):
        trainer, _ = train(True, epochs=1)
    assert "cannot read its numbers on the device" in trainer.capture_reason


def test_an_optimizer_of_ones_own(make_net, train_set):
    class Own:
        lr = 0.1

        def __init__(self, net):
            self.net = net

        def step(self):
            for parameter in self.net.parameters():
                parameter.data = parameter.data - self.lr * parameter.grad

    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, Own(net), capture=True)
    with pytest.warns(RuntimeWarning, match="the optimizer Own has no `recording`"):
        trainer.fit(train_set, epochs=1, batch_size=7)


def test_buffers_go_back_in_one_launch_for_each_dtype(make_net, device, monkeypatch):
    net = layers.Sequential(layers.BatchNorm2d(1), make_net())
    before = dict(net.named_buffers())
    buffers = _Buffers(device, net)
    net.forward(device.asarray(np.arange(128, dtype=np.float32).reshape(2, 1, 8, 8)))
    after = {name: xpconv.to_numpy(array).copy() for name, array in net.named_buffers()}
    launched = []
    get = device.kernels.get
    monkeypatch.setattr(device.kernels, "get", lambda *key: launched.append(key[:3]) or get(*key))
    buffers.prepare()
    assert all(array is not before[name] for name, array in net.named_buffers())
    kernels = [("optim", "copy_tensors", "float32")] * 2  # the counts go as pairs of numbers
    assert launched == kernels
    buffers.bring_back()
    assert launched == kernels * 2
    for name, array in net.named_buffers():
        assert array is before[name]
        np.testing.assert_array_equal(xpconv.to_numpy(array), after[name])


# ---- no waiting in ordinary steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_an_ordinary_step_reads_nothing(make_net, train_set, device, kind):
    net = make_net()
    trainer = Trainer(
        net, softmax_cross_entropy, OPTIMIZERS[kind](list(net.parameters())), clip_norm=0.5,
        schedule=optim.CosineSchedule(0.1, 10),
    )  # fmt: skip
    x, labels = (device.asarray(a) for a in (train_set.images[:7].astype(np.float32), train_set.labels[:7]))
    for _ in range(3):
        with no_host_reads():
            trainer._train_step(x, labels)
    assert len(trainer.losses) == 3
    trainer._train_step(x, labels)
    with no_host_reads(), pytest.raises(HostReadError, match="to_numpy reads a value"):
        trainer.running()


@pytest.mark.parametrize("name", ["lenet", "three-layer-convnet", "resnet20"])
def test_ordinary_steps_of_the_models_read_nothing(device, name):
    net = xpconv.models.build(name, in_channels=1, image_size=32, num_classes=10)
    x = device.asarray(np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32))
    labels = device.asarray(np.array([1, 7]))
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    with no_host_reads():
        trainer._train_step(x, labels)
    assert np.isfinite(trainer.losses).all()


# ---- frozen layers ---------------------------------------------------------------------------------------------------


def test_frozen_layers_stay_frozen(make_net, train_set):
    net = make_net()
    net[1].eval()
    net[4].eval()  # dropout
    before = xpconv.to_numpy(net[1].running_mean).copy()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1))
    trainer.fit(train_set, epochs=1, batch_size=21)
    assert [layer.training for layer in net] == [True, False, True, True, False, True, True]
    net.eval()  # for a look at the answers in between
    trainer.fit(train_set, epochs=2, batch_size=21)
    assert net.training
    assert not net[1].training
    np.testing.assert_array_equal(xpconv.to_numpy(net[1].running_mean), before)
    net.train()
    trainer.fit(train_set, epochs=3, batch_size=21)
    assert net[1].training
    assert (xpconv.to_numpy(net[1].running_mean) != before).any()


def test_a_model_in_evaluation_mode_is_trained(make_net, train_set):
    net = make_net()
    net.eval()
    Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1)).fit(train_set, epochs=1, batch_size=21)
    assert all(layer.training for _, layer in net.named_layers())


def test_nothing_is_warned_of_in_a_run_that_is_recorded(train):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(True, epochs=1)
