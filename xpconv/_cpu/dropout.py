"""Dropout masks by the compiled Philox generator."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels

__all__ = ["dropout_mask"]


def dropout_mask(backend: Backend, like: Array, p: float, key: tuple[int, int, int]) -> Array:
    """Mask of the shape and dtype of ``like``: 0 with probability p, else ``1 / (1 - p)``; key (seed, layer, step)."""
    threshold = int(p * 2**32)
    mask = np.empty(like.shape, like.dtype)
    seed, layer, step = key
    kept = 1 / (1 - p) if p < 1 else 0.0  # with p = 1 nothing is kept
    _kernels.dropout_mask(mask.reshape(-1), seed, layer, step, threshold, kept)
    return mask
