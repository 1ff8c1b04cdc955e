"""Ways for the values of an array to lie in memory: what works on one must work on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LAYOUTS"]


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="C")


def _fortran(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="F")


def _transposed(array: np.ndarray) -> np.ndarray:
    """The last two axes are swapped in memory."""
    return np.array(array.swapaxes(-1, -2), order="C").swapaxes(-1, -2) if array.ndim > 1 else np.array(array)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """The second axis is the innermost in memory, as in images (N, H, W, C) seen as (N, C, H, W)."""
    return np.moveaxis(np.array(np.moveaxis(array, 1, -1), order="C"), -1, 1) if array.ndim > 1 else np.array(array)


def _sliced(array: np.ndarray) -> np.ndarray:
    """A view of every second entry along every axis, one off the start; what lies between is NaN (or -1)."""
    floating = array.dtype.kind in "fc"
    parent = np.full([2 * n + 1 for n in array.shape], np.nan if floating else -1).astype(array.dtype)
    odd: tuple[Any, ...] = (*(slice(1, None, 2) for _ in array.shape), ...)
    view = parent[odd]
    view[...] = array
    return view


def _negative(array: np.ndarray) -> np.ndarray:
    """Every stride is negative."""
    backwards: tuple[Any, ...] = (*(slice(None, None, -1) for _ in array.shape), ...)
    return np.array(array[backwards], order="C")[backwards]


def _readonly(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array.flags.writeable = False
    return array


def _misaligned(array: np.ndarray) -> np.ndarray:
    """The first byte is at an odd address."""
    raw = np.empty(array.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _byteswapped(array: np.ndarray) -> np.ndarray:
    """Of the other byte order, as from a file of another machine."""
    return array.astype(array.dtype.newbyteorder("S"))


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": _contiguous,
    "fortran": _fortran,
    "transposed": _transposed,
    "channels-last": _channels_last,
    "sliced": _sliced,
    "negative": _negative,
    "readonly": _readonly,
    "misaligned": _misaligned,
    "byteswapped": _byteswapped,
}
"""Functions that copy a NumPy array into each layout: ``LAYOUTS["sliced"](x)`` equals x."""
