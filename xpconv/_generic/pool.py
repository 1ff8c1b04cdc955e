"""Pooling by strided slices, one for each tap of the window; see `columns`."""

from __future__ import annotations

import math
from itertools import repeat

import array_api_extra as xpx
import numpy as np

from .._geometry import Window
from ..backends.protocol import Array, Backend
from .columns import add_taps, pad, taps

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]


def _first_real_tap(stride: int, pad_before: int, dilation: int, out: int) -> np.ndarray:
    """For each window along one axis, its first tap that is not in the padding."""
    start = np.arange(out) * stride - pad_before
    return np.maximum(-(start // dilation), 0)  # rounds up


def max_pool2d(backend: Backend, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima (N, C, out_h, out_w) of the windows, and which tap ``i * kernel_w + j`` they are at.

    Of equal maxima the first counts. A NaN in the window is the maximum. Padding is never chosen.
    """
    xp = backend.xp
    views = taps(pad(backend, x, window, -math.inf), window)
    y = xp.asarray(views[0], copy=True)
    for view in views[1:]:
        y = xp.maximum(y, view)  # a NaN stays
    dtype = xp.uint8 if window.taps <= 255 else xp.int32
    argmax = backend.full(tuple(y.shape), window.taps - 1, dtype)
    for t in range(window.taps - 2, -1, -1):
        argmax = xp.where((views[t] == y) | (views[t] != views[t]), t, argmax)
    if window.pad_top or window.pad_left:
        # where all pixels are -inf the padding equals the maximum; elsewhere this changes nothing
        rows = _first_real_tap(window.stride_h, window.pad_top, window.dilation_h, window.out_h)
        columns = _first_real_tap(window.stride_w, window.pad_left, window.dilation_w, window.out_w)
        first = rows[:, None] * window.kernel_w + columns
        argmax = xp.maximum(argmax, backend.asarray(first.astype(np.int32), dtype))
    return y, argmax


def max_pool2d_backward(backend: Backend, dy: Array, argmax: Array, window: Window) -> Array:
    """Gradient (N, C, H, W): each dy goes to the pixel that was the maximum."""
    return add_taps(backend, (backend.xp.where(argmax == t, dy, 0.0) for t in range(window.taps)), window)


def _span(
    size: int, kernel: int, stride: int, pad_before: int, pad_behind: int, out: int, count_include_pad: bool
) -> np.ndarray:
    """How many pixels of each window count along one axis; a window may reach beyond the padding (ceil_mode)."""
    start = np.arange(out) * stride - pad_before
    end = np.minimum(start + kernel, size + pad_behind)
    if not count_include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    return end - start


def _divisor(backend: Backend, like: Array, count_include_pad: bool, window: Window) -> float | Array:
    """Pixels that count in each window: a number if it is always the same, else an array (out_h, out_w)."""
    rows = _span(
        window.height,
        window.kernel_h,
        window.stride_h,
        window.pad_top,
        window.pad_bottom,
        window.out_h,
        count_include_pad,
    )
    columns = _span(
        window.width,
        window.kernel_w,
        window.stride_w,
        window.pad_left,
        window.pad_right,
        window.out_w,
        count_include_pad,
    )
    if rows.min() == rows.max() and columns.min() == columns.max():
        return float(rows[0] * columns[0])
    return backend.asarray(np.outer(rows, columns).astype(np.float32), like.dtype)


def avg_pool2d(backend: Backend, x: Array, count_include_pad: bool, window: Window) -> Array:
    """Means (N, C, out_h, out_w) of the windows."""
    wide = backend.astype(x, backend.accumulator(x))
    parts = taps(pad(backend, wide, window), window)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return backend.astype(total / _divisor(backend, total, count_include_pad, window), x.dtype)


def avg_pool2d_backward(backend: Backend, dy: Array, count_include_pad: bool, window: Window) -> Array:
    """Gradient (N, C, H, W): every pixel of a window gets an equal share of its dy."""
    share = backend.astype(dy, backend.accumulator(dy))
    share = share / _divisor(backend, share, count_include_pad, window)
    return backend.astype(add_taps(backend, repeat(share, window.taps), window), dy.dtype)


def _bins(size: int, out: int) -> list[slice]:
    """Where ``out`` bins of nearly equal length start and end; neighbours overlap unless ``out`` divides ``size``."""
    return [slice(k * size // out, -(-(k + 1) * size // out)) for k in range(out)]


def adaptive_avg_pool2d(backend: Backend, x: Array, output_size: tuple[int, int]) -> Array:
    """Means (N, C, out_h, out_w) of as many bins as asked for."""
    xp, height, width = backend.xp, x.shape[-2], x.shape[-1]
    wide = backend.astype(x, backend.accumulator(x))
    if tuple(output_size) == (1, 1):
        return backend.astype(xp.mean(wide, axis=(-2, -1), keepdims=True), x.dtype)
    rows = [xp.mean(wide[..., part, :], axis=-2) for part in _bins(height, output_size[0])]
    wide = xp.stack(rows, axis=-2)
    columns = [xp.mean(wide[..., part], axis=-1) for part in _bins(width, output_size[1])]
    return backend.astype(xp.stack(columns, axis=-1), x.dtype)


def adaptive_avg_pool2d_backward(backend: Backend, dy: Array, image_size: tuple[int, int]) -> Array:
    """Gradient (N, C, H, W): every pixel of a bin gets an equal share of its dy."""
    xp, (height, width) = backend.xp, image_size
    wide = backend.astype(dy, backend.accumulator(dy))
    rows = backend.zeros((*dy.shape[:-1], width), wide.dtype)
    for k, part in enumerate(_bins(width, dy.shape[-1])):
        share = wide[..., k : k + 1] / (part.stop - part.start)
        rows = xpx.at(rows, (..., part)).add(share, xp=xp)
    dx = backend.zeros((*dy.shape[:-2], height, width), wide.dtype)
    for k, part in enumerate(_bins(height, dy.shape[-2])):
        share = rows[..., k : k + 1, :] / (part.stop - part.start)
        dx = xpx.at(dx, (..., part, slice(None))).add(share, xp=xp)
    return backend.astype(dx, dy.dtype)
