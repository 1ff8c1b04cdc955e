"""Convolution with results of one pixel: a fully connected layer of what the one window sees.

Small images at the end of deep networks are so: of a kernel of 3 x 3 with padding on an image of one pixel, eight of
nine taps only meet padding. They are left out, forward and backward.

    x (N, C, H, W) -> (N, C * taps seen)      w (F, C, kh, kw) -> (F, C * taps seen)      y = x w' + b

Rounding is that of `xpconv.functional.linear`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..._geometry import ConvGeometry, Window
from .. import _kernels
from .._memory import empty

__all__ = ["features", "forward", "gradients", "input_gradient", "possible", "weight_gradient"]

_BLOCK_BYTES = 1 << 19  # zeros that are still in the second-level cache when numbers are put between them


class _Seen(NamedTuple):
    """Taps that meet a pixel, and the pixels that they meet: slices of rows and columns."""

    tap_rows: slice
    tap_columns: slice
    rows: slice
    columns: slice

    @property
    def taps(self) -> int:
        """How many; 0 where the window sees no pixel."""
        down, across = (max(taps.stop - taps.start, 0) for taps in (self.tap_rows, self.tap_columns))
        return down * across


def _axis(size: int, kernel: int, pad: int, dilation: int) -> tuple[slice, slice]:
    first, end = max(0, -(-pad // dilation)), min(kernel, (size - 1 + pad) // dilation + 1)
    pixel = first * dilation - pad
    return slice(first, end), slice(pixel, pixel + (end - first - 1) * dilation + 1, dilation)


@lru_cache(maxsize=1024)
def _seen(window: Window) -> _Seen:
    w = window
    tap_rows, rows = _axis(w.height, w.kernel_h, w.pad_top, w.dilation_h)
    tap_columns, columns = _axis(w.width, w.kernel_w, w.pad_left, w.dilation_w)
    return _Seen(tap_rows, tap_columns, rows, columns)


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None for results of one pixel and one group; else the reason."""
    window = geometry.window
    if window.positions != 1:
        return f"it takes results of one pixel, got {window.out_h} x {window.out_w}"
    if geometry.groups != 1:
        return "it takes one group"
    if _seen(window).taps < 1:
        return "the window sees no pixel"
    if not _kernels.instruction_sets():
        return "the kernels were built by a compiler without vectors"
    return None


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, products (of whole vectors), numbers read and written, weights."""
    channels, filters = geometry.in_channels, geometry.out_channels
    depth = channels * _seen(geometry.window).taps
    across = filters if operation == "forward" else depth
    whole = geometry.batch * depth * filters // across * -(-across // lanes) * lanes
    return 1, whole, geometry.batch * (depth + filters), filters * channels * geometry.window.taps


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """From (A, B, h, w) to the same shape, each in any memory and with few entries in the last two axes."""
    # as h * w images of A x B pixels, and a kernel of one pixel
    _kernels.im2col(source.transpose(2, 3, 0, 1), target.transpose(2, 3, 0, 1)[:, :, None, None], 1, 1, 0, 0, 1, 1)


def _matrix(array: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """These rows and columns of (A, B, H, W) as a contiguous matrix (A, B * h * w): a view where it can be one."""
    part = array[:, :, rows, columns]
    if part.flags.c_contiguous:
        return part.reshape(len(part), -1)
    copy = empty(part.shape, part.dtype)
    _copy(part, copy)
    return copy.reshape(len(part), -1)


def _target(shape: tuple[int, ...], rows: slice, columns: slice, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Memory of that shape (A, B, H, W), and a matrix for these rows and columns: a view where it can be one."""
    whole = empty(shape, dtype)
    part = whole[:, :, rows, columns]
    if part.shape == shape:
        return whole, whole.reshape(shape[0], -1)
    return whole, empty((shape[0], part.size // shape[0]), dtype)


def _fill(whole: np.ndarray, rows: slice, columns: slice, matrix: np.ndarray) -> None:
    """Put the matrix where `_target` has made it for, zeros around it."""
    if matrix.size == whole.size:
        return
    step = max(1, _BLOCK_BYTES * len(whole) // whole.nbytes)
    for first in range(0, len(whole), step):
        block = whole[first : first + step]
        block.fill(0)
        part = block[:, :, rows, columns]
        _copy(matrix[first : first + step].reshape(part.shape), part)


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C, kh, kw); returns (N, F, 1, 1)."""
    seen = _seen(geometry.window)
    images, weights = _matrix(x, seen.rows, seen.columns), _matrix(w, seen.tap_rows, seen.tap_columns)
    y = empty((geometry.batch, geometry.out_channels, 1, 1), x.dtype)
    bias = None if b is None else np.ascontiguousarray(b)
    _kernels.linear_forward(images, weights, bias, y, geometry.batch, images.shape[1], geometry.out_channels)
    return np.maximum(y, 0, out=y) if relu else y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    dx, _, _ = _gradients(dy, None, w, geometry, False)
    assert dx is not None
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C, kh, kw), and db (F,) if it is needed."""
    _, dw, db = _gradients(dy, x, None, geometry, need_db)
    assert dw is not None
    return dw, db


def gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Dx (N, C, H, W), dw and db."""
    return _gradients(dy, x, w, geometry, need_db)


def _gradients(
    dy: np.ndarray, x: np.ndarray | None, w: np.ndarray | None, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Dx where there is w, dw where there is x, and db."""
    seen, (window, n, c, f, _), dtype = _seen(geometry.window), geometry, dy.dtype
    images = weights = dx = dw = dx_matrix = dw_matrix = None
    if w is not None:
        weights = _matrix(w, seen.tap_rows, seen.tap_columns)
        dx, dx_matrix = _target((n, c, window.height, window.width), seen.rows, seen.columns, dtype)
    if x is not None:
        images = _matrix(x, seen.rows, seen.columns)
        dw, dw_matrix = _target((f, c, window.kernel_h, window.kernel_w), seen.tap_rows, seen.tap_columns, dtype)
    db = empty((f,), dtype) if need_db else None
    flat = np.ascontiguousarray(dy.reshape(n, f))
    _kernels.linear_backward(flat, images, weights, dx_matrix, dw_matrix, db, n, c * seen.taps, f)
    if dx is not None and dx_matrix is not None:
        _fill(dx, seen.rows, seen.columns, dx_matrix)
    if dw is not None and dw_matrix is not None:
        _fill(dw, seen.tap_rows, seen.tap_columns, dw_matrix)
    return dx, dw, db
