"""Losses: each returns the mean over the batch together with its gradient to the predictions."""

from __future__ import annotations

import math

import numpy as np

from .._checks import check_number
from ..backends import backend_of, run
from ..backends.protocol import Array, Backend
from ._arguments import check_shape, floating_backend

__all__ = ["mse", "multiclass_hinge", "softmax_cross_entropy"]

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _check_scores(scores: Array, labels: Array) -> Backend:
    """Check scores (N, K) and labels (N,); return their backend. Reads the labels only where that is free."""
    backend = floating_backend(scores=scores)
    backend_of(scores=scores, labels=labels)
    check_shape("scores", scores, (None, None), "(N, K)")
    count, classes = scores.shape
    check_shape("labels", labels, (count,), "(N,), one for each row of scores")
    if backend.dtype_name(labels) not in _INTEGERS:
        nan = ""
        if backend.is_floating(labels) and backend.can_read(labels):
            missing = np.isnan(backend.to_numpy(labels))
            nan = f" with {missing.sum()} NaN, the first at index {missing.argmax()}" if missing.any() else ""
        raise TypeError(f"labels: expected integers from 0 to {classes - 1}, got {backend.dtype_name(labels)}{nan}")
    if count == 0:
        raise ValueError(f"scores: the mean over an empty batch is undefined, got shape {tuple(scores.shape)}")
    if classes == 0:
        raise ValueError(f"scores: expected at least one class, got shape {tuple(scores.shape)}")
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


def softmax_cross_entropy(scores: Array, labels: Array, *, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy of the softmax of the scores: the mean of ``-log softmax(scores)[label]``.

    Parameters
    ----------
    scores : array (N, K)
        Scores (logits) of K classes, floating-point and of any size; -inf excludes a class. Half precision is computed
        in float32. NaN gives NaN.
    labels : array (N,)
        The right classes, integers of any dtype from 0 to K - 1, on the backend of scores.
    label_smoothing : float
        In [0, 1]: that part of the target is spread over all classes (Szegedy et al. 2016).

    Returns
    -------
    loss : array, 0-d
        In the dtype of scores.
    dscores : array (N, K)
        Its gradient, ``(softmax - target) / N``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also for an empty batch, whose mean is
        undefined. On a device whose values cannot be read without waiting for it, labels out of range are no error;
        there they make the loss and the gradient of their row NaN.
    """
    backend = _check_scores(scores, labels)
    label_smoothing = check_number("label_smoothing", label_smoothing, 0, 1)
    return run(backend, "softmax_cross_entropy", scores, labels, label_smoothing)


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
    check_shape("target", target, tuple(pred.shape), "like pred")
    if 0 in pred.shape:
        raise ValueError(f"pred: the mean over an empty array is undefined, got shape {tuple(pred.shape)}")
    return run(backend, "mse", pred, target)
