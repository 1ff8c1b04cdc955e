"""Images to columns and back, by CUDA kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._geometry import Window
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import MAX_BLOCKS, THREADS, Index, Strided, ceil_div, index_for, launch, planes, struct_of_window
from .module import INT32, TILED, UNROLLED
from .walk import walk

__all__ = ["col2im", "col2im_into", "im2col", "im2col_into", "tile_for"]


def _template(window: Window, index: Index) -> tuple[str, str, str]:
    """Template arguments of a kernel over windows: an unrolled instance if there is one for the size."""
    if window.kernel_h == window.kernel_w and window.kernel_h in UNROLLED and index.name == INT32:
        return index.name, str(window.kernel_h), str(window.kernel_w)
    return index.name, "0", "0"


# Of common.cuh and columns.cu
VECTOR_BYTES = 16
TILE_VECTORS = 1024


class Tile(NamedTuple):
    """What a block of the kernel ``im2col_tiled`` stages in shared memory: the structure `Tile` of columns.cu."""

    images: int
    rows: int
    pitch: int


def tile_for(window: Window, itemsize: int, row: int, image: int, index: Index) -> Tile | None:
    """The tile for columns of these steps; None if they take the general kernel.

    The tiled kernel takes square windows of some sizes that move pixel by pixel, and columns whose rows are whole
    vectors of 16 bytes in every image. It should pay wherever it can run, by fewer and wider stores: the general kernel
    finds its place and writes for each element. No GPU has measured that so far; this function is the place to change
    the rule.
    """
    size, vector = window.kernel_h, VECTOR_BYTES // itemsize
    steps = (window.kernel_w, window.stride_h, window.stride_w, window.dilation_h, window.dilation_w)
    if size not in TILED or steps != (size, 1, 1, 1, 1) or index.name != INT32 or not window.positions:
        return None
    if window.out_w % vector or row % vector or image % vector:
        return None
    per_row = window.out_w // vector
    pitch = per_row - 1 + ceil_div(vector + size - 1, vector)
    rows = min(window.out_h, TILE_VECTORS // pitch - (size - 1))
    if rows < 1:  # too wide
        return None
    images = 1
    if rows == window.out_h:  # as many small images as give every thread something to write
        fit = TILE_VECTORS // (pitch * (rows + size - 1))
        images = min(fit, ceil_div(THREADS, rows * per_row))
    return Tile(images, rows, pitch)


def im2col_into(backend: GpuBackend, x: Array, columns: Array, window: Window, row: int, image: int) -> None:
    """Write the columns of images (N, C, H, W) to ``columns``, at the steps of ``columns.cu``."""
    n, c = x.shape[:2]
    source = planes(backend, x)
    index = index_for(source.extent, columns.size)
    steps = (index.struct(source.image, source.channel), index.struct(row, image))
    dtype, of_window = backend.dtype_name(x), struct_of_window(window)
    tile = tile_for(window, x.dtype.itemsize, row, image, index)
    arguments: tuple[Any, ...] = (Strided(source.array), columns, of_window, *steps)
    if tile is None:
        arguments += (walk(index, n, c, window.out_h, window.out_w),)
        launch(backend, "columns", "im2col", dtype, _template(window, index), n * c * window.positions, arguments)
    else:
        of_tile = np.array(tile, np.int32).view([("members", np.int32, len(tile))])
        blocks = min(c * ceil_div(n, tile.images) * ceil_div(window.out_h, tile.rows), MAX_BLOCKS)
        arguments += (of_tile, index.scalar(n), index.scalar(c))
        template = (index.name, str(window.kernel_h))
        launch(backend, "columns", "im2col_tiled", dtype, template, (blocks,), arguments)


def col2im_into(backend: GpuBackend, columns: Array, x: Array, window: Window, row: int, image: int) -> None:
    """Write the sums of columns to images ``x`` (N, C, H, W), whose planes are contiguous."""
    n, c = x.shape[:2]
    target = planes(backend, x)
    assert target.array is x
    index = index_for(target.extent, columns.size)
    arguments = (
        columns,
        Strided(x),
        struct_of_window(window),
        index.struct(target.image, target.channel),
        index.struct(row, image),
        walk(index, n, c, window.height, window.width),
    )
    count = n * c * window.height * window.width
    launch(backend, "columns", "col2im", backend.dtype_name(x), _template(window, index), count, arguments)


def im2col(backend: GpuBackend, x: Array, window: Window) -> Array:
    """Columns (N, C * kh * kw, out_h * out_w) of images (N, C, H, W)."""
    n, rows = x.shape[0], x.shape[1] * window.taps
    columns = backend.empty((n, rows, window.positions), x.dtype)
    im2col_into(backend, x, columns, window, window.positions, rows * window.positions)
    return columns


def col2im(backend: GpuBackend, cols: Array, window: Window) -> Array:
    """Images (N, C, H, W) from columns (N, C * kh * kw, out_h * out_w), summed where windows overlap."""
    n, rows = cols.shape[:2]
    x = backend.empty((n, rows // window.taps, window.height, window.width), cols.dtype)
    col2im_into(backend, backend.contiguous(cols), x, window, window.positions, rows * window.positions)
    return x
