"""Convolution of any shape by blocks that stay in the caches: no columns in memory, results straight into place.

What the kernels do is drawn in ``kernels/cpu/blocked.h``. Groups run one after the other.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._memory import empty
from .._planes import planes
from ..columns import steps

__all__ = ["features", "forward", "input_gradient", "possible", "weight_gradient"]


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None unless a compiler without vectors built the kernels."""
    if not _kernels.instruction_sets():
        return "the kernels were built by a compiler without vectors"
    return None


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, products (of whole vectors), numbers gathered, numbers of images and results, weights.

    Rows of taps that only meet padding are left out.
    """
    window, groups, batch = geometry.window, geometry.groups, geometry.batch
    channels, filters = geometry.in_channels // groups, geometry.out_channels // groups
    inputs, outputs = window.height * window.width, window.positions
    rows = 0
    for i in range(window.kernel_h):
        offset = i * window.dilation_h - window.pad_top
        first = max(0, -(offset // window.stride_h))
        last = min(window.out_h - 1, (window.height - 1 - offset) // window.stride_h)
        rows += max(0, last - first + 1)
    pixels = groups * batch * rows * window.out_w * window.kernel_w / window.kernel_h  # for each tap
    weights = groups * channels * filters * window.taps
    if operation == "weight_gradient":
        across = -(-filters // lanes) * lanes
        gathered = pixels * channels * window.kernel_h
    elif operation == "forward":
        across = filters
        gathered = pixels * channels * window.kernel_h
    else:
        across = filters
        gathered = pixels * filters * window.kernel_h
    products = pixels * window.kernel_h * channels * across
    numbers = groups * batch * (channels * inputs + filters * outputs)
    return 1.0, products, gathered, numbers, weights


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    window = geometry.window
    y = empty((geometry.batch, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    w, b = np.ascontiguousarray(w), None if b is None else np.ascontiguousarray(b)
    _kernels.blocked_forward(planes(x), w, b, y, *steps(window), geometry.groups, relu, get_workspace_mb() << 20)
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    _kernels.blocked_input_gradient(
        planes(dy), np.ascontiguousarray(w), dx, *steps(window), geometry.groups, get_workspace_mb() << 20
    )
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C / groups, kh, kw), and db (F,) if it is needed."""
    window = geometry.window
    shape = (geometry.out_channels, geometry.in_channels // geometry.groups, window.kernel_h, window.kernel_w)
    dw, db = empty(shape, x.dtype), empty(shape[:1], x.dtype) if need_db else None
    _kernels.blocked_weight_gradient(
        planes(dy), planes(x), dw, db, *steps(window), geometry.groups, get_workspace_mb() << 20
    )
    return dw, db
