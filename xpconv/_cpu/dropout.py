"""Dropout by the compiled Philox generator."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty
from .activation import multiply

__all__ = ["dropout", "dropout_backward", "dropout_mask"]


def _numbers(p: float, key: tuple[int, int, int, int]) -> tuple[int, int, int, int, int, float]:
    """Seed, layer, step, first block, threshold and factor for the kernel; with p = 1 nothing is kept."""
    return *key, int(p * 2**32), 1 / (1 - p) if p < 1 else 0.0


def dropout_mask(backend: Backend, like: Array, p: float, key: tuple[int, int, int, int]) -> Array:
    """Mask of the shape and dtype of ``like``: 0 with probability p, else ``1 / (1 - p)``; see `xpconv._generic`."""
    mask = empty(like.shape, like.dtype)
    _kernels.dropout(None, None, mask, *_numbers(p, key))
    return mask


def dropout(backend: Backend, x: Array, p: float, key: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """``x * mask`` and the mask of `dropout_mask`, which are made together."""
    x = np.asarray(x, order="C")
    y, mask = empty(x.shape, x.dtype), empty(x.shape, x.dtype)
    _kernels.dropout(x, y, mask, *_numbers(p, key))
    return y, mask


def dropout_backward(backend: Backend, dy: Array, mask: Array) -> Array:
    """``dy * mask``."""
    return multiply(mask, dy)
