"""Labelled sets of images: what every kind of them can do, and those in host memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Self, SupportsIndex, TypeVar, overload

import numpy as np

__all__ = [
    "ArrayDataset",
    "BadFile",
    "DataError",
    "Dataset",
    "Splits",
    "check_classes",
    "checked_dataset",
    "checked_labels",
    "hold_out",
    "same_classes",
]


# Labels without class names are the classes' numbers; a stray label must not become a net of that many outputs.
_MAX_UNNAMED_CLASSES = 65536


class DataError(ValueError):
    """A data file that is missing, damaged or of another kind; the message names it."""


class BadFile(NamedTuple):
    """A file, or a row of a manifest, that a set was made without.

    Attributes
    ----------
    source
        Its path; for a row also the manifest and the number of the line.
    reason
        What is wrong with it.
    """

    source: str
    reason: str


class Dataset(ABC):
    """Labelled images, wherever they are: what `Batches` takes.

    A kind of set gives `image_shape`, `is_bytes`, `read` and `_choose`, and calls ``_set_labels`` when it is made.

    Attributes
    ----------
    labels : numpy.ndarray (N,), int64
    classes : tuple of str
    num_classes : int
    image_shape : tuple (C, H, W)
    is_bytes : bool
    name : str
    skipped : tuple of BadFile
        What was left out when the set was made.
    """

    labels: np.ndarray
    num_classes: int
    name: str = ""
    skipped: tuple[BadFile, ...] = ()
    _classes: tuple[str, ...] | None = None

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    @property
    @abstractmethod
    def is_bytes(self) -> bool:
        """Whether images are uint8, 0 to 255; else they are floating-point."""

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images (n, C, H, W) of these indices (n,), in memory of their own; called by several threads at once.

        Parameters
        ----------
        indices : numpy.ndarray (n,)
            From 0 to the length of the set - 1.

        Returns
        -------
        numpy.ndarray (n, C, H, W)
            uint8 or floating-point, see `is_bytes`.

        Raises
        ------
        DataError
            An image cannot be had; the message names it.
        """

    @abstractmethod
    def _choose(self, indices: Any) -> None:
        """Keep the images of these indices alone; called on a copy of the object, whose labels are chosen already."""

    @abstractmethod
    def identity(self) -> bytes:
        """What changes with the images and their order: what is kept about a set is kept under it."""

    def subset(self, indices: Any) -> Self:
        """The chosen images, with the same classes and name: a set of the same kind.

        Parameters
        ----------
        indices
            A slice, integers, or N booleans.

        Returns
        -------
        Dataset
            Of the class of this one; nothing is copied that need not be.

        Raises
        ------
        IndexError
            An index that is out of range, or booleans of another length.
        ValueError
            No image is chosen.
        """
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.labels = self.labels[indices]
        if part.labels.ndim != 1 or len(part.labels) == 0:
            raise ValueError(f"indices: choose at least one image of {len(self)}, got {indices!r}")
        part._choose(indices)
        return part

    def renumbered(self, classes: Sequence[str]) -> Self:
        """The same images with the labels that the names of their classes have among ``classes``, which may be more.

        Labels of a set without names stay.

        Parameters
        ----------
        classes
            Names; each of those of this set is among them.

        Returns
        -------
        Dataset
            Of the class of this one.

        Raises
        ------
        DataError
            A class that is not among them; for a set without names, a label too large.
        """
        names = check_classes(classes)
        if self._classes is None:
            if self.num_classes > len(names):
                raise DataError(f"{self!r}: {self.num_classes} classes, expected at most {len(names)}")
            numbers = list(range(self.num_classes))
        else:
            unknown = [name for name in self._classes if name not in names]
            if unknown:
                raise DataError(f"{self!r}: unknown classes {', '.join(unknown)}; known are {', '.join(names)}")
            numbers = [names.index(name) for name in self._classes]
        part = self.subset(slice(None))
        part.labels = np.asarray(numbers, np.int64)[self.labels]
        part._classes, part.num_classes = names, len(names)
        return part

    def in_memory(self) -> ArrayDataset:
        """The whole set as arrays."""
        images = self.read(np.arange(len(self)))
        whole = ArrayDataset(images, self.labels, classes=self._classes, name=self.name)
        whole.num_classes, whole.skipped = self.num_classes, self.skipped
        return whole

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by label; None where they have numbers alone."""
        return self._classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label; their numbers where they have no names."""
        return tuple(str(k) for k in range(self.num_classes)) if self._classes is None else self._classes

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: SupportsIndex | slice) -> tuple[np.ndarray, int] | Self:
        """``dataset[i]`` is the pair (image, label); ``dataset[a:b]`` is `subset` of the slice."""
        if isinstance(index, slice):
            return self.subset(index)
        label = int(self.labels[index])  # raises IndexError, which ends a loop over the set
        return self.read(np.atleast_1d(np.arange(len(self))[index]))[0], label

    def __repr__(self) -> str:
        shape = "x".join(str(s) for s in self.image_shape)
        name = self.name or "unnamed"
        return f"<{type(self).__name__} {name}: {len(self)} images {shape}, {self.num_classes} classes>"

    def _set_labels(self, labels: Any, count: int, classes: Sequence[str] | None) -> None:
        """Check and keep the labels of so many images and the names of their classes."""
        self.labels = checked_labels(labels, count)
        highest = int(self.labels.max())
        index = int(self.labels.argmax())
        if classes is None:
            if highest >= _MAX_UNNAMED_CLASSES:
                raise DataError(
                    f"labels: expected 0 to {_MAX_UNNAMED_CLASSES - 1}, got {highest} for image {index}, which would "
                    f"make {highest + 1} classes; with classes=... there may be more"
                )
            self.num_classes = highest + 1
        else:
            self._classes = check_classes(classes)
            self.num_classes = len(self._classes)
            if highest >= self.num_classes:
                raise ValueError(f"labels: expected 0 to {self.num_classes - 1}, got {highest} for image {index}")


class ArrayDataset(Dataset):
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
        self._set_labels(labels, len(self.images), classes)
        self.name = name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def is_bytes(self) -> bool:
        """Whether images are uint8, 0 to 255; else they are floating-point."""
        return self.images.dtype == np.uint8

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images (n, C, H, W) of these indices (n,)."""
        return self.images[indices]  # indexing by an array copies

    def _choose(self, indices: Any) -> None:
        self.images = self.images[indices]  # what was checked once needs no second pass over all pixels

    def identity(self) -> bytes:
        """Of every pixel."""
        import hashlib

        digest = hashlib.sha256(repr((self.images.shape, self.images.dtype.str)).encode())
        for image in self.images:
            digest.update(np.ascontiguousarray(image).data)
        return digest.digest()

    def in_memory(self) -> ArrayDataset:
        """Itself."""
        return self

    @overload
    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: SupportsIndex | slice) -> tuple[np.ndarray, int] | Self:
        """``dataset[i]`` is the pair (image, label); ``dataset[a:b]`` is `subset` of the slice, of views."""
        if isinstance(index, slice):
            return self.subset(index)
        return self.images[index], int(self.labels[index])


AnyDataset = TypeVar("AnyDataset", bound=Dataset)


class _Pair(NamedTuple, Generic[AnyDataset]):
    train: AnyDataset
    test: AnyDataset


class Splits(_Pair[AnyDataset]):
    """A set in the parts that it is published in; as a tuple it is the pair of ``train`` and ``test``.

    Attributes
    ----------
    train, test : Dataset
    validation : Dataset or None
        Images that were set aside to choose by, where the set has such a part.
    """

    validation: AnyDataset | None

    def __new__(cls, train: AnyDataset, test: AnyDataset, validation: AnyDataset | None = None) -> Self:
        """The pair; `validation` is no part of the tuple."""
        splits = super().__new__(cls, train, test)  # type: ignore[type-var]
        splits.validation = validation
        return splits


_HOLD_OUT = 5


def hold_out(source: object, whole: AnyDataset) -> Splits[AnyDataset]:
    """A set in one part, of which every fifth image becomes the test part."""
    if len(whole) < _HOLD_OUT:
        raise DataError(f"{source}: expected at least {_HOLD_OUT} images, of which every fifth is for testing")
    held = np.arange(len(whole)) % _HOLD_OUT == _HOLD_OUT - 1
    return Splits(whole.subset(~held), whole.subset(held))


def check_classes(classes: Any) -> tuple[str, ...]:
    """Names of classes as a tuple; TypeError for anything else."""
    if isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
        raise TypeError(f"classes: expected a sequence of names, got {classes!r}")
    return tuple(classes)


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


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """Labels (N,) as int64 of their own, checked to be that many integers from 0 on."""
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
    if labels.dtype.kind == "u" and labels.max() > np.iinfo(np.int64).max:
        index = int(labels.argmax())
        raise ValueError(f"labels: expected 0 .. K - 1, got {labels[index]} for image {index}")
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


def same_classes(source: object, train: AnyDataset, test: AnyDataset) -> Splits[AnyDataset]:
    """Both parts of a set without class names, as of the same K classes: a part may lack the last ones."""
    if train.image_shape != test.image_shape:
        raise DataError(f"{source}: images of {train.image_shape} for training but of {test.image_shape} for testing")
    train.num_classes = test.num_classes = max(train.num_classes, test.num_classes)
    return Splits(train, test)
