"""Transposed convolution: the matrix products of `conv` with images and results exchanged.

Its geometry is that of the convolution from the result to x: ``in_channels`` are the channels of the result.
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array, Backend
from .conv import bias_gradient, columns_of, filters_first, images_of, product, weight_matrix

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window = backend.xp, geometry.window
    if geometry.batch == 0:
        return backend.zeros((0, geometry.in_channels, window.height, window.width), x.dtype)
    wide = backend.accumulator(x)
    weight = backend.astype(weight_matrix(backend, w, geometry), wide)
    bias = None if b is None else backend.astype(xp.reshape(b, (-1, 1, 1, 1)), wide)
    images = []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        pixels = filters_first(backend, x[start : min(start + step, geometry.batch), ...], geometry)
        part = images_of(backend, weight, backend.astype(pixels, wide), geometry)
        if bias is not None:
            part = part + bias
        images.append(backend.astype(part, x.dtype))
    y = images[0] if len(images) == 1 else xp.concat(images, axis=1)
    return xp.permute_dims(y, (1, 0, 2, 3))


def conv_transpose2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv_transpose2d`; dx and db are None where they are not needed."""
    xp, window = backend.xp, geometry.window
    if geometry.batch == 0:
        dx = backend.zeros(x.shape, x.dtype) if need_dx else None
        db = backend.zeros((geometry.in_channels,), dy.dtype) if need_db else None
        return dx, backend.zeros(w.shape, w.dtype), db
    wide = backend.accumulator(x)
    weight = backend.astype(weight_matrix(backend, w, geometry), wide)
    shape = (geometry.out_channels, -1, window.out_h, window.out_w)
    dw, parts = None, []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        part = slice(start, min(start + step, geometry.batch))
        columns = columns_of(backend, backend.astype(dy[part, ...], wide), geometry)
        pixels = backend.astype(filters_first(backend, x[part, ...], geometry), wide)
        partial = product(backend, pixels, xp.matrix_transpose(columns))
        dw = partial if dw is None else dw + partial
        if need_dx:
            parts.append(backend.astype(xp.reshape(product(backend, weight, columns), shape), x.dtype))
        del columns  # before the next ones are made: the cap holds for one set of them
    dx = None
    if need_dx:
        dx = xp.permute_dims(parts[0] if len(parts) == 1 else xp.concat(parts, axis=1), (1, 0, 2, 3))
    db = bias_gradient(backend, dy) if need_db else None
    return dx, backend.astype(xp.reshape(dw, w.shape), w.dtype), db
