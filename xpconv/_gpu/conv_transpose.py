"""Transposed convolution: the products and kernels of `conv` with images and results exchanged.

The geometry is that of the convolution from the result to x: ``in_channels`` are the channels of the result.
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import col2im_into
from .elementwise import add_bias
from .reduce import row_sums
from .slices import channel_major, columns_of, images_in_slice, memory_for, product

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window, filters = backend.xp, geometry.window, geometry.in_channels
    batch, positions = geometry.batch, window.positions
    area = window.height * window.width
    pixels = channel_major(backend, x)
    weight = xp.reshape(backend.contiguous(w), (geometry.out_channels, -1))
    y = backend.empty((filters, batch * area), x.dtype)
    step = images_in_slice(backend, geometry, x.dtype)
    memory = memory_for(backend, geometry, step, x.dtype)
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        part = pixels[:, start * positions : stop * positions]
        if memory is None:
            product(backend, weight, part, geometry.groups, "a", out=y[:, start * area : stop * area])
            continue
        rows, width = filters * window.taps, (stop - start) * positions
        columns = xp.reshape(memory[: rows * width], (rows, width))
        product(backend, weight, part, geometry.groups, "a", out=columns)
        images = xp.reshape(y, (filters, batch, window.height, window.width))[:, start:stop, ...]
        col2im_into(backend, columns, xp.permute_dims(images, (1, 0, 2, 3)), window, width, positions)
    if b is not None:
        add_bias(backend, y, b)
    return xp.permute_dims(xp.reshape(y, (filters, batch, window.height, window.width)), (1, 0, 2, 3))


def conv_transpose2d_backward(
    backend: GpuBackend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv_transpose2d`; dx and db are None where they are not needed."""
    xp, window, groups = backend.xp, geometry.window, geometry.groups
    batch, channels, positions = geometry.batch, geometry.out_channels, window.positions
    pixels = channel_major(backend, x)
    weight = xp.reshape(backend.contiguous(w), (channels, -1))
    step = images_in_slice(backend, geometry, x.dtype)
    memory = memory_for(backend, geometry, step, x.dtype)
    # half precision is added up in float32, over the slices too
    dw = backend.empty(weight.shape, x.dtype if step >= batch else backend.accumulator(x))
    if not batch:
        dw[...] = 0
    dx = backend.empty((channels, batch * positions), x.dtype) if need_dx else None
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        part = slice(start * positions, stop * positions)
        columns = columns_of(backend, dy[start:stop, ...], geometry, memory)
        product(backend, pixels[:, part], columns, groups, "b", out=dw, accumulate=start > 0)
        if dx is not None:
            product(backend, weight, columns, groups, out=dx[:, part])
    if dx is not None:
        dx = xp.permute_dims(xp.reshape(dx, (channels, batch, window.out_h, window.out_w)), (1, 0, 2, 3))
    db = row_sums(backend, channel_major(backend, dy)) if need_db else None
    return dx, xp.reshape(backend.astype(dw, w.dtype), w.shape), db
