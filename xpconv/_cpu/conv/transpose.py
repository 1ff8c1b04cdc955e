"""Transposed convolution: the engines of convolution with images and results exchanged.

In a `ConvGeometry` of the convolution that goes from y to x, ``in_channels`` are the channels of y and
``out_channels`` those of x. What is the input gradient there is the forward pass here, and the other way round.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ...backends.protocol import Array, Backend
from .choice import engine_for

__all__ = ["conv_transpose2d", "conv_transpose2d_backward"]


def conv_transpose2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw); returns (N, F, out_h, out_w)."""
    y = engine_for("input_gradient", backend.dtype_name(x), geometry).input_gradient(x, w, geometry)
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
    # in two steps, so that rounding grows with the size of an image plus the batch, not with their product
    return dx, dw, dy.sum(axis=(2, 3)).sum(axis=0) if need_db else None
