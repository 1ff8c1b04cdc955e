"""Images to columns and back, by strided slices: one slice for each tap of the kernel.

For a kernel of taps t = (i, j) the columns of one channel are the shifted images side by side::

    columns[c, t, n, p, q] = padded[c, n, p * stride_h + i * dilation_h, q * stride_w + j * dilation_w]
"""

from __future__ import annotations

from collections.abc import Iterable

import array_api_extra as xpx

from .._geometry import Window
from ..backends.protocol import Array, Backend

__all__ = ["add_taps", "col2im", "im2col", "pad", "taps"]


def pad(backend: Backend, x: Array, window: Window, value: float = 0.0) -> Array:
    """Images (..., H, W) inside a frame of ``value`` that every window fits into."""
    height, width = window.reach
    top, left = window.pad_top, window.pad_left
    bottom, right = height - top - window.height, width - left - window.width
    xp, lead = backend.xp, tuple(x.shape[:-2])
    if top or bottom:
        above = backend.full((*lead, top, window.width), value, x.dtype)
        below = backend.full((*lead, bottom, window.width), value, x.dtype)
        x = xp.concat([above, x, below], axis=-2)
    if left or right:
        before = backend.full((*lead, height, left), value, x.dtype)
        behind = backend.full((*lead, height, right), value, x.dtype)
        x = xp.concat([before, x, behind], axis=-1)
    return x


def taps(padded: Array, window: Window) -> list[Array]:
    """For each kernel position, row by row, what it sees: arrays (..., out_h, out_w)."""
    return [
        padded[..., window.rows(i), window.columns(j)] for i in range(window.kernel_h) for j in range(window.kernel_w)
    ]


def add_taps(backend: Backend, parts: Iterable[Array], window: Window) -> Array:
    """Adjoint of `taps` and `pad`: add each part where its tap has read, return images (..., H, W)."""
    out = None
    for t, part in enumerate(parts):
        if out is None:
            out = backend.zeros((*part.shape[:-2], *window.reach), part.dtype)
        i, j = divmod(t, window.kernel_w)
        out = xpx.at(out, (..., window.rows(i), window.columns(j))).add(part, xp=backend.xp)
    assert out is not None, "a window has at least one tap"
    rows = slice(window.pad_top, window.pad_top + window.height)
    columns = slice(window.pad_left, window.pad_left + window.width)
    return out[..., rows, columns]


def im2col(backend: Backend, x: Array, window: Window) -> Array:
    """Columns (N, C * kh * kw, out_h * out_w) of images (N, C, H, W)."""
    n, c = x.shape[:2]
    stacked = backend.xp.stack(taps(pad(backend, x, window), window), axis=2)
    return backend.xp.reshape(stacked, (n, c * window.taps, window.positions))


def col2im(backend: Backend, cols: Array, window: Window) -> Array:
    """Images (N, C, H, W) from columns (N, C * kh * kw, out_h * out_w), summed where windows overlap."""
    n, c = cols.shape[0], cols.shape[1] // window.taps
    split = backend.xp.reshape(cols, (n, c, window.taps, window.out_h, window.out_w))
    split = backend.astype(split, backend.accumulator(cols))
    images = add_taps(backend, [split[:, :, t, :, :] for t in range(window.taps)], window)
    return backend.astype(images, cols.dtype)
