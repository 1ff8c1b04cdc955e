"""Convolution without columns: a band of an image at a time, lanes are neighbouring pixels, threads share the images.

Faster than columns and a product wherever the weights are few, more so the fewer channels there are: nothing is written
but results. `possible` says where.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._memory import empty
from .._planes import planes
from ..columns import steps

__all__ = ["features", "forward", "gradients", "input_gradient", "possible", "weight_gradient"]

_CACHE_BYTES = 2 << 20  # a thread's working memory for one row and for the weights: a core's second-level cache
_MOST_WEIGHTS = 1 << 14  # beyond, sums of theirs and the weights themselves leave no room for images
_ITEMSIZE = {"float32": 4, "float64": 8}


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None for one group and weights that, with what one output row takes, fit into the cache; else the reason."""
    window = geometry.window
    if geometry.groups != 1:
        return "it takes one group"
    need = _kernels.direct_bytes(
        geometry.in_channels, geometry.out_channels, window.height, window.width, window.kernel_h, window.kernel_w,
        window.out_h, window.out_w, *steps(window), operation != "forward", _ITEMSIZE[dtype], _CACHE_BYTES,
    )  # fmt: skip
    if need is None or geometry.out_channels * geometry.in_channels * window.taps > _MOST_WEIGHTS:
        return (
            f"it takes up to {_MOST_WEIGHTS} weights, and what it needs for one row has to fit into "
            f"{_CACHE_BYTES >> 20} MiB, or it is not compiled in"
        )
    return None


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, images, products in whole vectors, taps of whole rows, numbers of images, of results."""
    window, batch = geometry.window, geometry.batch
    beside = (window.kernel_w - 1) * window.dilation_w // window.stride_w
    width, rows = (window.out_w, window.out_h) if beside else (window.positions, 1)
    pixels = rows * -(-width // lanes) * lanes
    taps = geometry.in_channels * window.taps
    return (
        1, batch, batch * pixels * taps * geometry.out_channels, batch * pixels * taps,
        batch * geometry.in_channels * window.height * window.width, batch * geometry.out_channels * window.positions,
    )  # fmt: skip


def _matrix(w: np.ndarray) -> np.ndarray:
    return (w if w.flags.c_contiguous else w.copy()).reshape(w.shape[0], -1)


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C, kh, kw); returns (N, F, out_h, out_w)."""
    window = geometry.window
    y = empty((geometry.batch, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    bias = b if b is None or b.flags.c_contiguous else b.copy()
    _kernels.direct(
        planes(x), _matrix(w), bias, y, window.kernel_h, window.kernel_w, *steps(window), relu, get_workspace_mb() << 20
    )
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    _kernels.direct_backward(
        planes(dy), None, _matrix(w), dx, None, None, window.kernel_h, window.kernel_w, *steps(window),
        get_workspace_mb() << 20,
    )  # fmt: skip
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C, kh, kw), and db (F,) if it is needed."""
    return gradients(dy, x, None, geometry, need_db)[1:]


def gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray | None, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Dx (N, C, H, W), dw and db, dy read once for all; without w no dx."""
    window, c, f = geometry.window, geometry.in_channels, geometry.out_channels
    dx = None if w is None else empty((geometry.batch, c, window.height, window.width), dy.dtype)
    dw = np.empty((f, c * window.taps), dy.dtype)
    db = np.empty(f, dy.dtype) if need_db else None
    _kernels.direct_backward(
        planes(dy), planes(x), None if w is None else _matrix(w), dx, dw, db, window.kernel_h, window.kernel_w,
        *steps(window), get_workspace_mb() << 20,
    )  # fmt: skip
    return dx, dw.reshape(f, c, window.kernel_h, window.kernel_w), db
