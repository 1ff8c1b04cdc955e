"""Checkpoints: one safetensors file each, the state that is not arrays as JSON in its metadata.

Nothing is pickled, so reading a checkpoint of a stranger runs no code. A checkpoint is written atomically: whatever
goes wrong, the earlier file of that name stays whole. It is checked as a whole before anything of it is used.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _safetensors
from .._files import write_atomically
from ..backends import to_numpy
from ..backends.protocol import Array

__all__ = ["FORMAT_VERSION", "Checkpoint", "CheckpointError", "read_checkpoint", "write_checkpoint"]

FORMAT_VERSION = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message names the file and the reason."""


class Checkpoint(NamedTuple):
    """Contents of a checkpoint.

    Attributes
    ----------
    arrays
        NumPy arrays of any shape by name.
    state
        What was passed as ``state``.
    """

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def _checksum(state: str, arrays: Mapping[str, np.ndarray]) -> str:
    """CRC-32 of everything that a checkpoint says, so that a flipped bit anywhere is noticed."""
    total = zlib.crc32(state.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def write_checkpoint(path: str | os.PathLike[str], arrays: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Write ``arrays`` and ``state`` to ``path``, atomically.

    Parameters
    ----------
    path
        The file; its folder must exist. An earlier file is replaced once the new one is complete.
    arrays
        Arrays of any shape and any backend by name.
    state
        Anything that JSON can hold; floats come back exactly.

    Raises
    ------
    CheckpointError
        It cannot be written: a full disk, a folder that is missing or not writable. An earlier file stays whole.
    """
    ready = {name: np.array(to_numpy(array), order="C", copy=None) for name, array in arrays.items()}
    text = json.dumps(dict(state))
    metadata = {"xpconv.version": str(FORMAT_VERSION), "xpconv.state": text, "xpconv.checksum": _checksum(text, ready)}
    try:
        write_atomically(path, _safetensors.encode(ready, metadata))
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)}: cannot write the checkpoint: {error.strerror or error}; an earlier file of this name "
            "is unchanged"
        ) from error


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file of `write_checkpoint`, whole and checked.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Checkpoint
        Arrays and state as they were written.

    Raises
    ------
    CheckpointError
        No such file, not a safetensors file, not one of xpconv, truncated, damaged, or of a newer xpconv.
    """
    name = os.fspath(path)
    try:
        with _safetensors.Reader(path) as reader:
            metadata = reader.metadata
            arrays = {key: reader.read(key) for key in reader.tensors}
    except OSError as error:
        raise CheckpointError(f"{name}: cannot read the checkpoint: {error.strerror or error}") from error
    except _safetensors.FormatError as error:
        raise CheckpointError(f"{name}: not a safetensors file, truncated or damaged: {error}") from error
    version = metadata.get("xpconv.version")
    if version is None:
        raise CheckpointError(f"{name}: a safetensors file, but not a checkpoint of xpconv: it has no training state")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{name}: checkpoint format {version}, and this xpconv reads format {FORMAT_VERSION} only; update xpconv"
        )
    text = metadata.get("xpconv.state", "")
    if metadata.get("xpconv.checksum") != _checksum(text, arrays):
        raise CheckpointError(f"{name}: damaged: the contents do not have the checksum they were written with")
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: its training state is not JSON: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{name}: its training state: expected a mapping, got {text:.60}")
    return Checkpoint(arrays, state)
