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
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ELEMENTARY", "EXACT", "LAMBDA", "Bound", "gamma", "unit_roundoff"]

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
    """

    length: float
    scale: Any = 0.0


EXACT = Bound(0)


def unit_roundoff(dtype: str) -> float:
    """Half the distance from 1 to the next larger number (Higham, section 2.1): 2**-24 for float32."""
    return float(np.finfo(dtype).eps) / 2


def gamma(length: float, dtype: str) -> float:
    """Largest relative error after that many roundings; see the head of this module."""
    count = min(length, LAMBDA * math.sqrt(length)) * unit_roundoff(dtype)
    return count / (1 - count)
