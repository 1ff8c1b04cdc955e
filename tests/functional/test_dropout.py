"""Dropout: its bits against the published generator, the same on every backend; its gradient; its limits."""

import numpy as np
import pytest

from xpconv import functional as F
from xpconv._generic.dropout import philox
from xpconv.backends import asarray, get_backend, load_backend, run, to_numpy, use_kernels
from xpconv.testing import LAYOUTS, check_gradients

# kat_vectors of Random123, the library of the paper's authors: counter, key, result
KNOWN = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
MASK = 2**32 - 1


def philox_of_python(counter, key):
    """The generator in whole numbers of Python, one counter at a time, straight from the paper."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = product1 >> 32 ^ c1 ^ k0, product1 & MASK, product0 >> 32 ^ c3 ^ k1, product0 & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c0, c1, c2, c3


def kept(index, p, seed, layer, step):
    block, word = divmod(index, 4)
    words = philox_of_python((block & MASK, block >> 32, layer, step), (seed & MASK, seed >> 32))
    return words[word] >= int(p * 2**32)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_published_vectors(on, sparing, counter, key, want):
    sparing(counter == KNOWN[1][0])
    assert philox_of_python(counter, key) == want
    backend = get_backend()
    words = philox(backend, tuple(backend.asarray(np.asarray([c]), backend.word_dtype) for c in counter), key)
    assert tuple(int(on.to_numpy(word)[0]) for word in words) == want


KEYS = [(7, 0, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1), (2**40 + 5, 3, 2**31)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_mask_is_that_of_the_generator(on, sparing, key, p):
    sparing(key == KEYS[1] and p == 0.5)
    x = np.ones((3, 5, 2))  # 30 elements: the last block is not full
    want = np.asarray([kept(index, p, *key) for index in range(30)]).reshape(x.shape)
    for dtype in on.dtypes:
        y, _ = F.dropout(on.asarray(x, dtype), p, training=True, key=key)
        values = on.to_numpy(y)
        assert values.dtype == dtype
        np.testing.assert_array_equal(values != 0, want)
        np.testing.assert_allclose(values[want], 1 / (1 - p), rtol=1e-7)


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_large_array(kernels):
    """More than the generic operator makes at a time; a seed alone is layer 0, step 0."""
    size = 4 * 2**16 + 4 * 2**16 + 3
    with use_kernels(kernels):
        y, _ = F.dropout(np.ones(size, dtype="float32"), 0.3, training=True, key=11)
    indices = [0, 1, 4 * 2**16 - 1, 4 * 2**16, 4 * 2**16 + 1, size - 2, size - 1, *range(200000, 200050)]
    assert [bool(y[i]) for i in indices] == [kept(i, 0.3, 11, 0, 0) for i in indices]
    # with 524291 elements the share has a standard deviation of 0.0006
    assert abs((y == 0).mean() - 0.3) < 0.003
    assert abs(y.mean() - 1) < 0.005


def test_keys_are_independent():
    x = np.ones(4096)
    masks = [
        F.dropout(x, 0.5, training=True, key=key)[0] != 0
        for key in (1, 2, 2**32 + 1, (1, 1, 0), (1, 0, 1), (1, 1, 1), (2, 1, 0))
    ]
    agreement = np.asarray([[(a == b).mean() for b in masks] for a in masks])
    # equal with themselves, half equal with each other: standard deviation 0.008
    np.testing.assert_allclose(agreement, 0.5 + np.eye(len(masks)) / 2, atol=0.04)
    first, second = (F.dropout(x, 0.5, training=True, key=key)[0] for key in (5, (5, 0, 0)))
    np.testing.assert_array_equal(first, second)


def test_gradients(on, rng):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    x = on.asarray(rng.normal(size=(4, 5)))
    check_gradients(lambda x: F.dropout(x, 0.4, training=True, key=3), F.dropout_backward, [x])
    check_gradients(lambda x: F.dropout(x, 0.4, training=False, key=3), F.dropout_backward, [x])


def test_limits_of_p(on, sparing):
    sparing(False)
    x = on.asarray(np.ones((3, 4)), "float32")
    for p in (0, 0.0, 2.0**-40):
        y, cache = F.dropout(x, p, training=True, key=0)
        np.testing.assert_array_equal(on.to_numpy(y), np.ones((3, 4)))
        np.testing.assert_array_equal(on.to_numpy(F.dropout_backward(x, cache)), np.ones((3, 4)))
    for p in (1, 1.0):
        y, cache = F.dropout(x, p, training=True, key=0)
        np.testing.assert_array_equal(on.to_numpy(y), np.zeros((3, 4)))
        np.testing.assert_array_equal(on.to_numpy(F.dropout_backward(x, cache)), np.zeros((3, 4)))


def test_largest_p_below_one():
    p = np.nextafter(1, 0)
    y, _ = F.dropout(np.ones(1000), p, training=True, key=0)
    assert not y.any()


def test_inference_is_the_identity(on, rng):
    values = rng.normal(size=(3, 4)).astype("float32")
    x = on.asarray(values)
    y, cache = F.dropout(x, 0.9, training=False, key=0)
    np.testing.assert_array_equal(on.to_numpy(y), values)
    np.testing.assert_array_equal(on.to_numpy(F.dropout_backward(x, cache)), values)


def test_empty_and_zero_dimensional(on, sparing):
    sparing(False)
    for shape in ((0, 3), ()):
        x = on.asarray(np.ones(shape), "float32")
        y, cache = F.dropout(x, 0.5, training=True, key=0)
        assert on.to_numpy(y).shape == shape
        assert on.to_numpy(F.dropout_backward(x, cache)).shape == shape


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_mask_does_not_depend_on_the_memory(layout, kernels):
    x = np.ones((3, 4, 5), dtype="float32")
    with use_kernels(kernels):
        want, cache = F.dropout(x, 0.5, training=True, key=9)
        got, _ = F.dropout(LAYOUTS[layout](x), 0.5, training=True, key=9)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(F.dropout_backward(LAYOUTS[layout](x), cache), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    torch = pytest.importorskip("torch")
    y, _ = F.dropout(torch.ones(64, dtype=getattr(torch, dtype)), 0.25, training=True, key=9)
    assert y.dtype == getattr(torch, dtype)
    want, _ = F.dropout(np.ones(64), 0.25, training=True, key=9)
    np.testing.assert_allclose(y.double().numpy(), want, rtol=4e-3)


def test_operator_gives_the_mask(on, sparing):
    sparing(False)
    mask = run(get_backend(), "dropout_mask", on.asarray(np.full((2, 3), np.nan), "float32"), 0.5, (1, 2, 3, 0))
    want = [[2.0 * kept(3 * i + j, 0.5, 1, 2, 3) for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(on.to_numpy(mask), want)


@pytest.mark.parametrize(
    ("p", "key", "error", "message"),
    [
        (-0.1, 0, ValueError, "p: expected a number between 0 and 1, got -0.1"),
        (1.1, 0, ValueError, "p: expected a number between 0 and 1, got 1.1"),
        (float("nan"), 0, ValueError, "p: expected a number between 0 and 1, got nan"),
        ("half", 0, TypeError, "p: expected a number between 0 and 1, got 'half'"),
        (0.5, -1, ValueError, "key: must be between 0 and 18446744073709551615, got -1"),
        (0.5, 2**64, ValueError, "key: must be between 0 and 18446744073709551615"),
        (0.5, 1.0, TypeError, "key: expected an integer, got 1.0"),
        (0.5, None, TypeError, "key: expected an integer, got None"),
        (0.5, (1, 2), ValueError, r"key: expected a seed or \(seed, layer, step\), got \(1, 2\)"),
        (0.5, (1, 2**32, 0), ValueError, "key: layer: must be between 0 and 4294967295, got 4294967296"),
        (0.5, (1, 0, -1), ValueError, "key: step: must be between 0 and 4294967295, got -1"),
        (0.5, (True, 0, 0), TypeError, "key: seed: expected an integer, got True"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_bad_arguments(p, key, error, message, training):
    with pytest.raises(error, match=message):
        F.dropout(np.ones(3), p, training=training, key=key)


def test_bad_arrays():
    with pytest.raises(TypeError, match="x: expected float32 or float64, got int64"):
        F.dropout(np.arange(3), 0.5, training=True, key=0)
    _, cache = F.dropout(np.ones(3), 0.5, training=True, key=0)
    with pytest.raises(ValueError, match=r"dy: expected shape \(3,\)"):
        F.dropout_backward(np.ones(4), cache)
    pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="dy is an array of array_api_strict but cached is one of numpy"):
        F.dropout_backward(load_backend("array_api_strict").asarray(np.ones(3)), cache)
    _, cache = F.dropout(np.ones(3), 0.5, training=False, key=0)
    with pytest.raises(TypeError, match="dy: expected float64, the dtype of the forward result, got float32"):
        F.dropout_backward(np.ones(3, dtype="float32"), cache)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 7, 22, 2**34 - 5])
def test_a_part_has_the_mask_that_the_whole_has_there(on, sparing, first):
    sparing(first in (0, 7))
    start = max(0, first - 30)  # a whole mask of all that comes before would be large
    start -= start % 4
    whole = asarray(np.ones(first - start + 24, np.float32))
    part = asarray(np.ones((4, 6), np.float32))
    key = (5, 3, 9)
    expected = to_numpy(F.dropout(whole, 0.5, training=True, key=key, first=start)[0])[first - start :]
    y, cache = F.dropout(part, 0.5, training=True, key=key, first=first)
    assert np.array_equal(to_numpy(y), expected.reshape(4, 6))
    dx = to_numpy(F.dropout_backward(part, cache))
    assert np.array_equal(dx, expected.reshape(4, 6))


@pytest.mark.parametrize("first", [-1, 2**66])
def test_a_part_that_begins_nowhere(first):
    with pytest.raises(ValueError, match="first: "):
        F.dropout(np.ones(3), 0.5, training=True, key=1, first=first)
