"""The dropout kernel: the published numbers of Philox 4x32-10, the generic operator, threads."""

import numpy as np
import pytest

from xpconv import _generic
from xpconv._cpu import _kernels, dropout
from xpconv.backends import load_backend

# counter and key zero, from the known answers that come with Random123
ZERO = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


def words(count, key):
    """The random words of the first elements, bit by bit: an element is dropped if its word is below the threshold."""
    found = np.zeros(count, np.uint64)
    for k in range(count):
        low, high = 0, 2**32  # dropped at high, kept at low
        mask = np.empty(k + 1)
        while high - low > 1:
            middle = (low + high) // 2
            _kernels.dropout_mask(mask, *key, middle, 1.0)
            low, high = (low, middle) if mask[k] == 0 else (middle, high)
        found[k] = low
    return found


def test_known_answers():
    assert words(4, (0, 0, 0)).tolist() == list(ZERO)


def test_words_are_the_generic_generators():
    backend = load_backend("numpy")
    seed, layer, step = 2**63 + 12345, 2**32 - 1, 77
    count = 11
    zeros = np.zeros(3, np.uint32)
    counter = (np.arange(3, dtype=np.uint32), zeros, zeros + np.uint32(layer), zeros + np.uint32(step))
    expected = np.stack(_generic.dropout.philox(backend, counter, (seed & 0xFFFFFFFF, seed >> 32)), axis=1)
    assert words(count, (seed, layer, step)).tolist() == expected.reshape(-1)[:count].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 9), (64,), (65, 1), (3, 5, 41, 167)])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 0.5, 1 - 2**-33, 1.0])
def test_masks_are_the_generic_operators(threads, dtype, shape, p):
    backend = load_backend("numpy")
    like, key = np.empty(shape, dtype), (2**40 + 3, 5, 2**31)
    mask = dropout.dropout_mask(backend, like, p, key)
    expected = _generic.dropout_mask(backend, like, p, key)
    assert mask.dtype == expected.dtype
    assert mask.shape == expected.shape
    assert np.array_equal(mask, expected)


def test_an_element_depends_on_its_index_alone():
    backend = load_backend("numpy")
    long = dropout.dropout_mask(backend, np.empty(20000), 0.4, (1, 2, 3))
    for count in (1, 63, 64, 4095, 4097, 19999):
        assert np.array_equal(dropout.dropout_mask(backend, np.empty(count), 0.4, (1, 2, 3)), long[:count])
    other = np.empty((100, 200)).T  # the order of the memory plays no part
    assert np.array_equal(dropout.dropout_mask(backend, other, 0.4, (1, 2, 3)), long.reshape(200, 100))


def test_every_part_of_the_key_counts():
    masks = []
    for key in ((0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)):
        masks.append(np.empty(256))
        _kernels.dropout_mask(masks[-1], *key, 2**31, 2.0)
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    with pytest.raises(OverflowError):
        _kernels.dropout_mask(masks[0], 2**64, 0, 0, 0, 1.0)
