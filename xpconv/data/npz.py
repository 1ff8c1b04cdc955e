"""Image sets in NumPy's ``.npz`` archives."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .dataset import ArrayDataset, DataError, Splits, checked_dataset, hold_out, same_classes
from .idx import DEFLATE_RATIO

__all__ = ["axes_of", "flat_labels", "parts_in", "read_npz", "to_images"]

# the (images, labels) of each part: as in Keras' mnist.npz, the same with words, one set alone
_LAYOUTS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("images", "labels"),),
    (("x", "y"),),
)
_CHANNELS = (1, 3, 4)


def read_npz(path: str | os.PathLike[str]) -> Splits[ArrayDataset]:
    """Read a ``.npz`` file with the keys x_train, y_train, x_test, y_test (as in Keras' ``mnist.npz``).

    The keys train_images, train_labels, test_images, test_labels serve as well. With images and labels (or x and y)
    alone, every fifth image becomes the test part.

    Parameters
    ----------
    path
        The file. Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1, 3 or 4; uint8, other integers of 0 to
        255, or floating-point. Labels are integers, (N,) or (N, 1).

    Returns
    -------
    Splits
        Both parts have the classes 0 to the largest label of either.

    Raises
    ------
    DataError
        No ``.npz`` file, damaged, other keys, object arrays (they would need pickle), or arrays that are no images.
    OSError
        It cannot be opened.
    """
    arrays = _read_arrays(path)
    sets = [
        checked_dataset(
            path, _images(path, key, arrays.pop(key)), flat_labels(arrays.pop(label)), classes=None, name=""
        )
        for key, label in parts_in(arrays)
    ]
    if len(sets) == 1:
        return hold_out(path, sets[0])
    return same_classes(path, *sets)


def parts_in(keys: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The (images, labels) keys of the first layout that is complete; none if there is no such layout."""
    for parts in _LAYOUTS:
        if all(key in keys for part in parts for key in part):
            return parts
    return ()


def _read_arrays(path: Any) -> dict[str, np.ndarray]:
    """The arrays that make up a set; others in the file are not read."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise DataError(f"{path}: expected a .npz file, which begins with 'PK', as numpy.savez writes it")
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                keys = list(file.keys())
                chosen = [key for part in parts_in(keys) for key in part]
                for key in chosen:
                    _check_room(path, file.zip, key)
                arrays = {key: file[key] for key in chosen}
        except (DataError, MemoryError, OSError):
            raise
        except Exception as error:  # a damaged file can fail in any way, in the archive, the compression or a header
            raise DataError(f"{path}: damaged, or not made of plain arrays: {error}") from error
    if not arrays:
        known = "; or ".join(", ".join(key for part in parts for key in part) for parts in _LAYOUTS)
        raise DataError(f"{path}: expected the keys {known}; got {', '.join(keys) or 'none'}")
    return arrays


def _check_room(path: Any, archive: Any, key: str) -> None:
    """Refuse a header that promises more than its member can hold, before memory is taken for it."""
    member = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.namelist() else key)
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    expected, size = math.prod(shape) * dtype.itemsize, os.stat(path).st_size
    if expected > member.file_size or expected > size * DEFLATE_RATIO:
        raise DataError(
            f"{path}: {key}: truncated, expected {expected} bytes of data for shape {shape}, got {member.file_size} "
            f"in a file of {size}"
        )


def _images(path: Any, key: str, images: np.ndarray) -> np.ndarray:
    source = f"{path}: {key}"
    if images.ndim not in (3, 4):
        return images  # ArrayDataset says what is wrong
    return to_images(source, images, axes_of(source, images.shape))


def axes_of(source: str, shape: tuple[int, ...]) -> str:
    """What the axes of images of that shape are: ``"NHW"``, ``"NCHW"`` or ``"NHWC"``; DataError where none fits."""
    if len(shape) == 3:
        return "NHW"
    if len(shape) != 4:
        raise DataError(f"{source}: expected images (N, H, W), (N, C, H, W) or (N, H, W, C), got shape {shape}")
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        raise DataError(
            f"{source}: cannot tell which axis of {shape} is the channels: expected 1, 3 or 4 of them, "
            "first or last; xpconv.data.ArrayDataset takes any (N, C, H, W)"
        )
    return "NCHW" if first else "NHWC"


def to_images(source: str, images: np.ndarray, axes: str) -> np.ndarray:
    """Images (N, C, H, W), integers of 0 to 255 as uint8; DataError for others."""
    if images.dtype.kind in "iu" and images.dtype != np.uint8 and images.size:
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise DataError(f"{source}: expected pixels of 0 to 255, got {images.dtype} of {low} to {high}")
        images = images.astype(np.uint8)
    if axes == "NHW":
        return images[:, None]
    return images if axes == "NCHW" else np.ascontiguousarray(np.moveaxis(images, 3, 1))


def flat_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (N, 1), as some files have them, as (N,)."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
