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

from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from .._geometry import ConvGeometry, Window
from .._workspace import get_workspace_mb
from ..backends.protocol import Array, Backend
from . import _kernels
from ._buffer import workspace
from ._parallel import for_each
from .columns import steps

__all__ = ["conv2d", "conv2d_backward"]

_CACHE_BYTES = 2 << 20  # columns of one slice: about a core's second-level cache; 1 and 4 MiB are hardly slower
_ALIASING, _APART = 1024, 64  # bytes; see `_channel_major`
_SHARES = 16  # as many slices or more, so that every thread gets some,
_LEAST_WORK = 1 << 20  # unless a slice's product would have fewer multiplications than this


class _Slice(NamedTuple):
    """Some images, or where one image is too large, some output rows of one image."""

    first: int
    last: int
    row_first: int
    row_last: int
    begin: int  # columns of y that the slice covers
    end: int

    @property
    def images(self) -> slice:
        return slice(self.first, self.last)


def _slices(geometry: ConvGeometry, rows: int, itemsize: int) -> list[_Slice]:
    """Cut the batch so that a matrix of ``rows`` rows and one slice of columns stays within the target."""
    window, batch = geometry.window, geometry.batch
    target = min(_CACHE_BYTES, get_workspace_mb() << 20)
    line = rows * window.out_w * itemsize
    fitting = target // (line * window.out_h)
    if fitting >= 1:
        weights = geometry.out_channels * geometry.in_channels // geometry.groups * window.taps
        worthwhile = -(-_LEAST_WORK // (weights * window.positions))
        images = min(fitting, max(worthwhile, -(-batch // _SHARES)))
        # equal slices rather than a small one at the end
        images = -(-batch // -(-batch // images))
        ranges = [(first, min(first + images, batch)) for first in range(0, batch, images)]
        return [
            _Slice(first, last, 0, window.out_h, first * window.positions, last * window.positions)
            for first, last in ranges
        ]
    lines = max(1, target // line)
    lines = -(-window.out_h // -(-window.out_h // lines))
    parts = []
    for image in range(batch):
        for row in range(0, window.out_h, lines):
            end = min(row + lines, window.out_h)
            begin = image * window.positions
            parts.append(_Slice(image, image + 1, row, end, begin + row * window.out_w, begin + end * window.out_w))
    return parts


def _runs(parts: list[_Slice], most: int) -> list[list[_Slice]]:
    """At most ``most`` runs of successive slices, about equally long; slices of one image stay together."""
    images = [list(group) for _, group in groupby(parts, key=lambda part: part.first)]
    length = -(-len(images) // max(1, min(most, len(images))))
    return [list(chain(*images[start : start + length])) for start in range(0, len(images), length)]


def _threads(slice_bytes: int) -> int:
    """How many threads may have a workspace of that size under the cap."""
    return max(1, (get_workspace_mb() << 20) // slice_bytes)


def _part(window: Window, part: _Slice) -> Window:
    """The window of a slice: fewer output rows, further down in the image."""
    return window._replace(
        pad_top=window.pad_top - part.row_first * window.stride_h, out_h=part.row_last - part.row_first
    )


def _channel_major(channels: int, images: int, height: int, width: int, dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory (channels, images, height, width), whose channels do not start a power of two apart.

    Otherwise the rows of a product fall into the same few lines of the cache, which halves its speed.
    """
    row = images * height * width
    pitch = row + _APART // dtype.itemsize if row * dtype.itemsize % _ALIASING == 0 else row
    return np.empty((channels, pitch), dtype)[:, :row].reshape(channels, images, height, width)


def _columns_view(buffer: np.ndarray, geometry: ConvGeometry, part: _Slice, ones: int) -> tuple[np.ndarray, np.ndarray]:
    """The start of the workspace as matrices (groups, K + ones, columns), and without the ones, which are set here,
    as (n, C, kh, kw, rows, out_w).
    """
    window = geometry.window
    shape = (
        geometry.in_channels, window.kernel_h, window.kernel_w,
        part.last - part.first, part.row_last - part.row_first, window.out_w,
    )  # fmt: skip
    rows, columns = geometry.in_channels // geometry.groups * window.taps, part.end - part.begin
    count = geometry.groups * rows * columns
    buffer[count : count + ones * columns] = 1
    matrices = buffer[: count + ones * columns].reshape(geometry.groups, rows + ones, columns)
    return matrices, buffer[:count].reshape(shape).transpose(3, 0, 1, 2, 4, 5)


def _pointwise(window: Window) -> bool:
    """Whether the columns of an image are the image itself."""
    return window == Window(
        window.height, window.width, 1, 1, 1, 1, 0, 0, 0, 0, window.dilation_h, window.dilation_w,
        window.height, window.width,
    )  # fmt: skip


def _matrices(images: np.ndarray, groups: int) -> np.ndarray | None:
    """Images (N, C, H, W) as matrices (groups, C / groups, N * H * W) where BLAS can read them in place."""
    n, c, h, w = images.shape
    try:
        matrices = np.reshape(images.transpose(1, 0, 2, 3), (groups, c // groups, n * h * w), copy=False)
    except ValueError:
        return None
    _, row, column = matrices.strides
    unit = images.itemsize
    readable = (column == unit and row >= n * h * w * unit) or (row == unit and column >= c // groups * unit)
    return matrices if readable else None


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Matrix product for each group; one group is one plain product."""
    if a.shape[0] == 1:
        np.matmul(a[0], b[0], out=out[0])
    elif a.shape[2] == 1:  # one filter a group: no sums, and matmul would call no BLAS
        np.multiply(a, b, out=out)
    else:
        np.matmul(a, b, out=out)


def _ones(geometry: ConvGeometry, ready: np.ndarray | None, has_bias: bool) -> int:
    """How many rows of ones go below the columns: one, if there are columns, one group and a bias."""
    return int(has_bias and geometry.groups == 1 and ready is None)


def conv2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    window, groups, f = geometry.window, geometry.groups, geometry.out_channels
    y = _channel_major(f, geometry.batch, window.out_h, window.out_w, x.dtype)
    if geometry.batch == 0:
        return y.transpose(1, 0, 2, 3)
    product = np.reshape(y, (groups, f // groups, -1), copy=False)
    ready = _matrices(x, groups) if _pointwise(window) else None
    ones = _ones(geometry, ready, b is not None)
    weight = np.ascontiguousarray(w).reshape(groups, f // groups, -1)
    bias = None if b is None else np.reshape(b, (groups, -1, 1))
    if ones and bias is not None:
        weight, bias = np.concatenate([weight, bias], axis=2), None
    rows = geometry.in_channels * window.taps + ones
    parts = _slices(geometry, rows, x.itemsize)
    size = 0 if ready is not None else rows * max(part.end - part.begin for part in parts)

    def convolve(part: _Slice) -> None:
        target = product[:, :, part.begin : part.end]
        if ready is not None:
            _multiply(weight, ready[:, :, part.begin : part.end], target)
        else:
            with workspace(size, x.dtype) as buffer:
                columns, split = _columns_view(buffer, geometry, part, ones)
                _kernels.im2col(x[part.images], split, *steps(_part(window, part)))
                _multiply(weight, columns, target)
        if bias is not None:
            target += bias

    for_each(convolve, parts, _threads(size * x.itemsize + 1))
    return y.transpose(1, 0, 2, 3)


def conv2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    window, groups = geometry.window, geometry.groups
    n, c, f = geometry.batch, geometry.in_channels, geometry.out_channels
    images = _channel_major(c, n, window.height, window.width, x.dtype) if need_dx else None
    dx = None if images is None else images.transpose(1, 0, 2, 3)
    if n == 0:
        return dx, np.zeros(w.shape, x.dtype), np.zeros(f, x.dtype) if need_db else None
    weight_t = np.ascontiguousarray(w).reshape(groups, f // groups, -1).transpose(0, 2, 1)
    gradient = _matrices(dy, groups)
    ready = _matrices(x, groups) if _pointwise(window) else None
    ones = _ones(geometry, ready, need_db)
    pointwise_dx = None if ready is None or images is None else np.reshape(images, ready.shape, copy=False)
    taps = c // groups * window.taps  # columns of dw
    rows = c * window.taps + ones
    parts = _slices(geometry, rows + f, x.itemsize)
    widest = max(part.end - part.begin for part in parts)
    cut = any(part.row_last - part.row_first < window.out_h for part in parts)
    if images is not None and cut and ready is None:
        images.fill(0)  # slices of one image add to the same pixels
    # one sum of dw for each run of slices, as many as fit under the cap
    runs = _runs(parts, min(_SHARES, (get_workspace_mb() << 20) // w.nbytes))
    sums = np.empty((len(runs), groups, f // groups, taps + ones), x.dtype)

    def backward(index: int) -> None:
        partial = sums[index] if len(runs[index]) == 1 else np.empty_like(sums[index])
        with workspace((rows + f) * widest, x.dtype) as buffer:
            for part in runs[index]:
                if gradient is None:
                    dy_matrices = _copied(buffer[rows * widest :], dy, geometry, part)
                else:
                    dy_matrices = gradient[:, :, part.begin : part.end]
                if ready is not None:
                    columns, step = ready[:, :, part.begin : part.end], None
                else:
                    columns, split = _columns_view(buffer, geometry, part, ones)
                    step = steps(_part(window, part))
                    _kernels.im2col(x[part.images], split, *step)
                if part is runs[index][0]:
                    _multiply(dy_matrices, columns.transpose(0, 2, 1), sums[index])
                else:
                    _multiply(dy_matrices, columns.transpose(0, 2, 1), partial)
                    sums[index] += partial
                if pointwise_dx is not None:
                    _multiply(weight_t, dy_matrices, pointwise_dx[:, :, part.begin : part.end])
                elif dx is not None and step is not None:
                    _multiply(weight_t, dy_matrices, columns[:, :taps])
                    _kernels.col2im(split, dx[part.images], *step, accumulate=cut)

    for_each(backward, range(len(runs)), _threads((rows + f) * widest * x.itemsize))
    total = np.add.reduce(sums, axis=0)
    dw = np.ascontiguousarray(total[:, :, :taps]).reshape(w.shape)
    if not need_db:
        return dx, dw, None
    # without ones in two steps, so that rounding grows with the size of an image plus the batch, not with their product
    db = np.ascontiguousarray(total[0, :, taps]) if ones else dy.sum(axis=(2, 3)).sum(axis=0)
    return dx, dw, db


def _copied(buffer: np.ndarray, dy: np.ndarray, geometry: ConvGeometry, part: _Slice) -> np.ndarray:
    """A slice of dy (N, F, out_h, out_w) copied into channel-major matrices (groups, F / groups, columns)."""
    count = part.end - part.begin
    matrix = buffer[: geometry.out_channels * count]
    source = dy[part.images, :, part.row_first : part.row_last]
    n, f, height, width = source.shape
    target = matrix.reshape(f, 1, 1, n, height, width).transpose(3, 0, 1, 2, 4, 5)
    _kernels.im2col(source, target, 1, 1, 0, 0, 1, 1)  # a kernel of one pixel: a copy between any two layouts
    return matrix.reshape(geometry.groups, -1, count)
