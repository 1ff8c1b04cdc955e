"""Transposed convolution: the products and kernels of `conv` with images and results exchanged.

The geometry is that of the convolution from the result to x: ``in_channels`` are the channels of the result.
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import col2im_into
from .conv import _channel_major, _columns, _is_pointwise, _product
from .elementwise import add_bias
from .reduce import row_sums

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window, filters = backend.xp, geometry.window, geometry.in_channels
    batch, positions = geometry.batch, window.positions
    pixels = _channel_major(backend, x)
    weight = xp.reshape(backend.contiguous(w), (geometry.out_channels, -1))
    y = backend.empty((filters, batch, window.height, window.width), x.dtype)
    step = images_per_slice(geometry, x.dtype)
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        part = pixels[:, start * positions : stop * positions]
        columns = _product(backend, weight, part, geometry.groups, "a")
        if _is_pointwise(geometry):
            y[:, start:stop, ...] = xp.reshape(columns, (filters, -1, window.height, window.width))
        else:
            images = xp.permute_dims(y[:, start:stop, ...], (1, 0, 2, 3))
            col2im_into(backend, columns, images, window, (stop - start) * positions, positions)
        del columns  # before the next ones are made: the cap holds for one set of them
    if b is not None:
        add_bias(backend, xp.reshape(y, (filters, batch * window.height * window.width)), b)
    return xp.permute_dims(y, (1, 0, 2, 3))


def conv_transpose2d_backward(
    backend: GpuBackend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv_transpose2d`; dx and db are None where they are not needed."""
    xp, window, groups = backend.xp, geometry.window, geometry.groups
    batch, channels, positions = geometry.batch, geometry.out_channels, window.positions
    pixels = _channel_major(backend, x)
    weight = xp.reshape(backend.contiguous(w), (channels, -1))
    dx = backend.empty((channels, batch * positions), x.dtype) if need_dx else None
    dw = None
    step = images_per_slice(geometry, x.dtype)
    for start in range(0, max(batch, 1), step):
        stop = min(start + step, batch)
        part = slice(start * positions, stop * positions)
        columns = _columns(backend, dy[start:stop, ...], geometry)
        product = backend.astype(_product(backend, pixels[:, part], columns, groups, "b"), backend.accumulator(x))
        if dw is None:
            dw = product
        else:
            dw += product
        if dx is not None:
            dx[:, part] = _product(backend, weight, columns, groups)
        del columns  # before the next ones are made
    if dx is not None:
        dx = xp.permute_dims(xp.reshape(dx, (channels, batch, window.out_h, window.out_w)), (1, 0, 2, 3))
    db = row_sums(backend, _channel_major(backend, dy)) if need_db else None
    return dx, xp.reshape(backend.astype(dw, w.dtype), w.shape), db
