"""Convolution on NumPy arrays: several engines, one of them chosen for each call by its shape.

::

    choice       which engine takes a call, and why
    direct       few channels: a band of an image at a time, lanes are neighbouring pixels
    depthwise    as many groups as channels: one channel at a time, no products of matrices
    dense        results of one pixel: a product of matrices
    blocked      any shape: blocks that stay in the caches
    im2col       columns and a matrix product by the BLAS: the reference, and what takes every shape
    winograd     3 x 3 with stride 1: a quarter of the multiplications, lanes are channels
    transpose    transposed convolution, the same engines the other way round

Every engine has ``possible`` (what it can do), ``forward``, ``input_gradient`` and ``weight_gradient``; one that gains
from doing both gradients at once has ``gradients`` too.
"""

from __future__ import annotations

from ..._geometry import ConvGeometry
from ...backends.protocol import Array, Backend
from .choice import engine_for
from .transpose import conv_transpose2d, conv_transpose2d_backward

__all__ = ["conv2d", "conv2d_backward", "conv2d_relu", "conv_transpose2d", "conv_transpose2d_backward"]


def conv2d(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    return engine_for("forward", backend.dtype_name(x), geometry).forward(x, w, b, geometry, False)


def conv2d_relu(backend: Backend, x: Array, w: Array, b: Array | None, geometry: ConvGeometry) -> Array:
    """``max(conv2d(x), 0)`` in one pass over the memory."""
    return engine_for("forward", backend.dtype_name(x), geometry).forward(x, w, b, geometry, True)


def conv2d_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool, geometry: ConvGeometry
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `conv2d`; dx and db are None where they are not needed."""
    dtype = backend.dtype_name(x)
    engine = engine_for("weight_gradient", dtype, geometry)
    if not need_dx:
        return None, *engine.weight_gradient(dy, x, geometry, need_db)
    other = engine_for("input_gradient", dtype, geometry)
    if other is engine and hasattr(engine, "gradients"):
        return engine.gradients(dy, x, w, geometry, need_db)
    return other.input_gradient(dy, w, geometry), *engine.weight_gradient(dy, x, geometry, need_db)
