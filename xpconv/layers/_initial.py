"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..backends import get_backend
from .base import Parameter

__all__ = ["constant", "uniform"]


def uniform(generator: np.random.Generator, shape: Sequence[int], fan_in: int, dtype: str) -> Parameter:
    """Weights of U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), PyTorch's default, on the default backend.

    It is He's uniform initialisation with a negative slope of sqrt(5) (He et al. 2015, arXiv:1502.01852, eq. 14).
    """
    bound = 1 / math.sqrt(fan_in)
    return Parameter(get_backend().rng(generator).uniform(-bound, bound, shape, dtype=dtype))


def constant(shape: Sequence[int], value: float, dtype: str) -> Parameter:
    """Weights that all start at ``value``, on the default backend."""
    return Parameter(get_backend().full(shape, value, dtype))
