"""The IDX format of MNIST and its relatives, compressed or not.

A file is a header and then the values, big-endian, last axis fastest::

    byte   0    1    2      3      4 .. 7    8 .. 11         4 + 4 * rank
           0    0    type   rank   size 0    size 1    ...   values
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .dataset import DataError

__all__ = ["is_gzip", "open_content", "read_idx", "sha256_of_content"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_BLOCK = 1 << 18
DEFLATE_RATIO = 1032  # deflate cannot pack more: 258 bytes in two bits


def is_gzip(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like a gzip file, whatever its name."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def open_content(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if it is gzip; what is wrong with the compression is a DataError."""
    if not is_gzip(path):
        with open(path, "rb") as file:
            yield file
        return
    import gzip
    import zlib

    try:
        with gzip.open(path, "rb") as stream:
            yield stream  # type: ignore[misc]
    except EOFError as error:
        raise DataError(f"{path}: truncated, the compressed data end too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged compressed data: {error}") from error


def sha256_of_content(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, decompressed if it is gzip: the same however somebody packed it."""
    import hashlib

    digest = hashlib.sha256()
    with open_content(path) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_idx(path: str | os.PathLike[str], *, sha256: str | None = None) -> np.ndarray:
    """Read an IDX file, gzip or not (told by its first bytes, not by its name).

    Parameters
    ----------
    path
        The file.
    sha256 : str, optional
        What the SHA-256 of the decompressed file must be, in hexadecimal.

    Returns
    -------
    numpy.ndarray
        Of the shape and dtype in the header, in native byte order. Nothing else of that size is held.

    Raises
    ------
    DataError
        Not an IDX file, truncated, with bytes behind the data, damaged, or with another SHA-256.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    digest: Any = None
    if sha256 is not None:
        import hashlib

        digest = hashlib.sha256()
    with open_content(path) as stream:
        dtype, shape, header = _read_header(path, stream)
        if digest is not None:
            digest.update(header)
        expected = math.prod(shape) * dtype.itemsize
        _check_room(path, shape, len(header), expected)
        try:
            values = np.empty(shape, dtype)
        except ValueError as error:  # more axes than NumPy has, or sizes whose product overflows beside a zero
            got = shape if len(shape) <= 8 else f"{len(shape)} axes"
            raise DataError(f"{path}: expected a shape that NumPy can hold, got {got}: {error}") from error
        target = values.data.cast("B") if expected else memoryview(b"")
        done = 0
        while done < expected:
            count = stream.readinto(target[done : done + _BLOCK])  # type: ignore[attr-defined]
            if not count:
                raise DataError(f"{path}: truncated, expected {expected} bytes of data for shape {shape}, got {done}")
            if digest is not None:
                digest.update(target[done : done + count])
            done += count
        # reading to the very end also makes gzip compare its checksum
        if stream.read(1):
            raise DataError(f"{path}: has bytes behind the {expected} of data that shape {shape} takes")
    if digest is not None and digest.hexdigest() != sha256:
        raise DataError(f"{path}: SHA-256 of the decompressed file: expected {sha256}, got {digest.hexdigest()}")
    return values if dtype.isnative else values.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _read_header(path: Path, stream: BinaryIO) -> tuple[np.dtype, tuple[int, ...], bytes]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated, expected an IDX header of at least 4 bytes, got {len(magic)}")
    rank = magic[3]
    if magic[:2] != b"\0\0" or magic[2] not in _DTYPES or rank == 0:
        raise DataError(
            f"{path}: not an IDX file, expected the bytes 00 00, a type of 08 to 0e and a rank, got {magic.hex(' ')}"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: truncated, expected {rank} sizes of 4 bytes in the header, got {len(sizes)} bytes")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * rank, 4))
    return np.dtype(_DTYPES[magic[2]]), shape, magic + sizes


def _check_room(path: Path, shape: tuple[int, ...], header: int, expected: int) -> None:
    """Refuse a header that promises more than the file can hold, before memory is taken for it."""
    size = path.stat().st_size
    room = size * DEFLATE_RATIO if is_gzip(path) else size - header
    if expected > room:
        raise DataError(f"{path}: truncated, expected {expected} bytes of data for shape {shape}, the file has {size}")
