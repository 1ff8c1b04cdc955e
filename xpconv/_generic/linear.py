"""Fully connected layer: one GEMM forward, two backward."""

from __future__ import annotations

from ..backends.protocol import Array, Backend

__all__ = ["linear", "linear_backward"]


def linear(backend: Backend, x: Array, w: Array, b: Array | None) -> Array:
    """``x @ w.T + b`` (N, out) of x (N, in), w (out, in) and b (out,)."""
    wide = backend.accumulator(x)
    y = backend.gemm(backend.astype(x, wide), backend.xp.matrix_transpose(backend.astype(w, wide)))
    if b is not None:
        y += backend.astype(b, wide)
    return backend.astype(y, x.dtype)


def linear_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `linear`; dx and db are None where they are not needed."""
    xp, wide = backend.xp, backend.accumulator(x)
    dy = backend.astype(dy, wide)
    dx = backend.astype(backend.gemm(dy, backend.astype(w, wide)), x.dtype) if need_dx else None
    dw = backend.gemm(xp.matrix_transpose(dy), backend.astype(x, wide))
    db = None
    if need_db:  # as a product: a sum along the first axis adds one by one, and rounds each time
        ones = backend.full((1, dy.shape[0]), 1.0, wide)
        db = backend.astype(xp.reshape(backend.gemm(ones, dy), (-1,)), x.dtype)
    return dx, backend.astype(dw, w.dtype), db
