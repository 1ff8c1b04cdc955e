"""Losses: each returns the mean over the batch together with its gradient to the predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._checks import check_number
from ..backends import backend_of, run
from ..backends.protocol import Array, Backend
from ._arguments import check_dimensions, check_shape, floating_backend

__all__ = ["mse", "multiclass_hinge", "softmax_cross_entropy"]

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _check_not_empty(scores: Array) -> None:
    count, classes = scores.shape
    if count == 0:
        raise ValueError(f"scores: the mean over an empty batch is undefined, got shape {tuple(scores.shape)}")
    if classes == 0:
        raise ValueError(f"scores: expected at least one class, got shape {tuple(scores.shape)}")


def _check_scores(scores: Array, labels: Array) -> Backend:
    """Check scores (N, K) and labels (N,); return their backend. Reads the labels only where that is free."""
    backend = floating_backend(scores=scores)
    backend_of(scores=scores, labels=labels)
    check_dimensions("scores", scores, 2, "(N, K)")
    count, classes = scores.shape
    check_shape("labels", labels, (count,), "(N,), one for each row of scores")
    if backend.dtype_name(labels) not in _INTEGERS:
        nan = ""
        if backend.is_floating(labels) and backend.can_read(labels):
            missing = np.isnan(backend.to_numpy(labels))
            nan = f" with {missing.sum()} NaN, the first at index {missing.argmax()}" if missing.any() else ""
        raise TypeError(f"labels: expected integers from 0 to {classes - 1}, got {backend.dtype_name(labels)}{nan}")
    _check_not_empty(scores)
    if backend.can_read(labels):
        values = backend.to_numpy(labels)
        wrong = (values < 0) | (values >= classes)
        if wrong.any():
            index = int(wrong.argmax())
            raise ValueError(
                f"labels: expected integers from 0 to {classes - 1}, the columns of scores, got {values[index]} "
                f"at index {index}"
            )
    return backend


def _check_probabilities(scores: Array, rows: Array) -> Backend:
    """Check scores (N, K) and rows of probabilities like them; return their backend."""
    backend = floating_backend(scores=scores)
    backend_of(scores=scores, labels=rows)
    check_dimensions("scores", scores, 2, "(N, K)")
    check_shape("labels", rows, tuple(scores.shape), "(N, K) like scores")
    _check_not_empty(scores)
    if backend.can_read(rows):
        values = backend.to_numpy(rows)
        wrong = ~(values >= 0).all(axis=1)  # also where there is a NaN
        if wrong.any():
            index = int(wrong.argmax())
            raise ValueError(
                f"labels: expected probabilities of at least 0, got {values[index].tolist()!r:.100} in row {index}"
            )
    return backend


def _class_weights(weight: Any, scores: Array, backend: Backend) -> Array:
    """The weights of the classes as an array of ``backend``, checked where that is free."""
    if isinstance(weight, (list, tuple)):
        weight = backend.asarray(np.asarray(weight), backend.accumulator(scores))
    backend_of(scores=scores, weight=weight)
    check_shape("weight", weight, (scores.shape[1],), "(K,), one for each class")
    if not backend.is_floating(weight):
        raise TypeError(f"weight: expected floating-point weights of the classes, got {backend.dtype_name(weight)}")
    if backend.can_read(weight):
        values = backend.to_numpy(weight)
        if not ((values >= 0) & np.isfinite(values)).all():
            raise ValueError(f"weight: expected finite numbers of at least 0, got {values.tolist()!r:.200}")
    return weight


def softmax_cross_entropy(
    scores: Array, labels: Array, *, label_smoothing: float = 0.0, weight: Array | Sequence[float] | None = None
) -> tuple[Array, Array]:
    """Cross-entropy of the softmax of the scores: the mean of ``-log softmax(scores)[label]``.

    Labels may be probabilities, as mixup makes them; then it is the mean of ``-sum(labels * log softmax(scores))``. All
    arguments mean what they do in `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    scores : array (N, K)
        Scores (logits) of K classes, floating-point and of any size; -inf excludes a class. Half precision is computed
        in float32. NaN gives NaN.
    labels : array (N,) or (N, K)
        The right classes, integers of any dtype from 0 to K - 1, or for each example a row of floating-point
        probabilities of the classes, at least 0; on the backend of scores. Rows need not add up to 1.
    label_smoothing : float
        In [0, 1]: that part of the target is spread over all classes (Szegedy et al. 2016).
    weight : array (K,) or sequence of K floats, optional
        Weights of the classes, at least 0; an array is on the backend of scores. With labels (N,) the sum over the
        batch is divided by the sum of the weights of the labels, NaN where that is 0; with probabilities by N.

    Returns
    -------
    loss : array, 0-d
        In the dtype of scores.
    dscores : array (N, K)
        Its gradient, without weights ``(softmax - target) / N``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also for an empty batch, whose mean is
        undefined. On a device whose values cannot be read without waiting for it, labels out of range are no error;
        there they make the loss and the gradient of their row NaN.
    """
    soft = len(getattr(labels, "shape", ())) == 2 and backend_of(labels=labels).is_floating(labels)
    backend = _check_probabilities(scores, labels) if soft else _check_scores(scores, labels)
    label_smoothing = check_number("label_smoothing", label_smoothing, 0, 1)
    if weight is not None:
        weight = _class_weights(weight, scores, backend)
    elif not soft:
        return run(backend, "softmax_cross_entropy", scores, labels, label_smoothing)
    return run(backend, "weighted_cross_entropy", scores, labels, weight, label_smoothing)


def multiclass_hinge(scores: Array, labels: Array, *, margin: float = 1.0) -> tuple[Array, Array]:
    """Multi-class hinge loss (Weston, Watkins 1999): how far wrong classes come within a margin of the right one.

    It is the mean of ``sum over k != label of max(0, s[k] - s[label] + margin)``. The sum over the classes is not
    divided by K; that of `torch.nn.MultiMarginLoss` is.

    Parameters
    ----------
    scores : array (N, K)
        Scores of K classes, floating-point. NaN gives NaN.
    labels : array (N,)
        The right classes, integers of any dtype from 0 to K - 1, on the backend of scores.
    margin : float
        By how much the right class should lead.

    Returns
    -------
    loss : array, 0-d
        In the dtype of scores.
    dscores : array (N, K)
        Its gradient.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    backend = _check_scores(scores, labels)
    margin = check_number("margin", margin, -math.inf)
    return run(backend, "multiclass_hinge", scores, labels, margin)


def mse(pred: Array, target: Array) -> tuple[Array, Array]:
    """Mean of the squared differences over all elements.

    Parameters
    ----------
    pred : array
        Of any shape, floating-point.
    target : array
        Of the shape and dtype of pred: nothing is broadcast.

    Returns
    -------
    loss : array, 0-d
        In the dtype of pred.
    dpred : array like pred
        Its gradient.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also for empty arrays, whose mean is undefined.
    """
    backend = floating_backend(pred=pred, target=target)
    if pred is None:
        raise TypeError("pred: expected an array, got None")
    check_shape("target", target, tuple(pred.shape), "like pred")
    if 0 in pred.shape:
        raise ValueError(f"pred: the mean over an empty array is undefined, got shape {tuple(pred.shape)}")
    return run(backend, "mse", pred, target)
