"""Small images of eight greys, packed by what the pixels around let expect: a third smaller than by deflate.

A pixel is coded with an asymmetric numeral system (Duda 2013, arXiv:1311.2540), by how often each grey has followed the
same four neighbours, left, above, above left and above right, in all images so far. All images are coded side by side,
one pixel after the other, so that the loops are NumPy's. Integers alone decide: the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["pack", "unpack"]

GREYS = 8
BITS = 12  # of a probability
LEAST = 1 << 16  # states lie in [2**16, 2**32), words have 16 bits

Coder = Callable[[int, int, np.ndarray], np.ndarray]


def _bounds(seen: np.ndarray) -> np.ndarray:
    """Where the share of each grey begins, and the last ends, of 2**BITS; (9, contexts) from counts (8, contexts)."""
    weights = 2 * seen + 1
    shares = 1 + weights * ((1 << BITS) - GREYS) // weights.sum(axis=0)
    shares[weights.argmax(axis=0), np.arange(seen.shape[1])] += (1 << BITS) - shares.sum(axis=0)
    bounds = np.zeros((GREYS + 1, seen.shape[1]), np.intp)
    np.cumsum(shares, axis=0, out=bounds[1:])
    return bounds


def _code(count: int, height: int, width: int, coder: Coder) -> np.ndarray:
    """Pixel by pixel: ``coder(row, column, bounds)`` returns its greys, (count,), from bounds (9, count)."""
    images = np.zeros((height + 1, width + 2, count), np.intp)  # zeros above and beside
    seen = np.zeros(GREYS**5, np.intp)
    for row in range(height):
        for column in range(width):
            if row == 0 or column % 14 == 0:  # not at each, for speed
                bounds = _bounds(seen.reshape(GREYS, -1))
            above = images[row]
            context = images[row + 1, column]
            for neighbour in (above[column + 1], above[column], above[column + 2]):
                context = context * GREYS + neighbour
            greys = coder(row, column, bounds.take(context, axis=1))
            images[row + 1, column + 1] = greys
            seen += np.bincount(greys * GREYS**4 + context, minlength=len(seen))
    return images[1:, 1:-1].transpose(2, 0, 1).astype(np.uint8)


def pack(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (N,) of uint32 and words of uint16 from images (N, H, W) of uint8 below 8."""
    lanes, shares = np.arange(len(images)), []

    def coder(row: int, column: int, bounds: np.ndarray) -> np.ndarray:
        greys = images[:, row, column].astype(np.intp)
        shares.append((bounds[greys, lanes], bounds[greys + 1, lanes]))
        return greys

    count, height, width = images.shape
    _code(count, height, width, coder)
    states = np.full(len(images), LEAST, np.int64)
    words: list[np.ndarray] = []
    for begin, end in reversed(shares):  # what is packed last comes out first
        share = (end - begin).astype(np.int64)
        full = states >= share << (32 - BITS)
        words.append(states[full] & 0xFFFF)
        states[full] >>= 16
        states = (states // share << BITS) + states % share + begin
    return states.astype(np.uint32), np.concatenate(words[::-1]).astype(np.uint16)


def unpack(states: np.ndarray, words: np.ndarray, height: int, width: int) -> np.ndarray:
    """The images (N, H, W), uint8, that `pack` has packed."""
    lanes, state, at = np.arange(len(states)), states.astype(np.int64), 0

    def coder(row: int, column: int, bounds: np.ndarray) -> np.ndarray:
        nonlocal state, at
        slot = state & ((1 << BITS) - 1)
        greys = np.add.reduce(bounds[1:-1] <= slot, axis=0, dtype=np.intp)
        begin = bounds[greys, lanes]
        state = (bounds[greys + 1, lanes] - begin) * (state >> BITS) + slot - begin
        empty = np.flatnonzero(state < LEAST)
        state[empty] = state[empty] << 16 | words[at : at + len(empty)]
        at += len(empty)
        return greys

    return _code(len(states), height, width, coder)
