"""Times by layer: every layer where it belongs, nested ones counted once, a trace that viewers open."""

import json

import numpy as np
import pytest

import xpconv
from xpconv import layers, models, optim
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Trainer, profile


@pytest.fixture
def clock(monkeypatch):
    """``clock.now``: what the profile takes for the time."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(profile.time, "perf_counter", lambda: Clock.now)
    return Clock


def taking(clock, layer, forward, backward):
    """The layer, its methods taking so many seconds of the clock besides those of the layers inside."""
    for name, seconds in (("forward", forward), ("backward", backward)):
        method = getattr(layer, name)

        def slow(x, method=method, seconds=seconds):
            clock.now += seconds
            return method(x)

        layer.__dict__[name] = slow
    return layer


class Shared(layers.Layer):
    """Uses one layer twice."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x):
        return self.inner.forward(self.inner.forward(x))

    def backward(self, dy):
        return self.inner.backward(self.inner.backward(dy))


def test_nested_layers_are_counted_once(clock):
    inner = taking(clock, layers.Linear(3, 3, rng=0), 2.0, 3.0)
    outer = taking(clock, Shared(inner), 10.0, 20.0)
    net = layers.Sequential(outer, taking(clock, layers.Linear(3, 2, rng=1), 0.5, 0.25))

    def loss(scores, labels):
        clock.now += 7.0
        return softmax_cross_entropy(scores, labels)

    optimizer = optim.SGD(net.parameters(), lr=0.1)
    step = optimizer.step

    def slow_step():
        clock.now += 0.125
        step()

    optimizer.step = slow_step
    trainer = Trainer(net, loss, optimizer)
    found = trainer.profile((np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])), steps=3, batch_size=4)
    times = {(time.name, time.kind): tuple(time[2:]) for time in found.layers}
    assert times == {
        ("", "Sequential"): (1, 0, 0),
        ("0", "Shared"): (1, 10, 20),
        ("0.inner", "Linear"): (2, 4, 6),
        ("1", "Linear"): (1, 0.5, 0.25),
        ("data", ""): (1, 0, 0),
        ("loss", ""): (1, 7, 0),
        ("optimizer", ""): (1, 0, 0.125),
        ("rest", ""): (1, 0, 0),
    }
    assert found.seconds == sum(sum(time[1:]) for time in times.values()) == 47.875
    lines = [line.split() for line in found.table().splitlines()]
    assert ["0.inner", "Linear", "2", "4000.000", "6000.000", f"{10 / 47.875:.1%}"] in lines
    assert lines[-1] == ["step", "47875.000", "100.0%"]


def test_the_trace(clock, tmp_path):
    """Complete events in microseconds; an inner one lies within the one around it."""
    net = layers.Sequential(Shared(taking(clock, layers.Linear(3, 3, rng=0), 2.0, 3.0)))
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()))
    found = trainer.profile((np.ones((4, 3), np.float32), np.zeros(4, int)), steps=2, batch_size=4)
    found.write_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert all({"name", "cat", "ph", "ts", "dur", "pid", "tid"} <= set(event) for event in events)
    assert {event["ph"] for event in events} == {"X"}
    inner = [(event["ts"], event["dur"]) for event in events if event["name"] == "0.inner"]
    assert inner == [
        (ts * 1e6, dur * 1e6) for ts, dur in [(0, 2), (2, 2), (4, 3), (7, 3), (10, 2), (12, 2), (14, 3), (17, 3)]
    ]
    around = [(event["ts"], event["dur"], event["cat"]) for event in events if event["name"] == "0"]
    assert around == [(0, 4e6, "forward"), (4e6, 6e6, "backward"), (10e6, 4e6, "forward"), (14e6, 6e6, "backward")]
    assert trace["traceEvents"][0]["args"] == {"kind": ""}


def test_a_network_as_it_runs_without(rng):
    """Layers that run together with a ReLU do so in the profile, every layer has a line, and the times add up."""
    net = models.build("resnet20", in_channels=1, image_size=(8, 8), num_classes=3, rng=rng, dtype="float32")
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1))
    x = rng.normal(size=(4, 1, 8, 8)).astype(np.float32)
    found = trainer.profile((x, np.arange(4) % 3), steps=2, batch_size=4)
    names = [time.name for time in found.layers if time.kind]
    assert names == [name for name, _ in net.named_layers()]
    assert sum(time.forward + time.backward for time in found.layers) == pytest.approx(found.seconds, rel=0.2)
    convolutions = [time for time in found.layers if time.kind == "Conv2d"]
    assert all(time.calls == 1 and time.forward > 0 and time.backward > 0 for time in convolutions)
    assert not any(name in layer.__dict__ for _, layer in net.named_layers() for name in ("forward", "_forward_relu"))


def test_a_relu_within_another_layer(train_set, make_net):
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1))
    found = trainer.profile(train_set, steps=1)
    times = {time.name: time for time in found.layers}
    assert times["1"].calls == 1
    assert times["2"].calls == 0
    assert times["2"].forward == times["2"].backward == 0
    assert next(line for line in found.table().splitlines() if line.startswith("2 ")).split()[1:] == [
        "ReLU", "with", "another",
    ]  # fmt: skip
    with xpconv.backends.use_kernels("generic"):
        plain = trainer.profile(train_set, steps=1)
    assert len(plain.layers) == len(found.layers)


def test_on_every_backend(on, make_net, train_set):
    net = make_net()
    found = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters())).profile(train_set, steps=1, batch_size=21)
    assert found.layers[1].kind == "Conv2d"
    assert found.layers[1].forward > 0


def test_a_device_is_waited_for(monkeypatch, make_net, train_set):
    """The clock is read behind `synchronize` alone."""
    pytest.importorskip("array_api_strict", reason="its backend stands in for a device")
    log = []
    backend = xpconv.backends.load_backend("array_api_strict")
    monkeypatch.setattr(backend, "on_host", False)
    monkeypatch.setattr(backend, "synchronize", lambda: log.append("wait"))
    monkeypatch.setattr(profile.time, "perf_counter", lambda: log.append("read") or float(len(log)))
    with xpconv.use_backend("array_api_strict"):
        net = layers.Sequential(layers.Flatten(), layers.Linear(64, 3, rng=0))
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters()))
        trainer.profile((train_set.images[:4] / np.float32(255), train_set.labels[:4]), steps=1)
    assert log.count("read") > 10
    log.remove("read")  # the origin, which is set anew
    assert log == ["wait", "read"] * (len(log) // 2)


def test_wrong_steps(make_trainer, make_batches):
    with pytest.raises(ValueError, match="steps: must be at least 1, got 0"):
        make_trainer().profile(make_batches(), steps=0)
