"""Convolution without columns: images that fit into a core's cache, one at a time, threads on different images.

Faster than columns and a product wherever it applies, more so the fewer channels there are: nothing is written but
results. `supports` says where.
"""

from __future__ import annotations

import numpy as np

from .._geometry import ConvGeometry
from ..backends.protocol import Array, Backend
from . import _kernels
from ._buffer import workspace
from ._parallel import for_each
from ._slices import SHARES, channel_major, threads_for
from .columns import steps

__all__ = ["conv2d", "conv2d_backward", "supports"]

# Working memory, about half of a core's second-level cache: beyond it a product of whole matrices is faster. It is no
# more than the least cap on workspaces.
_CACHE_BYTES = 1 << 20
_ITEMSIZE = {"float32": 4, "float64": 8}


def _bytes(geometry: ConvGeometry, itemsize: int) -> int | None:
    """Working memory for a call, or None where that is too much."""
    window = geometry.window
    return _kernels.direct_bytes(
        geometry.in_channels, geometry.out_channels, window.height, window.width, window.kernel_h, window.kernel_w,
        window.out_h, window.out_w, *steps(window), itemsize, _CACHE_BYTES,
    )  # fmt: skip


def supports(dtype: str, geometry: ConvGeometry) -> bool:
    """float32 or float64, one group, and a layout of one image and of the weights that fits into the cache."""
    window = geometry.window
    sizes = (geometry.in_channels, geometry.out_channels, window.height, window.width)
    if dtype not in _ITEMSIZE or geometry.groups != 1 or not all(sizes):
        return False
    return _bytes(geometry, _ITEMSIZE[dtype]) is not None


def _needed(geometry: ConvGeometry, itemsize: int) -> int:
    need = _bytes(geometry, itemsize)
    assert need is not None, "a call that `supports` has refused"
    return need


def _parts(batch: int) -> list[slice]:
    """The batch in up to `SHARES` parts: the same for any number of threads, as the sums of dw depend on them."""
    length = -(-batch // SHARES)
    return [slice(start, start + length) for start in range(0, batch, length or 1)]


def _matrix(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w).reshape(w.shape[0], -1)


def conv2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C, kh, kw); returns (N, F, out_h, out_w)."""
    window, need = geometry.window, _needed(geometry, x.itemsize)
    y = channel_major(geometry.out_channels, geometry.batch, window.out_h, window.out_w, x.dtype).transpose(1, 0, 2, 3)
    weight, bias = _matrix(w), None if b is None else np.ascontiguousarray(b)
    numbers = (window.kernel_h, window.kernel_w, *steps(window))

    def convolve(part: slice) -> None:
        with workspace(need, np.dtype(np.uint8)) as memory:
            _kernels.direct(x[part], weight, bias, y[part], *numbers, memory)

    for_each(convolve, _parts(geometry.batch), threads_for(need))
    return y


def conv2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    window, need = geometry.window, _needed(geometry, x.itemsize)
    c, f, batch = geometry.in_channels, geometry.out_channels, geometry.batch
    dx = channel_major(c, batch, window.height, window.width, x.dtype).transpose(1, 0, 2, 3) if need_dx else None
    if (dy.strides[3] != dy.itemsize and dy.shape[3] > 1) or any(step % dy.itemsize for step in dy.strides):
        dy = np.ascontiguousarray(dy)
    weight, parts = _matrix(w), _parts(batch)
    numbers = (window.kernel_h, window.kernel_w, *steps(window))
    dw = np.empty((len(parts), *weight.shape), x.dtype)
    db = np.empty((len(parts), f), x.dtype)

    def differentiate(index: int) -> None:
        part = parts[index]
        with workspace(need, np.dtype(np.uint8)) as memory:
            to = None if dx is None else dx[part]
            _kernels.direct_backward(dy[part], x[part], weight, to, dw[index], db[index], *numbers, memory)

    for_each(differentiate, range(len(parts)), threads_for(need))
    return dx, np.add.reduce(dw, axis=0).reshape(w.shape), np.add.reduce(db, axis=0) if need_db else None
