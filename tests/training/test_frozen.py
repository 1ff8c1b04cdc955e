"""Networks of which only a part is trained: the rest stays as it is, and no work is done for gradients in front."""

import contextlib

import numpy as np
import pytest

import xpconv
from xpconv import Trainer, models, optim
from xpconv import layers as L
from xpconv.functional import softmax_cross_entropy
from xpconv.training import trainer as module

IMAGES = np.random.default_rng(0).normal(size=(12, 2, 8, 8)).astype(np.float32)
LABELS = np.arange(12) % 3


def features():
    return L.Sequential(L.Conv2d(2, 4, 3, rng=1), L.BatchNorm2d(4), L.ReLU(), L.MaxPool2d(2), L.Flatten())


def plain():
    return L.Sequential(*features(), L.Linear(36, 3, rng=2))


def nested():
    return L.Sequential(features(), L.Sequential(L.Linear(36, 8, rng=2), L.ReLU(), L.Linear(8, 3, rng=3)))


def residual():
    body = L.Sequential(L.Conv2d(4, 4, 3, padding=1, bias=False, rng=4), L.BatchNorm2d(4))
    first = L.Conv2d(2, 4, 3, rng=1)
    return L.Sequential(first, L.Residual(body), L.ReLU(), L.Flatten(), L.Linear(144, 3, rng=2))


def shared():
    """One ReLU in both halves."""
    relu = L.ReLU()
    return L.Sequential(L.Conv2d(2, 4, 3, rng=1), relu, L.Conv2d(4, 4, 3, rng=2), relu, L.Flatten(), L.Linear(64, 3))


def resnet():
    return models.CifarResNet(8, in_channels=2, num_classes=3, rng=0)


def graph(tmp_path):
    pytest.importorskip("onnx", reason="ONNX files")
    xpconv.onnx.export(resnet(), tmp_path / "net.onnx", (2, 8, 8))
    return xpconv.onnx.load(tmp_path / "net.onnx")


CASES = {
    # network, where the names of the trained parameters begin, layers whose parameters nobody needs the gradients of
    "plain": (plain, "5.", {"0", "1"}),
    "nested": (nested, "1.2.", {"0.0", "0.1", "1.0"}),
    "in a residual": (residual, "1.body.1.", {"0"}),
    "shared": (shared, "5.", {"0"}),  # the ReLU comes a second time: the way back leads up to its first
    "resnet": (resnet, "linear.", None),
    "resnet, last stage too": (resnet, ("layer3.", "linear."), None),
    "graph": (graph, ("linear.", "layer3_0"), None),
    "all": (plain, "", set()),
}


def train(net, names, **options):
    net.train()
    trained = [parameter for name, parameter in net.named_parameters() if name.startswith(names)]
    assert trained
    for _, layer in net.named_layers():
        if layer is not net and not any(p is q for p in layer.parameters() for q in trained):
            layer.eval()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(trained, lr=0.1, momentum=0.9), seed=3, **options)
    trainer.fit((IMAGES, LABELS), epochs=2, batch_size=5)
    return trainer


@contextlib.contextmanager
def all_the_way(model, trained):
    yield


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_are_those_of_a_whole_way_back(case, accumulate, monkeypatch, tmp_path):
    make, names, _ = CASES[case]
    nets = [make(tmp_path) if make is graph else make() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    before = nets[0].state_dict()
    train(nets[0], names, accumulate=accumulate)
    monkeypatch.setattr(module, "ending_early", all_the_way)
    train(nets[1], names, accumulate=accumulate)
    states = [net.state_dict() for net in nets]
    changed = set()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)
        if not np.array_equal(array, before[name]):
            changed.add(name)
    assert changed >= {name for name, _ in nets[0].named_parameters() if name.startswith(names) and "bias" not in name}
    assert {name for name in changed if not name.startswith(names)} <= {
        name for name in states[0] if "running" in name or "batches" in name
    }


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2] is not None])
def test_no_gradients_in_front_of_what_is_trained(case):
    make, names, idle = CASES[case]
    net = make()
    train(net, names)
    without = {name.rpartition(".")[0] for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == idle
    assert all(not layer._stack and not layer._untrained for _, layer in net.named_layers())


@pytest.mark.parametrize("case", ["resnet", "graph"])
def test_most_of_a_network_is_not_gone_back_through(case, monkeypatch, tmp_path):
    make = CASES[case][0]
    net = make(tmp_path) if make is graph else make()
    calls = []
    backward = L.Conv2d.backward
    monkeypatch.setattr(L.Conv2d, "backward", lambda layer, dy: calls.append(layer) or backward(layer, dy))
    train(net, "linear.")
    assert calls == []
    train(net, "")
    assert len(calls) > 9


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_head_is_trained_as_on_its_own(clip_norm):
    """What comes out of the frozen layers, as the images of a network that is the head alone."""
    net, head = plain(), L.Sequential(L.Linear(36, 3, rng=2))
    train(net, "5.", clip_norm=clip_norm)
    trainer = Trainer(
        head, softmax_cross_entropy, optim.SGD(head.parameters(), lr=0.1, momentum=0.9), seed=3, clip_norm=clip_norm
    )
    trainer.fit((features().eval()(IMAGES), LABELS), epochs=2, batch_size=5)
    np.testing.assert_allclose(net[5].weight.data, head[0].weight.data, rtol=1e-5, atol=1e-7)
    assert not np.allclose(head[0].weight.data, L.Linear(36, 3, rng=2).weight.data, rtol=1e-3)


def test_statistics_of_a_layer_in_training_mode_go_on():
    """Its parameters are not trained, but it is not in evaluation mode either."""
    net = plain()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net[5].parameters(), lr=0.1))
    trainer.fit((IMAGES, LABELS), epochs=1, batch_size=12)
    layers = features()
    layers(IMAGES)
    np.testing.assert_allclose(net[1].running_mean, layers[1].running_mean, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for layer in list(net)[:5] for parameter in layer.parameters())


def test_the_profile_is_that_of_the_steps():
    net = plain()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net[5].parameters(), lr=0.1))
    times = {time.name: time for time in trainer.profile((IMAGES, LABELS), steps=1, batch_size=5).layers}
    assert times["5"].backward > 0
    assert times["0"].forward > 0
    assert times["0"].backward == 0


def test_outside_of_a_trainer_the_way_back_is_whole():
    net = plain()
    train(net, "5.")
    net.train()
    dy = softmax_cross_entropy(net(IMAGES), LABELS)[1]
    assert net.backward(dy).shape == IMAGES.shape
    assert all(parameter.grad is not None for parameter in net.parameters())
