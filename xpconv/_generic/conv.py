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
from .columns import add_taps, pad, taps

__all__ = ["conv2d", "conv2d_backward"]


def _columns(backend: Backend, x: Array, geometry: ConvGeometry) -> Array:
    """Columns (groups, C / groups * kh * kw, N * out_h * out_w)."""
    window = geometry.window
    channel_major = backend.xp.permute_dims(x, (1, 0, 2, 3))
    stacked = backend.xp.stack(taps(pad(backend, channel_major, window), window), axis=1)
    rows = geometry.in_channels // geometry.groups * window.taps
    return backend.xp.reshape(stacked, (geometry.groups, rows, x.shape[0] * window.positions))


def _filters_first(backend: Backend, y: Array, geometry: ConvGeometry) -> Array:
    """(N, F, out_h, out_w) as matrices (groups, F / groups, N * out_h * out_w)."""
    per_group = geometry.out_channels // geometry.groups
    return backend.xp.reshape(
        backend.xp.permute_dims(y, (1, 0, 2, 3)),
        (geometry.groups, per_group, y.shape[0] * geometry.window.positions),
    )


def _product(backend: Backend, a: Array, b: Array) -> Array:
    """Matrix product a group; one plain GEMM where there is one group."""
    if a.shape[0] == 1:
        return backend.gemm(a[0, :, :], b[0, :, :])[None, :, :]
    return backend.xp.matmul(a, b)


def _weight_matrix(backend: Backend, w: Array, geometry: ConvGeometry) -> Array:
    per_group = geometry.out_channels // geometry.groups
    return backend.xp.reshape(w, (geometry.groups, per_group, -1))


def conv2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window = backend.xp, geometry.window
    shape = (geometry.out_channels, -1, window.out_h, window.out_w)
    if geometry.batch == 0:
        return backend.zeros((0, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    wide = backend.accumulator(x)
    weight = backend.astype(_weight_matrix(backend, w, geometry), wide)
    bias = None if b is None else backend.astype(xp.reshape(b, (-1, 1, 1, 1)), wide)
    parts = []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        stop = min(start + step, geometry.batch)  # the array API knows no slice beyond the end
        columns = _columns(backend, backend.astype(x[start:stop, ...], wide), geometry)
        part = xp.reshape(_product(backend, weight, columns), shape)
        if bias is not None:
            part = part + bias
        parts.append(backend.astype(part, x.dtype))
    y = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
    return xp.permute_dims(y, (1, 0, 2, 3))


def conv2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    xp, window = backend.xp, geometry.window
    if geometry.batch == 0:
        dx = backend.zeros(x.shape, x.dtype) if need_dx else None
        db = backend.zeros((geometry.out_channels,), dy.dtype) if need_db else None
        return dx, backend.zeros(w.shape, w.dtype), db
    wide = backend.accumulator(x)
    weight = backend.astype(_weight_matrix(backend, w, geometry), wide)
    dw, images = None, []
    step = images_per_slice(geometry, wide)
    for start in range(0, geometry.batch, step):
        part = slice(start, min(start + step, geometry.batch))
        dy_matrix = backend.astype(_filters_first(backend, dy[part, ...], geometry), wide)
        columns = _columns(backend, backend.astype(x[part, ...], wide), geometry)
        product = _product(backend, dy_matrix, xp.matrix_transpose(columns))
        dw = product if dw is None else dw + product
        del columns  # before the next ones are made: the cap holds for one set of them
        if need_dx:
            dcolumns = _product(backend, xp.matrix_transpose(weight), dy_matrix)
            split = xp.reshape(dcolumns, (geometry.in_channels, window.taps, -1, window.out_h, window.out_w))
            summed = add_taps(backend, [split[:, t, :, :, :] for t in range(window.taps)], window)
            images.append(backend.astype(summed, x.dtype))
            del dcolumns, split
    dx = None
    if need_dx:
        dx = images[0] if len(images) == 1 else xp.concat(images, axis=1)
        dx = xp.permute_dims(dx, (1, 0, 2, 3))
    db = None
    if need_db:  # in two steps, so that rounding grows with the size of an image plus the batch, not with their product
        db = backend.astype(xp.sum(xp.sum(dy, axis=(2, 3), dtype=wide), axis=0), dy.dtype)
    return dx, backend.astype(xp.reshape(dw, w.shape), w.dtype), db
