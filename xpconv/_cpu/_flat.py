"""Arrays for kernels that treat every element by itself: contiguous, whatever the order of their axes in memory."""

from __future__ import annotations

import numpy as np

__all__ = ["flat", "restored"]

Axes = tuple[int, ...]


def flat(first: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], Axes | None]:
    """C-contiguous arrays of the same elements in the same places, and the order of their axes, None for the usual one.

    Arrays of one dense order of axes, channel-major images say, are views; what is not laid out like ``first`` is
    copied.
    """
    arrays = [first, *others]
    axes = None
    if not first.flags.c_contiguous:
        strides = first.strides
        axes = tuple(sorted(range(first.ndim), key=lambda axis: (-abs(strides[axis]), axis)))
        arrays = [array.transpose(axes) for array in arrays]
    return [array if array.flags.c_contiguous else np.ascontiguousarray(array) for array in arrays], axes


def restored(array: np.ndarray, axes: Axes | None) -> np.ndarray:
    """``array`` with its axes in the usual order."""
    return array if axes is None else array.transpose(np.argsort(axes))
