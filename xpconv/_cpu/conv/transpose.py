"""Transposed convolution: the engines of convolution with images and results exchanged.

In a `ConvGeometry` of the convolution that goes from y to x, ``in_channels`` are the channels of y and
``out_channels`` those of x. What is the input gradient there is the forward pass here, and the other way round.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ...backends.protocol import Array, Backend
from .. import _kernels
from .._memory import empty
from . import blocked
from .choice import engine_for

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    engine = engine_for("input_gradient", backend.dtype_name(x), geometry)
    if engine is blocked:
        return blocked.input_gradient(x, w, geometry, b)
    y = engine.input_gradient(x, w, geometry)
    if b is not None:
        y += np.reshape(b, (-1, 1, 1))
    return y


def conv_transpose2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv_transpose2d`; dx and db are None where they are not needed."""
    dtype, dx = backend.dtype_name(dy), None
    if need_dx:
        dx = engine_for("forward", dtype, geometry).forward(dy, w, None, geometry, False)
    dw, _ = engine_for("weight_gradient", dtype, geometry).weight_gradient(x, dy, geometry, False)
    return dx, dw, _channel_sums(dy) if need_db else None


def _channel_sums(dy: np.ndarray) -> np.ndarray:
    """Sums (C,) over images and pixels, in two steps: rounding grows with the one plus the other, not their product."""
    batch, channels, height, width = dy.shape
    if not (dy.size and dy.flags.c_contiguous and _kernels.instruction_sets()):
        return dy.sum(axis=(2, 3)).sum(axis=0)
    sums, ones = empty((batch, channels), dy.dtype), np.ones(height * width, dy.dtype)
    _kernels.linear_forward(dy, ones, None, sums, batch * channels, height * width, 1)
    return sums.sum(axis=0)
