"""Convolution of 3 x 3, stride 1, by Winograd's minimal filtering: a quarter of the multiplications, or 4 / 9.

Outputs come in tiles of 4 x 4 or 2 x 2 pixels, each from 36 or 16 products a channel and filter instead of 144 or 36;
see ``kernels/cpu/winograd.h``. The input gradient is the same convolution of dy with the filters turned, the weight
gradient a sum over tiles at the same points.

Rounding: with numbers of a normal distribution and up to 512 channels, the largest error of a result is below 4e-6 of
the largest number for tiles of 4 x 4 in single precision, and below 1e-6 for 2 x 2. A number that is not finite may
make all outputs of the tiles that it lies in NaN or infinite, also those that do not see it; those that do are never
finite.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._memory import empty
from .._planes import planes

__all__ = ["features", "forward", "input_gradient", "possible", "tile_of", "weight_gradient"]

# multiplications that take as long as one number of a tile on its way to a point or back, and one of the weights
_TRANSFORM, _WEIGHT = 23, 38


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


def _pixels(operation: str, geometry: ConvGeometry) -> tuple[int, int, int, int]:
    """Channels that go into the products, filters that come out, and height and width of the outputs that are tiled."""
    window = geometry.window
    if operation == "input_gradient":
        return geometry.out_channels, geometry.in_channels, window.height, window.width
    return geometry.in_channels, geometry.out_channels, window.out_h, window.out_w


def tile_of(operation: str, geometry: ConvGeometry) -> int:
    """Outputs of a tile along each axis, 4 or 2: what takes less time by a rough count.

    Few tiles do not make up for the weights at 36 points instead of 16, and sizes that 4 does not divide leave tiles
    partly empty.
    """
    channels, filters, high, wide = _pixels(operation, geometry)
    costs = []
    for tile in (4, 2):
        tiles = geometry.batch * -(-high // tile) * -(-wide // tile)
        numbers = tiles * (channels + filters) * _TRANSFORM + channels * filters * _WEIGHT
        costs.append((tile + 2) ** 2 * (tiles * channels * filters + numbers))
    return 4 if costs[0] < costs[1] else 2


def features(operation: str, geometry: ConvGeometry, lanes: int, tile: int | None = None) -> tuple[float, ...]:
    """What a call takes: itself, products, and numbers at the points of images, of outputs and of weights."""
    channels, filters, high, wide = _pixels(operation, geometry)
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
    w = np.ascontiguousarray(w)
    b = b if b is None else np.ascontiguousarray(b)
    _kernels.winograd(planes(x), w, b, y, window.pad_top, window.pad_left, tile, False, relu, most)
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry, tile: int | None = None) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    if tile is None:
        tile = tile_of("input_gradient", geometry)
    most = get_workspace_mb() << 20
    w = np.ascontiguousarray(w)
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
