"""Convolution as columns and one matrix product each way, channel-major: see `xpconv._generic.conv` for the matrices.

Results are views, batch axis first, of channel-major memory, in which the next convolution finds its columns and its
gradients without a transposition. The batch is cut into slices whose columns stay in the L2 cache from the kernel that
writes them to the product that reads them; products go straight to where their result belongs:

::

    y         = | weight @ columns of slice 0 | weight @ columns of slice 1 | ...
    dweight  += dy of a slice @ columns of the slice ^T
"""

from __future__ import annotations

from .._geometry import ConvGeometry
from ..backends.protocol import Array
from .backend import GpuBackend
from .columns import col2im_into
from .elementwise import add_bias, relu
from .reduce import row_sums
from .slices import channel_major, columns_of, images_in_slice, memory_for, product

__all__ = ["conv2d", "conv2d_backward", "conv2d_relu"]


def conv2d(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    xp, window, filters = backend.xp, geometry.window, geometry.out_channels
    batch, positions = geometry.batch, window.positions
    weight = xp.reshape(backend.contiguous(w), (filters, -1))
    y = backend.empty((filters, batch * positions), x.dtype)
    step = images_in_slice(backend, geometry, x.dtype)
    memory = memory_for(backend, geometry, step, x.dtype)
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        columns = columns_of(backend, x[start:stop, ...], geometry, memory)
        product(backend, weight, columns, geometry.groups, out=y[:, start * positions : stop * positions])
    if b is not None:
        add_bias(backend, y, b)
    return xp.permute_dims(xp.reshape(y, (filters, batch, window.out_h, window.out_w)), (1, 0, 2, 3))


def conv2d_relu(backend: GpuBackend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """``max(conv2d(x), 0)``."""
    return relu(backend, conv2d(backend, x, w, b, geometry))


def conv2d_backward(
    backend: GpuBackend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    xp, window, groups = backend.xp, geometry.window, geometry.groups
    batch, channels, positions = geometry.batch, geometry.in_channels, window.positions
    gradient = channel_major(backend, dy)
    weight = xp.reshape(backend.contiguous(w), (geometry.out_channels, -1))
    step = images_in_slice(backend, geometry, x.dtype)
    memory = memory_for(backend, geometry, step, x.dtype)
    # half precision is added up in float32, over the slices too
    dw = backend.empty(weight.shape, x.dtype if step >= batch else backend.accumulator(x))
    if not batch:
        dw[...] = 0
    dx = backend.empty((channels, batch * window.height * window.width), x.dtype) if need_dx else None
    for start in range(0, batch, step):
        stop = min(start + step, batch)
        part = gradient[:, start * positions : stop * positions]
        columns = columns_of(backend, x[start:stop, ...], geometry, memory)
        product(backend, part, columns, groups, "b", out=dw, accumulate=start > 0)
        if dx is None:
            continue
        if memory is None:
            product(backend, weight, part, groups, "a", out=dx[:, start * positions : stop * positions])
        else:  # over the columns of x, which have been used
            product(backend, weight, part, groups, "a", out=columns)
            images = xp.reshape(dx, (channels, batch, window.height, window.width))[:, start:stop, ...]
            images = xp.permute_dims(images, (1, 0, 2, 3))
            col2im_into(backend, columns, images, window, (stop - start) * positions, positions)
    if dx is not None:
        dx = xp.permute_dims(xp.reshape(dx, (channels, batch, window.height, window.width)), (1, 0, 2, 3))
    db = row_sums(backend, gradient) if need_db else None
    return dx, xp.reshape(backend.astype(dw, w.dtype), w.shape), db
