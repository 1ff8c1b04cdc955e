"""Losses by compiled loops."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(
    backend: Backend, scores: Array, labels: Array, label_smoothing: float
) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    scores = np.asarray(scores, order="C")
    dscores = empty(scores.shape, scores.dtype)
    # unsigned labels beyond int64 become negative ones: invalid as well
    labels = np.asarray(labels, np.int64, order="C")
    loss = _kernels.softmax_cross_entropy(scores, labels, dscores, label_smoothing)
    return np.asarray(loss, scores.dtype), dscores
