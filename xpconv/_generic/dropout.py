"""Dropout masks from Philox 4x32-10, a counter-based generator: the same bits on every backend.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. Ten rounds
turn a counter of four 32-bit words and a key of two into four random words; any word can be had on its own.

Words are kept in an integer dtype of the backend, ``word_dtype``: uint32, or a wider one whose upper bits stay zero.
"""

from __future__ import annotations

from .._random import is_step_on_device
from ..backends import run
from ..backends.protocol import Array, Backend

__all__ = ["dropout", "dropout_backward", "dropout_mask", "philox"]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_HALF = 0xFFFF

# blocks of four words made at a time; their arrays of words, 256 KiB each, stay in the cache of a CPU
_BLOCKS = 1 << 16


def _word(backend: Backend, value: int) -> Array:
    """One word that broadcasts; Python numbers from 2**31 on are too large for some libraries."""
    return backend.full((1,), value & _WORD, backend.word_dtype)


def _multiply(backend: Backend, words: Array, constant: int) -> tuple[Array, Array]:
    """Upper and lower word of the 64-bit products, from products of half words, which fit into a word.

    With upper and lower halves ``words = (h, l)`` and ``constant = (H, L)``::

        words * constant = (h*H << 32) + (h*L + l*H << 16) + l*L
    """
    upper, lower = words >> 16, words & _HALF
    constant_upper, constant_lower = constant >> 16, constant & _HALF
    low = lower * constant_lower
    cross1 = lower * constant_upper
    cross2 = upper * constant_lower
    middle = (low >> 16) + (cross1 & _HALF) + (cross2 & _HALF)
    high = upper * constant_upper + (cross1 >> 16) + (cross2 >> 16) + (middle >> 16)
    return high, ((middle & _HALF) << 16) | (low & _HALF)


def philox(backend: Backend, counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Four random words for each counter.

    Parameters
    ----------
    counter
        Four one-dimensional arrays of ``word_dtype``, broadcast against each other: the words of the counters.
    key
        Two integers of 32 bits.
    """
    c0, c1, c2, c3 = counter
    for turn in range(_ROUNDS):
        k0, k1 = (_word(backend, k + turn * step) for k, step in zip(key, _KEY_STEPS, strict=True))
        high0, low0 = _multiply(backend, c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(backend, c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def dropout_mask(backend: Backend, like: Array, p: float, key: tuple[int, int, int, int]) -> Array:
    """Mask of the shape and dtype of ``like``: 0 with probability p, else ``1 / (1 - p)``.

    Parameters
    ----------
    key
        (seed, layer, step, first block). The generator's key is the seed's lower and upper 32 bits; its counter is
        (block's lower 32 bits, block's upper 32 bits, layer, step), where element ``4 * (block - first block) + word``
        in C order of ``like`` gets that word of the block. It is dropped if its word is below ``floor(p * 2**32)``. The
        step may be an array of one uint32.
    """
    xp, shape = backend.xp, tuple(like.shape)
    size = 1
    for length in shape:
        size *= length
    threshold = int(p * 2**32)
    if size == 0 or threshold > _WORD:  # p is 1: everything is dropped
        return backend.zeros(shape, like.dtype)
    seed, layer, step, first = key
    limit = _word(backend, threshold)
    last = backend.astype(step, backend.word_dtype) if is_step_on_device(step) else _word(backend, step)
    blocks = -(-size // 4)
    parts, block, stop = [], first, first + blocks
    while block < stop:
        count = min(_BLOCKS, stop - block, (1 << 32) - (block & _WORD))  # of one upper word
        lower = backend.arange(count, backend.word_dtype) + _word(backend, block)
        counter = (lower, _word(backend, block >> 32), _word(backend, layer), last)
        block += count
        words = philox(backend, counter, (seed & _WORD, seed >> 32))
        parts.append(xp.reshape(xp.stack(words, axis=1), (-1,)) >= limit)
    keep = parts[0] if len(parts) == 1 else xp.concat(parts)
    mask = backend.astype(keep[:size], like.dtype)
    mask *= 1 / (1 - p)
    return xp.reshape(mask, shape)


def dropout(backend: Backend, x: Array, p: float, key: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """``x * mask`` and the mask, from whichever kernel of the backend makes it."""
    mask = run(backend, "dropout_mask", x, p, key)
    return backend.asarray(x * mask), mask  # NumPy makes a scalar of 0-d arrays


def dropout_backward(backend: Backend, dy: Array, mask: Array) -> Array:
    """``dy * mask``."""
    return backend.asarray(dy * mask)
