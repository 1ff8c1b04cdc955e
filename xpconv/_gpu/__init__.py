"""Operators on CUDA kernels, for every backend whose arrays the kernels can read: CuPy, and its stand-in on the host.

`ENGINES` maps each operator to its engines, best first: ``(name, function, supports)``. The functions have the
signatures of `xpconv._generic`; their backend is a `GpuBackend`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import columns, conv
from .backend import GpuBackend
from .module import CTYPES

__all__ = ["ENGINES", "GpuBackend"]


def _real(dtype: str, geometry: Any) -> bool:
    return dtype in CTYPES


ENGINES: dict[str, tuple[tuple[str, Callable[..., Any], Callable[[str, Any], bool]], ...]] = {
    "im2col": (("cuda", columns.im2col, _real),),
    "col2im": (("cuda", columns.col2im, _real),),
    "conv2d": (("cuda", conv.conv2d, _real),),
    "conv2d_backward": (("cuda", conv.conv2d_backward, _real),),
}
