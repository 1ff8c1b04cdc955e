"""Images in the memory that kernels read: whole planes, those of each channel and image anywhere."""

from __future__ import annotations

import numpy as np

from ._memory import empty

__all__ = ["planes"]


def planes(array: np.ndarray) -> np.ndarray:
    """``array`` (N, C, H, W) with contiguous planes (H, W): itself where it has them, else a contiguous copy."""
    _, _, height, width = array.shape
    item = array.itemsize
    first, second, row, column = array.strides
    if (
        (column == item or width == 1)
        and (row == item * width or height == 1)
        and first % item == 0
        and second % item == 0
    ):
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
