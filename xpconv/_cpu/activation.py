"""Activations by compiled loops; results have the memory order of what they are made of, channel-major images too."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend
from . import _kernels
from ._flat import flat, restored
from ._memory import empty

__all__ = [
    "add",
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "multiply",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "tanh",
    "tanh_backward",
]

_activate = _kernels.activate
_RELU, _RELU_BACKWARD = _kernels.RELU, _kernels.RELU_BACKWARD
_LEAKY_RELU, _LEAKY_RELU_BACKWARD = _kernels.LEAKY_RELU, _kernels.LEAKY_RELU_BACKWARD


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a + b`` of one shape and dtype, float32 or float64; laid out like a."""
    return _backward(_kernels.SUM, b, a)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a * b`` of one shape and dtype, float32 or float64; laid out like a."""
    return _backward(_kernels.PRODUCT, b, a)


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


def sigmoid(backend: Backend, x: Array) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``."""
    return _forward(_kernels.SIGMOID, x)


def sigmoid_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy * y * (1 - y)``, y the result."""
    return _backward(_kernels.SIGMOID_BACKWARD, dy, y)


def tanh(backend: Backend, x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x, out=empty(x.shape, x.dtype)) if x.flags.c_contiguous else np.tanh(x)  # as fast as a loop here


def tanh_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy * (1 - y**2)``, y the result."""
    return _backward(_kernels.TANH_BACKWARD, dy, y)


def silu(backend: Backend, x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return _forward(_kernels.SILU, x)


def silu_backward(backend: Backend, dy: Array, x: Array) -> Array:
    """``dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    return _backward(_kernels.SILU_BACKWARD, dy, x)


def gelu(backend: Backend, x: Array) -> Array:
    """``x * Phi(x)``, exact to rounding."""
    return _forward(_kernels.GELU, x)


def gelu_backward(backend: Backend, dy: Array, x: Array) -> Array:
    """``dy * (Phi(x) + x * exp(-x**2 / 2) / sqrt(2 pi))``."""
    return _backward(_kernels.GELU_BACKWARD, dy, x)
