"""Convolution of each channel by filters of its own: no products of matrices, a band of one channel at a time.

What the kernels do is drawn in ``kernels/cpu/depthwise.h``. Threads share the channels of all images; for the weights
they share the channels, so that the sums over the batch are taken in the same order by any number of threads.
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

_CACHE_BYTES = 2 << 20  # a thread's working memory for one row: a core's second-level cache
_ITEMSIZE = {"float32": 4, "float64": 8}


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None for as many groups as channels, one row of which fits into the cache; else the reason."""
    window = geometry.window
    if geometry.groups != geometry.in_channels:
        return "it takes as many groups as channels"
    need = _kernels.depthwise_bytes(
        geometry.in_channels, geometry.out_channels, window.height, window.width, window.kernel_h, window.kernel_w,
        window.out_h, window.out_w, *steps(window), _ITEMSIZE[dtype], _CACHE_BYTES,
    )  # fmt: skip
    if need is None:
        return f"one row takes more than {_CACHE_BYTES >> 20} MiB of a cache, or it is not compiled in"
    return None


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, planes of images, products in whole vectors, numbers of images and results."""
    window, batch = geometry.window, geometry.batch
    results = batch * geometry.out_channels
    images = batch * geometry.in_channels
    products = results * window.taps * window.out_h * -(-window.out_w // lanes) * lanes
    return 1, images, products, images * window.height * window.width + results * window.positions


def _matrix(w: np.ndarray) -> np.ndarray:
    return (w if w.flags.c_contiguous else w.copy()).reshape(w.shape[0], -1)


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of each channel of x (N, C, H, W) with its own filters of w (F, 1, kh, kw)."""
    window = geometry.window
    y = empty((geometry.batch, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    bias = b if b is None or b.flags.c_contiguous else b.copy()
    _kernels.depthwise(
        planes(x), _matrix(w), bias, y, window.kernel_h, window.kernel_w, *steps(window), relu, get_workspace_mb() << 20
    )
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    _kernels.depthwise_input_gradient(
        planes(dy), _matrix(w), dx, window.kernel_h, window.kernel_w, *steps(window), get_workspace_mb() << 20
    )
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, 1, kh, kw), and db (F,) if it is needed."""
    return gradients(dy, x, None, geometry, need_db)[1:]


def gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray | None, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Dx (N, C, H, W), dw and db, in one pass where the kernels can; without w no dx."""
    window, c, f = geometry.window, geometry.in_channels, geometry.out_channels
    dx = None if w is None else empty((geometry.batch, c, window.height, window.width), dy.dtype)
    dw = np.empty((f, window.taps), dy.dtype)
    db = np.empty(f, dy.dtype) if need_db else None
    _kernels.depthwise_gradients(
        planes(dy), planes(x), None if w is None else _matrix(w), dx, dw, db, window.kernel_h, window.kernel_w,
        *steps(window), get_workspace_mb() << 20,
    )  # fmt: skip
    return dx, dw.reshape(f, 1, window.kernel_h, window.kernel_w), db
