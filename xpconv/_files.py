"""Files that are either the old or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

__all__ = ["remove_leftovers", "write_atomically"]

Chunk = bytes | bytearray | memoryview


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[Chunk]) -> None:
    """Put a file of these contents at ``path``, replacing the one that is there, or leave everything as it was.

    The contents go to a temporary file in the same folder, on to the disk, and take the name in one step.

    Raises
    ------
    OSError
        The folder is missing or not writable, the disk is full, ...; an earlier file at ``path`` is untouched and the
        temporary file is gone.
    """
    try:
        _write(Path(os.path.realpath(path)), chunks)  # through a link: replace the file, keep the link
    except OSError as error:
        error.filename = os.fspath(path)  # not the temporary one, or none at all
        del error.filename2
        raise


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Delete the temporary files that processes killed within `write_atomically` left of ``path``."""
    target = Path(os.path.realpath(path))
    pattern = re.compile(rf"\.{re.escape(target.name[:100])}\.[0-9a-f]{{12}}\.tmp")
    with contextlib.suppress(OSError):  # they cost room, and that is all
        for found in list(target.parent.iterdir()):
            if pattern.fullmatch(found.name):
                found.unlink()


def _write(target: Path, chunks: Iterable[Chunk]) -> None:
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    # not tempfile: its files are for the owner only, whatever the umask
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for chunk in chunks:
                _write_all(file.fileno(), chunk)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _write_all(descriptor: int, chunk: Chunk) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    # the new name itself survives a power cut only then; some file systems cannot do it, which costs only that
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
