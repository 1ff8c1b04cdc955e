"""Axis orders that users have, turned into the ones that operators take: views, never copies."""

from __future__ import annotations

from typing import Any

from ..backends.protocol import Array

__all__ = ["FROM_NCHW", "FROM_OIHW", "TO_NCHW", "TO_OIHW", "permuted"]

# axes for `permuted`; None where nothing is to be done
TO_NCHW = {"NCHW": None, "NHWC": (0, 3, 1, 2)}
FROM_NCHW = {"NCHW": None, "NHWC": (0, 2, 3, 1)}
TO_OIHW = {"OIHW": None, "HWIO": (3, 2, 0, 1)}
FROM_OIHW = {"OIHW": None, "HWIO": (2, 3, 1, 0)}


def permuted(xp: Any, array: Array, axes: tuple[int, ...] | None) -> Array:
    """``array`` with its axes in another order."""
    return array if axes is None else xp.permute_dims(array, axes)
