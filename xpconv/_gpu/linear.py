"""Fully connected layer: one matrix product forward, two backward, and CUDA kernels for the bias.

The products take arrays of half precision as they are: the library's GEMM accumulates them in float32.
"""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .elementwise import add_bias_to_rows
from .reduce import column_sums

__all__ = ["linear", "linear_backward"]


def linear(backend: GpuBackend, x: Array, w: Array, b: Array | None) -> Array:
    """``x @ w.T + b`` (N, out) of x (N, in), w (out, in) and b (out,)."""
    y = backend.gemm(backend.contiguous(x), backend.contiguous(w).T)
    if b is not None:
        add_bias_to_rows(backend, y, b)
    return y


def linear_backward(
    backend: GpuBackend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `linear`; dx and db are None where they are not needed."""
    dy = backend.contiguous(dy)
    dx = backend.gemm(dy, backend.contiguous(w)) if need_dx else None
    dw = backend.gemm(dy.T, backend.contiguous(x))
    return dx, dw, column_sums(backend, dy) if need_db else None
