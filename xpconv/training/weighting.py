"""The mean loss of a batch from parts of it: of an accumulation, of several ranks, the batches of an evaluation.

A part gives a sum over its examples, and all parts are divided by the same number: how many examples there are, or with
class weights the sum of the weights of all their labels. The mean of a part itself, which with class weights is divided
by those of its own labels, would not do: it is NaN where they add up to 0.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..backends import backend_of, to_numpy
from ..backends.protocol import Array, Backend
from ..functional.loss import _check_scores
from .metrics import takes_probabilities

__all__ = ["class_weights", "mean_over_examples", "total_weight"]


def class_weights(loss: Any, targets: Array) -> Any | None:
    """The class weights by which ``loss`` divides for these targets; None where its mean is over the examples.

    Known are those of `xpconv.functional.softmax_cross_entropy` in a `functools.partial`. With probabilities (N, K) as
    targets its mean is over the examples.
    """
    if not takes_probabilities(loss) or len(targets.shape) != 1 or backend_of(targets=targets).is_floating(targets):
        return None
    weight = None
    while weight is None and isinstance(loss, partial):
        weight, loss = loss.keywords.get("weight"), loss.func
    return weight


def total_weight(weight: Any, labels: Array, dtype: Any) -> float | Array:
    """The sum of the weights of labels (N,): a number, on a device an array () of ``dtype`` there.

    Wrong values of weights or labels are left to the loss to tell.
    """
    listed = isinstance(weight, (list, tuple))
    backend = backend_of(labels=labels) if listed else backend_of(labels=labels, weight=weight)
    if backend.on_host:
        values, places = np.asarray(weight if listed else to_numpy(weight)), to_numpy(labels)
        if values.ndim != 1 or not values.size:
            return math.nan
        return float(np.sum(values[np.clip(places, 0, values.size - 1)], dtype=np.float64))
    with backend.running():
        values = backend.asarray(np.asarray(weight), dtype) if listed else weight
        rows = _one_hot(backend, labels, values.shape[0], dtype)
        return backend.asarray(backend.xp.sum(rows * backend.astype(values, dtype)[None, :]))


def mean_over_examples(loss: Any, scores: Array, labels: Array) -> tuple[Array, Array]:
    """Value and gradient of a ``loss`` with class weights, its sum over the examples divided by their number.

    That is what it does with probabilities, so it gets labels (N,) as such.
    """
    backend = _check_scores(scores, labels)
    with backend.running():
        rows = _one_hot(backend, labels, scores.shape[1], scores.dtype)
    mean: tuple[Array, Array] = loss(scores, rows)
    return mean


def _one_hot(backend: Backend, labels: Array, classes: int, dtype: Any) -> Array:
    """Rows (N, K) of zeros and a one; all NaN for a label that is out of range."""
    xp = backend.xp
    columns = xp.arange(classes, device=backend.device)
    labels = backend.astype(labels, columns.dtype)[:, None]
    rows = backend.astype(labels == columns, dtype)
    return backend.asarray(xp.where((labels < 0) | (labels >= classes), math.nan, rows))
