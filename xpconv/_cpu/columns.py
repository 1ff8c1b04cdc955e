"""Images to columns and back, by the compiled kernels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .._geometry import Window
from ..backends.protocol import Array, Backend
from . import _kernels

__all__ = ["col2im", "im2col", "steps"]


def _stride(stride: int, out: int, size: int, pad: int, kernel: int, dilation: int) -> int:
    """A stride of the same effect that does not overflow: with one output, any beyond everything it sees is as good."""
    return stride if out > 1 else min(stride, size + abs(pad) + kernel * dilation)


@lru_cache(maxsize=4096)
def steps(window: Window) -> tuple[int, int, int, int, int, int]:
    """What the kernels need besides the shapes of their arrays: stride, padding before, dilation."""
    w = window
    return (
        _stride(w.stride_h, w.out_h, w.height, w.pad_top, w.kernel_h, w.dilation_h),
        _stride(w.stride_w, w.out_w, w.width, w.pad_left, w.kernel_w, w.dilation_w),
        w.pad_top, w.pad_left, w.dilation_h, w.dilation_w,
    )  # fmt: skip


def im2col(backend: Backend, x: Array, window: Window) -> Array:
    """Columns (N, C * kh * kw, out_h * out_w) of images (N, C, H, W)."""
    n, c = x.shape[:2]
    cols = np.empty((n, c, window.kernel_h, window.kernel_w, window.out_h, window.out_w), x.dtype)
    _kernels.im2col(x, cols, *steps(window))
    return cols.reshape(n, c * window.taps, window.positions)


def col2im(backend: Backend, cols: Array, window: Window) -> Array:
    """Images (N, C, H, W) from columns (N, C * kh * kw, out_h * out_w), summed where windows overlap."""
    n, c = cols.shape[0], cols.shape[1] // window.taps
    split = (n, c, window.kernel_h, window.kernel_w, window.out_h, window.out_w)
    x = np.empty((n, c, window.height, window.width), cols.dtype)
    # splitting axes is a view for any strides
    _kernels.col2im(np.reshape(cols, split, copy=False), x, *steps(window))
    return x
