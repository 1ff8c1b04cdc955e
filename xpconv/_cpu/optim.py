"""Steps of optimizers and the norm of gradients by compiled loops: one call, and one pass, for all parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels
from ._memory import empty

__all__ = ["adam_steps", "rmsprop_steps", "sgd_steps", "squared_norm"]


class _Contiguous:
    """Lists of arrays for the kernels; what was updated in a copy is written back at the end of the block."""

    def __init__(self) -> None:
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> _Contiguous:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            for array, copy in self.copies:
                array[...] = copy

    def read(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [a if a.flags.c_contiguous else np.ascontiguousarray(a) for a in arrays]

    def updated(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        given = self.read(arrays)
        self.copies += [(array, copy) for array, copy in zip(arrays, given, strict=True) if copy is not array]
        return given


def _zeros(like: list[np.ndarray]) -> list[np.ndarray]:
    arrays = [empty(array.shape, array.dtype) for array in like]
    for array in arrays:
        array[...] = 0
    return arrays


def _number(value: Any) -> Any:
    """A number that may stand in an array of one element."""
    return value.item() if isinstance(value, np.ndarray) else value


def sgd_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    velocities: list[Array] | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> tuple[list[Array], list[Array] | None]:
    """Gradient descent with momentum; returns (params, velocities)."""
    if momentum and velocities is None:  # the first velocity is the gradient: from zero, and not damped
        velocities, dampening = _zeros(params), 0.0
    with _Contiguous() as lists:
        _kernels.sgd_steps(
            lists.updated(params),
            lists.read(grads),
            lists.updated(velocities) if momentum and velocities else None,
            _number(lr),
            momentum,
            dampening,
            nesterov,
            weight_decay,
        )
    return params, velocities


def rmsprop_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    square_avgs: list[Array],
    momentum_buffers: list[Array] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> tuple[list[Array], list[Array], list[Array] | None]:
    """RMSprop; returns (params, square_avgs, momentum_buffers)."""
    if momentum and momentum_buffers is None:
        momentum_buffers = _zeros(params)
    with _Contiguous() as lists:
        _kernels.rmsprop_steps(
            lists.updated(params),
            lists.read(grads),
            lists.updated(square_avgs),
            lists.updated(momentum_buffers) if momentum and momentum_buffers else None,
            _number(lr),
            alpha,
            eps,
            momentum,
            weight_decay,
        )
    return params, square_avgs, momentum_buffers


def adam_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    ms: list[Array],
    vs: list[Array],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Adam, or AdamW if decoupled; returns (params, ms, vs).

    A ``step`` that is an array is the number of the step before, and is counted up here.
    """
    if isinstance(step, np.ndarray):
        step += 1
    step = _number(step)
    with _Contiguous() as lists:
        _kernels.adam_steps(
            lists.updated(params),
            lists.read(grads),
            lists.updated(ms),
            lists.updated(vs),
            _number(lr),
            beta1,
            beta2,
            eps,
            weight_decay,
            1 - beta1**step,
            1 - beta2**step,
            decoupled,
        )
    return params, ms, vs


def squared_norm(backend: Backend, grads: list[Array]) -> Array:
    """Sum of the squares of all numbers, without axes; added up in float64."""
    with np.errstate(over="ignore"):  # beyond the dtype it is infinite, as the sum itself would be
        return np.asarray(_kernels.squared_norm(_Contiguous().read(grads)), grads[0].dtype)
