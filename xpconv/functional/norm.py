"""Normalisation by the mean and the standard deviation of a channel, of a layer, or of a group of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .._checks import check_integer, check_number
from .._geometry import check_layout
from ..backends import backend_of, run
from ..backends.protocol import Array, Backend
from ._arguments import check_cache, check_gradient, check_shape, floating_backend, reshaped

__all__ = [
    "BatchNormCache",
    "BatchNormReluCache",
    "GroupNormCache",
    "LayerNormCache",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
]


class BatchNormCache(NamedTuple):
    """What `batch_norm_backward` needs of the forward call, and the updated running statistics.

    Attributes
    ----------
    x : array (N, C) or (N, C, H, W), or (N, H, W, C)
        The argument.
    weight : array (C,) or None
        The argument.
    has_bias : bool
        Whether there is a gradient of the bias.
    mean, inv_std : array (C,)
        What x was normalised by: the mean, and 1 / sqrt(var + eps).
    training : bool
        Whether these are moments of x.
    running_mean, running_var : array (C,) or None
        The running statistics after the call: new arrays when training, else those passed in; None if None was.
    layout : str
        In which order x has its axes.
    """

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inv_std: Array
    training: bool
    running_mean: Array | None
    running_var: Array | None
    layout: str


class BatchNormReluCache(NamedTuple):
    """What `batch_norm_relu_backward` needs of the forward call, and the updated running statistics.

    Attributes
    ----------
    x : array (N, C) or (N, C, H, W), or (N, H, W, C)
        The argument.
    y : array like x
        The result.
    weight : array (C,) or None
        The argument.
    has_bias, has_residual : bool
        Whether there are gradients of them.
    mean, inv_std : array (C,)
        What x was normalised by: the mean, and 1 / sqrt(var + eps).
    training : bool
        Whether these are moments of x.
    running_mean, running_var : array (C,) or None
        The running statistics after the call, as those of `BatchNormCache`.
    layout : str
        In which order x has its axes.
    """

    x: Array
    y: Array
    weight: Array | None
    has_bias: bool
    has_residual: bool
    mean: Array
    inv_std: Array
    training: bool
    running_mean: Array | None
    running_var: Array | None
    layout: str


_LAYOUTS = ("NCHW", "NHWC")


def _check_channels(channels: int, **vectors: Array | None) -> None:
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            check_shape(name, vector, (channels,), "(C,)")


def _flat(backend: Backend, x: Array, layout: str) -> Array:
    """Images (N, C, ...) or (N, ..., C) as (N, C, L), a batch (N, C) as (1, C, N): views, if pixels can be one axis."""
    xp = backend.xp
    if len(x.shape) == 2:
        return xp.matrix_transpose(x)[None, :, :]
    if layout == "NCHW":
        return reshaped(backend, x, (x.shape[0], x.shape[1], math.prod(x.shape[2:])))
    return xp.matrix_transpose(reshaped(backend, x, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])))


def _unflat(backend: Backend, y: Array, shape: tuple[int, ...], layout: str) -> Array:
    """Inverse of `_flat`, for images of ``shape``."""
    xp = backend.xp
    if len(shape) == 2:
        return xp.matrix_transpose(y[0, :, :])
    return reshaped(backend, y if layout == "NCHW" else xp.matrix_transpose(y), shape)


def _check_running(backend: Backend, x: Array, **statistics: Array | None) -> None:
    """Running statistics are on the backend of x, in its dtype or in the one that sums of it are made in."""
    backend_of(x=x, **statistics)
    for name, running in statistics.items():
        if running is None or running.dtype is x.dtype:
            continue
        own = backend.dtype_name(x)
        allowed = (own,) if backend.accumulator(x) == x.dtype else (own, "float32")
        if backend.dtype_name(running) not in allowed:
            raise TypeError(
                f"{name}: expected {' or '.join(allowed)}, since x is {own}, got {backend.dtype_name(running)}"
            )


class _Normalised(NamedTuple):
    """What both operators on batches find: the result (N, C, L), the moments it was made with, and what is kept."""

    y: Array
    mean: Array
    inv_std: Array
    running_mean: Array | None
    running_var: Array | None


def _normalised(
    operator: str,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    beside: tuple[Array | None, ...],
    training: bool,
    momentum: float,
    eps: float,
    layout: str,
) -> _Normalised:
    """Check the arguments and run ``operator``, or the one for inference; ``beside`` are its arrays behind the bias."""
    backend = floating_backend(x=x, weight=weight, bias=bias)
    _check_running(backend, x, running_mean=running_mean, running_var=running_var)
    check_layout("layout", layout, _LAYOUTS)
    shape = tuple(x.shape)
    if len(shape) not in (2, 4):
        axes = ", ".join(layout)
        raise ValueError(f"x: expected 2 dimensions (N, C) or 4 ({axes}), got {len(shape)} with shape {shape}")
    flat = _flat(backend, x, layout)
    _check_channels(flat.shape[1], weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    momentum = check_number("momentum", momentum, 0, 1)
    eps = check_number("eps", eps, 0)
    if training:
        count = flat.shape[0] * flat.shape[2]
        if count < 2:
            raise ValueError(f"x: training needs more than one value per channel, got {count} with shape {shape}")
        arguments = (flat, weight, bias, *beside, running_mean, running_var, momentum, eps)
        y, mean, _, inv_std, running_mean, running_var = run(backend, operator, *arguments)
    else:
        for name, running in (("running_mean", running_mean), ("running_var", running_var)):
            if running is None:
                raise ValueError(f"{name}: with training=False x is normalised by the running statistics, got None")
        mean = running_mean
        y, inv_std = run(backend, f"{operator}_inference", flat, weight, bias, *beside, running_mean, running_var, eps)
    return _Normalised(_unflat(backend, y, shape, layout), mean, inv_std, running_mean, running_var)


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    layout: str = "NCHW",
) -> tuple[Array, BatchNormCache]:
    """Normalise each channel over the batch (Ioffe, Szegedy 2015): ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Parameters
    ----------
    x : array (N, C) or (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Floating-point; half precision is computed in float32.
    weight, bias : array (C,), optional
        Scale and shift, of the dtype of x; 1 and 0 if None.
    running_mean, running_var : array (C,), optional
        Running statistics, of the dtype of x, or float32 if that is half precision. Needed unless training.
    training : bool
        True: normalise by the moments of the batch and update the running statistics. False: normalise by the latter.
    momentum : float
        Weight of the new value in the running statistics, as in PyTorch: ``(1 - momentum) * old + momentum * new``.
        The running variance is the unbiased one (divided by n - 1); the batch is normalised by the biased one.
    eps : float
        Added to the variance.
    layout : str
        ``"NCHW"`` or ``"NHWC"``, for x of four dimensions and the result. NumPy's operators read either where it lies;
        the CUDA kernels copy images whose channels are the innermost in memory.

    Returns
    -------
    y : array like x
        In the memory order of x.
    cache : BatchNormCache
        For `batch_norm_backward`; ``cache.running_mean`` and ``cache.running_var`` are the updated statistics. What
        was passed in is not modified.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also when training with a single value per
        channel, whose variance is undefined, or when not training without running statistics.
    """
    y, mean, inv_std, running_mean, running_var = _normalised(
        "batch_norm", x, weight, bias, running_mean, running_var, (), training, momentum, eps, layout
    )
    has_bias, training = bias is not None, bool(training)
    return y, BatchNormCache(x, weight, has_bias, mean, inv_std, training, running_mean, running_var, layout)


def batch_norm_backward(dy: Array, cache: BatchNormCache) -> tuple[Array, Array | None, Array | None]:
    """Gradients of `batch_norm`; when training, through the moments of the batch too.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : BatchNormCache
        From `batch_norm`.

    Returns
    -------
    dx : array like x
    dw, db : array (C,), or None where weight or bias was None

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, BatchNormCache)
    shape, layout = tuple(cache.x.shape), cache.layout
    backend = check_gradient(dy, cache.x, shape)
    dx, dw, db = run(
        backend,
        "batch_norm_backward",
        _flat(backend, dy, layout),
        _flat(backend, cache.x, layout),
        cache.weight,
        cache.mean,
        cache.inv_std,
        cache.training,
    )
    return _unflat(backend, dx, shape, layout), None if cache.weight is None else dw, db if cache.has_bias else None


def batch_norm_relu(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    residual: Array | None = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    layout: str = "NCHW",
) -> tuple[Array, BatchNormReluCache]:
    """``relu(batch_norm(x) + residual)`` in one pass over the memory, where there is a kernel for it.

    Parameters
    ----------
    x : array (N, C) or (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Floating-point; half precision is computed in float32.
    weight, bias : array (C,), optional
        Scale and shift, of the dtype of x; 1 and 0 if None.
    running_mean, running_var : array (C,), optional
        Running statistics, as for `batch_norm`. Needed unless training.
    residual : array like x, optional
        What is added before the ReLU, as at the end of a residual block; nothing if None. It is never broadcast.
    training, momentum, eps, layout
        As for `batch_norm`.

    Returns
    -------
    y : array like x
        In the memory order of x. The way back reads it, so it must not be written to before.
    cache : BatchNormReluCache
        For `batch_norm_relu_backward`; it has the updated statistics, as that of `batch_norm`.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`; also for a residual of another shape, dtype or backend than x.
    """
    beside = None
    if residual is not None:
        backend = floating_backend(x=x, residual=residual)
        check_layout("layout", layout, _LAYOUTS)
        check_shape("residual", residual, tuple(x.shape), "like x")
        beside = _flat(backend, residual, layout)
    y, mean, inv_std, running_mean, running_var = _normalised(
        "batch_norm_relu", x, weight, bias, running_mean, running_var, (beside,), training, momentum, eps, layout
    )
    cache = BatchNormReluCache(
        x,
        y,
        weight,
        bias is not None,
        residual is not None,
        mean,
        inv_std,
        bool(training),
        running_mean,
        running_var,
        layout,
    )
    return y, cache


def batch_norm_relu_backward(
    dy: Array, cache: BatchNormReluCache
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Gradients of `batch_norm_relu`; when training, through the moments of the batch too.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result. It counts where that is positive; what it is elsewhere is lost, even NaN.
    cache : BatchNormReluCache
        From `batch_norm_relu`.

    Returns
    -------
    dx : array like x
    dw, db : array (C,), or None where weight or bias was None
    dresidual : array like x, or None where there was no residual
        dy where the result is positive, else 0.

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, BatchNormReluCache)
    shape, layout = tuple(cache.x.shape), cache.layout
    backend = check_gradient(dy, cache.x, shape)
    dx, dw, db, dresidual = run(
        backend,
        "batch_norm_relu_backward",
        *(_flat(backend, array, layout) for array in (dy, cache.y, cache.x)),
        cache.weight,
        cache.mean,
        cache.inv_std,
        cache.training,
        cache.has_residual,
    )
    return (
        _unflat(backend, dx, shape, layout),
        None if cache.weight is None else dw,
        db if cache.has_bias else None,
        None if dresidual is None else _unflat(backend, dresidual, shape, layout),
    )


class LayerNormCache(NamedTuple):
    """What `layer_norm_backward` needs of the forward call.

    Attributes
    ----------
    x : array (..., normalized_shape)
        The argument.
    weight : array of shape normalized_shape, or None
        The argument.
    has_bias : bool
        Whether there is a gradient of the bias.
    mean, inv_std : array (rows, 1)
        Of each sample, those of x in C order.
    normalized_shape : tuple of int
        Lengths of the last axes.
    """

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inv_std: Array
    normalized_shape: tuple[int, ...]


def layer_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    *,
    normalized_shape: int | Sequence[int] | None = None,
    eps: float = 1e-5,
) -> tuple[Array, LayerNormCache]:
    """Normalise each example over its last axes (Ba, Kiros, Hinton 2016).

    Parameters
    ----------
    x : array (..., normalized_shape)
        Floating-point; half precision is computed in float32.
    weight, bias : array of shape normalized_shape, optional
        Scale and shift, of the dtype of x; 1 and 0 if None.
    normalized_shape : int or sequence of int, optional
        Lengths of the axes to normalise over; the shape of weight, or of bias, if None.
    eps : float
        Added to the variance.

    Returns
    -------
    y : array like x
    cache : LayerNormCache
        For `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend = floating_backend(x=x, weight=weight, bias=bias)
    if normalized_shape is not None:
        lengths = normalized_shape if isinstance(normalized_shape, (list, tuple)) else (normalized_shape,)
        axes = tuple(check_integer("normalized_shape", n, 1, takes="an integer or several") for n in lengths)
    elif weight is not None or bias is not None:
        axes = tuple((bias if weight is None else weight).shape)  # type: ignore[union-attr]
    else:
        raise ValueError("normalized_shape: needed where weight and bias are None")
    if x is None:
        raise TypeError("x: expected an array (..., *normalized_shape), got None")
    shape = tuple(x.shape)
    if not axes or shape[-len(axes) :] != axes or 0 in axes:
        raise ValueError(f"x: the last axes must be {axes}, at least one and none of length 0, got shape {shape}")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            check_shape(name, vector, axes, "like the last axes of x")
    eps = check_number("eps", eps, 0)
    length = math.prod(axes)
    flat_weight, flat_bias = (None if v is None else reshaped(backend, v, (length,)) for v in (weight, bias))
    rows = reshaped(backend, x, (math.prod(shape[: -len(axes)]), length))
    y, mean, inv_std = run(backend, "layer_norm", rows, flat_weight, flat_bias, eps)
    return reshaped(backend, y, shape), LayerNormCache(x, flat_weight, bias is not None, mean, inv_std, axes)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array | None, Array | None]:
    """Gradients of `layer_norm`.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : LayerNormCache
        From `layer_norm`.

    Returns
    -------
    dx : array like x
    dw, db : array of shape normalized_shape, or None where weight or bias was None

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, LayerNormCache)
    x, weight, has_bias, mean, inv_std, axes = cache
    shape = tuple(x.shape)
    backend = check_gradient(dy, x, shape)
    rows = (math.prod(shape[: -len(axes)]), math.prod(axes))
    arrays = (reshaped(backend, dy, rows), reshaped(backend, x, rows), weight, mean, inv_std)
    dx, dw, db = run(backend, "layer_norm_backward", *arrays)
    return (
        reshaped(backend, dx, shape),
        None if weight is None else reshaped(backend, dw, axes),
        reshaped(backend, db, axes) if has_bias else None,
    )


class GroupNormCache(NamedTuple):
    """What `group_norm_backward` and `instance_norm_backward` need of the forward call.

    Attributes
    ----------
    x : array (N, C, ...)
        The argument.
    weight : array (C,) or None
        The argument.
    has_bias : bool
        Whether there is a gradient of the bias.
    mean, inv_std : array (N * num_groups, 1)
        Of each group of each example.
    num_groups : int
        The argument; C for `instance_norm`.
    """

    x: Array
    weight: Array | None
    has_bias: bool
    mean: Array
    inv_std: Array
    num_groups: int


def group_norm(
    x: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, GroupNormCache]:
    """Normalise each group of channels of each example (Wu, He 2018).

    Parameters
    ----------
    x : array (N, C, ...)
        Floating-point; half precision is computed in float32.
    num_groups : int
        Into how many groups the channels are cut; divides C.
    weight, bias : array (C,), optional
        Scale and shift, of the dtype of x; 1 and 0 if None.
    eps : float
        Added to the variance.

    Returns
    -------
    y : array like x
    cache : GroupNormCache
        For `group_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend = floating_backend(x=x, weight=weight, bias=bias)
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise ValueError(f"x: expected at least 2 dimensions (N, C, ...), got {len(shape)} with shape {shape}")
    num_groups = check_integer("num_groups", num_groups, 1)
    if shape[1] % num_groups:
        raise ValueError(f"num_groups: {num_groups} must divide the channels of x, got {shape[1]}")
    if 0 in shape[1:]:
        raise ValueError(f"x: examples need at least one channel and one pixel, got shape {shape}")
    _check_channels(shape[1], weight=weight, bias=bias)
    eps = check_number("eps", eps, 0)
    images = reshaped(backend, x, _images(shape))
    y, mean, inv_std = run(backend, "group_norm", images, weight, bias, num_groups, eps)
    return reshaped(backend, y, shape), GroupNormCache(x, weight, bias is not None, mean, inv_std, num_groups)


def _images(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(N, C, L) for the shape (N, C, ...)."""
    return shape[0], shape[1], math.prod(shape[2:])


def group_norm_backward(dy: Array, cache: GroupNormCache) -> tuple[Array, Array | None, Array | None]:
    """Gradients of `group_norm`.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : GroupNormCache
        From `group_norm`.

    Returns
    -------
    dx : array like x
    dw, db : array (C,), or None where weight or bias was None

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, GroupNormCache)
    x, weight, has_bias, mean, inv_std, num_groups = cache
    shape = tuple(x.shape)
    backend = check_gradient(dy, x, shape)
    images = _images(shape)
    dx, dw, db = run(
        backend,
        "group_norm_backward",
        reshaped(backend, dy, images),
        reshaped(backend, x, images),
        weight,
        mean,
        inv_std,
        num_groups,
    )
    return reshaped(backend, dx, shape), None if weight is None else dw, db if has_bias else None


def instance_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, GroupNormCache]:
    """Normalise each channel of each example by itself (Ulyanov, Vedaldi, Lempitsky 2016).

    Parameters
    ----------
    x : array (N, C, L) or (N, C, H, W)
        Floating-point, more than one pixel a channel; half precision is computed in float32.
    weight, bias : array (C,), optional
        Scale and shift, of the dtype of x; 1 and 0 if None.
    eps : float
        Added to the variance.

    Returns
    -------
    y : array like x
    cache : GroupNormCache
        For `instance_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    floating_backend(x=x, weight=weight, bias=bias)
    shape = tuple(x.shape)
    if len(shape) < 3:
        raise ValueError(f"x: expected at least 3 dimensions (N, C, ...), got {len(shape)} with shape {shape}")
    if math.prod(shape[2:]) < 2:
        raise ValueError(f"x: a channel needs more than one pixel, got shape {shape}")
    if shape[1] == 0:
        raise ValueError(f"x: needs at least one channel, got shape {shape}")
    return group_norm(x, shape[1], weight, bias, eps=eps)


def instance_norm_backward(dy: Array, cache: GroupNormCache) -> tuple[Array, Array | None, Array | None]:
    """Gradients of `instance_norm`: those of `group_norm` with a group for each channel.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : GroupNormCache
        From `instance_norm`.

    Returns
    -------
    dx : array like x
    dw, db : array (C,), or None where weight or bias was None

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    return group_norm_backward(dy, cache)
