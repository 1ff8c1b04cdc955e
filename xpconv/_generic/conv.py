"""Convolution as columns and one matrix product, channel-major so that nothing is transposed.

::

    columns  (C kh kw) x (N P)        P = out_h * out_w
    y        F x (N P)      = weight (F x C kh kw) @ columns
    dweight  F x (C kh kw)  = dy (F x N P) @ columns^T
    dcolumns (C kh kw) x (N P) = weight^T @ dy

With groups every matrix gains a leading axis of that length. Results are views with the batch axis first. Half
precision is computed in float32 throughout and rounded once, at the end.
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array, Backend
from .activation import relu
from .columns import add_taps, pad, taps

__all__ = [
    "bias_gradient",
    "columns_of",
    "conv2d",
    "conv2d_backward",
    "conv2d_relu",
    "filters_first",
    "images_of",
    "product",
    "weight_matrix",
]


def columns_of(backend: Backend, x: Array, geometry: ConvGeometry) -> Array:
    """Columns (groups, C / groups * kh * kw, N * out_h * out_w)."""
    window = geometry.window
    channel_major = backend.xp.permute_dims(x, (1, 0, 2, 3))
    stacked = backend.xp.stack(taps(pad(backend, channel_major, window), window), axis=1)
    rows = geometry.in_channels // geometry.groups * window.taps
    return backend.xp.reshape(stacked, (geometry.groups, rows, x.shape[0] * window.positions))


def filters_first(backend: Backend, y: Array, geometry: ConvGeometry) -> Array:
    """(N, F, out_h, out_w) as matrices (groups, F / groups, N * out_h * out_w)."""
    per_group = geometry.out_channels // geometry.groups
    return backend.xp.reshape(
        backend.xp.permute_dims(y, (1, 0, 2, 3)),
        (geometry.groups, per_group, y.shape[0] * geometry.window.positions),
    )


def product(backend: Backend, a: Array, b: Array) -> Array:
    """Matrix product a group; one plain GEMM where there is one group."""
    if a.shape[0] == 1:
        return backend.gemm(a[0, :, :], b[0, :, :])[None, :, :]
    return backend.xp.matmul(a, b)


def weight_matrix(backend: Backend, w: Array, geometry: ConvGeometry) -> Array:
    """Filters (F, C / groups, kh, kw) as matrices (groups, F / groups, C / groups * kh * kw)."""
    per_group = geometry.out_channels // geometry.groups
    return backend.xp.reshape(w, (geometry.groups, per_group, -1))


def images_of(backend: Backend, weight: Array, y_matrix: Array, geometry: ConvGeometry) -> Array:
    """Images (C, N, H, W) that the results ``y_matrix`` are spread over by the transposed weights."""
    window = geometry.window
    columns = product(backend, backend.xp.matrix_transpose(weight), y_matrix)
    split = backend.xp.reshape(columns, (geometry.in_channels, window.taps, -1, window.out_h, window.out_w))
    return add_taps(backend, [split[:, t, :, :, :] for t in range(window.taps)], window)


def bias_gradient(backend: Backend, dy: Array) -> Array:
    """Sum of dy (N, F, out_h, out_w) for every filter."""
    xp = backend.xp
    # in two steps, so that rounding grows with the size of an image plus the batch, not with their product
    return backend.astype(xp.sum(xp.sum(dy, axis=(2, 3), dtype=backend.accumulator(dy)), axis=0), dy.dtype)


def conv2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window = backend.xp, geometry.window
    shape = (geometry.out_channels, -1, window.out_h, window.out_w)
    if geometry.batch == 0:
        return backend.zeros((0, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    wide = backend.accumulator(x)
    weight = backend.astype(weight_matrix(backend, w, geometry), wide)
    bias = None if b is None else backend.astype(xp.reshape(b, (-1, 1, 1, 1)), wide)
    parts = []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        stop = min(start + step, geometry.batch)  # the array API knows no slice beyond the end
        columns = columns_of(backend, backend.astype(x[start:stop, ...], wide), geometry)
        part = xp.reshape(product(backend, weight, columns), shape)
        if bias is not None:
            part = part + bias
        parts.append(backend.astype(part, x.dtype))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
    return xp.permute_dims(y, (1, 0, 2, 3))


def conv2d_relu(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """``max(conv2d(x), 0)``."""
    return relu(backend, conv2d(backend, x, w, b, geometry))


def conv2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    xp = backend.xp
    if geometry.batch == 0:
        dx = backend.zeros(x.shape, x.dtype) if need_dx else None
        db = backend.zeros((geometry.out_channels,), dy.dtype) if need_db else None
        return dx, backend.zeros(w.shape, w.dtype), db
    wide = backend.accumulator(x)
    weight = backend.astype(weight_matrix(backend, w, geometry), wide)
    dw, images = None, []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        part = slice(start, min(start + step, geometry.batch))
        dy_matrix = backend.astype(filters_first(backend, dy[part, ...], geometry), wide)
        columns = columns_of(backend, backend.astype(x[part, ...], wide), geometry)
        partial = product(backend, dy_matrix, xp.matrix_transpose(columns))
        dw = partial if dw is None else dw + partial
        del columns  # before the next ones are made: the cap holds for one set of them
        if need_dx:
            images.append(backend.astype(images_of(backend, weight, dy_matrix, geometry), x.dtype))
    dx = None
    if need_dx:
        dx = images[0] if len(images) == 1 else xp.concat(images, axis=1)
        dx = xp.permute_dims(dx, (1, 0, 2, 3))
    db = bias_gradient(backend, dy) if need_db else None
    return dx, backend.astype(xp.reshape(dw, w.shape), w.dtype), db
