"""Steps of optimizers, by CUDA kernels, one launch for a parameter.

``lr`` (and Adam's ``step``) may be a number, or an array of one element on the device: float64 for float64 parameters,
else float32; int64 for the step. Then nothing of a step comes from the host, and a captured graph can be replayed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import index_for, launch, wide_scalar

__all__ = ["adam_step", "rmsprop_step", "sgd_step"]


def _device_or_value(value: Any, scalar: Any) -> tuple[Array | None, np.generic]:
    """Arguments for a number that is read through a pointer unless that is null."""
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        return value, scalar(0)
    return None, scalar(value)


def _updated(backend: GpuBackend, kernel: str, p: Array, arrays: list[Array | None], numbers: tuple[Any, ...]) -> None:
    """Run ``kernel`` on ``p``, ``arrays`` (the gradient, then state, updated in place) and numbers, then the size."""
    memory = [None if a is None else backend.contiguous(a) for a in (p, *arrays)]
    index = index_for(p.size)
    arguments = (*memory, *numbers, index.scalar(p.size))
    launch(backend, "optim", kernel, backend.dtype_name(p), (index.name,), p.size, arguments)
    for array, copy in zip((p, *arrays[1:]), (memory[0], *memory[2:]), strict=True):
        if copy is not array:  # it was not contiguous
            array[...] = copy


def sgd_step(
    backend: GpuBackend,
    p: Array,
    g: Array,
    velocity: Array | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> tuple[Array, Array | None]:
    """Gradient descent with momentum; returns (p, velocity)."""
    number = wide_scalar(backend, p)
    first = velocity is None
    if first and momentum:
        velocity = backend.empty(p.shape, p.dtype)
    numbers = (
        np.bool_(first),
        *_device_or_value(lr, number),
        number(momentum),
        number(1 - dampening),
        np.bool_(nesterov),
        number(weight_decay),
    )
    _updated(backend, "sgd_step", p, [g, velocity if momentum else None], numbers)
    return p, velocity


def rmsprop_step(
    backend: GpuBackend,
    p: Array,
    g: Array,
    square_avg: Array,
    momentum_buffer: Array | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Array, Array, Array | None]:
    """RMSprop; returns (p, square_avg, momentum_buffer)."""
    number = wide_scalar(backend, p)
    first = momentum_buffer is None
    if first and momentum:
        momentum_buffer = backend.empty(p.shape, p.dtype)
    numbers = (
        np.bool_(first),
        *_device_or_value(lr, number),
        *map(number, (alpha, 1 - alpha, eps, momentum, weight_decay)),
    )
    _updated(backend, "rmsprop_step", p, [g, square_avg, momentum_buffer if momentum else None], numbers)
    return p, square_avg, momentum_buffer


def _decay(beta: float, number: Any) -> np.ndarray:
    """The structure ``Decay`` of ``optim.cu``."""
    log = math.log(beta) if beta else -math.inf
    return np.array([beta, 1 - beta, log], number).view([("members", number, 3)])


def adam_step(
    backend: GpuBackend,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Array, Array, Array]:
    """Adam, or AdamW if decoupled; returns (p, m, v)."""
    number = wide_scalar(backend, p)
    numbers = (
        *_device_or_value(step, np.int64),
        *_device_or_value(lr, number),
        _decay(beta1, number),
        _decay(beta2, number),
        number(eps),
        number(weight_decay),
        np.bool_(decoupled),
    )
    _updated(backend, "adam_step", p, [g, m, v], numbers)
    return p, m, v
