"""Max and average pooling by the compiled kernels."""

from __future__ import annotations

import numpy as np

from .._geometry import Window
from ..backends.protocol import Array, Backend
from . import _kernels
from .columns import steps

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"]


def _planes(like: np.ndarray, height: int, width: int) -> np.ndarray:
    """Uninitialised (N, C, height, width) with its planes in the order of those of ``like``.

    Convolutions return channel-major memory and read it without a copy; pooling keeps it so. Images (N, H, W, C) give
    such images.
    """
    n, c = like.shape[:2]
    if c > 1 and abs(like.strides[1]) < min(abs(like.strides[2]), abs(like.strides[3])):
        return np.empty((n, height, width, c), like.dtype).transpose(0, 3, 1, 2)
    if abs(like.strides[1]) > abs(like.strides[0]):
        return np.empty((c, n, height, width), like.dtype).transpose(1, 0, 2, 3)
    return np.empty((n, c, height, width), like.dtype)


def _counted(count_include_pad: bool, window: Window) -> tuple[int, int, int, int]:
    """Rows and columns of padding that count in the divisor: above, below, left, right."""
    if not count_include_pad:
        return 0, 0, 0, 0
    return window.pad_top, window.pad_bottom, window.pad_left, window.pad_right


def max_pool2d(backend: Backend, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima (N, C, out_h, out_w) of the windows, and which tap ``i * kernel_w + j`` they are at."""
    y = _planes(x, window.out_h, window.out_w)
    argmax = np.empty_like(y, np.uint8 if window.taps <= 255 else np.int32)
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
