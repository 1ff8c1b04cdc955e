"""Sets that stay in a file and are read row by row: memory maps of ``.npy`` files, HDF5, whatever has rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from .dataset import DataError, Dataset, Splits, check_classes, hold_out, same_classes
from .idx import DEFLATE_RATIO
from .npz import axes_of, flat_labels, parts_in, to_images

__all__ = ["LazyDataset", "open_npy", "read_hdf5", "read_npy"]

# the words of file names that tell images from labels, and the training set from the test set
_LABEL_WORDS = (("images", "labels"), ("x", "y"), ("X", "y"))
_TEST_WORDS = (("train", "test"), ("training", "test"))


class LazyDataset(Dataset):
    """Images that are read when a batch needs them, and not kept; only their labels are in memory.

    Parameters
    ----------
    images : array-like
        A `numpy.memmap`, an `h5py.Dataset`, or anything with ``shape``, ``dtype`` and ``images[rows]`` for increasing
        integers. (N, H, W), (N, C, H, W), or (N, H, W, C) with C = 1, 3 or 4; uint8, other integers of 0 to 255, or
        floating-point and finite. Pixels are checked when they are read.
    labels : numpy.ndarray (N,) or sequence of int
    classes : sequence of str, optional
        As of `ArrayDataset`.
    name : str
        For messages and `standard_transform`.
    axes : str, optional
        ``"NHW"``, ``"NCHW"`` or ``"NHWC"``, where the shape does not tell.
    source : str
        What messages call the images.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong and its value.
    DataError
        The shape does not tell which axis is the channels.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        *,
        classes: Sequence[str] | None = None,
        name: str = "",
        axes: str | None = None,
        source: str = "images",
    ) -> None:
        shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
        if not isinstance(shape, tuple) or dtype is None or not hasattr(images, "__getitem__"):
            raise TypeError(f"images: expected an array with shape, dtype and rows, got {type(images).__name__}")
        shape, dtype = tuple(int(length) for length in shape), np.dtype(dtype)
        if axes is None:
            axes = axes_of(source, shape)
        if axes not in ("NHW", "NCHW", "NHWC") or len(axes) != len(shape):
            raise ValueError(f"axes: expected NHW, NCHW or NHWC for shape {shape}, got {axes!r}")
        if 0 in shape:
            raise ValueError(f"{source}: the set is empty, shape {shape}")
        if dtype.kind not in "iu" and not (dtype.kind == "f" and dtype.itemsize <= 8):
            raise TypeError(f"{source}: expected integers of 0 to 255 or floating-point, got {dtype}")
        self.images, self.axes, self.source = images, axes, source
        self.name = name
        self._dtype = dtype.newbyteorder("=")
        sizes = dict(zip(axes, shape, strict=True))
        self._image_shape = sizes.get("C", 1), sizes["H"], sizes["W"]
        self._set_labels(labels, shape[0], classes)
        self._rows = np.arange(shape[0])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self._image_shape

    @property
    def is_bytes(self) -> bool:
        """Whether images are uint8, 0 to 255; else they are floating-point."""
        return self._dtype.kind != "f"

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images (n, C, H, W) of these indices (n,); no other row is read.

        Raises
        ------
        DataError
            The file fails, or a pixel is out of range or not finite.
        """
        rows, places = np.unique(self._rows[indices], return_inverse=True)
        try:
            block = np.asarray(self.images[rows])
        except DataError:
            raise
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise DataError(f"{self.source}: rows {_some(rows)} cannot be read: {error}") from error
        if len(block) != len(rows):
            raise DataError(f"{self.source}: expected {len(rows)} rows, got an array of shape {block.shape}")
        if self._dtype.kind == "f":
            finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            if not finite.all():
                raise DataError(f"{self.source}: image {rows[finite.argmin()]} has a NaN or an infinite value")
        elif self._dtype != np.uint8:
            self._check_range(block, rows)
        images = to_images(self.source, block.astype(self._dtype, copy=False), self.axes)
        return images[places]  # a copy

    def _check_range(self, block: np.ndarray, rows: np.ndarray) -> None:
        flat = block.reshape(len(block), -1)
        wrong = (flat.min(axis=1) < 0) | (flat.max(axis=1) > 255)
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(
                f"{self.source}: image {rows[first]}: expected pixels of 0 to 255, got {flat[first].min()} to "
                f"{flat[first].max()}"
            )

    def _choose(self, indices: Any) -> None:
        self._rows = self._rows[indices]

    def identity(self) -> bytes:
        """Of the file, its size and its time, and of the rows; of every pixel where there is no file."""
        import hashlib

        path = getattr(self.images, "filename", None)
        if not isinstance(path, (str, os.PathLike)):
            return self.in_memory().identity()
        status = os.stat(path)
        about = (os.path.realpath(path), *_place(self.images), status.st_size, status.st_mtime_ns)
        return hashlib.sha256(repr(about).encode() + self._rows.tobytes()).digest()


def _place(images: Any) -> tuple[Any, ...]:
    """What of its file the array is; of a memory map any part may be, under the name of the whole file."""
    if not isinstance(images, np.memmap):
        return (getattr(images, "name", ""),)
    whole: Any = images
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return whole.offset + images.ctypes.data - whole.ctypes.data, images.strides, images.dtype.str


def _some(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


# ---- .npy -------------------------------------------------------------------------------------------------------


def read_npy(path: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None) -> Splits[Dataset]:
    """Open images in a ``.npy`` file, as `numpy.save` writes it, as a memory map, whatever its size.

    Parameters
    ----------
    path
        Images as `LazyDataset` takes them. Where the file is called ``train_images.npy`` and there is a
        ``test_images.npy``, that is the test part; else every fifth image is.
    labels
        The ``.npy`` file with their labels (N,); without it, the file of the name with ``labels`` in place of
        ``images``, or ``y`` in place of ``x``.

    Returns
    -------
    Splits
        Of `LazyDataset`.

    Raises
    ------
    DataError
        A file is missing, damaged, has Python objects, or arrays that are no images and labels.
    """
    path = Path(path)
    label_path = _labels_of(path) if labels is None else Path(labels)
    train = _npy_set(path, label_path)
    for pair in _TEST_WORDS:
        test_path, test_labels = _renamed(path, pair), _renamed(label_path, pair)
        if test_path is not None and test_labels is not None and test_path.is_file() and test_labels.is_file():
            return same_classes(path, train, _npy_set(test_path, test_labels))
    return hold_out(path, train)


def _renamed(path: Path, words: tuple[str, str]) -> Path | None:
    """The path with one word of its name in place of another; None if it is not there."""
    parts = path.stem.replace("-", "_").split("_")
    if words[0] not in parts:
        return None
    start = sum(len(part) + 1 for part in parts[: parts.index(words[0])])
    stem = path.stem
    return path.with_name(stem[:start] + words[1] + stem[start + len(words[0]) :] + path.suffix)


def _labels_of(path: Path) -> Path:
    tried = [found for words in _LABEL_WORDS if (found := _renamed(path, words)) is not None]
    tried.append(path.with_name(f"{path.stem}_labels.npy"))
    for found in tried:
        if found.is_file():
            return found
    raise DataError(
        f"{path}: labels not found; looked for {', '.join(str(found) for found in tried)}; name their file by labels "
        "(--labels)"
    )


def _npy_set(path: Path, labels: Path) -> LazyDataset:
    return _checked(path, open_npy(path), flat_labels(np.array(open_npy(labels))), f"{labels}: ")


def open_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file as a memory map; DataError where it is none, or has Python objects."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise DataError(f"{path}: expected a .npy file, got a folder, a device or a pipe")
    try:
        with np.errstate(over="raise"):  # or a header of a shape beyond all files is a warning, and then nonsense
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (MemoryError, OSError):
        raise
    except FloatingPointError as error:
        raise DataError(f"{path}: its header tells a shape of more numbers than a file can have") from error
    except Exception as error:  # a damaged header can fail in any way
        raise DataError(f"{path}: expected a .npy file of plain numbers, as numpy.save writes it: {error}") from error


def _checked(
    path: object, images: Any, labels: np.ndarray, prefix: str = "", classes: Sequence[str] | None = None
) -> LazyDataset:
    try:
        return LazyDataset(images, labels, classes=classes, source=str(path))
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        text = str(error)
        source = prefix if text.startswith("labels") else "" if text.startswith(str(path)) else f"{path}: "
        raise DataError(f"{source}{text}") from error


# ---- HDF5 -------------------------------------------------------------------------------------------------------


class _HDF5Array:
    """A dataset of an HDF5 file, opened once in each process: the library must not share a file across a fork."""

    def __init__(self, path: Path, key: str) -> None:
        self.filename, self.name = str(path), key
        self._open: tuple[int, Any] = (-1, None)
        dataset = self._dataset()
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype = dataset.dtype

    def _dataset(self) -> Any:
        process, dataset = self._open
        if process != os.getpid():  # no lock, which a fork might find closed: two threads at once open it twice
            dataset = require("h5py", "HDF5 files", extra="hdf5").File(self.filename, "r")[self.name]
            self._open = os.getpid(), dataset
        return dataset

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Increasing rows; neighbours are read together: h5py's own lists of rows take many times as long."""
        dataset = self._dataset()
        block = np.empty((len(rows), *self.shape[1:]), self.dtype)
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, end in zip((0, *ends), (*ends, len(rows)), strict=True):
            if start < end:
                dataset.read_direct(block, np.s_[rows[start] : rows[end - 1] + 1], np.s_[start:end])
        return block

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.filename, "key": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["key"])  # type: ignore[misc]


def read_hdf5(path: str | os.PathLike[str]) -> Splits[Dataset]:
    """Open image sets in an HDF5 file; images stay in the file. Needs h5py (the extra ``hdf5``).

    Parameters
    ----------
    path
        The file, with the keys that `read_npz` takes (x_train, y_train, x_test, y_test; or images and labels, ...) at
        its top. ``classes``, if there is such a key, has the names of the classes.

    Returns
    -------
    Splits
        Without a test part every fifth image is for testing.

    Raises
    ------
    DataError
        No HDF5 file, other keys, arrays that are no images and labels, or arrays whose numbers lie in other files: they
        may be any that you can read.
    MissingExtraError
        h5py is not installed.
    """
    h5py = require("h5py", "HDF5 files", extra="hdf5")
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            keys = list(file.keys())
            parts = parts_in(keys)
            if not parts:
                raise DataError(
                    f"{path}: expected the keys images, labels; or x_train, y_train, x_test, y_test; got "
                    f"{', '.join(keys[:20]) or 'none'}"
                )
            for key in [key for part in parts for key in part]:
                _check_inside(h5py, file, path, key)
            labels = [flat_labels(file[label][()]) for _, label in parts]
            classes = None
            if "classes" in keys:
                _check_inside(h5py, file, path, "classes")
                classes = check_classes(file["classes"].asstr()[()].tolist())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{path}: expected an HDF5 file of images and labels: {error}") from error
    sets = [
        _checked(f"{path}: {key}", _HDF5Array(path, key), values, f"{path}: {label}: ", classes)
        for (key, label), values in zip(parts, labels, strict=True)
    ]
    return hold_out(path, sets[0]) if len(sets) == 1 else same_classes(path, *sets)


def _check_inside(h5py: Any, file: Any, path: Path, key: str) -> None:
    """Refuse what reads other files, and a shape that promises more than the file can hold."""
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise DataError(f"{path}: {key} is a link; refused, as it may lead to any file")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{path}: {key}: expected an array, got {type(dataset).__name__}")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: the numbers of {key} are in other files; refused, as they may be any")
    expected, size = dataset.size * dataset.dtype.itemsize, os.stat(path).st_size
    if expected > size * DEFLATE_RATIO:
        raise DataError(f"{path}: {key}: expected {expected} bytes for shape {dataset.shape}, in a file of {size}")
