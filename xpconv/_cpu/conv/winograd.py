"""Convolution of 3 x 3, stride 1, by Winograd's minimal filtering: a quarter of the multiplications, or 4 / 9.

Outputs come in tiles of 4 x 4 or 2 x 2 pixels, each from 36 or 16 products a channel and filter instead of 144 or 36;
see ``kernels/cpu/winograd.h``. The input gradient is the same convolution of dy with the filters turned, the weight
gradient a sum over tiles at the same points.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._memory import empty
from .._planes import planes

__all__ = ["features", "forward", "input_gradient", "possible", "tile_of", "weight_gradient"]


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None for a kernel of 3 x 3 with stride, dilation and groups of 1; else the reason."""
    window = geometry.window
    if (window.kernel_h, window.kernel_w) != (3, 3):
        return f"it takes kernels of 3 x 3, got {window.kernel_h} x {window.kernel_w}"
    if (window.stride_h, window.stride_w, window.dilation_h, window.dilation_w) != (1, 1, 1, 1):
        return "it takes stride 1 and dilation 1"
    if geometry.groups != 1:
        return "it takes one group"
    if _kernels.instruction_set() is None:
        return "it is not compiled in"
    return None


def tile_of(operation: str, geometry: ConvGeometry) -> int:
    """Outputs of a tile along each axis, 4 or 2."""
    return 4


def features(operation: str, geometry: ConvGeometry, lanes: int, tile: int | None = None) -> tuple[float, ...]:
    """What a call takes: itself, products, and numbers at the points of images, of outputs and of weights."""
    window = geometry.window
    channels, filters, high, wide = geometry.in_channels, geometry.out_channels, window.out_h, window.out_w
    if operation == "input_gradient":
        channels, filters, high, wide = filters, channels, window.height, window.width
    if tile is None:
        tile = tile_of(operation, geometry)
    tiles = geometry.batch * -(-high // tile) * -(-wide // tile)
    points = (tile + 2) ** 2
    padded = -(-channels // lanes) * lanes, -(-filters // lanes) * lanes
    products = tiles * channels * padded[1]
    return 1, points * products, points * tiles * padded[0], points * tiles * padded[1], points * channels * padded[1]


def forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool, tile: int | None = None
) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C, 3, 3); returns (N, F, out_h, out_w)."""
    window = geometry.window
    y = empty((geometry.batch, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    if tile is None:
        tile = tile_of("forward", geometry)
    most = get_workspace_mb() << 20
    _kernels.winograd(planes(x), w, b, y, window.pad_top, window.pad_left, tile, False, relu, most)
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry, tile: int | None = None) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    if tile is None:
        tile = tile_of("input_gradient", geometry)
    most = get_workspace_mb() << 20
    _kernels.winograd(planes(dy), w, None, dx, 2 - window.pad_top, 2 - window.pad_left, tile, True, False, most)
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C, 3, 3), and db (F,) if it is needed."""
    window, f = geometry.window, geometry.out_channels
    dw, db = empty((f, geometry.in_channels, 3, 3), x.dtype), np.empty(f, x.dtype)
    if tile is None:
        tile = tile_of("weight_gradient", geometry)
    most = get_workspace_mb() << 20
    _kernels.winograd_weights(planes(dy), planes(x), dw, db, window.pad_top, window.pad_left, tile, most)
    return dw, db if need_db else None
