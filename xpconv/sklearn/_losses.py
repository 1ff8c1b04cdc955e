"""A loss in which every example has a weight: it comes with the target."""

from __future__ import annotations

from ..backends import backend_of
from ..backends.protocol import Array

__all__ = ["weighted_squared_error"]


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
