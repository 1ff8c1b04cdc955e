"""Arrays for results, in memory that is used again: fresh memory costs a page fault for every 4 KiB."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._kernels import Block

__all__ = ["empty"]

_LEAST = 1 << 14  # bytes: below, NumPy's own allocator is as good


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Uninitialised C-contiguous array, aligned to 64 bytes where it is large."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < _LEAST:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, Block(size))  # type: ignore[arg-type]  # any buffer does
