"""Batch normalisation by the statistics of the whole batch, of which every rank has a share.

With ``n`` numbers a channel over all ranks, each rank sends its count, mean and variance, which are combined as in
Chan, Golub, LeVeque (1983), *Algorithms for computing the sample variance*. On the way back it sends the two sums that
couple the examples of a batch::

    xhat = (x - mean) * inv_std
    dx   = weight * inv_std * (dy - sum(dy) / n - xhat * sum(dy * xhat) / n)

The sums over this rank's share are the gradients to bias and weight of the operator for inference, whose kernels do the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import functional
from ..backends import Backend, backend_of, to_numpy
from ..backends.protocol import Array
from ..functional.norm import BatchNormReluCache
from .communicator import Communicator

__all__ = ["SyncBatchNormCache", "sync_batch_norm", "sync_batch_norm_backward"]


class SyncBatchNormCache(NamedTuple):
    """What `sync_batch_norm_backward` needs of the forward call, and the updated running statistics."""

    comm: Communicator
    inner: Any  # the cache of the operator for inference
    scale: Array  # weight * inv_std / n, a number a channel
    mean: Array
    inv_std: Array
    running_mean: Array | None
    running_var: Array | None
    has_residual: bool


def sync_batch_norm(
    comm: Communicator,
    operator: Callable[..., Any],
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    momentum: float,
    eps: float,
    layout: str,
    **more: Any,
) -> tuple[Array, SyncBatchNormCache]:
    """``operator`` by the statistics of all ranks, which call this together.

    Parameters
    ----------
    operator
        `functional.batch_norm` or `functional.batch_norm_relu`; ``more`` is what the latter takes further.
    x : array (N, C) or (N, C, H, W), or (N, H, W, C)
        This rank's share; N may be 0.
    weight, bias, running_mean, running_var, momentum, eps, layout
        As for the operator.

    Returns
    -------
    y : array like x
    cache : SyncBatchNormCache

    Raises
    ------
    ValueError
        All ranks together have at most one number a channel.
    """
    backend = backend_of(x=x)
    xp, channels = backend.xp, x.shape[_channel_axis(x, layout)]
    ones, zeros = backend.full((channels,), 1.0, x.dtype), backend.zeros((channels,), x.dtype)
    with backend.running():
        count, mean, variance = _statistics(comm, backend, x, layout)
        if count < 2:
            raise ValueError(f"x: batch normalisation needs more than one number a channel, all ranks have {count}")
        scale = ones if weight is None else weight
        shift = zeros if bias is None else bias
        same: dict[str, Any] = {"training": False, "momentum": 0.0, "eps": eps, "layout": layout}
        y, inner = operator(x, scale, shift, mean, variance, **same, **more)
        inv_std = 1 / xp.sqrt(variance + eps)
        if running_mean is not None and running_var is not None:
            running_mean = running_mean + (mean - running_mean) * momentum
            running_var = running_var + (variance * (count / (count - 1)) - running_var) * momentum
        scale = scale * inv_std * (1 / count)
    has_residual = more.get("residual") is not None
    return y, SyncBatchNormCache(comm, inner, scale, mean, inv_std, running_mean, running_var, has_residual)


def sync_batch_norm_backward(dy: Array, cache: SyncBatchNormCache) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of `sync_batch_norm`.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to this rank's share of the result.

    Returns
    -------
    dx : array like x
    dweight, dbias : array (C,)
        Of this rank's share: the gradients of all ranks together are their sum.
    dresidual : array like x or None
    """
    inner, dresidual = cache.inner, None
    if isinstance(inner, BatchNormReluCache):
        dx, dweight, dbias, dresidual = functional.batch_norm_relu_backward(dy, inner)
    else:
        dx, dweight, dbias = functional.batch_norm_backward(dy, inner)
    backend = backend_of(dx=dx)
    channels = cache.mean.shape[0]
    with backend.running():
        sums = cache.comm.allreduce_mean(backend.xp.concat([dweight, dbias])) * cache.comm.size
        shape = [1] * len(inner.x.shape)
        shape[_channel_axis(inner.x, inner.layout)] = channels
        vectors = sums[:channels], sums[channels:], cache.scale, cache.mean, cache.inv_std
        dweights, dbiases, scale, mean, inv_std = (backend.reshape(vector, tuple(shape)) for vector in vectors)
        dx = dx - scale * (dbiases + (inner.x - mean) * inv_std * dweights)
    return dx, dweight, dbias, dresidual


def _channel_axis(x: Array, layout: str) -> int:
    return 1 if layout == "NCHW" or len(x.shape) == 2 else len(x.shape) - 1


def _statistics(comm: Communicator, backend: Backend, x: Array, layout: str) -> tuple[int, Array, Array]:
    """Numbers a channel over all ranks, and the mean and (biased) variance of each channel (C,)."""
    xp, axis = backend.xp, _channel_axis(x, layout)
    others = tuple(k for k in range(len(x.shape)) if k != axis)
    channels = x.shape[axis]
    own = math.prod(x.shape) // channels
    if own:
        wide = backend.accumulator(x)
        mean = xp.mean(backend.astype(x, wide), axis=others, keepdims=True)
        variance = xp.mean((backend.astype(x, wide) - mean) ** 2, axis=others)
        mean = backend.reshape(mean, (channels,))
    else:
        mean = variance = backend.zeros((channels,), backend.accumulator(x))
    rows = comm.allgather(xp.concat([backend.full((1,), float(own), mean.dtype), mean, variance]))
    if backend.on_host:  # combined in double precision, which costs nothing for a few numbers
        host = to_numpy(rows).astype(np.float64)
        counts, means, variances = host[:, :1], host[:, 1 : channels + 1], host[:, channels + 1 :]
        total = counts.sum()
        mean_all = (counts * means).sum(axis=0) / max(total, 1)
        var_all = (counts * (variances + (means - mean_all) ** 2)).sum(axis=0) / max(total, 1)
        name = backend.dtype_name(x)
        return int(total), backend.asarray(mean_all, name), backend.asarray(var_all, name)
    counts, means, variances = rows[:, :1], rows[:, 1 : channels + 1], rows[:, channels + 1 :]
    total = xp.sum(counts)
    mean_all = xp.sum(counts * means, axis=0) / total
    var_all = xp.sum(counts * (variances + (means - mean_all) ** 2), axis=0) / total
    return int(to_numpy(total)), backend.astype(mean_all, x.dtype), backend.astype(var_all, x.dtype)
