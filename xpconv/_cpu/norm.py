"""Batch normalisation by the compiled kernels: every channel is read from memory once and written once.

The kernels take channels whose pixels are contiguous, as in batch-major and in channel-major images. Channels-last
images and batches (N, C) are left to the generic operators, which add rows of channels.
"""

from __future__ import annotations

import numpy as np

from .. import _generic
from .._generic.norm import running_moments
from ..backends.protocol import Array, Backend
from . import _kernels

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_norm_relu_inference",
]


def _in_runs(*arrays: Array | None) -> bool:
    """Whether the last axis of all is contiguous."""
    return all(a is None or a.shape[2] == 1 or a.strides[2] == a.itemsize for a in arrays)


def _like(x: np.ndarray) -> np.ndarray:
    """Uninitialised (N, C, L) with its runs in the order of those of x."""
    n, c, length = x.shape
    if abs(x.strides[1]) > abs(x.strides[0]):
        return np.empty((c, n, length), x.dtype).transpose(1, 0, 2)
    return np.empty(x.shape, x.dtype)


def _vector(values: Array | None, like: np.ndarray) -> np.ndarray:
    """Contiguous; of no length where there are none."""
    return np.empty(0, like.dtype) if values is None else np.ascontiguousarray(values)


def _normalised(
    x: np.ndarray,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    moments: tuple[Array, Array] | None,
    eps: float,
    relu: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    channels = x.shape[1]
    if moments is None:
        mean, variance = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    else:
        mean, variance = (np.array(moment, x.dtype) for moment in moments)  # copies: the kernel could write to them
    y, inv_std = _like(x), np.empty(channels, x.dtype)
    beside = x if residual is None else residual
    flags = (residual is not None, moments is not None, relu)
    _kernels.batch_norm(x, beside, y, _vector(weight, x), _vector(bias, x), mean, variance, inv_std, eps, *flags)
    return y, mean, variance, inv_std


def batch_norm(
    backend: Backend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """Normalise every channel of x (N, C, L) by its moments.

    Returns (y, mean, variance, inv_std, running_mean, running_var), all but y (C,), the last two None where they were.
    """
    if not _in_runs(x):
        return _generic.batch_norm(backend, x, weight, bias, running_mean, running_var, momentum, eps)
    y, mean, variance, inv_std = _normalised(x, weight, bias, None, None, eps, False)
    running = running_moments(backend, x, mean, variance, running_mean, running_var, momentum)
    return y, mean, variance, inv_std, *running


def batch_norm_inference(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Normalise every channel of x (N, C, L) by given moments (C,); returns (y, inv_std)."""
    if not _in_runs(x):
        return _generic.batch_norm_inference(backend, x, weight, bias, mean, variance, eps)
    y, _, _, inv_std = _normalised(x, weight, bias, None, (mean, variance), eps, False)
    return y, inv_std


def batch_norm_relu(
    backend: Backend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """``max(batch_norm(x) + residual, 0)``; returns (y, mean, variance, inv_std, running_mean, running_var)."""
    if not _in_runs(x, residual):
        return _generic.batch_norm_relu(backend, x, weight, bias, residual, running_mean, running_var, momentum, eps)
    y, mean, variance, inv_std = _normalised(x, weight, bias, residual, None, eps, True)
    running = running_moments(backend, x, mean, variance, running_mean, running_var, momentum)
    return y, mean, variance, inv_std, *running


def batch_norm_relu_inference(
    backend: Backend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    mean: Array,
    variance: Array,
    eps: float,
) -> tuple[Array, Array]:
    """``max(batch_norm_inference(x) + residual, 0)``; returns (y, inv_std)."""
    if not _in_runs(x, residual):
        return _generic.batch_norm_relu_inference(backend, x, weight, bias, residual, mean, variance, eps)
    y, _, _, inv_std = _normalised(x, weight, bias, residual, (mean, variance), eps, True)
    return y, inv_std


def batch_norm_relu_backward(
    backend: Backend,
    dy: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    training: bool,
    need_dresidual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients (dx, dw, db, dresidual) of `batch_norm_relu` with the result y; the last None unless needed."""
    if not _in_runs(dy, y, x):
        return _generic.batch_norm_relu_backward(backend, dy, y, x, weight, mean, inv_std, training, need_dresidual)
    dresidual = _like(x) if need_dresidual else None
    dx, dw, db = _gradients(dy, y, x, weight, mean, inv_std, training, dresidual)
    return dx, dw, db, dresidual


def batch_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `batch_norm` if training, where the moments depend on x, else of the inference."""
    if not _in_runs(dy, x):
        return _generic.batch_norm_backward(backend, dy, x, weight, mean, inv_std, training)
    return _gradients(dy, None, x, weight, mean, inv_std, training, None)


def _gradients(
    dy: np.ndarray,
    y: np.ndarray | None,
    x: np.ndarray,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    training: bool,
    dresidual: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dx, dw, db = _like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    passed, vectors = x if y is None else y, (_vector(weight, x), _vector(mean, x), _vector(inv_std, x))
    beside, flags = dx if dresidual is None else dresidual, (y is not None, dresidual is not None, training)
    _kernels.batch_norm_backward(dy, passed, x, dx, beside, *vectors, dw, db, *flags)
    return dx, dw, db
