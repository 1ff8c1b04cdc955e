"""The dropout kernel: the published numbers of Philox 4x32-10, the generic operator, threads."""

import numpy as np
import pytest

from xpconv import _generic
from xpconv._cpu import _kernels, dropout
from xpconv._generic.dropout import philox
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
            _kernels.dropout(None, None, mask, *key, 0, middle, 1.0)
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
    expected = np.stack(philox(backend, counter, (seed & 0xFFFFFFFF, seed >> 32)), axis=1)
    assert words(count, (seed, layer, step)).tolist() == expected.reshape(-1)[:count].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 9), (64,), (65, 1), (3, 5, 41, 167)])
def test_the_bits_are_the_generic_operators(rng, isa, threads, dtype, shape):
    backend = load_backend("numpy")
    x, key = np.asarray(rng.standard_normal(shape)).astype(dtype), (2**40 + 3, 5, 2**31, 7)
    before = x.copy()
    for p in (0.0, 1e-9, 0.3, 0.5, 1 - 2**-33, 1.0):
        expected = _generic.dropout_mask(backend, x, p, key)
        y, mask = dropout.dropout(backend, x, p, key)
        for made in (mask, dropout.dropout_mask(backend, x, p, key)):
            assert made.dtype == expected.dtype
            assert made.shape == expected.shape
            assert np.array_equal(made, expected)
        dx = dropout.dropout_backward(backend, x, mask)
        for product in (y, dx):
            assert isinstance(product, np.ndarray)
            assert product.dtype == x.dtype
            np.testing.assert_array_equal(product, before * expected)
        np.testing.assert_array_equal(x, before)


def test_large_results_go_past_the_caches(rng, isa):
    backend, key = load_backend("numpy"), (3, 4, 5, 0)
    x = rng.standard_normal((2 << 20) // 4 + 333).astype(np.float32)
    x[[7, 2000, 300_000]] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        y, mask = dropout.dropout(backend, x, 0.3, key)
        np.testing.assert_array_equal(mask, _generic.dropout_mask(backend, x, 0.3, key))
        np.testing.assert_array_equal(y, x * mask)
        np.testing.assert_array_equal(dropout.dropout_backward(backend, x, mask), y)
        everything, none = dropout.dropout(backend, x, 1.0, key)
        np.testing.assert_array_equal(everything, x * 0)
        assert not none.any()


def test_any_memory_layout(rng, scattered):
    """The order of the memory plays no part in which elements are dropped."""
    backend, key = load_backend("numpy"), (3, 4, 5, 0)
    x = scattered(rng.standard_normal((3, 4, 5)))
    dy = scattered(rng.standard_normal((3, 4, 5)))
    y, mask = dropout.dropout(backend, x.view, 0.5, key)
    np.testing.assert_array_equal(mask, _generic.dropout_mask(backend, x.view, 0.5, key))
    np.testing.assert_array_equal(y, x.view * mask)
    np.testing.assert_array_equal(dropout.dropout_backward(backend, dy.view, mask), dy.view * mask)
    np.testing.assert_array_equal(dropout.dropout_backward(backend, dy.view, mask.T.copy().T), dy.view * mask)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(3), np.ones(4), "3 elements, expected 4"),
        (np.ones(4), np.ones(5), "5 elements, expected 4"),
        (np.ones(4, np.float32), np.ones(4), "two types"),
        (np.ones(8)[::2], np.ones(4), "contiguous"),
    ],
)
def test_arrays_that_do_not_fit(x, y, message):
    with pytest.raises(ValueError, match=message):
        _kernels.dropout(x, y, np.ones(4), 1, 2, 3, 0, 0, 1.0)


def test_an_element_depends_on_its_index_alone():
    backend = load_backend("numpy")
    long = dropout.dropout_mask(backend, np.empty(20000), 0.4, (1, 2, 3, 0))
    for count in (1, 63, 64, 4095, 4097, 19999):
        assert np.array_equal(dropout.dropout_mask(backend, np.empty(count), 0.4, (1, 2, 3, 0)), long[:count])
    other = np.empty((100, 200)).T  # the order of the memory plays no part
    assert np.array_equal(dropout.dropout_mask(backend, other, 0.4, (1, 2, 3, 0)), long.reshape(200, 100))


def test_every_part_of_the_key_counts():
    masks = []
    for key in (
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (2**32, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 1),
        (0, 0, 0, 2**32),
    ):
        masks.append(np.empty(256))
        _kernels.dropout(None, None, masks[-1], *key, 2**31, 2.0)
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    with pytest.raises(OverflowError):
        _kernels.dropout(None, None, masks[0], 2**64, 0, 0, 0, 0, 1.0)
