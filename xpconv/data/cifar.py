"""CIFAR-10 in its two published layouts, from a folder or straight from the archive.

In both an image is 3072 bytes: the red, green and blue planes of 32 x 32 pixels, row by row. The binary layout puts
a label byte before each image; the Python layout is a pickled dictionary, read here without running pickled code.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .dataset import ArrayDataset, DataError, Splits, checked_dataset
from .idx import open_content

__all__ = ["CIFAR10_CLASSES", "read_cifar10_binary", "read_cifar10_python"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_FOLDER = "cifar-10-batches-bin"
BINARY_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
PYTHON_FOLDER = "cifar-10-batches-py"
PYTHON_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

_SHAPE = (3, 32, 32)
_PIXELS = math.prod(_SHAPE)
_MAX_FILE = 64 << 20  # a published batch file has 31 MB
_MAX_HEADER = 1 << 20  # long names and attributes of an archive's member, which tarfile reads whole

Part = tuple[np.ndarray, np.ndarray]  # images (n, 3072) uint8, labels (n,)


def read_cifar10_binary(path: str | os.PathLike[str]) -> Splits[ArrayDataset]:
    """Read CIFAR-10 in the binary layout.

    Parameters
    ----------
    path
        The folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin, the folder above it, or
        ``cifar-10-binary.tar.gz``, which is read without being unpacked.

    Returns
    -------
    Splits
        Images (N, 3, 32, 32) uint8.

    Raises
    ------
    DataError
        A file is missing, of a length that is no whole number of records, or has a label above 9; a damaged archive.
    """
    return _read(path, BINARY_FOLDER, BINARY_FILES, _decode_binary)


def read_cifar10_python(path: str | os.PathLike[str]) -> Splits[ArrayDataset]:
    """Read CIFAR-10 in the Python layout. Nothing that the pickles name is imported or called.

    Parameters
    ----------
    path
        The folder with data_batch_1 to data_batch_5 and test_batch, the folder above it, or
        ``cifar-10-python.tar.gz``, which is read without being unpacked.

    Returns
    -------
    Splits
        Images (N, 3, 32, 32) uint8.

    Raises
    ------
    DataError
        A file is missing, damaged, or holds anything but a dictionary of pixels and labels; a damaged archive.
    """
    return _read(path, PYTHON_FOLDER, PYTHON_FILES, _decode_python)


def _read(
    path: str | os.PathLike[str], folder: str, files: tuple[str, ...], decode: Callable[[str, bytes], Part]
) -> Splits[ArrayDataset]:
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: not found; expected the folder {folder}, the one above it, or their archive")
    contents = _folder_contents(path, folder, files) if path.is_dir() else _archive_contents(path, folder, files)
    parts = {name: decode(str(source), data) for name, source, data in contents}
    missing = [name for name in files if name not in parts]
    if missing:
        raise DataError(f"{path}: expected {', '.join(files)}; missing are {', '.join(missing)}")
    test = _join([parts.pop(files[-1])])
    train = _join([parts.pop(name) for name in files[:-1]])
    return Splits(*(checked_dataset(path, *part, classes=CIFAR10_CLASSES, name="cifar10") for part in (train, test)))


def _join(parts: list[Part]) -> Part:
    """One array of images (N, 3, 32, 32), each part dropped when it is copied so that little is held twice."""
    labels = np.concatenate([part[1] for part in parts])
    images = np.empty((len(labels), *_SHAPE), np.uint8)
    start = 0
    while parts:
        part = parts.pop(0)[0]
        images[start : start + len(part)] = part.reshape(-1, *_SHAPE)
        start += len(part)
    return images, labels


def _folder_contents(path: Path, folder: str, files: tuple[str, ...]) -> Iterator[tuple[str, Path, bytes]]:
    inside = path / folder if (path / folder).is_dir() else path
    for name in files:
        file = inside / name
        if file.is_file():
            size = file.stat().st_size
            if size > _MAX_FILE:
                raise _too_large(str(file), size)
            yield name, file, file.read_bytes()


def _too_large(source: str, size: int) -> DataError:
    return DataError(f"{source}: expected a CIFAR-10 file of at most {_MAX_FILE} bytes, got {size}")


def _archive_contents(path: Path, folder: str, files: tuple[str, ...]) -> Iterator[tuple[str, str, bytes]]:
    """The wanted members of a tar file, by their exact names; nothing is written to disk, links are not followed."""
    import tarfile

    class SmallHeader(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            header = super().frombuf(buf, encoding, errors)
            if not header.isreg() and header.size > _MAX_HEADER:
                raise DataError(f"{path}: expected headers of at most {_MAX_HEADER} bytes, got {header.size}")
            return header

    wanted = {f"{folder}/{name}": name for name in files}
    with open_content(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=SmallHeader) as archive:
                for member in archive:
                    name = wanted.get(member.name.removeprefix("./"))
                    if name is None or not member.isreg():
                        continue
                    if member.size > _MAX_FILE:
                        raise _too_large(f"{path}: {member.name}", member.size)
                    file = archive.extractfile(member)
                    data = b"" if file is None else file.read()
                    if len(data) != member.size:
                        raise DataError(f"{path}: truncated, expected {member.size} bytes of {member.name}")
                    yield name, f"{path}: {member.name}", data
        except tarfile.TarError as error:
            raise DataError(f"{path}: expected a tar archive with {folder}/{files[0]} and so on: {error}") from error
        while stream.read(1 << 20):  # the rest, so that gzip compares its checksum
            pass


def _decode_binary(source: str, data: bytes) -> Part:
    record = 1 + _PIXELS
    if not data or len(data) % record:
        raise DataError(
            f"{source}: expected records of {record} bytes (a label, {_PIXELS} pixels), got {len(data)} bytes"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, 1:], _checked_labels(source, records[:, 0])


def _checked_labels(source: str, labels: np.ndarray) -> np.ndarray:
    bad = np.flatnonzero((labels < 0) | (labels >= len(CIFAR10_CLASSES)))
    if len(bad):
        raise DataError(f"{source}: image {bad[0]}: expected a label of 0 to 9, got {labels[bad[0]]}")
    return labels


# ---- the Python layout ------------------------------------------------------------------------------------------


class _PickledDtype:
    """Stands for numpy.dtype: takes note of the name, and only that of bytes will do."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        if isinstance(name, bytes):
            name = name.decode("ascii", "replace")
        if name not in ("u1", "|u1", "uint8"):
            got = repr(name[:20]) if isinstance(name, str) else type(name).__name__
            raise DataError(f"expected pixels of dtype uint8, got {got}")

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and fields, which one byte does not have


class _PickledArray:
    """Stands for numpy.ndarray: builds the array itself, from its shape and bytes."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _PickledDtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
            raise DataError("expected an array of bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order=order)


def _allowed(module: str, name: str) -> Any:
    """What a name in the pickle stands for; None if a CIFAR-10 file has no use for it.

    Functions are made anew for each use: pickle can set attributes on what it gets.
    """
    if (module, name) == ("numpy", "ndarray"):
        return _PickledArray
    if (module, name) == ("numpy", "dtype"):
        return _PickledDtype
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
        return lambda _kind, _shape, _typecode: _PickledArray()
    if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # written by protocol 5

        def frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _PickledArray:
            made = _PickledArray()
            made.fill(data, dtype, shape, order)
            return made

        return frombuffer
    if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
        return lambda text, encoding: text.encode("latin-1") if encoding == "latin1" else None
    return None


def _unpickle(data: bytes) -> Any:
    import io
    import pickle

    # The unpickler in Python, not in C: its memo is a dictionary, where nine bytes of pickle can make the other one
    # allocate gigabytes. The published files take it a tenth of a second.
    class Restricted(pickle._Unpickler):  # type: ignore[misc, name-defined]
        dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

        def find_class(self, module: str, name: str) -> Any:
            found = _allowed(module, name)
            if found is None:
                raise DataError(f"refused {module}.{name}: a CIFAR-10 file needs no more than dictionaries and pixels")
            return found

        def load_bytearray8(self: Any) -> None:
            # not of the promised size before the bytes are there
            size = int.from_bytes(self.read(8), "little")
            self.append(bytearray(self.read(min(size, len(data) + 1))))

        dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    return Restricted(io.BytesIO(data), encoding="bytes").load()


def _decode_python(source: str, data: bytes) -> Part:
    try:
        batch = _unpickle(data)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way: a wrong index, type, encoding or length
        raise DataError(f"{source}: damaged pickle: {type(error).__name__}: {error}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{source}: expected a pickled dictionary, got {type(batch).__name__}")
    # Python 2 wrote bytes as keys; files written anew by Python 3 may have text
    fields = {
        key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key: value for key, value in batch.items()
    }
    missing = [key.decode() for key in (b"data", b"labels") if key not in fields]
    if missing:
        raise DataError(f"{source}: expected the keys data and labels, missing are {', '.join(missing)}")
    images = getattr(fields[b"data"], "array", None)
    if images is None or images.ndim != 2 or images.shape[1] != _PIXELS or len(images) == 0:
        got = "no array" if images is None else f"shape {images.shape}"
        raise DataError(f"{source}: data: expected a uint8 array of shape (n, {_PIXELS}), got {got}")
    labels = fields[b"labels"]
    if not isinstance(labels, list) or not all(type(k) is int and abs(k) < 2**31 for k in labels):
        raise DataError(f"{source}: labels: expected a list of integers")
    if len(labels) != len(images):
        raise DataError(f"{source}: labels: expected {len(images)}, one for each image, got {len(labels)}")
    return images, _checked_labels(source, np.asarray(labels))
