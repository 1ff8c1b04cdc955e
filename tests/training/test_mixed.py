"""Mixed precision: half types where they belong, float32 everywhere else, and the loss scale of PyTorch."""

import warnings

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.backends import BackendUnavailableError, load_backend
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, LossScale, Trainer, TrainingError
from xpconv.training.mixed import HalfModel


def halves():
    """Pairs of backend and half type that are there."""
    return [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("cuda-host", "float16")]


@pytest.fixture(params=halves(), ids="-".join)
def half(request):
    """The name of a half type, its backend being the default one."""
    name, dtype = request.param
    try:
        backend = load_backend(name)
        backend.dtype(dtype)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    except TypeError:
        pytest.skip(f"{name} has no {dtype}")
    with xpconv.use_backend(name):
        yield dtype


class Spy(layers.Layer):
    """Notes the dtype of what comes through."""

    def __init__(self):
        self.seen = []

    def forward(self, x):
        self.seen.append(xpconv.get_backend().dtype_name(x))
        return x

    def backward(self, dy):
        self.seen.append(xpconv.get_backend().dtype_name(dy))
        return dy


def test_what_is_computed_in_what(half):
    backend = xpconv.get_backend()
    spies = [Spy(), Spy()]
    net = layers.Sequential(
        layers.Conv2d(1, 3, 3, rng=1), spies[0], layers.BatchNorm2d(3), layers.ReLU(), spies[1], layers.Flatten(),
        layers.Linear(108, 3, rng=2),
    )  # fmt: skip
    inside, scores = [], []
    forward = functional_spy(getattr(net, "2"), inside)

    def loss(s, t):
        scores.append(backend.dtype_name(s))
        return softmax_cross_entropy(s, t)

    trainer = Trainer(net, loss, optim.SGD(net.parameters(), lr=0.01), mixed_precision=half)
    rng = np.random.default_rng(0)
    trainer.fit((rng.normal(size=(6, 1, 8, 8)).astype(np.float32), np.arange(6) % 3), epochs=1, batch_size=6)
    assert [spy.seen for spy in spies] == [[half, half]] * 2
    assert forward == inside == ["float32"]
    assert scores == ["float32"]
    for _, array in [*((n, p.data) for n, p in net.named_parameters()), *net.named_buffers()]:
        assert backend.dtype_name(array) in ("float32", "int64")
    assert all(backend.dtype_name(p.grad) == "float32" for p in net.parameters())


def functional_spy(layer, seen):
    """Notes what a layer is given once the Trainer has wrapped it; returns the list."""
    forward = layer.forward
    layer.__dict__["forward"] = lambda x: (seen.append(xpconv.get_backend().dtype_name(x)), forward(x))[1]
    return seen


def test_gradients_are_those_of_float32_to_half_precision(half, make_net, train_set):
    """Also with parts, whose gradients are added up in float32."""
    backend = xpconv.get_backend()
    x = backend.asarray(train_set.images / np.float32(255))
    labels = backend.asarray(train_set.labels)
    for accumulate in (1, 3):
        gradients = []
        for precision in (None, half):
            net = make_net(dropout=0.0)
            setattr(net, "3", layers.AvgPool2d(2))  # rounding changes which of two equal pixels is the largest
            if accumulate > 1:
                setattr(net, "1", layers.ReLU())  # batch normalisation sees parts
            options = {"accumulate": accumulate, "mixed_precision": precision}
            trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.0), **options)
            if trainer.loss_scale is not None:
                trainer.loss_scale.scale = 1024.0
            trainer.fit((x, labels), epochs=1, batch_size=42)
            gradients.append([xpconv.to_numpy(p.grad) for p in net.parameters()])
        for got, want in zip(*gradients[::-1], strict=True):
            size = np.abs(want).max()
            # the bias before a batch normalisation has a gradient of zero but for rounding
            tolerance = {"float16": 0.01, "bfloat16": 0.06}[half] * max(size, 0.02)
            np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)


def test_it_learns(half, make_trainer, make_batches, test_set):
    trainer = make_trainer(steps=30, mixed_precision=half)
    if trainer.loss_scale is not None:
        trainer.loss_scale.scale = 256.0
    history = trainer.fit(make_batches(), epochs=5)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


# ---- the loss scale ---------------------------------------------------------------------------------------------


def test_the_scale_is_that_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    overflows = np.random.default_rng(3).random(60) < 0.15
    ours = LossScale(growth_interval=4)
    theirs = torch.amp.GradScaler("cpu", growth_interval=4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for overflow in overflows:
        before = parameter.item()
        theirs.scale(parameter.sum()).backward()
        parameter.grad.fill_(float("inf") if overflow else theirs.get_scale())
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(not overflow)
        assert ours.scale == theirs.get_scale()
        assert (parameter.item() == before) == overflow
    assert ours.skipped == overflows.sum() > 3
    assert ours.scale not in (65536.0, 65536.0 / 2**ours.skipped)  # it has grown too


class Watch(Callback):
    def __init__(self):
        self.scales, self.weights = [], []

    def on_step_end(self, trainer):
        self.scales.append(trainer.loss_scale.scale)
        self.weights.append(xpconv.to_numpy(next(trainer.model.parameters()).data).tobytes())


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_step_that_overflows_is_not_taken(make_trainer, make_batches, clip_norm):
    watch = Watch()
    trainer = make_trainer(mixed_precision="float16", callbacks=[watch], clip_norm=clip_norm)
    before = trainer.model.state_dict()["0.weight"].tobytes()
    trainer.loss_scale.scale = 2.0**20  # more than float16 holds
    trainer.loss_scale.growth_interval = 2
    trainer.fit(make_batches(), epochs=2)
    expected = LossScale(2.0**20, growth_interval=2)
    taken = [new != old for old, new in zip([before, *watch.weights], watch.weights, strict=False)]
    for was_taken, scale in zip(taken, watch.scales, strict=True):
        expected.update(was_taken)
        assert scale == expected.scale
    assert taken[:3] == [False] * 3
    assert sum(taken) >= 4
    assert trainer.loss_scale == expected
    assert trainer.optimizer._steps[0] == sum(taken)
    assert trainer.step == 12


def test_gradients_that_always_overflow(make_trainer, make_batches):
    """A scale that has gone down all the way ends the run with a reason."""

    def loss(scores, labels):
        value, dscores = softmax_cross_entropy(scores, labels)
        return value, dscores * np.float32(np.inf)

    trainer = make_trainer(mixed_precision="float16")
    trainer.loss = loss
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match="gradients overflow float16 even with a loss"):
        trainer.fit(make_batches(), epochs=20)


def test_weights_come_back_after_an_error(make_net):
    net = make_net()
    before = {name: p.data for name, p in net.named_parameters()}

    def fail():
        with HalfModel.of(net, load_backend("numpy"), "float16", 1.0):
            assert getattr(net, "0").weight.data.dtype == np.float16
            assert getattr(net, "1").weight.data.dtype == np.float32
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert all(before[name] is p.data for name, p in net.named_parameters())
    assert not any("forward" in layer.__dict__ for _, layer in net.named_layers())


def test_wrong_precision(make_net, make_trainer):
    with pytest.raises(ValueError, match="mixed_precision: expected float16 or bfloat16, got 'float32'"):
        make_trainer(mixed_precision="float32")
    with pytest.raises(ValueError, match="mixed_precision: the backend numpy has no bfloat16"):
        make_trainer(mixed_precision="bfloat16")
    with pytest.raises(TypeError, match=r"mixed_precision: expected a model in float32, got 0\.weight in float64"):
        make_trainer(net=make_net("float64"), mixed_precision="float16")


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_recorded_steps(train_set, half):
    """float16 says why there are none, bfloat16 records; the results are those of ordinary steps."""
    if half == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="it makes NumPy's bfloat16, which stands in for the device's")
    try:
        load_backend("cuda-host").dtype(half)
    except (BackendUnavailableError, TypeError) as error:
        pytest.skip(str(error))
    runs = []
    for capture in (False, True):
        with xpconv.use_backend("cuda-host"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net = layers.Sequential(layers.Flatten(), layers.Linear(64, 3, rng=0))
            optimizer = optim.SGD(net.parameters(), lr=0.05)
            options = {"mixed_precision": half, "accumulate": 2, "ema": 0.5, "capture": capture}
            trainer = Trainer(net, softmax_cross_entropy, optimizer, **options)
            trainer.fit(train_set, epochs=2, batch_size=7)
            runs.append((trainer.history[-1]["loss"], xpconv.to_numpy(getattr(net, "1").weight.data).tobytes()))
        refused = capture and half == "float16"
        assert (trainer.capture_reason is not None) == refused
        assert [str(w.message) for w in caught if "capture" in str(w.message)] == (
            [f"capture: steps are not recorded: {trainer.capture_reason}"] if refused else []
        )
    assert runs[0] == runs[1]
