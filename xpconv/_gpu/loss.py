"""Losses, by CUDA kernels."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import flat, index_for, launch, waves, wide_scalar
from .reduce import WARP, row_sums

__all__ = ["mse", "multiclass_hinge", "softmax_cross_entropy"]


def _of_rows(backend: GpuBackend, kernel: str, scores: Array, labels: Array, parameter: float) -> tuple[Array, Array]:
    """Loss and gradient by a kernel that takes a warp for each row of the scores (N, K)."""
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
        wide_scalar(backend, scores)(parameter),
        index.scalar(count),
        index.scalar(classes),
    )
    launch(backend, "loss", kernel, backend.dtype_name(scores), (index.name,), count * WARP, arguments)
    return _total(backend, losses, scores), gradient


def _total(backend: GpuBackend, losses: Array, like: Array) -> Array:
    """The sum of ``losses`` (1, L) as a 0-d array of the dtype of ``like``."""
    return backend.astype(backend.xp.reshape(row_sums(backend, losses), ()), like.dtype)


def softmax_cross_entropy(
    backend: GpuBackend, scores: Array, labels: Array, label_smoothing: float
) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    return _of_rows(backend, "softmax_cross_entropy", scores, labels, label_smoothing)


def multiclass_hinge(backend: GpuBackend, scores: Array, labels: Array, margin: float) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    return _of_rows(backend, "multiclass_hinge", scores, labels, margin)


def mse(backend: GpuBackend, pred: Array, target: Array) -> tuple[Array, Array]:
    """Mean of the squared differences (a 0-d array), and its gradient to pred."""
    memory = flat(backend, pred, target)
    predicted, wanted = memory.arrays
    index, blocks = index_for(pred.size), waves(backend, pred.size)
    gradient = backend.empty(predicted.shape, pred.dtype)
    losses = backend.empty((1, blocks), backend.accumulator(pred))
    arguments = (predicted, wanted, gradient, losses, index.scalar(pred.size))
    launch(backend, "loss", "mse", backend.dtype_name(pred), (index.name,), (blocks,), arguments)
    return _total(backend, losses, pred), memory.restore(backend, gradient)
