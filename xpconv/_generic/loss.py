"""Losses, each with its gradient: the mean over the batch.

A label outside 0 .. classes - 1 gives NaN, where reading the labels to check them would stall the device.
"""

from __future__ import annotations

import math

from ..backends.protocol import Array, Backend

__all__ = ["mse", "multiclass_hinge", "softmax_cross_entropy", "weighted_cross_entropy"]


def _hits(backend: Backend, labels: Array, scores: Array) -> tuple[Array, Array]:
    """One-hot labels as booleans (N, K), and the weight of each example (N, 1): 1 / N, NaN for an invalid label."""
    xp = backend.xp
    count, classes = scores.shape
    columns = xp.arange(classes, device=backend.device)
    labels = backend.astype(labels, columns.dtype)[:, None]
    invalid = (labels < 0) | (labels >= classes)
    weight = xp.where(invalid, math.nan, backend.full((count, 1), 1 / count, scores.dtype))
    return labels == columns, weight


def softmax_cross_entropy(
    backend: Backend, scores: Array, labels: Array, label_smoothing: float
) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    xp, classes = backend.xp, scores.shape[1]
    log_p = backend.astype(scores, backend.accumulator(scores))
    log_p = log_p - xp.max(log_p, axis=1, keepdims=True)
    p = xp.exp(log_p)
    total = xp.sum(p, axis=1, keepdims=True)
    log_p -= xp.log(total)
    p /= total
    hits, weight = _hits(backend, labels, p)
    # a score of -inf has the log-probability -inf, which must not meet a factor of zero
    losses = -(1 - label_smoothing) * xp.sum(xp.where(hits, log_p, 0.0), axis=1, keepdims=True)
    if label_smoothing:
        losses -= label_smoothing * xp.mean(log_p, axis=1, keepdims=True)
        p -= label_smoothing / classes
    p -= backend.astype(hits, p.dtype) * (1 - label_smoothing)
    p *= weight
    loss = xp.sum(losses * weight)
    return backend.astype(backend.asarray(loss), scores.dtype), backend.astype(p, scores.dtype)


def weighted_cross_entropy(
    backend: Backend, scores: Array, targets: Array, weight: Array | None, label_smoothing: float
) -> tuple[Array, Array]:
    """As `softmax_cross_entropy`, for labels (N,) or probabilities (N, K) and weights (K,) of the classes, or None.

    The mean is that of PyTorch: for labels the sum is divided by the sum of their weights, for probabilities by N.
    """
    xp = backend.xp
    count, classes = scores.shape
    log_p = backend.astype(scores, backend.accumulator(scores))
    log_p = log_p - xp.max(log_p, axis=1, keepdims=True)
    log_p = log_p - xp.log(xp.sum(xp.exp(log_p), axis=1, keepdims=True))
    wide = log_p.dtype
    per_class = None if weight is None else backend.astype(weight, wide)[None, :]
    if backend.is_floating(targets):
        wanted, share = backend.astype(targets, wide), backend.full((count, 1), 1 / count, wide)
    else:
        hits, share = _hits(backend, targets, log_p)
        wanted = backend.astype(hits, wide)
        if per_class is not None:
            total = xp.sum(wanted * per_class)
            # no weight at all gives 0 / 0, NaN, as in PyTorch; the factor keeps the NaN of an invalid label
            share = (share * count) / total
    if label_smoothing:
        wanted = wanted * (1 - label_smoothing) + label_smoothing / classes
    if per_class is not None:
        wanted = wanted * per_class
    # a score of -inf has the log-probability -inf, which must not meet a factor of zero
    losses = -xp.sum(wanted * xp.where(wanted != 0, log_p, 0.0), axis=1, keepdims=True)
    dscores = (xp.exp(log_p) * xp.sum(wanted, axis=1, keepdims=True) - wanted) * share
    loss = xp.sum(losses * share)
    return backend.astype(backend.asarray(loss), scores.dtype), backend.astype(dscores, scores.dtype)


def multiclass_hinge(backend: Backend, scores: Array, labels: Array, margin: float) -> tuple[Array, Array]:
    """Loss (a 0-d array) and gradient (N, K) for scores (N, K) and labels (N,)."""
    xp = backend.xp
    wide = backend.astype(scores, backend.accumulator(scores))
    hits, weight = _hits(backend, labels, wide)
    own = xp.sum(xp.where(hits, wide, 0.0), axis=1, keepdims=True)
    excess = xp.where(hits, 0.0, xp.maximum(wide - own + margin, 0.0))
    total = xp.sum(excess, axis=1, keepdims=True)
    loss = xp.sum(total * weight)
    weight = xp.where(xp.isnan(total) | xp.isnan(own), math.nan, weight)  # NaN exceeds nothing, and must not give 0
    dscores = backend.astype(excess > 0, wide.dtype)
    dscores -= backend.astype(hits, wide.dtype) * xp.sum(dscores, axis=1, keepdims=True)
    dscores *= weight
    return backend.astype(backend.asarray(loss), scores.dtype), backend.astype(dscores, scores.dtype)


def mse(backend: Backend, pred: Array, target: Array) -> tuple[Array, Array]:
    """Mean of the squared differences (a 0-d array), and its gradient to pred."""
    xp = backend.xp
    wide = backend.accumulator(pred)
    difference = backend.astype(pred, wide) - backend.astype(target, wide)
    loss = xp.mean(difference * difference)  # NumPy makes scalars of 0-d arrays, `asarray` arrays of them
    difference *= 2 / math.prod(pred.shape)
    return backend.astype(backend.asarray(loss), pred.dtype), backend.astype(backend.asarray(difference), pred.dtype)
