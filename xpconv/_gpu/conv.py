"""Convolution as columns and one matrix product each way, channel-major: see `xpconv._generic.conv` for the matrices.

Results are views, batch axis first, of channel-major memory, in which the next convolution finds its columns and its
gradients without a transposition. The batch is cut into slices whose columns stay in the L2 cache from the kernel that
writes them to the product that reads them; products go straight to where their result belongs:

::

    y         = | weight @ columns of slice 0 | weight @ columns of slice 1 | ...
    dweight  += dy of a slice @ columns of the slice ^T
"""

from __future__ import annotations

from typing import Any

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import col2im_into, im2col_into
from .elementwise import add_bias
from .launch import ceil_div
from .reduce import row_sums

__all__ = ["conv2d", "conv2d_backward"]


def _is_pointwise(geometry: ConvGeometry) -> bool:
    """Whether the columns are the image itself: 1 x 1, stride 1, no padding."""
    window = geometry.window
    steps = (window.kernel_h, window.kernel_w, window.stride_h, window.stride_w)
    pads = (window.pad_top, window.pad_bottom, window.pad_left, window.pad_right)
    # where sizes differ, a transposed convolution has output_padding
    same_size = (window.height, window.width) == (window.out_h, window.out_w)
    return steps == (1, 1, 1, 1) and pads == (0, 0, 0, 0) and same_size


def _channel_major(backend: GpuBackend, x: Array) -> Array:
    """Images (N, C, H, W) as a matrix (C, N * H * W): no copy if that is how they lie in memory."""
    n, c, h, w = x.shape
    return backend.xp.reshape(backend.contiguous(backend.xp.permute_dims(x, (1, 0, 2, 3))), (c, n * h * w))


def _images_per_slice(backend: GpuBackend, geometry: ConvGeometry, dtype: Any) -> int:
    """Images whose columns stay in half of the L2 cache, but enough for a product that fills the device.

    All slices are about equally long, and below the cap on the workspace. Where the columns are the images themselves,
    there is one slice.
    """
    positions = geometry.window.positions
    if not geometry.batch or not positions or _is_pointwise(geometry):
        return max(geometry.batch, 1)
    cached = images_per_slice(geometry, dtype, backend.l2_bytes // 2)
    filters = geometry.out_channels // geometry.groups
    tiles = ceil_div(backend.multiprocessors, geometry.groups * ceil_div(filters, backend.gemm_tile))
    filling = ceil_div(tiles * backend.gemm_tile, positions)
    images = min(max(cached, filling), images_per_slice(geometry, dtype))
    return ceil_div(geometry.batch, ceil_div(geometry.batch, images))


def _columns(backend: GpuBackend, x: Array, geometry: ConvGeometry, memory: Array | None = None) -> Array:
    """Columns (C * kh * kw, N * out_h * out_w), at the beginning of ``memory`` if that is given."""
    if _is_pointwise(geometry):
        return _channel_major(backend, x)
    window = geometry.window
    rows, width = x.shape[1] * window.taps, x.shape[0] * window.positions
    if memory is None:
        columns = backend.empty((rows, width), x.dtype)
    else:
        columns = backend.xp.reshape(memory[: rows * width], (rows, width))
    im2col_into(backend, x, columns, window, width, window.positions)
    return columns


def _memory(backend: GpuBackend, geometry: ConvGeometry, images: int, dtype: Any) -> Array | None:
    """Room for the columns of that many images, for all slices in turn; None where there are no columns."""
    if _is_pointwise(geometry):
        return None
    window = geometry.window
    images = min(images, geometry.batch)
    return backend.empty((geometry.in_channels * window.taps * images * window.positions,), dtype)


def _product(
    backend: GpuBackend,
    a: Array,
    b: Array,
    groups: int,
    transpose: str = "",
    out: Array | None = None,
    accumulate: bool = False,
) -> Array:
    """Product of matrices whose rows are cut into ``groups``; ``transpose`` names the factor to be transposed.

    ``out``, if given, is a matrix with unit stride along its rows; the product is added to it if ``accumulate``.
    """
    xp = backend.xp
    if groups == 1:
        left, right = a.T if transpose == "a" else a, b.T if transpose == "b" else b
        return backend.gemm(left, right, out=out, accumulate=accumulate)
    left, right = _by_group(backend, a, groups), _by_group(backend, b, groups)
    product = backend.batched_gemm(
        xp.matrix_transpose(left) if transpose == "a" else left,
        xp.matrix_transpose(right) if transpose == "b" else right,
        out=None if out is None else _by_group(backend, out, groups),
        accumulate=accumulate,
    )
    return xp.reshape(product, (product.shape[0] * product.shape[1], product.shape[2])) if out is None else out


def _by_group(backend: GpuBackend, matrix: Array, groups: int) -> Array:
    """Rows cut into groups, a view: an axis can be cut whatever the strides are."""
    return backend.xp.reshape(matrix, (groups, matrix.shape[0] // groups, matrix.shape[1]))


def conv2d(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window, filters = backend.xp, geometry.window, geometry.out_channels
    batch, positions = geometry.batch, window.positions
    weight = xp.reshape(backend.contiguous(w), (filters, -1))
    y = backend.empty((filters, batch * positions), x.dtype)
    step = _images_per_slice(backend, geometry, x.dtype)
    memory = _memory(backend, geometry, step, x.dtype)
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        columns = _columns(backend, x[start:stop, ...], geometry, memory)
        _product(backend, weight, columns, geometry.groups, out=y[:, start * positions : stop * positions])
    if b is not None:
        add_bias(backend, y, b)
    return xp.permute_dims(xp.reshape(y, (filters, batch, window.out_h, window.out_w)), (1, 0, 2, 3))


def conv2d_backward(
    backend: GpuBackend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    xp, window, groups = backend.xp, geometry.window, geometry.groups
    batch, channels, positions = geometry.batch, geometry.in_channels, window.positions
    gradient = _channel_major(backend, dy)
    weight = xp.reshape(backend.contiguous(w), (geometry.out_channels, -1))
    step = _images_per_slice(backend, geometry, x.dtype)
    memory = _memory(backend, geometry, step, x.dtype)
    # half precision is added up in float32, over the slices too
    dw = backend.empty(weight.shape, x.dtype if step >= batch else backend.accumulator(x))
    if not batch:
        dw[...] = 0
    dx = backend.empty((channels, batch * window.height * window.width), x.dtype) if need_dx else None
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        part = gradient[:, start * positions : stop * positions]
        columns = _columns(backend, x[start:stop, ...], geometry, memory)
        _product(backend, part, columns, groups, "b", out=dw, accumulate=start > 0)
        if dx is None:
            continue
        if memory is None:
            _product(backend, weight, part, groups, "a", out=dx[:, start * positions : stop * positions])
        else:  # over the columns of x, which have been used
            _product(backend, weight, part, groups, "a", out=columns)
            images = xp.reshape(dx, (channels, batch, window.height, window.width))[:, start:stop, ...]
            images = xp.permute_dims(images, (1, 0, 2, 3))
            col2im_into(backend, columns, images, window, (stop - start) * positions, positions)
    if dx is not None:
        dx = xp.permute_dims(xp.reshape(dx, (channels, batch, window.height, window.width)), (1, 0, 2, 3))
    db = row_sums(backend, gradient) if need_db else None
    return dx, xp.reshape(backend.astype(dw, w.dtype), w.shape), db
