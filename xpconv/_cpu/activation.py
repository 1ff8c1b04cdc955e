"""Activations by compiled loops; results have the memory order of what they are made of, channel-major images too."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels
from ._flat import flat, restored
from ._memory import empty

__all__ = ["leaky_relu", "leaky_relu_backward", "relu", "relu_backward"]

_activate = _kernels.activate
_RELU, _RELU_BACKWARD = _kernels.RELU, _kernels.RELU_BACKWARD
_LEAKY_RELU, _LEAKY_RELU_BACKWARD = _kernels.LEAKY_RELU, _kernels.LEAKY_RELU_BACKWARD


def _forward(function: int, x: np.ndarray, slope: float = 0.0) -> np.ndarray:
    if x.flags.c_contiguous:
        y = empty(x.shape, x.dtype)
        _activate(function, x, None, y, slope)
        return y
    (source,), axes = flat(x)
    return restored(_forward(function, source, slope), axes)


def _backward(function: int, dy: np.ndarray, kept: np.ndarray, slope: float = 0.0) -> np.ndarray:
    if kept.flags.c_contiguous and dy.flags.c_contiguous:
        dx = empty(dy.shape, dy.dtype)
        _activate(function, kept, dy, dx, slope)
        return dx
    (source, gradient), axes = flat(kept, dy)
    return restored(_backward(function, gradient, source, slope), axes)


def relu(backend: Backend, x: Array) -> Array:
    """``max(x, 0)``."""
    return _forward(_RELU, x)


def relu_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy`` where the result y is positive, else 0."""
    return _backward(_RELU_BACKWARD, dy, y)


def leaky_relu(backend: Backend, x: Array, negative_slope: float) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``."""
    if negative_slope == 0:
        return _forward(_RELU, x)  # a product of 0 and an infinity would be NaN
    return _forward(_LEAKY_RELU, x, negative_slope)


def leaky_relu_backward(backend: Backend, dy: Array, x: Array, negative_slope: float) -> Array:
    """``dy`` where x is positive, else ``negative_slope * dy``."""
    if negative_slope == 0:
        return _backward(_RELU_BACKWARD, dy, x)
    return _backward(_LEAKY_RELU_BACKWARD, dy, x, negative_slope)
