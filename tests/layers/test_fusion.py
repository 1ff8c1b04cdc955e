"""A Sequential that runs layers together gives what it gives when each runs alone."""

import numpy as np
import pytest

import xpconv
from xpconv import models
from xpconv.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
)
from xpconv.layers._fusion import use_fusion


def body(channels, seed):
    return Sequential(
        Conv2d(channels, channels, 3, padding=1, bias=False, rng=seed),
        BatchNorm2d(channels),
        ReLU(),
        Conv2d(channels, channels, 3, padding=1, rng=seed + 1),
        BatchNorm2d(channels),
    )


def network():
    """Every pattern that is run together, beside ones that are not."""
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=1),
        ReLU(),
        Residual(body(4, 2)),
        ReLU(),
        Residual(body(4, 4), Sequential(Conv2d(4, 4, 1, rng=6), BatchNorm2d(4))),
        ReLU(),
        Residual(Conv2d(4, 4, 1, rng=7)),
        ReLU(),
        BatchNorm2d(4, activation="relu"),
        ReLU(),
        ReLU(),
        Conv2d(4, 3, 3, stride=2, rng=8),
        BatchNorm2d(3),
        Flatten(),
        Linear(12, 5, rng=9),
        BatchNorm1d(5),
        ReLU(),
        Linear(5, 3, rng=10),
    )


def stack_sizes(net):
    return [len(layer._stack) for _, layer in net.named_layers()]


def values(net, on, x, dy, fused, *, steps=1):
    """Results, gradients and buffers as host arrays, after some steps in the mode that the layers are in."""
    found = {}
    with use_fusion(fused):
        for step in range(steps):
            net.zero_grad()
            y = net.forward(on.asarray(x))
            found[f"y{step}"] = on.to_numpy(y)
            if any(stack_sizes(net)):
                found[f"caches{step}"] = np.array(stack_sizes(net))
                dx = net.backward(on.asarray(dy))
                found[f"dx{step}"] = on.to_numpy(dx)
                for name, parameter in net.named_parameters():
                    found[f"{name} {step}"] = on.to_numpy(parameter.grad)
    assert not any(stack_sizes(net))
    found |= {name: on.to_numpy(array) for name, array in net.named_buffers()}
    return {name: np.array(value) for name, value in found.items()}


def assert_same(one, other, rtol):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if rtol == 0:
            np.testing.assert_array_equal(value, other[name], err_msg=name)
        else:
            scale = max(np.abs(value).max(initial=0), 1e-3)
            np.testing.assert_allclose(value, other[name], rtol=0, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("mode", ["train", "eval", "frozen"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_and_alone_are_equal(on, rng, dtype, mode):
    """To rounding; on NumPy bit for bit."""
    if on.backend == "jax":
        pytest.skip("it compiles every operator for a minute, and runs the same ones as torch")
    x = rng.normal(size=(4, 2, 6, 5)).astype(dtype)
    dy = rng.normal(size=(4, 3)).astype(dtype)
    nets = [network().to(dtype=dtype), network().to(dtype=dtype)]
    for net in nets:
        for _, layer in net.named_layers():
            if isinstance(layer, BatchNorm2d):
                layer.running_mean = on.asarray(np.linspace(-0.5, 0.5, layer.num_features).astype(dtype))
                layer.running_var = on.asarray(np.linspace(0.5, 2, layer.num_features).astype(dtype))
        net.train(mode != "eval")
        if mode == "frozen":  # as the trainer keeps caches of frozen layers
            for _, layer in list(net.named_layers())[3:]:
                if isinstance(layer, (BatchNorm2d, BatchNorm1d)):
                    layer.eval()._keeps = True
    fused, alone = (values(net, on, x, dy, fused, steps=2) for net, fused in zip(nets, (True, False), strict=True))
    assert ("dx1" in fused) == (mode != "eval")
    exact = on.backend == "numpy"
    assert_same(fused, alone, 0 if exact else {"float32": 2e-5, "float64": 1e-12}[dtype])


def test_operators_for_two_layers_are_called(monkeypatch, rng):
    """That nothing is compared to itself above."""
    called = []
    original = xpconv.functional.conv.run

    def run(backend, operator, *arguments, **options):
        called.append(operator)
        return original(backend, operator, *arguments, **options)

    for module in (xpconv.functional.conv, xpconv.functional.norm, xpconv.functional.activation):
        monkeypatch.setattr(module, "run", run)
    x, dy = rng.normal(size=(4, 2, 6, 5)).astype(np.float32), np.ones((4, 3), np.float32)
    net = network()
    net.backward(np.ones_like(net(x)) * dy)
    ways = {operator: called.count(operator) for operator in set(called)}
    assert ways == {
        "conv2d_relu": 1,
        "conv2d": 7,
        "conv2d_backward": 8,
        "batch_norm": 2,
        "batch_norm_backward": 2,
        "batch_norm_relu": 6,
        "batch_norm_relu_backward": 6,
        "relu": 3,
        "relu_backward": 4,
    }
    called.clear()
    with use_fusion(False):
        net.backward(np.ones_like(net(x)) * dy)
    assert called.count("relu") == called.count("relu_backward") == 9
    assert "conv2d_relu" not in called


def test_each_layer_may_be_gone_back_through_alone(rng):
    x, dy = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))
    for make in (
        lambda: Sequential(BatchNorm2d(3), ReLU()),
        lambda: Sequential(Conv2d(3, 3, 3, padding=1, rng=1), ReLU()),
        lambda: Sequential(Residual(body(3, 1), Conv2d(3, 3, 1, rng=4)), ReLU()),
    ):
        one, other = (make().to(dtype="float64") for _ in range(2))
        with use_fusion(False):
            y = one(x)
            want = one.backward(dy)
        np.testing.assert_allclose(other(x), y, rtol=1e-12, atol=1e-12)
        got = other[0].backward(other[1].backward(dy))
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-11, atol=1e-12)
        assert not any(stack_sizes(other))


class Doubling(Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Signed(BatchNorm2d):
    def backward(self, dy):
        return -super().backward(dy)


class Lifted(ReLU):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (Doubling(3, 3, 1, rng=1), ReLU()),
        lambda: (Signed(3), ReLU()),
        lambda: (BatchNorm2d(3), Lifted()),
        lambda: (Residual(Sequential(Conv2d(3, 3, 1, rng=1), Signed(3))), ReLU()),
    ],
)
def test_a_subclass_runs_its_own_way(layers, rng):
    x, dy = rng.normal(size=(2, 3, 4, 4)).astype(np.float32), rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    net = Sequential(*layers())
    y, by_hand = net(x), layers()
    np.testing.assert_array_equal(y, by_hand[1].forward(by_hand[0].forward(x)))
    np.testing.assert_array_equal(net.backward(dy), by_hand[0].backward(by_hand[1].backward(dy)))


def test_a_forward_of_an_instance_is_called(rng):
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    for place, layers in (
        (0, (Conv2d(3, 3, 1, rng=1), ReLU())),
        (0, (BatchNorm2d(3), ReLU())),
        (1, (BatchNorm2d(3), ReLU())),
    ):
        net, seen = Sequential(*layers), []
        original = net[place].forward
        net[place].forward = lambda x, original=original, seen=seen: seen.append(x.shape) or original(x)
        net(x)
        assert seen == [x.shape]


def test_shared_layers(rng):
    """One ReLU behind several layers, and a normalisation used twice, also in a shortcut."""
    x, dy = rng.normal(size=(3, 2, 4, 4)), rng.normal(size=(3, 2, 4, 4))

    def make():
        relu, norm = ReLU(), BatchNorm2d(2)
        return Sequential(
            Conv2d(2, 2, 1, rng=1), norm, relu, Conv2d(2, 2, 3, padding=1, rng=2), relu, norm, relu,
            Residual(Sequential(relu, norm), norm), relu, Residual(Sequential(norm), Identity()), relu,
        ).to(dtype="float64")  # fmt: skip

    found = []
    for fused in (True, False):
        net = make()
        with use_fusion(fused):
            y = net(x)
            found.append(
                (y, net.backward(dy), *(p.grad for p in net.parameters()), *(b for _, b in net.named_buffers()))
            )
        assert not any(stack_sizes(net))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_errors_stay(rng):
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    net = Sequential(Residual(Sequential(Conv2d(3, 2, 1), BatchNorm2d(2))), ReLU())
    with pytest.raises(ValueError, match=r"body gives shape \(2, 2, 4, 4\) but the shortcut \(2, 3, 4, 4\)"):
        net(x)
    net = Sequential(BatchNorm2d(3), ReLU())
    with pytest.raises(RuntimeError, match="no forward to go back through"):
        net.backward(x)
    net(x)
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3, 4, 4\)"):
        net.backward(x[:1])
    net = Sequential(Residual(Sequential(Conv2d(3, 3, 1), BatchNorm2d(3))), ReLU())
    net[0].body[0].need_dx = False
    net(x)
    with pytest.raises(RuntimeError, match="need_dx is False"):
        net.backward(x)


def test_names_and_text_stay():
    net = network()
    names, text = list(net.state_dict()), repr(net)
    with use_fusion(False):
        assert list(net.state_dict()) == names
        assert repr(net) == text
    net.forward(np.ones((2, 2, 6, 5), np.float32))
    assert list(net.state_dict()) == names
    assert repr(net) == text


def test_nothing_is_kept_in_evaluation():
    net = network().eval()
    net(np.ones((2, 2, 6, 5), np.float32))
    assert not any(stack_sizes(net))


@pytest.mark.parametrize("name", ["lenet", "small-cnn", "three-layer-convnet"])
def test_models(name, rng):
    x = rng.normal(size=(4, 1, 12, 12)).astype(np.float32)
    found = []
    for fused in (True, False):
        net = models.build(name, in_channels=1, image_size=12, num_classes=3, rng=0)
        with use_fusion(fused):
            net.begin_step(0, 0)
            y = net(x)
            found.append([y, net.backward(np.ones_like(y)), *(p.grad for p in net.parameters())])
    for one, other in zip(*found, strict=True):  # normalisation adds up in another order together with the ReLU
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_a_layer_of_a_users_own_has_no_operator_with_a_relu():
    class Half(Layer):
        def forward(self, x):
            return x / 2

        def backward(self, dy):
            return dy / 2

    net = Sequential(Half(), ReLU(), GlobalAvgPool2d())
    y = net(np.full((1, 1, 2, 2), 3.0))
    assert float(y[0, 0]) == 1.5
    np.testing.assert_array_equal(net.backward(y), np.full((1, 1, 2, 2), 1.5 / 8))
