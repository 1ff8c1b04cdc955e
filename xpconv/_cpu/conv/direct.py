"""Convolution without columns: images that fit into a core's cache, one at a time, threads on different images.

Faster than columns and a product wherever it applies, more so the fewer channels there are: nothing is written but
results. `possible` says where.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from .. import _kernels
from .._buffer import workspace
from .._parallel import for_each
from ..columns import steps
from ._slices import SHARES, channel_major, threads_for

__all__ = ["forward", "gradients", "input_gradient", "possible", "weight_gradient"]

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


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None for one group, and a layout of one image and of the weights that fits into the cache; else the reason."""
    if geometry.groups != 1:
        return "it takes one group"
    if _bytes(geometry, _ITEMSIZE[dtype]) is None:
        return f"an image, the weights and their sums take more than {_CACHE_BYTES >> 20} MiB, or it is not compiled in"
    return None


def _needed(geometry: ConvGeometry, itemsize: int) -> int:
    need = _bytes(geometry, itemsize)
    assert need is not None, "a call that `possible` has refused"
    return need


def _parts(batch: int) -> list[slice]:
    """The batch in up to `SHARES` parts: the same for any number of threads, as the sums of dw depend on them."""
    length = -(-batch // SHARES)
    return [slice(start, start + length) for start in range(0, batch, length or 1)]


def _matrix(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w).reshape(w.shape[0], -1)


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C, kh, kw); returns (N, F, out_h, out_w)."""
    window, need = geometry.window, _needed(geometry, x.itemsize)
    y = channel_major(geometry.out_channels, geometry.batch, window.out_h, window.out_w, x.dtype).transpose(1, 0, 2, 3)
    weight, bias = _matrix(w), None if b is None else np.ascontiguousarray(b)
    numbers = (window.kernel_h, window.kernel_w, *steps(window))

    def convolve(part: slice) -> None:
        with workspace(need, np.dtype(np.uint8)) as memory:
            _kernels.direct(x[part], weight, bias, y[part], *numbers, memory)
        if relu:
            np.maximum(y[part], 0, out=y[part])

    for_each(convolve, _parts(geometry.batch), threads_for(need))
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Dx (N, C, H, W)."""
    window = geometry.window
    x = np.zeros((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    dx = gradients(dy, x, w, geometry, False)[0]
    assert dx is not None
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C, kh, kw), and db (F,) if it is needed."""
    return gradients(dy, x, None, geometry, need_db)[1:]


def gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray | None, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Dx (N, C, H, W), dw and db in one pass over the images; without w no dx."""
    window, need = geometry.window, _needed(geometry, x.itemsize)
    c, f, batch = geometry.in_channels, geometry.out_channels, geometry.batch
    dx = channel_major(c, batch, window.height, window.width, x.dtype).transpose(1, 0, 2, 3) if w is not None else None
    if (dy.strides[3] != dy.itemsize and dy.shape[3] > 1) or any(step % dy.itemsize for step in dy.strides):
        dy = np.ascontiguousarray(dy)
    shape = (f, c, window.kernel_h, window.kernel_w)
    weight, parts = np.empty((f, c * window.taps), x.dtype) if w is None else _matrix(w), _parts(batch)
    numbers = (window.kernel_h, window.kernel_w, *steps(window))
    dw = np.empty((len(parts), *weight.shape), x.dtype)
    db = np.empty((len(parts), f), x.dtype)

    def differentiate(index: int) -> None:
        part = parts[index]
        with workspace(need, np.dtype(np.uint8)) as memory:
            to = None if dx is None else dx[part]
            _kernels.direct_backward(dy[part], x[part], weight, to, dw[index], db[index], *numbers, memory)

    for_each(differentiate, range(len(parts)), threads_for(need))
    return dx, np.add.reduce(dw, axis=0).reshape(shape), np.add.reduce(db, axis=0) if need_db else None
