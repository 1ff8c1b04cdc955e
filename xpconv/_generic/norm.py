"""Normalisation: subtract the mean, divide by the standard deviation, scale and shift.

The moments are those of the corrected two-pass algorithm (Chan, Golub, LeVeque, *Algorithms for Computing the Sample
Variance*, 1983): the values are centred first, and what rounding left of their mean is removed after::

    centred = x - mean(x)        rest = mean(centred)        variance = mean(centred**2) - rest**2

so that an offset of 1e4 costs no accuracy and a constant channel becomes exactly its bias.

Arrays are (N, C, L), whatever the strides, and reductions run along L first: reshaping images to that copies nothing
in batch-major, channel-major or channels-last memory, and results stay in the memory order of x. Half precision is
computed in float32. The reciprocal of the standard deviation, ``1 / sqrt(variance + eps)``, is called inv_std.
"""

from __future__ import annotations

from ..backends.protocol import Array, Backend

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


def _wide(backend: Backend, x: Array) -> Array:
    return backend.astype(x, backend.accumulator(x))


def _along(vector: Array) -> Array:
    """A number for each channel (C,), against (N, C, L)."""
    return vector[None, :, None]


def _channel_sum(backend: Backend, x: Array) -> Array:
    """(C,) from (N, C, L); in two steps, so that rounding grows with N + L rather than N * L."""
    return backend.xp.sum(backend.xp.sum(x, axis=2), axis=0)


def _channel_dot(backend: Backend, a: Array, b: Array) -> Array:
    """Sum over N and L of the products, (C,); makes no array of them."""
    return backend.xp.sum(backend.xp.vecdot(a, b, axis=-1), axis=0)


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

    Returns (y, mean, variance, inv_std, running_mean, running_var), all but y (C,): the last two as `running_moments`.
    """
    y, mean, variance, inv_std = _by_own_moments(backend, x, weight, bias, eps)
    running = running_moments(backend, x, mean, variance, running_mean, running_var, momentum)
    return backend.astype(y, x.dtype), mean, variance, inv_std, *running


def unbiased(x: Array) -> float:
    """What makes an estimate without bias of the variance of the channels of x (N, C, L): ``count / (count - 1)``."""
    count = x.shape[0] * x.shape[2]
    return count / max(count - 1, 1)  # of a single value the variance is 0


def running_moments(
    backend: Backend,
    x: Array,
    mean: Array,
    variance: Array,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
) -> tuple[Array | None, Array | None]:
    """Running statistics after the batch x, each in its dtype, and None where there are none.

    As in PyTorch ``(1 - momentum) * old + momentum * new``, with the unbiased variance.
    """

    def mixed(old: Array | None, new: Array, share: float) -> Array | None:
        if old is None:
            return None
        return backend.astype(backend.astype(old, new.dtype) * (1 - momentum) + new * share, old.dtype)

    return mixed(running_mean, mean, momentum), mixed(running_var, variance, unbiased(x) * momentum)


def _by_own_moments(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """As `batch_norm`, the result not yet rounded to the dtype of x."""
    xp = backend.xp
    count = x.shape[0] * x.shape[2]
    y = _wide(backend, x)
    mean = _channel_sum(backend, y) / count
    y = y - _along(mean)
    rest = _channel_sum(backend, y) / count
    variance = _channel_dot(backend, y, y) / count - rest * rest
    variance = xp.maximum(variance, 0.0)
    inv_std = 1 / xp.sqrt(variance + eps)
    scale = inv_std if weight is None else inv_std * _wide(backend, weight)
    shift = -rest * scale if bias is None else _wide(backend, bias) - rest * scale
    y *= _along(scale)
    y += _along(shift)
    return y, mean + rest, variance, inv_std


def batch_norm_inference(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Normalise every channel of x (N, C, L) by given moments (C,); returns (y, inv_std)."""
    y, inv_std = _by_given_moments(backend, x, weight, bias, mean, variance, eps)
    return backend.astype(y, x.dtype), inv_std


def _by_given_moments(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """As `batch_norm_inference`, the result not yet rounded to the dtype of x."""
    inv_std = 1 / backend.xp.sqrt(_wide(backend, variance) + eps)
    y = _wide(backend, x) - _along(_wide(backend, mean))
    y *= _along(inv_std if weight is None else inv_std * _wide(backend, weight))
    if bias is not None:
        y += _along(_wide(backend, bias))
    return y, inv_std


def _rectified(backend: Backend, y: Array, residual: Array | None) -> Array:
    """``max(y + residual, 0)``, in the memory of y, which is lost."""
    if residual is not None:
        y += _wide(backend, residual)
    return backend.xp.maximum(y, 0.0)


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
    y, mean, variance, inv_std = _by_own_moments(backend, x, weight, bias, eps)
    running = running_moments(backend, x, mean, variance, running_mean, running_var, momentum)
    return backend.astype(_rectified(backend, y, residual), x.dtype), mean, variance, inv_std, *running


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
    y, inv_std = _by_given_moments(backend, x, weight, bias, mean, variance, eps)
    return backend.astype(_rectified(backend, y, residual), x.dtype), inv_std


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
    dresidual = backend.keep(y > 0, dy)
    dx, dw, db = batch_norm_backward(backend, dresidual, x, weight, mean, inv_std, training)
    return dx, dw, db, dresidual if need_dresidual else None


def batch_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `batch_norm` if training, where the moments depend on x, else of the inference."""
    count = x.shape[0] * x.shape[2]
    wide = _wide(backend, dy)
    centred = _wide(backend, x) - _along(_wide(backend, mean))
    db = _channel_sum(backend, wide)
    dw = _channel_dot(backend, wide, centred) * inv_std
    scale = inv_std if weight is None else inv_std * _wide(backend, weight)
    if training:
        # dx = scale * (dy - mean(dy) - normalised * mean(dy * normalised)), in the memory of centred
        dx = centred
        dx *= _along(-inv_std * dw / count)
        dx += wide
        dx -= _along(db / count)
        dx *= _along(scale)
    else:
        dx = wide * _along(scale)
    return backend.astype(dx, dy.dtype), backend.astype(dw, dy.dtype), backend.astype(db, dy.dtype)


def _normalise_rows(backend: Backend, x: Array, eps: float) -> tuple[Array, Array, Array]:
    """Normalise every row of x (rows, length), not of half precision; returns (fresh y, mean, inv_std), (rows, 1)."""
    xp, length = backend.xp, x.shape[1]
    mean = xp.sum(x, axis=1, keepdims=True) / length
    y = x - mean
    rest = xp.sum(y, axis=1, keepdims=True) / length
    variance = xp.vecdot(y, y, axis=-1)[:, None] / length - rest * rest
    inv_std = 1 / xp.sqrt(xp.maximum(variance, 0.0) + eps)
    y -= rest
    y *= inv_std
    return y, mean + rest, inv_std


def _normalised(x: Array, mean: Array, inv_std: Array) -> Array:
    y = x - mean
    y *= inv_std
    return y


def _rows_backward(backend: Backend, dy: Array, y: Array, inv_std: Array) -> Array:
    """Gradient to x of `_normalise_rows`, in the memory of y, which is lost."""
    xp, length = backend.xp, dy.shape[1]
    y *= xp.vecdot(dy, y, axis=-1)[:, None] / -length
    y += dy
    y -= xp.sum(dy, axis=1, keepdims=True) / length
    y *= inv_std
    return y


def layer_norm(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every row of x (rows, length), weight and bias (length,); returns (y, mean, inv_std), (rows, 1)."""
    y, mean, inv_std = _normalise_rows(backend, _wide(backend, x), eps)
    if weight is not None:
        y *= _wide(backend, weight)
    if bias is not None:
        y += _wide(backend, bias)
    return backend.astype(y, x.dtype), mean, inv_std


def layer_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `layer_norm`."""
    xp = backend.xp
    wide = _wide(backend, dy)
    y = _normalised(_wide(backend, x), mean, inv_std)
    db = xp.sum(wide, axis=0)
    dw = xp.sum(wide * y, axis=0)
    dx = _rows_backward(backend, wide if weight is None else wide * _wide(backend, weight), y, inv_std)
    return backend.astype(dx, dy.dtype), backend.astype(dw, dy.dtype), backend.astype(db, dy.dtype)


def group_norm(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, num_groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every group of channels of every image of x (N, C, L), weight and bias (C,).

    Returns (y, mean, inv_std), the last two (N * num_groups, 1).
    """
    xp, shape = backend.xp, tuple(x.shape)
    rows = xp.reshape(_wide(backend, x), _rows_shape(shape, num_groups))
    rows, mean, inv_std = _normalise_rows(backend, rows, eps)
    y = xp.reshape(rows, shape)
    if weight is not None:
        y *= _along(_wide(backend, weight))
    if bias is not None:
        y += _along(_wide(backend, bias))
    return backend.astype(y, x.dtype), mean, inv_std


def _rows_shape(shape: tuple[int, ...], num_groups: int) -> tuple[int, int]:
    """Shape of the matrix with one row for each group of each image."""
    return shape[0] * num_groups, shape[1] // num_groups * shape[2]


def group_norm_backward(
    backend: Backend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, num_groups: int
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `group_norm`."""
    xp, shape = backend.xp, tuple(x.shape)
    rows = _rows_shape(shape, num_groups)
    wide = _wide(backend, dy)
    y = _normalised(xp.reshape(_wide(backend, x), rows), mean, inv_std)
    db = _channel_sum(backend, wide)
    dw = _channel_dot(backend, wide, xp.reshape(y, shape))
    if weight is not None:
        wide = wide * _along(_wide(backend, weight))
    dx = xp.reshape(_rows_backward(backend, xp.reshape(wide, rows), y, inv_std), shape)
    return backend.astype(dx, dy.dtype), backend.astype(dw, dy.dtype), backend.astype(db, dy.dtype)
