"""Images as scikit-learn has them, and as a network takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer

__all__ = ["ImageShape", "Standardizer", "as_rows", "choose_shape", "refuse_masked"]

ImageShape = tuple[int, int, int]

# Numbers that are converted to float64 at a time.
_NUMBERS_AT_ONCE = 1 << 22


def refuse_masked(**arrays: Any) -> None:
    """TypeError for masked arrays, whose mask would be lost."""
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected an array without a mask; {name}.filled(...) makes one")


def as_rows(X: Any) -> tuple[Any, ImageShape | None]:
    """``X`` with one row for each image, and the shape (C, H, W) of the images; None if it came in rows.

    Parameters
    ----------
    X
        (n, features), (n, H, W) or (n, C, H, W). What has no more than two dimensions is returned as it is: what is
        wrong with it, scikit-learn says.
    """
    shape = getattr(X, "shape", None)
    if shape is None and isinstance(X, (list, tuple)):
        try:
            shape = np.shape(X)
        except (ValueError, TypeError):  # rows that differ in length, or something that is no array
            return X, None
    if not isinstance(shape, tuple) or len(shape) <= 2:
        return X, None
    if len(shape) > 4:
        raise ValueError(f"X: expected (n, features), (n, H, W) or (n, C, H, W), got shape {tuple(shape)}")
    try:
        X = np.asarray(X)
    except (TypeError, RuntimeError) as error:  # an array on a device, or one that belongs to a gradient
        raise TypeError(
            f"X: expected an array of NumPy, got {type(X).__module__}.{type(X).__name__}; xpconv.to_numpy makes one "
            f"({error})"
        ) from error
    image = (1, *X.shape[1:]) if X.ndim == 3 else X.shape[1:]
    return X.reshape(X.shape[0], math.prod(image)), image


def choose_shape(features: int, found: ImageShape | None, wanted: Any) -> ImageShape:
    """The shape (C, H, W) of the images.

    Parameters
    ----------
    features
        Numbers in an image.
    found
        The shape that the images came in; None if they came as rows.
    wanted
        The parameter ``image_shape``: (C, H, W), (H, W), or None, with which a square number of features is a square
        grey image and any other number an image of one row.
    """
    if wanted is None:
        if found is not None:
            return found
        side = math.isqrt(features)
        return (1, side, side) if side * side == features else (1, 1, features)
    try:
        lengths = tuple(wanted)
    except TypeError:
        lengths = ()
    if isinstance(wanted, str) or len(lengths) not in (2, 3):
        raise TypeError(f"image_shape: expected (C, H, W), (H, W) or None, got {wanted!r:.200}")
    lengths = tuple(check_integer("image_shape", length, 1) for length in lengths)
    shape: ImageShape = (1, *lengths) if len(lengths) == 2 else lengths  # type: ignore[assignment]
    if found is not None and found != shape:
        raise ValueError(f"image_shape: {shape} was given, but X has images of shape {found}")
    if math.prod(shape) != features:
        numbers = " x ".join(map(str, shape))
        raise ValueError(f"image_shape: {numbers} is {math.prod(shape)} numbers, but X has {features} features")
    return shape


class Standardizer(NamedTuple):
    """Takes away the mean and divides by the standard deviation, one of each for a channel.

    Attributes
    ----------
    mean, scale : array (C,)
        float64. A channel that is constant has a scale of 1.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def identity(cls, channels: int) -> Standardizer:
        """One that changes nothing."""
        return cls(np.zeros(channels), np.ones(channels))

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray, name: str) -> Standardizer:
        """Mean and deviation of values (n, C, pixels), where example i counts ``weights[i]`` times."""
        total = weights.sum()
        with np.errstate(over="ignore", invalid="ignore"):
            mean = sum(weights[part] @ chunk.mean(axis=2) for part, chunk in _chunks(values)) / total
            variance = (
                sum(weights[part] @ np.square(chunk - mean[:, None]).mean(axis=2) for part, chunk in _chunks(values))
                / total
            )
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(f"{name}: its values are too large, their variance is beyond the range of float64")
        scale = np.sqrt(variance)
        # what remains of a constant is rounding
        scale[scale <= 1e-12 * np.abs(mean)] = 1.0
        return cls(mean, scale)

    def apply(self, values: np.ndarray, dtype: str, name: str) -> np.ndarray:
        """Values (n, C, pixels) as a new array of ``dtype``."""
        result = np.empty(values.shape, dtype)
        for part, chunk in _chunks(values):
            with np.errstate(over="ignore"):
                result[part] = (chunk - self.mean[:, None]) / self.scale[:, None]
            if not np.isfinite(result[part]).all():
                raise ValueError(f"{name}: has values that are too large for {dtype}")
        return result

    def invert(self, values: np.ndarray) -> np.ndarray:
        """What `apply` has made of the result: values (n, C), float64."""
        return values * self.scale + self.mean


def _chunks(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some examples at a time, as float64."""
    count = max(1, _NUMBERS_AT_ONCE // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), count):
        part = slice(start, start + count)
        yield part, values[part].astype(np.float64)
