"""How a kernel with a thread for each pixel finds its pixel: divisions by numbers that stay the same in a launch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .launch import Index
from .module import INT32

__all__ = ["divisor", "walk"]


def divisor(number: int) -> tuple[int, int, int]:
    """``(number, magic, shift)`` with ``n // number == n * magic >> shift`` for all n from 0 to 2**31 - 1.

    Notes
    -----
    T. Granlund, P. Montgomery, *Division by invariant integers using multiplication* (1994), theorem 4.2: with
    ``2**(k - 1) < number <= 2**k`` and ``magic = 2**(31 + k) // number + 1``, the product ``magic * number`` is above
    ``2**(31 + k)`` by ``2**k`` at the most. The magic number is below 2**32.
    """
    bits = (number - 1).bit_length()
    return number, (1 << (31 + bits)) // number + 1, 31 + bits


@lru_cache(maxsize=4096)
def walk(index: Index, batch: int, channels: int, height: int, width: int) -> np.ndarray:
    """The structure ``Walk`` of common.cuh, over the pixels (height, width) of all images and channels."""
    count = batch * channels * height * width
    numbers = [max(1, n) for n in (batch, height * width, width)]  # of no pixels there is nothing to divide
    if index.name != INT32:
        return index.struct(*numbers, count)
    members = [member for number in numbers for member in divisor(number)]
    return np.array([*members, count], np.uint32).view([("members", np.uint32, len(members) + 1)])
