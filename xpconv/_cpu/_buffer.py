"""One workspace for each thread, kept from call to call: fresh memory costs a page fault for every 4 KiB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["workspace"]

_ALIGNMENT = 64  # a cache line, and the widest vector
_KEEP = 16 << 20  # a buffer above this is only kept while at least a quarter of it is needed

_local = threading.local()


@contextmanager
def workspace(count: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """A vector of ``count`` uninitialised numbers, valid inside the ``with`` block: results must not alias it."""
    need = count * dtype.itemsize
    # taken out of its place while in use, so that a call from inside the block (a signal handler, say) gets another
    buffer = _local.__dict__.pop("buffer", None)
    if buffer is None or buffer.size < need or (buffer.size > _KEEP and buffer.size > 4 * need):
        buffer = None  # frees the old one first
        raw = np.empty(need + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        buffer = raw[start : start + need]
    try:
        yield buffer[:need].view(dtype)
    finally:
        _local.buffer = buffer
