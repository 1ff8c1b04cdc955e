"""Convolution as columns and one matrix product each way, channel-major: see `xpconv._generic.conv` for the matrices.

Results are views, batch axis first, of channel-major memory, in which the next convolution finds its columns and its
gradients without a transposition.
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from .._workspace import images_per_slice
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import col2im_into, im2col_into
from .elementwise import add_bias
from .reduce import row_sums

__all__ = ["conv2d", "conv2d_backward"]


def _is_pointwise(geometry: ConvGeometry) -> bool:
    """Whether the columns are the image itself: 1 x 1, stride 1, no padding."""
    window = geometry.window
    steps = (window.kernel_h, window.kernel_w, window.stride_h, window.stride_w)
    pads = (window.pad_top, window.pad_bottom, window.pad_left, window.pad_right)
    return steps == (1, 1, 1, 1) and pads == (0, 0, 0, 0)


def _channel_major(backend: GpuBackend, x: Array) -> Array:
    """Images (N, C, H, W) as a matrix (C, N * H * W): no copy if that is how they lie in memory."""
    n, c, h, w = x.shape
    return backend.xp.reshape(backend.contiguous(backend.xp.permute_dims(x, (1, 0, 2, 3))), (c, n * h * w))


def _columns(backend: GpuBackend, x: Array, geometry: ConvGeometry) -> Array:
    """Columns (C * kh * kw, N * out_h * out_w)."""
    if _is_pointwise(geometry):
        return _channel_major(backend, x)
    window = geometry.window
    width = x.shape[0] * window.positions
    columns = backend.empty((x.shape[1] * window.taps, width), x.dtype)
    im2col_into(backend, x, columns, window, width, window.positions)
    return columns


def _product(backend: GpuBackend, a: Array, b: Array, groups: int, transpose: str = "") -> Array:
    """Product of matrices whose rows are cut into ``groups``; ``transpose`` names the factor to be transposed."""
    if groups == 1:
        return backend.gemm(a.T if transpose == "a" else a, b.T if transpose == "b" else b)
    xp = backend.xp
    a = xp.reshape(a, (groups, a.shape[0] // groups, a.shape[1]))
    b = xp.reshape(b, (groups, b.shape[0] // groups, b.shape[1]))
    product = backend.batched_gemm(
        xp.matrix_transpose(a) if transpose == "a" else a, xp.matrix_transpose(b) if transpose == "b" else b
    )
    return xp.reshape(product, (product.shape[0] * product.shape[1], product.shape[2]))


def conv2d(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window, filters = backend.xp, geometry.window, geometry.out_channels
    batch, positions = geometry.batch, window.positions
    weight = xp.reshape(backend.contiguous(w), (filters, -1))
    step = images_per_slice(geometry, x.dtype)
    if step >= batch:
        columns = _columns(backend, x, geometry)
        y = _product(backend, weight, columns, geometry.groups)
    else:
        y = backend.empty((filters, batch * positions), x.dtype)
        for start in range(0, batch, step):
            stop = min(start + step, batch)
            columns = _columns(backend, x[start:stop, ...], geometry)
            y[:, start * positions : stop * positions] = _product(backend, weight, columns, geometry.groups)
            del columns  # before the next ones are made: the cap holds for one set of them
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
    dx = backend.empty((channels, batch, window.height, window.width), x.dtype) if need_dx else None
    dw = None
    step = max(1, images_per_slice(geometry, x.dtype))
    for start in range(0, max(batch, 1), step):
        stop = min(start + step, batch)
        part = gradient[:, start * positions : stop * positions]
        columns = _columns(backend, x[start:stop, ...], geometry)
        product = backend.astype(_product(backend, part, columns, groups, "b"), backend.accumulator(x))
        if dw is None:
            dw = product
        else:
            dw += product
        del columns  # before those of the gradient are made
        if dx is not None:
            columns = _product(backend, weight, part, groups, "a")
            if _is_pointwise(geometry):
                dx[:, start:stop, ...] = xp.reshape(columns, (channels, -1, window.height, window.width))
            else:
                images = xp.permute_dims(dx[:, start:stop, ...], (1, 0, 2, 3))
                col2im_into(backend, columns, images, window, (stop - start) * positions, positions)
            del columns
    if dx is not None:
        dx = xp.permute_dims(dx, (1, 0, 2, 3))
    db = row_sums(backend, gradient) if need_db else None
    return dx, xp.reshape(backend.astype(dw, w.dtype), w.shape), db
