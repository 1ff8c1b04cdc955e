"""Transposed convolution: the products of `conv` with images and results exchanged.

::

    columns  K x nP  = weight^T (K x C) @ x (C x nP)      K = F / groups * kh * kw, P the pixels of an image of x
    y        = col2im(columns) + bias
    dx       C x nP  = weight @ im2col(dy)                one im2col of dy serves both
    dw       C x K   = x (C x nP) @ im2col(dy)^T

Slices of the batch, threads and sums are those of `conv`. In a `ConvGeometry` of the convolution that goes from y to x,
``in_channels`` is F and ``out_channels`` is C.
"""

from __future__ import annotations

import numpy as np

from .._geometry import ConvGeometry
from .._workspace import get_workspace_mb
from ..backends.protocol import Array, Backend
from . import _kernels
from ._buffer import workspace
from ._parallel import for_each
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
from .columns import steps

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    window, groups = geometry.window, geometry.groups
    f, c = geometry.in_channels, geometry.out_channels
    images = channel_major(f, geometry.batch, window.height, window.width, x.dtype)
    y = images.transpose(1, 0, 2, 3)
    if geometry.batch == 0:
        return y
    weight_t = np.ascontiguousarray(w).reshape(groups, c // groups, -1).transpose(0, 2, 1)
    bias = None if b is None else np.reshape(b, (-1, 1, 1))
    source = as_matrices(x, groups)
    whole = np.reshape(images, (groups, f // groups, -1), copy=False) if is_pointwise(window) else None
    rows = f * window.taps
    parts = slices(geometry, rows + c, x.itemsize)
    widest = max(part.end - part.begin for part in parts)

    def spread(run: list[Slice]) -> None:
        with workspace((rows + c) * widest, x.dtype) as buffer:
            for part in run:
                if source is None:
                    pixels = copied(buffer[rows * widest :], x, geometry, part)
                else:
                    pixels = source[:, :, part.begin : part.end]
                if whole is not None:
                    multiply(weight_t, pixels, whole[:, :, part.begin : part.end])
                else:
                    columns, split = columns_view(buffer, geometry, part, 0)
                    multiply(weight_t, pixels, columns)
                    # the first slice of an image sets what it does not reach to zero
                    step, accumulate = steps(window_of(window, part)), part.row_first > 0
                    _kernels.col2im(split, y[part.images], *step, accumulate=accumulate)
        if bias is not None:
            y[run[0].first : run[-1].last] += bias

    for_each(spread, runs_of(parts, len(parts)), threads_for((rows + c) * widest * x.itemsize))
    return y


def conv_transpose2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv_transpose2d`; dx and db are None where they are not needed."""
    window, groups, n = geometry.window, geometry.groups, geometry.batch
    f, c = geometry.in_channels, geometry.out_channels
    images = channel_major(c, n, window.out_h, window.out_w, x.dtype) if need_dx else None
    dx = None if images is None else images.transpose(1, 0, 2, 3)
    if n == 0:
        return dx, np.zeros(w.shape, x.dtype), np.zeros(f, x.dtype) if need_db else None
    product = None if images is None else np.reshape(images, (groups, c // groups, -1), copy=False)
    weight = np.ascontiguousarray(w).reshape(groups, c // groups, -1)
    source = as_matrices(x, groups)
    ready = as_matrices(dy, groups) if is_pointwise(window) else None
    rows = f * window.taps
    parts = slices(geometry, rows + c, x.itemsize)
    widest = max(part.end - part.begin for part in parts)
    # one sum of dw for each run of slices, as many as fit under the cap
    runs = runs_of(parts, min(SHARES, (get_workspace_mb() << 20) // w.nbytes))
    sums = np.empty((len(runs), *weight.shape), x.dtype)

    def backward(index: int) -> None:
        partial = sums[index] if len(runs[index]) == 1 else np.empty_like(sums[index])
        with workspace((rows + c) * widest, x.dtype) as buffer:
            for part in runs[index]:
                if source is None:
                    pixels = copied(buffer[rows * widest :], x, geometry, part)
                else:
                    pixels = source[:, :, part.begin : part.end]
                if ready is not None:
                    columns = ready[:, :, part.begin : part.end]
                else:
                    columns, split = columns_view(buffer, geometry, part, 0)
                    _kernels.im2col(dy[part.images], split, *steps(window_of(window, part)))
                if part is runs[index][0]:
                    multiply(pixels, columns.transpose(0, 2, 1), sums[index])
                else:
                    multiply(pixels, columns.transpose(0, 2, 1), partial)
                    sums[index] += partial
                if product is not None:
                    multiply(weight, columns, product[:, :, part.begin : part.end])

    for_each(backward, range(len(runs)), threads_for((rows + c) * widest * x.itemsize))
    dw = np.add.reduce(sums, axis=0).reshape(w.shape)
    # in two steps, so that rounding grows with the size of an image plus the batch, not with their product
    return dx, dw, dy.sum(axis=(2, 3)).sum(axis=0) if need_db else None
