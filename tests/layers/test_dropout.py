"""Dropout's keys, and the host's random state."""

import numpy as np
import pytest

import xpconv
from xpconv import _random
from xpconv.functional import dropout
from xpconv.layers import Dropout, Identity, Layer, Linear, RandomLayer, Sequential


def mask_of(on, layer, shape=(5, 40)):
    return on.to_numpy(layer(on.asarray(np.ones(shape), "float32")))


def mask_of_key(on, p, key, shape=(5, 40)):
    return on.to_numpy(dropout(on.asarray(np.ones(shape), "float32"), p, training=True, key=key)[0])


def test_keys_after_begin_step(on):
    net = Sequential(Dropout(0.5), Identity(), Sequential(Dropout(0.3), Dropout(0.2)))
    seed = 2**40 + 3
    drops = [net[0], net[2][0], net[2][1]]
    for step in (0, 7, 2**32 - 1):
        net.begin_step(step, seed=seed)
        for index, layer in enumerate(drops):
            for uses in range(3):
                want = mask_of_key(on, layer.p, (seed, index + (uses << 16), step))
                np.testing.assert_array_equal(mask_of(on, layer), want)
        assert 0.4 < (mask_of(on, drops[0]) == 0).mean() < 0.6


def test_same_step_same_masks_on_every_backend(on):
    layer = Dropout(0.5, rng=0)
    layer.begin_step(4, seed=9)
    with xpconv.use_backend("numpy"):
        other = Dropout(0.5, rng=1)
    other.begin_step(4, seed=9)
    np.testing.assert_array_equal(mask_of(on, layer), other(np.ones((5, 40), np.float32)))


def test_masks_of_uses_steps_and_layers_differ(on):
    net = Sequential(Dropout(0.5), Dropout(0.5))
    masks = []
    for step in range(2):
        net.begin_step(step, seed=1)
        masks += [mask_of(on, layer) for layer in net for _ in range(2)]
    net.begin_step(0, seed=2)
    masks.append(mask_of(on, net[0]))
    assert len({mask.tobytes() for mask in masks}) == 9


def test_without_seed_each_layer_keeps_its_own():
    net = Sequential(Dropout(0.5, rng=3), Dropout(0.5, rng=4))
    net.begin_step(5)
    keys = [layer.next_key() for layer in net]
    assert [key[1:] for key in keys] == [(0, 5), (1, 5)]
    assert keys[0][0] == int(np.random.default_rng(3).integers(1 << 63))
    assert keys[0][0] != keys[1][0]


def test_without_begin_step_forwards_are_counted():
    layer = Dropout(0.5, rng=3)
    seed = layer._seed
    x = np.ones((3, 4), np.float32)
    layer(x), layer(x)
    layer.eval()
    assert layer(x) is x
    assert layer.next_key() == (seed, 0, 2)


def test_seed_comes_from_the_host_generator():
    xpconv.manual_seed(11)
    first = Dropout()._seed
    second = Dropout()._seed
    xpconv.manual_seed(11)
    assert Dropout()._seed == first != second


def test_backward_uses_the_mask_of_its_forward(on):
    layer = Dropout(0.25)
    ones = on.asarray(np.ones((5, 40)), "float32")
    first, second = on.to_numpy(layer(ones)), on.to_numpy(layer(ones))
    np.testing.assert_array_equal(on.to_numpy(layer.backward(ones)), second)
    np.testing.assert_array_equal(on.to_numpy(layer.backward(ones)), first)
    assert set(np.unique(first)) == {0, np.float32(1 / 0.75)}


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extremes(on, p):
    np.testing.assert_array_equal(mask_of(on, Dropout(p)), np.full((5, 40), 1 - p))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "step: must be between 0 and 4294967295, got -1"),
        ((2**32,), ValueError, "step"),
        ((1.5,), TypeError, "step: expected an integer, got 1.5"),
        ((0, -1), ValueError, "seed: must be between 0 and"),
        ((0, 2**64), ValueError, "seed"),
        ((0, "7"), TypeError, "seed: expected an integer, got '7'"),
    ],
)
def test_begin_step_refuses(arguments, error, message):
    net = Sequential(Linear(2, 2), Dropout(rng=1))
    with pytest.raises(error, match=message):
        net.begin_step(*arguments)
    assert net[1].next_key()[1:] == (0, 0)


def test_too_many_uses_in_a_step():
    layer = Dropout()
    layer.begin_step(0)
    layer._uses = 1 << 16
    with pytest.raises(RuntimeError, match="call begin_step before every step"):
        layer(np.ones(3, np.float32))


def test_random_layer_of_a_user(on):
    class Noise(RandomLayer):
        def forward(self, x):
            return dropout(x, 0.5, training=True, key=self.next_key())[0] if self.training else x

    class Net(Layer):
        def __init__(self):
            self.drop, self.noise = Dropout(0.1), Noise()

        def forward(self, x):
            return self.noise(x)

    net = Net()
    net.begin_step(2, seed=5)
    np.testing.assert_array_equal(mask_of(on, net), mask_of_key(on, 0.5, (5, 1, 2)))


class TestHostGenerator:
    def test_manual_seed_repeats_the_weights(self, on):
        xpconv.manual_seed(5)
        first = [Linear(3, 4), Linear(3, 4)]
        xpconv.manual_seed(5)
        again = [Linear(3, 4), Linear(3, 4)]
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(on.to_numpy(a.weight.data), on.to_numpy(b.weight.data))
        assert not np.array_equal(on.to_numpy(first[0].weight.data), on.to_numpy(first[1].weight.data))
        values = np.random.default_rng(5).uniform(-1 / np.sqrt(3), 1 / np.sqrt(3), (4, 3))
        np.testing.assert_array_equal(on.to_numpy(first[0].weight.data), values.astype(np.float32))

    def test_unseeded_differs(self, monkeypatch):
        draws = set()
        for _ in range(2):
            monkeypatch.setattr(_random, "_generator", None)
            draws.add(float(_random.host_generator().random()))
            assert _random.host_generator() is _random.host_generator()
        assert len(draws) == 2

    @pytest.mark.parametrize(
        ("seed", "error"), [(-1, ValueError), (1.0, TypeError), (None, TypeError), (True, TypeError)]
    )
    def test_refuses(self, seed, error):
        before = _random.host_generator()
        with pytest.raises(error, match="seed"):
            xpconv.manual_seed(seed)
        assert _random.host_generator() is before

    def test_generators(self):
        generator = np.random.default_rng(1)
        assert _random.as_generator(generator) is generator
        assert _random.as_generator(None) is _random.host_generator()
        assert _random.as_generator(np.int64(4)).random() == np.random.default_rng(4).random()
