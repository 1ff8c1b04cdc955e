"""Convolution as the course writes it: all windows to columns, one matrix product, col2im on the way back.

The loops are those of `course_im2col.pyx`, compiled as the course compiles them; around them NumPy, and its BLAS for
the products. The batch is the last axis of the columns; the forward pass keeps them for the gradients.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

__all__ = ["backward", "forward"]

Array = np.ndarray


def forward(module: ModuleType, x: Array, w: Array, b: Array, stride: int, padding: int) -> tuple[Array, Array]:
    """(y, columns)."""
    n, _, height, width = x.shape
    f, _, kh, kw = w.shape
    out_h, out_w = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    columns = module.im2col(x, kh, kw, padding, stride)
    y = w.reshape(f, -1).dot(columns) + b.reshape(-1, 1)
    return y.reshape(f, out_h, out_w, n).transpose(3, 0, 1, 2), columns


def backward(
    module: ModuleType, dy: Array, shape: tuple[int, ...], columns: Array, w: Array, stride: int, padding: int
) -> tuple[Array, Array, Array]:
    """(dx, dw, db) for images of ``shape``."""
    n, c, height, width = shape
    f, _, kh, kw = w.shape
    rows = dy.transpose(1, 2, 3, 0).reshape(f, -1)
    dw = rows.dot(columns.T).reshape(w.shape)
    dcolumns = w.reshape(f, -1).T.dot(rows)
    dx = module.col2im(dcolumns, n, c, height, width, kh, kw, padding, stride)
    return dx, dw, dy.sum(axis=(0, 2, 3))
