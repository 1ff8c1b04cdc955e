"""Sequential, Residual and Concat, and layers that are used more than once."""

import numpy as np
import pytest

from xpconv.layers import (
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from xpconv.testing import check_layer


class TestSequential:
    def test_as_a_list(self):
        first, second, third = Linear(2, 3), ReLU(), Linear(3, 1)
        net = Sequential(first, second)
        assert net.append(third) is net
        assert len(net) == 3
        assert list(net) == [first, second, third]
        assert net[0] is first
        assert net[-1] is third
        part = net[1:]
        assert list(part) == [second, third]
        assert list(part.state_dict()) == ["2.weight", "2.bias"]
        with pytest.raises(IndexError):
            net[3]

    def test_named(self):
        net = Sequential({"first": Linear(2, 3), "last": Linear(3, 1)})
        assert net.first is net[0]
        assert list(net.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
        net.append(ReLU())
        assert [name for name, _ in net.named_children()] == ["first", "last", "2"]

    def test_empty_is_the_identity(self):
        x = np.ones((2, 3))
        assert Sequential()(x) is x
        assert Sequential().backward(x) is x

    def test_refuses(self):
        with pytest.raises(TypeError, match=r"layers\[1\]: expected a Layer, got <function"):
            Sequential(ReLU(), lambda x: x)
        with pytest.raises(ValueError, match="the name 'forward' is taken"):
            Sequential({"forward": ReLU()})
        with pytest.raises(TypeError, match="layer: expected a Layer, got 3"):
            Sequential().append(3)
        with pytest.raises(ValueError, match="the name '1' is taken"):
            Sequential({"1": ReLU()}).append(ReLU())

    def test_way_back_ends_at_the_first_layer_with_weights(self, rng):
        net = Sequential(Flatten(), Linear(6, 4), ReLU(), Linear(4, 2))
        x = rng.normal(size=(3, 2, 3)).astype(np.float32)
        y = net(x)
        assert net.backward(y).shape == x.shape
        grads = [parameter.grad for parameter in net.parameters()]
        net.zero_grad()
        net[1].need_dx = False
        net(x)
        assert net.backward(y) is None
        assert not net[0]._stack
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            np.testing.assert_array_equal(parameter.grad, grad)

    def test_way_back_may_not_end_before_weights(self, rng):
        net = Sequential(Linear(6, 4), ReLU(), Linear(4, 2))
        net[2].need_dx = False
        y = net(rng.normal(size=(3, 6)).astype(np.float32))
        with pytest.raises(RuntimeError, match=r"layer '2' gave no gradient .* layer '0' before it has parameters"):
            net.backward(y)


class TestResidual:
    def test_is_the_sum(self, on, rng):
        x = rng.normal(size=(3, 4)).astype(np.float32)
        layer = Residual(Linear(4, 4), Linear(4, 4))
        want = on.to_numpy(layer.body(on.asarray(x))) + on.to_numpy(layer.shortcut(on.asarray(x)))
        np.testing.assert_allclose(on.to_numpy(layer(on.asarray(x))), want, rtol=1e-6)
        plain = Residual(Tanh())
        y = on.to_numpy(plain(on.asarray(x)))
        np.testing.assert_allclose(y, x + np.tanh(x), rtol=1e-5, atol=1e-6)
        dx = on.to_numpy(plain.backward(on.asarray(np.ones_like(x))))
        np.testing.assert_allclose(dx, 2 - np.tanh(x) ** 2, rtol=1e-5)
        assert list(layer.state_dict()) == ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]

    def test_never_broadcasts(self):
        with pytest.raises(ValueError, match=r"body gives shape \(2, 1\) but the shortcut \(2, 3\)"):
            Residual(Linear(3, 1))(np.ones((2, 3), np.float32))

    def test_refuses(self):
        with pytest.raises(TypeError, match="body: expected a Layer"):
            Residual(None)
        with pytest.raises(TypeError, match="shortcut: expected a Layer, got 1"):
            Residual(ReLU(), 1)
        layer = Residual(Linear(3, 3))
        layer.body.need_dx = False
        y = layer(np.ones((2, 3), np.float32))
        with pytest.raises(RuntimeError, match="need_dx is False"):
            layer.backward(y)


class TestConcat:
    def test_is_torch_cat(self, on, rng):
        x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
        for axis in (1, -1, 0, 2):
            layer = Concat(Tanh(), Identity(), Sigmoid(), axis=axis)
            y = on.to_numpy(layer(on.asarray(x)))
            want = [np.tanh(x), x, 1 / (1 + np.exp(-x))]
            np.testing.assert_allclose(y, np.concatenate(want, axis=axis), rtol=1e-5, atol=1e-6)
            dy = rng.normal(size=y.shape).astype(np.float32)
            a, b, c = np.split(dy, 3, axis=axis)
            dx = a * (1 - want[0] ** 2) + b + c * want[2] * (1 - want[2])
            np.testing.assert_allclose(on.to_numpy(layer.backward(on.asarray(dy))), dx, rtol=1e-4, atol=1e-5)

    def test_branches_of_different_width(self, rng):
        layer = Concat(Conv2d(2, 3, 1), Conv2d(2, 1, 3, padding=1), Identity()).to(dtype="float64")
        assert layer(rng.normal(size=(2, 2, 4, 3))).shape == (2, 6, 4, 3)
        assert list(layer.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        check_layer(layer, rng.normal(size=(2, 2, 4, 3)))

    def test_refuses(self):
        with pytest.raises(ValueError, match="branches: expected at least one"):
            Concat()
        with pytest.raises(TypeError, match=r"branches\[1\]: expected a Layer"):
            Concat(ReLU(), "relu")
        x = np.ones((2, 3), np.float32)
        with pytest.raises(ValueError, match="axis: 2 is out of range"):
            Concat(ReLU(), axis=2)(x)
        with pytest.raises(ValueError, match=r"branch 0 gives shape \(2, 3\) but branch 1 \(2, 4\), to join along 0"):
            Concat(ReLU(), Linear(3, 4), axis=0)(x)
        layer = Concat(ReLU(), Linear(3, 4))
        y = layer(x)
        with pytest.raises(ValueError, match=r"dy: expected shape \(2, 7\)"):
            layer.backward(y[:, :6])
        getattr(layer, "1").need_dx = False
        y = layer(x)
        with pytest.raises(RuntimeError, match="need_dx is False"):
            layer.backward(y)


def residual_net(rng):
    """Everything at once: shortcuts with and without weights, branches, a shared activation, dropout."""
    relu = Tanh()
    block = Residual(Sequential(Conv2d(4, 4, 3, padding=1, rng=rng), BatchNorm2d(4), relu))
    down = Residual(
        Sequential(Conv2d(4, 6, 3, stride=2, padding=1, rng=rng), BatchNorm2d(6)),
        Sequential(Conv2d(4, 6, 1, stride=2, bias=False, rng=rng), BatchNorm2d(6)),
    )
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=rng),
        relu,
        block,
        down,
        Concat(Conv2d(6, 2, 1, rng=rng), Identity()),
        Dropout(0.3, rng=rng),
        GlobalAvgPool2d(),
        Linear(8, 3, rng=rng),
    ).to(dtype="float64")


def test_gradients_through_a_residual_net(rng):
    check_layer(residual_net(rng), rng.normal(size=(3, 2, 6, 5)))


def test_a_layer_may_be_used_twice(on, rng):
    x = rng.normal(size=(3, 4)).astype(np.float32)
    shared = Linear(4, 4, rng=1)
    net = Sequential(shared, Tanh(), shared, Residual(shared, shared), Concat(shared, shared))
    y = on.to_numpy(net(on.asarray(x)))
    w, b = (on.to_numpy(parameter.data) for parameter in shared.parameters())
    h = np.tanh(x @ w.T + b) @ w.T + b
    h = 2 * (h @ w.T + b)
    h = h @ w.T + b
    np.testing.assert_allclose(y, np.concatenate([h, h], axis=1), rtol=1e-4, atol=1e-5)
    assert len(shared._stack) == 6
    net.backward(on.asarray(y))
    assert not shared._stack


def test_gradients_of_a_layer_used_twice(rng):
    shared = Linear(4, 4, rng=1)
    net = Sequential(shared, Tanh(), shared, Residual(shared, shared), Concat(shared, shared, Identity()))
    check_layer(net.to(dtype="float64"), rng.normal(size=(3, 4)))
