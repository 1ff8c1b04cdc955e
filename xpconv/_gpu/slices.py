"""How convolutions cut a batch into slices, and the matrices of a slice; see `conv` for what is done with them."""

from __future__ import annotations

from typing import Any

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import im2col_into
from .launch import ceil_div

__all__ = ["channel_major", "columns_of", "images_in_slice", "memory_for", "product"]


def _is_pointwise(geometry: ConvGeometry) -> bool:
    """Whether the columns are the image itself: 1 x 1, stride 1, no padding."""
    window = geometry.window
    steps = (window.kernel_h, window.kernel_w, window.stride_h, window.stride_w)
    pads = (window.pad_top, window.pad_bottom, window.pad_left, window.pad_right)
    # where sizes differ, a transposed convolution has output_padding
    same_size = (window.height, window.width) == (window.out_h, window.out_w)
    return steps == (1, 1, 1, 1) and pads == (0, 0, 0, 0) and same_size


def channel_major(backend: GpuBackend, x: Array) -> Array:
    """Images (N, C, H, W) as a matrix (C, N * H * W): no copy if that is how they lie in memory."""
    n, c, h, w = x.shape
    return backend.xp.reshape(backend.contiguous(backend.xp.permute_dims(x, (1, 0, 2, 3))), (c, n * h * w))


def images_in_slice(backend: GpuBackend, geometry: ConvGeometry, dtype: Any) -> int:
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


def columns_of(backend: GpuBackend, x: Array, geometry: ConvGeometry, memory: Array | None = None) -> Array:
    """Columns (C * kh * kw, N * out_h * out_w), at the beginning of ``memory`` if that is given."""
    if _is_pointwise(geometry):
        return channel_major(backend, x)
    window = geometry.window
    rows, width = x.shape[1] * window.taps, x.shape[0] * window.positions
    if memory is None:
        columns = backend.empty((rows, width), x.dtype)
    else:
        columns = backend.xp.reshape(memory[: rows * width], (rows, width))
    im2col_into(backend, x, columns, window, width, window.positions)
    return columns


def memory_for(backend: GpuBackend, geometry: ConvGeometry, images: int, dtype: Any) -> Array | None:
    """Room for the columns of that many images, for all slices in turn; None where there are no columns."""
    if _is_pointwise(geometry):
        return None
    window = geometry.window
    images = min(images, geometry.batch)
    return backend.empty((geometry.in_channels * window.taps * images * window.positions,), dtype)


def product(
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
    result = backend.batched_gemm(
        xp.matrix_transpose(left) if transpose == "a" else left,
        xp.matrix_transpose(right) if transpose == "b" else right,
        out=None if out is None else _by_group(backend, out, groups),
        accumulate=accumulate,
    )
    return xp.reshape(result, (result.shape[0] * result.shape[1], result.shape[2])) if out is None else out


def _by_group(backend: GpuBackend, matrix: Array, groups: int) -> Array:
    """Rows cut into groups, a view: an axis can be cut whatever the strides are."""
    return backend.xp.reshape(matrix, (groups, matrix.shape[0] // groups, matrix.shape[1]))
