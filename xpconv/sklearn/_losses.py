"""Losses in which every example has a weight: it comes with the target."""

from __future__ import annotations

from ..backends import backend_of
from ..backends.protocol import Array

__all__ = ["weighted_cross_entropy", "weighted_squared_error"]


def weighted_cross_entropy(scores: Array, rows: Array) -> tuple[Array, Array]:
    """Mean over the batch of ``-weight * log softmax(scores)[label]``.

    Parameters
    ----------
    scores : array (N, K)
        Scores of K classes.
    rows : array (N, K)
        In the dtype of scores: the weight of the example in the column of its label, zeros elsewhere.

    Returns
    -------
    loss : array, 0-d
    dscores : array (N, K)
        Its gradient.
    """
    backend = backend_of(scores=scores, rows=rows)
    with backend.running():
        xp, count = backend.xp, scores.shape[0]
        shifted = scores - xp.max(scores, axis=1, keepdims=True)
        log_softmax = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
        weights = xp.sum(rows, axis=1, keepdims=True)
        return -xp.sum(rows * log_softmax) / count, (xp.exp(log_softmax) * weights - rows) / count


def weighted_squared_error(pred: Array, rows: Array) -> tuple[Array, Array]:
    """Mean over the batch and the outputs of ``weight * (pred - target)**2``.

    Parameters
    ----------
    pred : array (N, K)
        Predictions of K numbers.
    rows : array (N, K + 1)
        In the dtype of pred: the K targets, then the weight of the example.

    Returns
    -------
    loss : array, 0-d
    dpred : array (N, K)
        Its gradient.
    """
    backend = backend_of(pred=pred, rows=rows)
    with backend.running():
        xp, outputs = backend.xp, pred.shape[1]
        difference = pred - rows[:, :outputs]
        weighted = rows[:, outputs:] * difference
        size = pred.shape[0] * outputs
        return xp.sum(weighted * difference) / size, weighted * (2 / size)
