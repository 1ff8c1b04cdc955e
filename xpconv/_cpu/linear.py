"""The fully connected layer by the compiled kernels: products of matrices with the bias and its sums.

What the kernels do is drawn in ``kernels/cpu/linear.h``. NumPy's BLAS takes what it is better at, large products and
the gradient to a single image, for which the weights are read but once; and empty arrays, and builds without vectors.
"""

from __future__ import annotations

import numpy as np

from .. import _generic
from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty

__all__ = ["linear", "linear_backward"]

_VECTORS = bool(_kernels.instruction_sets())
_LARGE = 1 << 28  # multiplications: as measured, from here on the BLAS is as fast or faster


def _native(x: np.ndarray, w: np.ndarray) -> bool:
    return _VECTORS and 0 < x.shape[0] * w.size <= _LARGE


def _contiguous(array: np.ndarray) -> np.ndarray:
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def linear(backend: Backend, x: Array, w: Array, b: Array | None) -> Array:
    """``x @ w.T + b`` (N, out) of x (N, in), w (out, in) and b (out,)."""
    if not _native(x, w):
        return _generic.linear(backend, x, w, b)
    batch, (outputs, inputs) = x.shape[0], w.shape
    y = empty((batch, outputs), x.dtype)
    bias = None if b is None else _contiguous(b)
    _kernels.linear_forward(_contiguous(x), _contiguous(w), bias, y, batch, inputs, outputs)
    return y


def linear_backward(
    backend: Backend, dy: Array, x: Array, w: Array, need_dx: bool, need_db: bool
) -> tuple[Array | None, Array, Array | None]:
    """Gradients (dx, dw, db) of `linear`; dx and db are None where they are not needed."""
    if not _native(x, w):
        return _generic.linear_backward(backend, dy, x, w, need_dx, need_db)
    batch, (outputs, inputs) = x.shape[0], w.shape
    dy, w = _contiguous(dy), _contiguous(w)
    single = need_dx and batch == 1
    dx = empty((batch, inputs), x.dtype) if need_dx and not single else None
    dw, db = empty((outputs, inputs), x.dtype), empty((outputs,), x.dtype) if need_db else None
    _kernels.linear_backward(dy, _contiguous(x), w, dx, dw, db, batch, inputs, outputs)
    return backend.gemm(dy, w) if single else dx, dw, db
