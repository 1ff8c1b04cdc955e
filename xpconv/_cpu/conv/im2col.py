"""Convolution as compiled im2col, one matrix product a slice of the batch, and compiled col2im.

Memory is channel-major, so that every slice of the batch is a range of columns and nothing is transposed::

                     slice 0   slice 1                       P = out_h * out_w
    columns          K x nP  | K x nP  | ...                 K = C / groups * kh * kw, one slice at a time
                     1 x nP  | 1 x nP  | ...                 a row of ones carries the bias and its gradient
    y      F x N P = [ nP    |   nP    | ... ]               products are written straight into their columns

One slice of columns stays in the cache between im2col and the product, and threads work on different slices. How
the batch is cut depends on nothing but the shapes and the workspace cap, and weight gradients are added in a fixed
order, so results are the same for any number of threads.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._buffer import workspace
from .._parallel import for_each
from ..columns import steps
from ._slices import (
    SHARES,
    Slice,
    as_matrices,
    channel_major,
    columns_view,
    copied,
    is_pointwise,
    multiply,
    runs_of,
    slices,
    threads_for,
    window_of,
)

__all__ = ["features", "forward", "gradients", "input_gradient", "possible", "weight_gradient"]


def _ones(geometry: ConvGeometry, ready: np.ndarray | None, has_bias: bool) -> int:
    """How many rows of ones go below the columns: one, if there are columns, one group and a bias."""
    return int(has_bias and geometry.groups == 1 and ready is None)


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None: it does every convolution."""
    return None


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, images, products, entries of columns, numbers of images and results, weights."""
    window, groups, batch = geometry.window, geometry.groups, geometry.batch
    columns = batch * geometry.in_channels * window.taps * window.positions
    products = columns * geometry.out_channels // groups
    numbers = batch * (
        geometry.in_channels * window.height * window.width + geometry.out_channels * window.positions
    )  # fmt: skip
    weights = geometry.in_channels * window.taps * geometry.out_channels // groups
    return 1, batch * groups, products, 0 if is_pointwise(window) else columns, numbers, weights


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    window, groups, f = geometry.window, geometry.groups, geometry.out_channels
    y = channel_major(f, geometry.batch, window.out_h, window.out_w, x.dtype)
    if geometry.batch == 0:
        return y.transpose(1, 0, 2, 3)
    product = np.reshape(y, (groups, f // groups, -1), copy=False)
    ready = as_matrices(x, groups) if is_pointwise(window) else None
    ones = _ones(geometry, ready, b is not None)
    weight = np.ascontiguousarray(w).reshape(groups, f // groups, -1)
    bias = None if b is None else np.reshape(b, (groups, -1, 1))
    if ones and bias is not None:
        weight, bias = np.concatenate([weight, bias], axis=2), None
    rows = geometry.in_channels * window.taps + ones
    parts = slices(geometry, rows, x.itemsize)
    size = 0 if ready is not None else rows * max(part.end - part.begin for part in parts)

    def convolve(part: Slice) -> None:
        target = product[:, :, part.begin : part.end]
        if ready is not None:
            multiply(weight, ready[:, :, part.begin : part.end], target)
        else:
            with workspace(size, x.dtype) as buffer:
                columns, split = columns_view(buffer, geometry, part, ones)
                _kernels.im2col(x[part.images], split, *steps(window_of(window, part)))
                multiply(weight, columns, target)
        if bias is not None:
            target += bias
        if relu:
            np.maximum(target, 0, out=target)

    for_each(convolve, parts, threads_for(size * x.itemsize + 1))
    return y.transpose(1, 0, 2, 3)


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C / groups, kh, kw), and db (F,) if it is needed."""
    return gradients(dy, x, None, geometry, need_db)[1:]


def gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray | None, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Dx (N, C, H, W), dw and db with one laying out of columns; without w no dx."""
    window, groups = geometry.window, geometry.groups
    n, c, f = geometry.batch, geometry.in_channels, geometry.out_channels
    images = channel_major(c, n, window.height, window.width, x.dtype) if w is not None else None
    dx = None if images is None else images.transpose(1, 0, 2, 3)
    shape = (f, c // groups, window.kernel_h, window.kernel_w)
    if n == 0:
        return dx, np.zeros(shape, x.dtype), np.zeros(f, x.dtype) if need_db else None
    weight_t = None if w is None else np.ascontiguousarray(w).reshape(groups, f // groups, -1).transpose(0, 2, 1)
    gradient = as_matrices(dy, groups)
    ready = as_matrices(x, groups) if is_pointwise(window) else None
    ones = _ones(geometry, ready, need_db)
    pointwise_dx = None if ready is None or images is None else np.reshape(images, ready.shape, copy=False)
    taps = c // groups * window.taps  # columns of dw
    rows = c * window.taps + ones
    parts = slices(geometry, rows + f, x.itemsize)
    widest = max(part.end - part.begin for part in parts)
    cut = any(part.row_last - part.row_first < window.out_h for part in parts)
    if images is not None and cut and ready is None:
        images.fill(0)  # slices of one image add to the same pixels
    # one sum of dw for each run of slices, as many as fit under the cap
    runs = runs_of(parts, min(SHARES, (get_workspace_mb() << 20) // (f * taps * x.itemsize)))
    sums = np.empty((len(runs), groups, f // groups, taps + ones), x.dtype)

    def backward(index: int) -> None:
        partial = sums[index] if len(runs[index]) == 1 else np.empty_like(sums[index])
        with workspace((rows + f) * widest, x.dtype) as buffer:
            for part in runs[index]:
                if gradient is None:
                    dy_matrices = copied(buffer[rows * widest :], dy, geometry, part)
                else:
                    dy_matrices = gradient[:, :, part.begin : part.end]
                if ready is not None:
                    columns, step = ready[:, :, part.begin : part.end], None
                else:
                    columns, split = columns_view(buffer, geometry, part, ones)
                    step = steps(window_of(window, part))
                    _kernels.im2col(x[part.images], split, *step)
                if part is runs[index][0]:
                    multiply(dy_matrices, columns.transpose(0, 2, 1), sums[index])
                else:
                    multiply(dy_matrices, columns.transpose(0, 2, 1), partial)
                    sums[index] += partial
                if weight_t is None:
                    continue
                if pointwise_dx is not None:
                    multiply(weight_t, dy_matrices, pointwise_dx[:, :, part.begin : part.end])
                elif dx is not None and step is not None:
                    multiply(weight_t, dy_matrices, columns[:, :taps])
                    _kernels.col2im(split, dx[part.images], *step, accumulate=cut)

    for_each(backward, range(len(runs)), threads_for((rows + f) * widest * x.itemsize))
    total = np.add.reduce(sums, axis=0)
    dw = np.ascontiguousarray(total[:, :, :taps]).reshape(shape)
    if not need_db:
        return dx, dw, None
    # without ones in two steps, so that rounding grows with the size of an image plus the batch, not with their product
    db = np.ascontiguousarray(total[0, :, taps]) if ones else dy.sum(axis=(2, 3)).sum(axis=0)
    return dx, dw, db


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window, groups = geometry.window, geometry.groups
    n, c, f = geometry.batch, geometry.in_channels, geometry.out_channels
    images = channel_major(c, n, window.height, window.width, dy.dtype)
    dx = images.transpose(1, 0, 2, 3)
    if n == 0:
        return dx
    weight_t = np.ascontiguousarray(w).reshape(groups, f // groups, -1).transpose(0, 2, 1)
    gradient = as_matrices(dy, groups)
    whole = np.reshape(images, (groups, c // groups, -1), copy=False) if is_pointwise(window) else None
    rows = c * window.taps
    parts = slices(geometry, rows + f, dy.itemsize)
    widest = max(part.end - part.begin for part in parts)

    def spread(run: list[Slice]) -> None:
        with workspace((rows + f) * widest, dy.dtype) as buffer:
            for part in run:
                if gradient is None:
                    dy_matrices = copied(buffer[rows * widest :], dy, geometry, part)
                else:
                    dy_matrices = gradient[:, :, part.begin : part.end]
                if whole is not None:
                    multiply(weight_t, dy_matrices, whole[:, :, part.begin : part.end])
                else:
                    columns, split = columns_view(buffer, geometry, part, 0)
                    multiply(weight_t, dy_matrices, columns)
                    # the first slice of an image sets what it does not reach to zero
                    step, accumulate = steps(window_of(window, part)), part.row_first > 0
                    _kernels.col2im(split, dx[part.images], *step, accumulate=accumulate)

    # slices of one image add to the same pixels, so they stay with one thread
    for_each(spread, runs_of(parts, len(parts)), threads_for((rows + f) * widest * dy.itemsize))
    return dx
