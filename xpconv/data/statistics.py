"""What is computed of a training set once: mean and deviation of its pixels, and weights of its classes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer
from .._files import write_atomically
from .background import in_background
from .dataset import DataError, Dataset, checked_labels

__all__ = ["Statistics", "class_weights", "compute_statistics"]

_CHUNK_IMAGES, _CHUNK_BYTES = 1000, 32 << 20
_FORMAT = "xpconv statistics 1"


class Statistics(NamedTuple):
    """Of all pixels of a set; those of bytes count from 0 to 1.

    Attributes
    ----------
    mean, std : tuple of C floats
        Of each channel. The deviation is that of the set itself (divided by N); a constant channel has 1.
    low, high : float
        The lowest and the highest pixel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float
    high: float


def compute_statistics(
    dataset: Dataset, *, workers: int = 0, keep_in: str | os.PathLike[str] | None = None
) -> Statistics:
    """Mean and standard deviation of each channel, and the range, in one pass that reads a few images at a time.

    Bytes are counted, value by value, which is exact. Others are added up in double precision; parts are put together
    by the formula of T. F. Chan, G. H. Golub, R. J. LeVeque (*Updating formulae and a pairwise algorithm for computing
    sample variances*, 1979), which does not cancel. Neither depends on the number of workers.

    Parameters
    ----------
    dataset : Dataset
        The training set: of the test set nothing may be known.
    workers : int
        Threads that read ahead.
    keep_in : path, optional
        A JSON file. What it has of this very set (its files, their sizes and times, and which images were chosen) is
        taken; else the set is read and the result is written there, beside those of other sets.

    Returns
    -------
    Statistics
        Numbers for pixels between 0 and 1.

    Raises
    ------
    DataError
        An image cannot be read; or ``keep_in`` is a file of something else, which is left alone.
    TypeError, ValueError
        workers is no integer from 0 to 1024.
    OSError
        ``keep_in`` cannot be written.
    """
    workers = check_integer("workers", workers, 0, 1024)
    if keep_in is None:
        return _compute(dataset, workers)
    kept = _read_kept(Path(keep_in))
    key = _key(dataset)
    if key in kept:
        return kept[key]
    kept[key] = _compute(dataset, workers)
    document = {"format": _FORMAT, "sets": {name: values._asdict() for name, values in kept.items()}}
    write_atomically(keep_in, [json.dumps(document, indent=1).encode() + b"\n"])
    return kept[key]


def class_weights(labels: Any, num_classes: int | None = None) -> np.ndarray:
    """Weights that make up for classes of unequal size: ``N / (K * images of the class)``, as scikit-learn's balanced.

    They are for the ``weight`` of `xpconv.functional.softmax_cross_entropy`.

    Parameters
    ----------
    labels : sequence of N integers, or a Dataset
    num_classes : int, optional
        K; without it that of the set, or the largest label plus one.

    Returns
    -------
    weights : numpy.ndarray (K,), float64

    Raises
    ------
    ValueError
        A class without images has no weight.
    """
    if isinstance(labels, Dataset):
        labels, num_classes = labels.labels, labels.num_classes if num_classes is None else num_classes
    values = checked_labels(labels, len(labels))
    counts = np.bincount(values, minlength=check_integer("num_classes", num_classes or 1, 1))
    if num_classes is not None and len(counts) > num_classes:
        raise ValueError(f"labels: expected 0 to {num_classes - 1}, got {len(counts) - 1}")
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise ValueError(f"labels: class {empty[0]} has no images, so that its weight would be infinite")
    return len(values) / (len(counts) * counts)


# ---- the pass over the images -----------------------------------------------------------------------------------


def _compute(dataset: Dataset, workers: int) -> Statistics:
    image = math.prod(dataset.image_shape) * (1 if dataset.is_bytes else 8)
    size = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // image))
    chunks = [slice(start, start + size) for start in range(0, len(dataset), size)]
    indices = np.arange(len(dataset))
    measure = _count if dataset.is_bytes else _moments
    parts = in_background(lambda chunk: measure(dataset.read(indices[chunk])), chunks, workers, workers)
    return _of_counts(parts) if dataset.is_bytes else _of_moments(parts)


def _count(images: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel (C, 256)."""
    planes = (np.ravel(images[:, c]) for c in range(images.shape[1]))
    return np.stack([np.bincount(plane, minlength=256) for plane in planes])


def _of_counts(parts: Any) -> Statistics:
    counts = sum(parts)
    values = np.arange(256) / 255
    pixels = counts[0].sum()
    mean = counts @ values / pixels
    variance = np.sum(counts * (values - mean[:, None]) ** 2, axis=1) / pixels
    there = np.flatnonzero(counts.any(axis=0))
    return _statistics(mean, variance, values[there[0]], values[there[-1]])


class _Moments(NamedTuple):
    pixels: int
    mean: np.ndarray
    squares: np.ndarray  # of the differences from the mean
    low: float
    high: float


def _moments(images: np.ndarray) -> _Moments:
    wide = images.astype(np.float64)
    mean = wide.mean(axis=(0, 2, 3))
    squares = np.sum((wide - mean[:, None, None]) ** 2, axis=(0, 2, 3))
    return _Moments(wide.size // wide.shape[1], mean, squares, float(wide.min()), float(wide.max()))


def _of_moments(parts: Any) -> Statistics:
    whole: _Moments | None = None
    for part in parts:
        if whole is None:
            whole = part
            continue
        pixels, distance = whole.pixels + part.pixels, part.mean - whole.mean
        whole = _Moments(
            pixels,
            whole.mean + distance * (part.pixels / pixels),
            whole.squares + part.squares + distance**2 * (whole.pixels * part.pixels / pixels),
            min(whole.low, part.low),
            max(whole.high, part.high),
        )
    assert whole is not None  # a set is not empty
    return _statistics(whole.mean, whole.squares / whole.pixels, whole.low, whole.high)


def _statistics(mean: np.ndarray, variance: np.ndarray, low: float, high: float) -> Statistics:
    std = np.sqrt(variance)
    return Statistics(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()), float(low), float(high))


# ---- what is kept -----------------------------------------------------------------------------------------------


def _key(dataset: Dataset) -> str:
    import hashlib

    about = repr((len(dataset), dataset.image_shape, dataset.is_bytes)).encode()
    return hashlib.sha256(about + dataset.identity()).hexdigest()


def _read_kept(path: Path) -> dict[str, Statistics]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a file of {_FORMAT}, got {error}") from error
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        return {str(name): _restored(values) for name, values in document["sets"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a file of {_FORMAT}: {type(error).__name__}: {error}; delete it or name another"
        ) from error


def _restored(values: Mapping[str, Any]) -> Statistics:
    mean, std = (tuple(float(v) for v in values[name]) for name in ("mean", "std"))
    found = Statistics(mean, std, float(values["low"]), float(values["high"]))
    if not mean or len(mean) != len(std) or min(std) <= 0 or not all(map(math.isfinite, (*mean, *std, *found[2:]))):
        raise ValueError(f"no statistics: {values!r:.80}")
    return found
