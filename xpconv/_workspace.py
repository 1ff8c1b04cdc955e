"""The cap on temporary memory of a convolution, and how a batch is cut to stay under it."""

from __future__ import annotations

import os
import sys
from typing import Any

from ._checks import check_integer
from ._geometry import ConvGeometry

__all__ = ["get_workspace_mb", "images_per_slice", "set_workspace_mb"]

DEFAULT_MB = 64
_MOST = sys.maxsize >> 20  # so many bytes can be counted


def _read() -> int:
    text = os.environ.get("XPCONV_WORKSPACE_MB") or str(DEFAULT_MB)
    try:
        return check_integer("XPCONV_WORKSPACE_MB", int(text), 1, _MOST)
    except ValueError:
        raise ValueError(f"XPCONV_WORKSPACE_MB: expected MiB, from 1 to {_MOST}, got {text!r}") from None


_cap_mb: int | None = None  # read when first asked for: `import xpconv` is no place to complain


def get_workspace_mb() -> int:
    """The cap on the columns of one convolution, in MiB (``XPCONV_WORKSPACE_MB``, 64 if unset)."""
    global _cap_mb
    if _cap_mb is None:
        _cap_mb = _read()
    return _cap_mb


def set_workspace_mb(megabytes: int) -> None:
    """Set the cap on the columns of one convolution, in MiB. One image is always taken, whatever its size.

    Parameters
    ----------
    megabytes
        At least 1, in MiB.

    Raises
    ------
    TypeError, ValueError
        Not an integer, or below 1.
    """
    global _cap_mb
    _cap_mb = check_integer("megabytes", megabytes, 1, _MOST, takes="a whole number of MiB")


def images_per_slice(geometry: ConvGeometry, dtype: Any, cap_bytes: int | None = None) -> int:
    """How many images' columns fit under the cap; at least one.

    A convolution holds the columns once: forward and weight gradient use those of the input, the input gradient
    those of the output's gradient, one after the other.
    """
    itemsize = getattr(dtype, "itemsize", 8)
    per_image = geometry.in_channels * geometry.window.taps * geometry.window.positions * itemsize
    cap = (get_workspace_mb() << 20) if cap_bytes is None else cap_bytes
    return max(1, min(geometry.batch, cap // max(per_image, 1)))
