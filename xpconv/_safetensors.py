"""The safetensors file format: a header in JSON, then the values of all arrays in one block.

::

    8 bytes        length of the header, little-endian
    header         {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {...}}
    the rest       the values, little-endian, rows first; the offsets count from here and leave no gap

Format of https://github.com/huggingface/safetensors. Nothing in such a file is code, and a reader believes nothing of
it: all sizes are checked against each other and against the length of the file before any memory is taken for them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

__all__ = ["DTYPES", "FormatError", "Reader", "TensorInfo", "encode"]

# name in the file -> xpconv's name, and how NumPy reads it
DTYPES: dict[str, tuple[str, str]] = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),  # NumPy has no such dtype: the upper half of a float32
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"),
    "I8": ("int8", "|i1"),
    "U64": ("uint64", "<u8"),
    "U32": ("uint32", "<u4"),
    "U16": ("uint16", "<u2"),
    "U8": ("uint8", "|u1"),
    "BOOL": ("bool", "|u1"),
}
_CODES = {name: code for code, (name, _) in DTYPES.items()}

_METADATA = "__metadata__"
_MOST_HEADER = 16 << 20  # bytes: room for a hundred thousand arrays, and no more memory than a header is worth


class FormatError(ValueError):
    """Bytes that are not a whole safetensors file."""


class TensorInfo(NamedTuple):
    """What the header says about an array.

    Attributes
    ----------
    dtype
        ``"float32"`` and so on, among them ``"bfloat16"``.
    shape
        Lengths of the axes.
    start, stop
        Where its values are, in bytes from the beginning of the block.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


# ---- writing ----------------------------------------------------------------------------------------------------


def _bits(array: np.ndarray, dtype: str) -> np.ndarray:
    """The values as the file has them, in contiguous memory: a strided array would be written wrongly."""
    if dtype == "bfloat16":
        array = (np.asarray(array, np.float32).view(np.uint32) >> 16).astype("<u2")
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C", copy=None)


def encode(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], *, bfloat16: frozenset[str] = frozenset()
) -> Iterator[bytes | memoryview]:
    """The parts of a file of these arrays, one after the other.

    Parameters
    ----------
    arrays
        NumPy arrays by name, of any strides.
    metadata
        Strings by name.
    bfloat16
        Names of the float32 arrays that hold values of bfloat16 and are written as such.

    Raises
    ------
    TypeError
        A dtype that the format does not have.
    ValueError
        An array is named ``__metadata__``, or names and metadata are too long to be read again.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    ready = []
    start = 0
    # the largest numbers first, so that each array is aligned for readers that map the file
    for name in sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize):
        array = arrays[name]
        dtype = "bfloat16" if name in bfloat16 else array.dtype.name
        if name == _METADATA:
            raise ValueError(f"arrays: the name {_METADATA!r} is reserved by the safetensors format")
        if dtype not in _CODES:
            raise TypeError(f"arrays: {name} is of dtype {dtype}, which the safetensors format does not have")
        values = _bits(array, dtype)
        stop = start + values.nbytes
        header[name] = {"dtype": _CODES[dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
        ready.append(values)
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MOST_HEADER:
        raise ValueError(f"arrays, metadata: make a header of {len(text)} bytes, at most {_MOST_HEADER} are read again")
    yield len(text).to_bytes(8, "little") + text
    for values in ready:
        if values.size:
            yield values.reshape(-1).view(np.uint8).data


# ---- reading ----------------------------------------------------------------------------------------------------


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise FormatError(f"the header has {twice!r:.100} twice")
    return found


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its header is not JSON ({str(error)[:100]})") from None
    if not isinstance(header, dict):
        raise FormatError("its header is not an object of JSON")
    return header


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _tensor(name: str, entry: Any) -> TensorInfo:
    """What ``entry`` says, if it agrees with itself."""
    where = f"the array {name!r:.100}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"{where} is of dtype {code!r:.50}; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_count, shape)):
        raise FormatError(f"{where} has the shape {shape!r:.100}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise FormatError(f"{where} has the offsets {offsets!r:.100}")
    dtype, kind = DTYPES[code]
    size = math.prod(shape) * np.dtype(kind).itemsize
    start, stop = offsets
    if stop - start != size:
        raise FormatError(f"{where} takes {size} bytes by dtype and shape, but {stop - start} by its offsets")
    return TensorInfo(dtype, tuple(shape), start, stop)


class Reader:
    """A file that is open for reading, its header read and checked; a context manager.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    metadata
        Strings by name.
    tensors
        What there is, by name, in the order of the file.

    Raises
    ------
    FormatError
        Not a safetensors file, truncated or damaged.
    OSError
        It cannot be read.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        try:
            self._read_header(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, size: int) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        if size < 8 or length > size - 8:
            raise FormatError("it is shorter than its header")
        if length > _MOST_HEADER:
            raise FormatError(f"its header has {length} bytes, at most {_MOST_HEADER} are read")
        text = self._file.read(length)
        if len(text) != length or text[:1] != b"{":
            raise FormatError("it does not begin with a header")
        header = _parse(text)
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise FormatError(f"its {_METADATA} are not strings by name")
        tensors = {name: _tensor(name, entry) for name, entry in header.items()}
        self._begin = 8 + length
        end, before = 0, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
            if tensor.start != end:
                what = "overlaps" if tensor.start < end else "leaves a gap behind"
                raise FormatError(f"the array {name!r:.100} {what} {before!r:.100}")
            end, before = tensor.stop, name
        if end != size - self._begin:
            raise FormatError(f"its arrays take {end} bytes, and it has {size - self._begin}")
        self.metadata, self.tensors = metadata, tensors

    def read(self, name: str) -> np.ndarray:
        """A new array of the values; bfloat16, which NumPy does not have, as float32.

        Raises
        ------
        FormatError
            A truth value that is neither 0 nor 1, lengths beyond what NumPy has, or the file was cut since.
        """
        tensor = self.tensors[name]
        kind = np.dtype(next(kind for dtype, kind in DTYPES.values() if dtype == tensor.dtype))
        flat = np.empty((tensor.stop - tensor.start) // kind.itemsize, kind)
        self._file.seek(self._begin + tensor.start)
        if flat.size and self._file.readinto(flat.view(np.uint8).data) != flat.nbytes:  # type: ignore[attr-defined]
            raise FormatError(f"the array {name!r:.100} ends early: the file was cut while it was read")
        if tensor.dtype == "bfloat16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        elif tensor.dtype == "bool":
            if flat.size and flat.max() > 1:
                raise FormatError(f"the array {name!r:.100} holds truth values other than 0 and 1")
            flat = flat.view(np.bool_)
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        try:
            return flat.reshape(tensor.shape)
        except ValueError:
            raise FormatError(f"the array {name!r:.100} has the shape {tensor.shape!r:.100}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
