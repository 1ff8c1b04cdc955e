"""Convolution with binarised weights, trained by a straight-through gradient: ``layers.BinaryConv2d``."""

import numpy as np
import pytest

import xpconv
from xpconv.layers import BinaryConv2d
from xpconv.testing import naive


def binarized(w):
    """``sign(w)`` times the mean magnitude of the filter, by loops over filters."""
    out = np.empty_like(w)
    for f, filter_ in enumerate(w):
        out[f] = np.where(filter_ >= 0, 1.0, -1.0) * (np.abs(filter_).sum() / filter_.size)
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "groups"), [((3, 3), 1, 1, 1), ((3, 2), 2, 0, 1), ((2, 2), 1, 1, 2)]
)
def test_forward_and_backward_equal_the_loops(on, close, sparing, rng, kernel, stride, pad, groups):
    sparing(groups == 2)
    x, b = rng.normal(size=(2, 4, 6, 7)), rng.normal(size=6)
    w = rng.normal(size=(6, 4 // groups, *kernel))
    w[0, 0, 0, 0] = 0.0  # counts as positive
    geometry = ((stride, stride), ((pad, pad), (pad, pad)), (1, 1), groups)
    y = naive.conv2d(x, binarized(w), b, *geometry)
    grad = rng.normal(size=y.shape)
    dx, dw, db = naive.conv2d_backward(grad, x, binarized(w), *geometry)
    dtype = on.dtypes[-1]

    layer = BinaryConv2d(4, 6, kernel, stride, pad, groups=groups, dtype=dtype)
    layer.weight.data, layer.bias.data = on.asarray(w, dtype), on.asarray(b, dtype)
    close(layer.filters(), binarized(w))
    close(layer(on.asarray(x, dtype)), y)
    close(layer.backward(on.asarray(grad, dtype)), dx)
    close(layer.weight.grad, np.where(np.abs(w) <= 1, dw, 0.0))
    close(layer.bias.grad, db)
    assert (np.abs(w) > 1).any()


def test_without_a_bound_the_gradient_passes_everywhere(on, close, rng):
    x, w = rng.normal(size=(1, 1, 4, 4)), 5 * rng.normal(size=(2, 1, 3, 3))
    layer = BinaryConv2d(1, 2, 3, bias=False, clip=None, dtype=on.dtypes[-1])
    layer.weight.data = on.asarray(w, on.dtypes[-1])
    grad = np.ones((1, 2, 2, 2))
    layer(on.asarray(x, on.dtypes[-1]))
    layer.backward(on.asarray(grad, on.dtypes[-1]))
    close(layer.weight.grad, naive.conv2d_backward(grad, x, w)[1])


def test_a_net_of_it_learns_two_classes(on, sparing, rng):
    sparing(False)
    labels = np.arange(32) % 2
    images = rng.normal(size=(32, 1, 6, 6))
    images[:, :, 2:4, :] += 3.0 * (labels == 1)[:, None, None, None]  # a bright band
    net = xpconv.layers.Sequential(
        BinaryConv2d(1, 4, 3, padding=1, rng=0),
        xpconv.layers.ReLU(),
        xpconv.layers.GlobalAvgPool2d(),
        xpconv.layers.Linear(4, 2, rng=1),
    )
    optimizer = xpconv.optim.Adam(net.parameters(), lr=0.05)
    x, y = on.asarray(images, "float32"), on.asarray(labels)
    losses = []
    for _ in range(30):
        net.zero_grad()
        loss, dscores = xpconv.functional.softmax_cross_entropy(net(x), y)
        net.backward(dscores)
        optimizer.step()
        losses.append(float(xpconv.to_numpy(loss)))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        ("1", TypeError, "clip: expected a number above 0, got '1'"),
        (True, TypeError, "clip: expected a number above 0, got True"),
        (0, ValueError, "clip: expected a number above 0, got 0"),
        (float("nan"), ValueError, "clip: expected a number above 0, got nan"),
    ],
)
def test_a_wrong_bound_is_named(clip, error, message):
    with pytest.raises(error, match=message):
        BinaryConv2d(1, 1, 3, clip=clip)


def test_shows_its_bound():
    assert repr(BinaryConv2d(1, 2, 3, clip=None)) == "BinaryConv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), clip=None)"
