"""A labelled set of images in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ArrayDataset", "DataError", "Splits", "checked_dataset", "same_classes"]


# Labels without class names are the classes' numbers; a stray label must not become a net of that many outputs.
_MAX_UNNAMED_CLASSES = 65536


class DataError(ValueError):
    """A data file that is missing, damaged or of another kind; the message names it."""


class ArrayDataset:
    """Images and their labels, as NumPy arrays on the host; nothing is copied or converted that need not be.

    Parameters
    ----------
    images : numpy.ndarray (N, C, H, W)
        uint8 (0 to 255), or floating-point and finite.
    labels : numpy.ndarray (N,) or sequence of int
        Integers 0 .. K - 1.
    classes : sequence of str, optional
        Names of the K classes; without it K is the largest label plus one, at most 65536, and the names are
        the numbers.
    name : str
        Name of the set, for `standard_transform` and for messages.

    Attributes
    ----------
    images : numpy.ndarray (N, C, H, W)
    labels : numpy.ndarray (N,), int64
    classes : tuple of str
    num_classes : int
    image_shape : tuple (C, H, W)
    name : str

    Raises
    ------
    TypeError
        Images that are no NumPy array or of another dtype; labels that are no integers (NaN among them).
    ValueError
        Another rank, an empty set, counts that differ, images that are not finite, labels out of range.
    DataError
        Labels without ``classes`` that would make more than 65536 of them.
    """

    def __init__(
        self, images: np.ndarray, labels: Any, *, classes: Sequence[str] | None = None, name: str = ""
    ) -> None:
        self.images = _checked_images(images)
        self.labels = _checked_labels(labels, len(self.images))
        highest = int(self.labels.max())
        if classes is None:
            if highest >= _MAX_UNNAMED_CLASSES:
                index = int(self.labels.argmax())
                raise DataError(
                    f"labels: expected 0 to {_MAX_UNNAMED_CLASSES - 1}, got {highest} for image {index}, which would "
                    f"make {highest + 1} classes; with classes=... there may be more"
                )
            self.num_classes = highest + 1
        else:
            if isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
                raise TypeError(f"classes: expected a sequence of names, got {classes!r}")
            self.num_classes = len(classes)
            if highest >= self.num_classes:
                index = int(self.labels.argmax())
                raise ValueError(f"labels: expected 0 to {self.num_classes - 1}, got {highest} for image {index}")
        self._classes = None if classes is None else tuple(classes)
        self.name = name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return tuple(str(k) for k in range(self.num_classes)) if self._classes is None else self._classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        """``dataset[i]`` is the pair (image, label); ``dataset[a:b]`` is `subset` of the slice."""
        if isinstance(index, slice):
            return self.subset(index)
        return self.images[index], int(self.labels[index])

    def subset(self, indices: Any) -> ArrayDataset:
        """The chosen images, with the same classes and name.

        Parameters
        ----------
        indices
            A slice (then the arrays are views), integers, or N booleans.
        """
        part = object.__new__(ArrayDataset)  # what was checked once needs no second pass over all pixels
        part.images, part.labels = self.images[indices], self.labels[indices]
        if part.images.ndim != 4 or len(part.images) == 0:
            raise ValueError(f"indices: choose at least one image of {len(self)}, got {indices!r}")
        part.num_classes, part._classes, part.name = self.num_classes, self._classes, self.name
        return part

    def __repr__(self) -> str:
        shape = "x".join(str(s) for s in self.image_shape)
        return f"<ArrayDataset {self.name or 'unnamed'}: {len(self)} images {shape}, {self.num_classes} classes>"


class Splits(NamedTuple):
    """A set in the two parts that it is published in."""

    train: ArrayDataset
    test: ArrayDataset


def _checked_images(images: Any) -> np.ndarray:
    if type(images) not in (np.ndarray, np.memmap):  # a masked array would lose its mask
        raise TypeError(f"images: expected a numpy.ndarray, got {type(images).__name__}; xpconv.to_numpy makes one")
    images = np.asarray(images)
    if images.ndim != 4:
        hint = "; images[:, None] adds the channel axis" if images.ndim == 3 else ""
        raise ValueError(
            f"images: expected 4 dimensions (N, C, H, W), got {images.ndim} with shape {images.shape}{hint}"
        )
    if 0 in images.shape:
        raise ValueError(f"images: the set is empty, shape {images.shape}")
    floating = images.dtype.kind == "f" and images.dtype.itemsize <= 8
    if images.dtype != np.uint8 and not floating:
        raise TypeError(f"images: expected uint8 or floating-point, got {images.dtype}")
    if not images.dtype.isnative:
        images = images.astype(images.dtype.newbyteorder("="))
    if floating:
        for index, image in enumerate(images):
            # both extremes are finite only if all values are; no array of booleans as large as the set
            if not (np.isfinite(image.min()) and np.isfinite(image.max())):
                raise ValueError(f"images: image {index} has a NaN or an infinite value")
    return images


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    if type(labels) not in (np.ndarray, np.memmap, list, tuple, range):
        raise TypeError(f"labels: expected a numpy.ndarray or a sequence of integers, got {type(labels).__name__}")
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels: expected 1 dimension (N,), got {labels.ndim} with shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        nan = labels.dtype.kind == "f" and np.isnan(labels)
        where = f", NaN for image {np.argmax(nan)}" if np.any(nan) else ""
        raise TypeError(f"labels: expected integers 0 .. K - 1, got {labels.dtype}{where}")
    if len(labels) != count:
        raise ValueError(f"labels: expected {count}, one for each image, got {len(labels)}")
    labels = labels.astype(np.int64)  # a copy, eight bytes an image
    if labels.min() < 0:
        index = int(labels.argmin())
        raise ValueError(f"labels: expected 0 .. K - 1, got {labels[index]} for image {index}")
    return labels


def checked_dataset(
    source: object, images: np.ndarray, labels: Any, *, classes: Sequence[str] | None, name: str
) -> ArrayDataset:
    """An `ArrayDataset` of what a reader found in ``source``, whose name goes before any complaint (DataError)."""
    try:
        return ArrayDataset(images, labels, classes=classes, name=name)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: {error}") from error


def same_classes(source: object, train: ArrayDataset, test: ArrayDataset) -> Splits:
    """Both parts of a set without class names, as of the same K classes: a part may lack the last ones."""
    if train.image_shape != test.image_shape:
        raise DataError(f"{source}: images of {train.image_shape} for training but of {test.image_shape} for testing")
    train.num_classes = test.num_classes = max(train.num_classes, test.num_classes)
    return Splits(train, test)
