"""How far rounding can take two computed results from each other.

The error of a sum of K products in any order is at most ``gamma(K)`` times the sum of their absolute values, with
``gamma(K) = K u / (1 - K u)`` and u the unit roundoff (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd
ed. 2002, eq. 3.5 for inner products, section 4.2 for sums in any order). Where K is large that is never reached: with
rounding errors that are independent of mean zero, ``lambda sqrt(K) u`` holds instead of ``K u`` but for a probability
of ``2 K exp(-lambda**2 / 2)`` (Higham, Mary, *A new approach to probabilistic rounding error analysis*, 2019, theorem
2.4), the rule of thumb of Higham's section 2.8. `LAMBDA` is 6, so the first holds up to K = 36 and the second from
there.

A bound is thus a number of roundings, `Bound.length`, which follows from the shapes, and `Bound.scale`: the sum of the
absolute values of the terms, computed from the inputs in float64. None of it comes from what a backend returns. Where a
formula has several steps, the length counts the roundings along its longest chain, and the scale is the formula with
absolute values for all terms (Higham, section 3.4: errors of products and quotients add up to first order).

In half precision numbers are stored in 16 bits and computed with in float32: besides the roundings of float32 there are
a few to the half type, where a result or what is kept for a later step is written, `Bound.stored`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "DTYPES",
    "ELEMENTARY",
    "EXACT",
    "LAMBDA",
    "Bound",
    "accumulator",
    "gamma",
    "is_exact",
    "rounded",
    "tolerance",
    "unit_roundoff",
]

# Unit roundoff and smallest normal number; NumPy does not know all of them.
_NUMBERS = {
    "float64": (2.0**-53, 2.0**-1022),
    "float32": (2.0**-24, 2.0**-126),
    "float16": (2.0**-11, 2.0**-14),
    "bfloat16": (2.0**-8, 2.0**-126),
}
DTYPES = tuple(_NUMBERS)

LAMBDA = 6.0

# Roundings that an elementary function counts for. Libraries promise them to a few units in the last place, each of two
# roundings: up to 2 (CUDA C++ Programming Guide, mathematical functions: expf, erff, tanhf, logf), or up to 4 (NumPy's
# SIMD loops).
ELEMENTARY = 8


class Bound(NamedTuple):
    """How exact a result is.

    Attributes
    ----------
    length
        Roundings along the longest chain of operations; 0 for a result that has none and must be equal bit for bit.
    scale
        What the roundings are relative to: a number, or an array of the shape of the result.
    stored
        In half precision, how many of the roundings are to the half type: of the result, and of what was computed
        before and lies in memory between two steps. A result that the half type makes inexact has some though its
        length is 0.
    """

    length: float
    scale: Any = 0.0
    stored: float = 2


EXACT = Bound(0, stored=0)
"""The bound of results that are the same bits on every backend."""


def unit_roundoff(dtype: str) -> float:
    """Half the distance from 1 to the next larger number (Higham, section 2.1): 2**-24 for float32."""
    return _NUMBERS[dtype][0]


def accumulator(dtype: str) -> str:
    """What numbers of that dtype are computed in: float32 for the half types, else the dtype itself.

    Parameters
    ----------
    dtype
        Name of a floating-point dtype.

    Returns
    -------
    str
        Name of one that NumPy has.
    """
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Floating-point numbers to the nearest ones of a dtype, ties to even; those of half types in float32."""
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    if dtype != "bfloat16":
        return array.astype(dtype)
    single = array.astype(np.float32)
    bits = single.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(single), single, nearest.view(np.float32))


def gamma(length: float, dtype: str) -> float:
    """Largest relative error after that many roundings; see the head of this module."""
    count = min(length, LAMBDA * math.sqrt(length)) * unit_roundoff(dtype)
    return count / (1 - count)


def is_exact(bound: Bound, dtype: str) -> bool:
    """Whether results must be equal bit for bit; of the half types, to the float32 result rounded to them."""
    return bound.length == 0 and (bound.stored == 0 or dtype == accumulator(dtype))


def tolerance(bound: Bound, dtype: str) -> np.ndarray:
    """How far results of two backends may be apart; for the half types, one of them from a float32 result."""
    wide, scale = accumulator(dtype), np.asarray(bound.scale, np.float64)
    # twice, since both sides round; numbers below the normal ones may be flushed to zero in every operation
    found = 2 * gamma(bound.length, wide) * scale + bound.length * _NUMBERS[wide][1]
    if wide == dtype:
        return found
    u, smallest = _NUMBERS[dtype]
    # numbers of half precision below the normal ones are rounded to multiples of one
    return found + bound.stored * u * (scale + smallest)
