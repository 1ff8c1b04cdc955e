"""How good predictions are: metrics of classes and of numbers, on NumPy arrays.

Each is a function of the scores of a data set and of its targets, so that any function of these two, such as one of
scikit-learn behind a lambda, can be a metric of a `Trainer`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer
from .._text import columns_of, pad
from ..backends import backend_of
from ..backends.protocol import Array
from ..functional import softmax_cross_entropy

__all__ = [
    "ClassReport",
    "Metrics",
    "class_report",
    "confusion_matrix",
    "count_hits",
    "mean_absolute_error",
    "r2",
    "takes_probabilities",
    "top_k_accuracy",
]


class Metrics(NamedTuple):
    """Means over images.

    Attributes
    ----------
    loss
        Mean loss.
    accuracy
        Share of images whose largest score is that of their label; NaN where there are no class labels.
    """

    loss: float
    accuracy: float


def takes_probabilities(loss: Any) -> bool:
    """Whether the targets (N, K) of ``loss`` are probabilities of classes, and not numbers to be predicted."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss is softmax_cross_entropy


def count_hits(scores: Array, targets: Array, *, probabilities: bool = False) -> Array | None:
    """How many of the largest scores (N, K) are those of the labels; None where targets are no labels.

    Parameters
    ----------
    probabilities
        Whether floating-point targets (N, K) are probabilities of classes: then the label is the most probable one.
    """
    if len(scores.shape) != 2:
        return None
    backend = backend_of(scores=scores, targets=targets)
    floating = backend.is_floating(targets)
    if len(targets.shape) != 1 if not floating else not (probabilities and targets.shape == scores.shape):
        return None
    with backend.running():
        guess = backend.xp.argmax(scores, axis=1)
        labels = backend.xp.argmax(targets, axis=1) if floating else backend.astype(targets, guess.dtype)
        return backend.xp.sum(backend.xp.astype(guess == labels, guess.dtype))


# ---- classes ----------------------------------------------------------------------------------------------------


def _labelled(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, K) and labels (N,) as arrays, checked; of probabilities (N, K) the label is the largest."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores: expected a non-empty array (N, K), got shape {scores.shape}")
    if labels.ndim == 2 and labels.shape == scores.shape and labels.dtype.kind == "f":
        labels = labels.argmax(axis=1)
    if labels.shape != scores.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(scores)},), one for each row of scores, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= scores.shape[1])
    if wrong.any():
        raise ValueError(
            f"labels: expected integers from 0 to {scores.shape[1] - 1}, the columns of scores, got "
            f"{labels[wrong.argmax()]} at index {wrong.argmax()}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"scores: row {np.isnan(scores).any(axis=1).argmax()} has a NaN")
    return scores, labels


def top_k_accuracy(scores: Any, labels: Any, k: int = 5) -> float:
    """Share of the examples whose label is among the ``k`` largest scores.

    Parameters
    ----------
    scores : array (N, K)
    labels : array (N,)
        Integers from 0 to K - 1; or probabilities (N, K), of which the largest counts.
    k : int
        From 1 to K.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.

    Notes
    -----
    Of equal scores those of lower classes count as larger, as `numpy.argmax` has it for k = 1.
    """
    scores, labels = _labelled(scores, labels)
    k = check_integer("k", k, 1, scores.shape[1])
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return float((ahead.sum(axis=1) < k).mean())


def confusion_matrix(scores: Any, labels: Any) -> np.ndarray:
    """How often examples of each class are taken for each class.

    Parameters
    ----------
    scores : array (N, K)
        As for `top_k_accuracy`.
    labels : array (N,) or (N, K)
        As for `top_k_accuracy`.

    Returns
    -------
    array (K, K) of int64
        Row: the label; column: the class of the largest score.

    Raises
    ------
    TypeError, ValueError
        As `top_k_accuracy`.
    """
    scores, labels = _labelled(scores, labels)
    classes = scores.shape[1]
    places = labels.astype(np.int64) * classes + scores.argmax(axis=1)
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)


class ClassReport(NamedTuple):
    """Metrics of each class.

    Attributes
    ----------
    precision : array (K,)
        Of those taken for the class, the share that is of it; 0 where none is.
    recall : array (K,)
        Of those of the class, the share that is taken for it; 0 where there is none.
    f1 : array (K,)
        Harmonic mean of both; 0 where both are.
    support : array (K,) of int64
        How many are of the class.
    accuracy : float
        Share of all that are right.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    accuracy: float

    def table(self, names: Any = None) -> str:
        """A line for each class, then the means over the classes ("macro") and the accuracy.

        Parameters
        ----------
        names : sequence of str, optional
            Of the classes; without them their numbers.

        Returns
        -------
        str
            Lines of one width.

        Raises
        ------
        ValueError
            Not as many names as classes.
        """
        names = [str(k) for k in range(len(self.f1))] if names is None else [str(name) for name in names]
        if len(names) != len(self.f1):
            raise ValueError(f"names: expected {len(self.f1)}, one for each class, got {len(names)}")
        width = max([len("accuracy"), *map(columns_of, names)])
        lines = [f"{'class':<{width}}  precision  recall      f1  images"]
        for name, p, r, f, n in zip(names, self.precision, self.recall, self.f1, self.support, strict=True):
            lines.append(f"{pad(name, width)}  {p:9.4f}  {r:6.4f}  {f:6.4f}  {n:6d}")
        total = self.support.sum()
        means = [values.mean() for values in (self.precision, self.recall, self.f1)]
        lines.append(f"{'macro':<{width}}  {means[0]:9.4f}  {means[1]:6.4f}  {means[2]:6.4f}  {total:6d}")
        lines.append(f"{'accuracy':<{width}}  {self.accuracy:9.4f}")
        return "\n".join(lines)


def class_report(scores: Any, labels: Any) -> ClassReport:
    """Precision, recall and F1 of each class, for arguments as those of `top_k_accuracy`.

    Parameters
    ----------
    scores : array (N, K)
        As for `top_k_accuracy`.
    labels : array (N,) or (N, K)
        As for `top_k_accuracy`.

    Returns
    -------
    ClassReport
        Arrays (K,) and the accuracy.

    Raises
    ------
    TypeError, ValueError
        As `top_k_accuracy`.
    """
    matrix = confusion_matrix(scores, labels)
    hits, taken, support = np.diagonal(matrix).astype(np.float64), matrix.sum(axis=0), matrix.sum(axis=1)
    precision, recall = hits / np.maximum(taken, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(taken + support, 1)
    return ClassReport(precision, recall, f1, support, float(hits.sum() / support.sum()))


# ---- numbers ----------------------------------------------------------------------------------------------------


def _numbers(pred: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    if pred.shape != target.shape:
        raise ValueError(f"target: expected shape {pred.shape} like pred, got {target.shape}")
    if not pred.size:
        raise ValueError(f"pred: the mean over an empty array is undefined, got shape {pred.shape}")
    return pred, target


def mean_absolute_error(pred: Any, target: Any) -> float:
    """Mean of the absolute differences of two arrays of one shape.

    Parameters
    ----------
    pred, target : array of any shape
        Of NumPy, both of one shape.

    Returns
    -------
    float
        Over all numbers.

    Raises
    ------
    TypeError, ValueError
        Not arrays of numbers, empty, or of different shapes.
    """
    pred, target = _numbers(pred, target)
    return float(np.abs(pred - target).mean())


def r2(pred: Any, target: Any) -> float:
    """Coefficient of determination: 1 - (sum of squared errors) / (sum of squares about the mean of the target).

    Of several numbers for each example, arrays (N, ...), it is the mean of those of each. A target that never changes
    counts 1 where it is met exactly, else 0, as in scikit-learn.

    Parameters
    ----------
    pred, target : array (N, ...)
        Of NumPy, both of one shape.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    TypeError, ValueError
        Not arrays of numbers, empty, or of different shapes.
    """
    pred, target = (array.reshape(len(array), -1) for array in map(np.atleast_1d, _numbers(pred, target)))
    errors = ((target - pred) ** 2).sum(axis=0)
    squares = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    steady = squares == 0
    scores = 1 - errors / np.where(steady, 1, squares)
    return float(np.where(steady, np.where(errors == 0, 1.0, 0.0), scores).mean())
