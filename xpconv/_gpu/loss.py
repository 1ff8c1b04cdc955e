"""Losses, by CUDA kernels."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import index_for, launch, waves, wide_scalar
from .reduce import row_sums

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(
    backend: GpuBackend, scores: Array, labels: Array, label_smoothing: float
) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    count, classes = scores.shape
    scores = backend.contiguous(scores)
    index = index_for(scores.size)
    losses = backend.empty((1, count), backend.accumulator(scores))
    gradient = backend.empty(scores.shape, scores.dtype)
    arguments = (
        scores,
        backend.contiguous(backend.astype(labels, "int64")),
        gradient,
        losses,
        wide_scalar(backend, scores)(label_smoothing),
        index.scalar(count),
        index.scalar(classes),
    )
    grid = (waves(backend, count * 32),)  # a warp each
    launch(backend, "loss", "softmax_cross_entropy", backend.dtype_name(scores), (index.name,), grid, arguments)
    loss = backend.xp.reshape(row_sums(backend, losses), ())
    return backend.astype(loss, scores.dtype), gradient
