"""Normalisation by the compiled kernels, fused with what follows it.

The kernels take arrays (N, C, L) whose last axis is contiguous, as in batch-major and in channel-major images, or whose
channels are: images channels last and batches (N, C). Others are copied.
"""

from __future__ import annotations

import numpy as np

from .. import _generic
from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_norm_relu_inference",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
]

_LEAST_PIXELS = 8  # of group norm: of fewer, a channel of an image is no work for vectors


def _in_rows(x: np.ndarray) -> bool:
    """Whether the channels of x (N, C, L) are taken as contiguous, else the last axis."""
    _, channels, length = x.shape
    return channels > 1 and x.strides[1] == x.itemsize and (length < 2 or x.strides[2] != x.itemsize)


def _placed(x: np.ndarray, rows: bool) -> np.ndarray:
    """An array with that axis contiguous: x itself, or a copy."""
    axis = 1 if rows else 2
    if x.shape[axis] < 2 or x.strides[axis] == x.itemsize:
        return x
    copy = _like(x, rows)
    copy[...] = x
    return copy


def _like(x: np.ndarray, rows: bool) -> np.ndarray:
    """Uninitialised (N, C, L) with its runs in the order of those of x."""
    n, c, length = x.shape
    if rows:
        return empty((n, length, c), x.dtype).transpose(0, 2, 1)
    if abs(x.strides[1]) > abs(x.strides[0]):
        return empty((c, n, length), x.dtype).transpose(1, 0, 2)
    return empty((n, c, length), x.dtype)


def _vector(values: Array | None) -> np.ndarray | None:
    return values if values is None or values.flags.c_contiguous else np.ascontiguousarray(values)


def _normalised(
    x: np.ndarray,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    old: tuple[Array | None, Array | None],
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    rows, channels, dtype = _in_rows(x), x.shape[1], x.dtype
    x = _placed(x, rows)
    beside = None if residual is None else _placed(residual, rows)
    y = _like(x, rows)
    mean, variance, inv_std = np.empty(channels, dtype), np.empty(channels, dtype), np.empty(channels, dtype)
    old_mean, old_variance = _vector(old[0]), _vector(old[1])
    new_mean = None if old_mean is None else np.empty(channels, dtype)
    new_variance = None if old_variance is None else np.empty(channels, dtype)
    _kernels.batch_norm(
        x,
        beside,
        y,
        _vector(weight),
        _vector(bias),
        mean,
        variance,
        inv_std,
        old_mean,
        old_variance,
        new_mean,
        new_variance,
        momentum,
        eps,
        rows,
        False,
        relu,
    )
    return y, mean, variance, inv_std, new_mean, new_variance


def _normalised_by(
    x: np.ndarray,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    mean: Array,
    variance: Array,
    eps: float,
    relu: bool,
) -> tuple[np.ndarray, np.ndarray]:
    rows = _in_rows(x)
    x = _placed(x, rows)
    beside = None if residual is None else _placed(residual, rows)
    y, inv_std = _like(x, rows), np.empty(x.shape[1], x.dtype)
    mean, variance = np.array(mean, x.dtype), np.array(variance, x.dtype)  # copies: the kernel could write to them
    vectors = (_vector(weight), _vector(bias), mean, variance, inv_std)
    _kernels.batch_norm(x, beside, y, *vectors, None, None, None, None, 0.0, eps, rows, True, relu)
    return y, inv_std


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
    return _normalised(x, weight, bias, None, (running_mean, running_var), momentum, eps, False)


def batch_norm_inference(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Normalise every channel of x (N, C, L) by given moments (C,); returns (y, inv_std)."""
    return _normalised_by(x, weight, bias, None, mean, variance, eps, False)


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
    return _normalised(x, weight, bias, residual, (running_mean, running_var), momentum, eps, True)


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
    return _normalised_by(x, weight, bias, residual, mean, variance, eps, True)


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
    return _gradients(dy, y, x, weight, mean, inv_std, training, need_dresidual)


def batch_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `batch_norm` if training, where the moments depend on x, else of the inference."""
    return _gradients(dy, None, x, weight, mean, inv_std, training, False)[:3]


def _gradients(
    dy: np.ndarray,
    y: np.ndarray | None,
    x: np.ndarray,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    training: bool,
    need_dresidual: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    rows, channels, dtype = _in_rows(x), x.shape[1], x.dtype
    x, dy = _placed(x, rows), _placed(dy, rows)
    passed = None if y is None else _placed(y, rows)
    dx, dw, db = _like(x, rows), np.empty(channels, dtype), np.empty(channels, dtype)
    dresidual = _like(x, rows) if need_dresidual else None
    scale, mean, inv_std = _vector(weight), np.ascontiguousarray(mean), np.ascontiguousarray(inv_std)
    _kernels.batch_norm_backward(dy, passed, x, dx, dresidual, scale, mean, inv_std, dw, db, rows, not training)
    return dx, dw, db, dresidual


def layer_norm(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every row of x (rows, length), weight and bias (length,); returns (y, mean, inv_std), (rows, 1)."""
    y, mean, inv_std = _normalised_rows(x[:, None, :], weight, bias, 1, eps, True)
    return y[:, 0, :], mean, inv_std


def layer_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `layer_norm`."""
    dx, dw, db = _row_gradients(dy[:, None, :], x[:, None, :], weight, mean, inv_std, 1, True)
    return dx[:, 0, :], dw, db


def group_norm(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, num_groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every group of channels of every image of x (N, C, L), weight and bias (C,).

    Returns (y, mean, inv_std), the last two (N * num_groups, 1).
    """
    if x.shape[2] < _LEAST_PIXELS:
        return _generic.group_norm(backend, x, weight, bias, num_groups, eps)
    return _normalised_rows(x, weight, bias, num_groups, eps, False)


def group_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, num_groups: int
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `group_norm`."""
    if x.shape[2] < _LEAST_PIXELS:
        return _generic.group_norm_backward(backend, dy, x, weight, mean, inv_std, num_groups)
    return _row_gradients(dy, x, weight, mean, inv_std, num_groups, False)


def _normalised_rows(
    x: np.ndarray, weight: Array | None, bias: Array | None, groups: int, eps: float, layer: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, rows = _placed(x, False), x.shape[0] * groups
    y, mean, inv_std = empty(x.shape, x.dtype), np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    _kernels.norm_rows(x, y, _vector(weight), _vector(bias), mean, inv_std, groups, eps, layer)
    return y, mean[:, None], inv_std[:, None]


def _row_gradients(
    dy: np.ndarray, x: np.ndarray, weight: Array | None, mean: Array, inv_std: Array, groups: int, layer: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, dy, weights = _placed(x, False), _placed(dy, False), x.shape[2] if layer else x.shape[1]
    dx, dw, db = empty(x.shape, x.dtype), np.empty(weights, x.dtype), np.empty(weights, x.dtype)
    moments = (np.ravel(mean), np.ravel(inv_std))
    _kernels.norm_rows_backward(dy, x, dx, _vector(weight), *moments, dw, db, groups, layer)
    return dx, dw, db
