"""Dropout (Srivastava et al. 2014, JMLR 15)."""

from __future__ import annotations

import math

import numpy as np

from .. import functional
from .._checks import check_number
from ..backends.protocol import Array
from .base import RandomLayer

__all__ = ["Dropout"]


class Dropout(RandomLayer):
    """Zeroes each number with probability ``p`` in training and scales the rest by ``1 / (1 - p)``.

    The mask is the same on every backend: see `RandomLayer` for what it depends on.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 to 1.
    rng : numpy.random.Generator or int, optional
        Where the seed comes from; the process-wide generator if None.

    Raises
    ------
    TypeError, ValueError
        p is no number or not in 0 to 1; rng cannot give a seed.
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int | None = None) -> None:
        super().__init__(rng)
        self.p = check_number("p", p, 0, 1)

    def forward(self, x: Array) -> Array:
        """``x`` with numbers dropped in training, ``x`` itself in evaluation."""
        key = self.next_key() if self.training else 0
        first = self.first_example * math.prod(x.shape[1:]) if self.training else 0
        y, cache = functional.dropout(x, self.p, training=self.training, key=key, first=first)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` through the same mask."""
        return functional.dropout_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"p={self.p}"
