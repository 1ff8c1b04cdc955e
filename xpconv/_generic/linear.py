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
    db = backend.astype(xp.sum(dy, axis=0), x.dtype) if need_db else None
    return dx, backend.astype(dw, w.dtype), db
