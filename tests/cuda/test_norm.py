"""Batch norm on images in several memory orders at once: where they lie decides how kernels go through them."""

import numpy as np
import pytest

from xpconv import _generic
from xpconv._gpu import norm
from xpconv._gpu.launch import index_for, planes
from xpconv.backends import load_backend
from xpconv.testing.cuda_host import HostArray

SHAPE = (4, 3, 8)


def batch_major(values):
    return np.array(values)


def channel_major(values):
    return np.array(values.swapaxes(0, 1), order="C").swapaxes(0, 1)


def every_second_image(values):
    """Of channel-major memory: vectors begin at 16 bytes, but a channel is not one run."""
    memory = np.full((SHAPE[1], 2 * SHAPE[0], SHAPE[2]), np.nan, values.dtype)
    memory[:, ::2] = values.swapaxes(0, 1)
    return memory[:, ::2].swapaxes(0, 1)


def some_channels(values):
    """Of channel-major memory: the channels between others."""
    memory = np.full((SHAPE[1] + 2, *SHAPE[::2]), np.nan, values.dtype)
    memory[1:-1] = values.swapaxes(0, 1)
    return memory[1:-1].swapaxes(0, 1)


def odd_planes(values):
    """Of channel-major memory, a number between two planes: there are no vectors."""
    memory = np.full((SHAPE[1], SHAPE[0], SHAPE[2] + 1), np.nan, values.dtype)
    memory[..., 1:] = values.swapaxes(0, 1)
    return memory[..., 1:].swapaxes(0, 1)


ORDERS = (batch_major, channel_major, every_second_image, some_channels, odd_planes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("other", ORDERS)
def test_orders_may_be_mixed(host, rng, order, other):
    x, residual, dy = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    weight, bias = rng.normal(size=(2, SHAPE[1])).astype(np.float32)
    numpy = load_backend("numpy")
    want = _generic.batch_norm_relu(numpy, x, weight, bias, residual, bias, weight, 0.2, 1e-5)
    gradients = _generic.batch_norm_relu_backward(numpy, dy, want[0], x, weight, want[1], want[3], True, True)

    def device(array, order=batch_major):
        return order(np.asarray(array)).view(HostArray)

    vectors = device(weight), device(bias)
    running = vectors[::-1]
    got = norm.batch_norm_relu(host, device(x, order), *vectors, device(residual, other), *running, 0.2, 1e-5)
    moments = device(want[1]), device(want[3])
    arrays = device(dy, other), device(want[0], other), device(x, order)
    back = norm.batch_norm_relu_backward(host, *arrays, vectors[0], *moments, True, True)
    for result, expected in zip((*got, *back), (*want, *gradients), strict=True):
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5, atol=1e-5)
    is_channel_major = order is not batch_major
    for result in (got[0], back[0], back[3]):
        assert (result.strides[1] > result.strides[0]) == is_channel_major


def test_images_that_lie_one_after_the_other_are_one(host):
    n, _, length = SHAPE
    values = np.zeros(SHAPE, np.float32)
    index = index_for(1)
    joined = planes(host, channel_major(values).view(HostArray))
    apart = planes(host, batch_major(values).view(HostArray))
    assert norm._channels(index, joined)[1:] == (1, n * length)
    assert norm._channels(index, joined, joined)[1:] == (1, n * length)
    assert norm._channels(index, joined, apart)[1:] == (n, length)
    assert norm._channels(index, planes(host, every_second_image(values).view(HostArray)))[1:] == (n, length)
    assert norm._channels(index, planes(host, batch_major(values[:1]).view(HostArray)))[1:] == (1, length)
