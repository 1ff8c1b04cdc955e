"""Max and average pooling by the compiled kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._geometry import Window
from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty
from .columns import steps

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

_BYTE, _INDEX = np.dtype(np.uint8), np.dtype(np.int32)


def _planes(like: np.ndarray, height: int, width: int, dtype: Any = None) -> np.ndarray:
    """Uninitialised (N, C, height, width) with its planes in the order of those of ``like``.

    Convolutions return channel-major memory and read it without a copy; pooling keeps it so. Images (N, H, W, C) give
    such images.
    """
    (n, c), dtype = like.shape[:2], dtype or like.dtype
    image, channel, row, column = like.strides
    if c > 1 and abs(channel) < min(abs(row), abs(column)):
        return empty((n, height, width, c), dtype).transpose(0, 3, 1, 2)
    if abs(channel) > abs(image):
        return empty((c, n, height, width), dtype).transpose(1, 0, 2, 3)
    return empty((n, c, height, width), dtype)


def _counted(count_include_pad: bool, window: Window) -> tuple[int, int, int, int]:
    """Rows and columns of padding that count in the divisor: above, below, left, right."""
    if not count_include_pad:
        return 0, 0, 0, 0
    return window.pad_top, window.pad_bottom, window.pad_left, window.pad_right


def max_pool2d(backend: Backend, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima (N, C, out_h, out_w) of the windows, and which tap ``i * kernel_w + j`` they are at."""
    y = _planes(x, window.out_h, window.out_w)
    argmax = _planes(x, window.out_h, window.out_w, _BYTE if window.taps <= 255 else _INDEX)
    _kernels.max_pool(x, y, argmax, window.kernel_h, window.kernel_w, *steps(window))
    return y, argmax


def max_pool2d_backward(backend: Backend, dy: Array, argmax: Array, window: Window) -> Array:
    """Gradient (N, C, H, W): each dy goes to the pixel that was the maximum."""
    dx = _planes(dy, window.height, window.width)
    _kernels.max_pool_backward(dy, argmax, dx, window.kernel_h, window.kernel_w, *steps(window))
    return dx


def avg_pool2d(backend: Backend, x: Array, count_include_pad: bool, window: Window) -> Array:
    """Means (N, C, out_h, out_w) of the windows."""
    y = _planes(x, window.out_h, window.out_w)
    counted = _counted(count_include_pad, window)
    _kernels.avg_pool(x, y, window.kernel_h, window.kernel_w, *steps(window), *counted)
    return y


def avg_pool2d_backward(backend: Backend, dy: Array, count_include_pad: bool, window: Window) -> Array:
    """Gradient (N, C, H, W): every pixel of a window gets an equal share of its dy."""
    dx = _planes(dy, window.height, window.width)
    counted = _counted(count_include_pad, window)
    _kernels.avg_pool_backward(dy, dx, window.kernel_h, window.kernel_w, *steps(window), *counted)
    return dx


def adaptive_avg_pool2d(backend: Backend, x: Array, output_size: tuple[int, int]) -> Array:
    """Means (N, C, out_h, out_w) of as many bins as asked for."""
    y = _planes(x, *output_size)
    _kernels.adaptive_avg_pool(x, y)
    return y


def adaptive_avg_pool2d_backward(backend: Backend, dy: Array, image_size: tuple[int, int]) -> Array:
    """Gradient (N, C, H, W): every pixel of a bin gets an equal share of its dy."""
    dx = _planes(dy, *image_size)
    _kernels.adaptive_avg_pool_backward(dy, dx)
    return dx
