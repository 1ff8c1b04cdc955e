"""Bias and activations, by CUDA kernels."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import flat, index_for, launch, wide_scalar

__all__ = [
    "add_bias",
    "add_bias_to_rows",
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "tanh",
    "tanh_backward",
]


def add_bias(backend: GpuBackend, y: Array, b: Array) -> None:
    """Add ``b[f]`` to row f of the matrix ``y``, in place."""
    index = index_for(y.size)
    arguments = (y, backend.contiguous(b), index.scalar(y.shape[1]), index.scalar(y.size))
    launch(backend, "elementwise", "add_bias", backend.dtype_name(y), (index.name,), y.size, arguments)


def add_bias_to_rows(backend: GpuBackend, y: Array, b: Array) -> None:
    """Add the vector ``b`` to every row of the matrix ``y``, in place."""
    index = index_for(y.size)
    arguments = (y, backend.contiguous(b), index.scalar(y.shape[1]), index.scalar(y.size))
    launch(backend, "elementwise", "add_bias_to_rows", backend.dtype_name(y), (index.name,), y.size, arguments)


def _forward(backend: GpuBackend, name: str, x: Array, parameter: float = 0.0) -> Array:
    memory = flat(backend, x)
    (source,) = memory.arrays
    y, index = backend.empty(source.shape, x.dtype), index_for(x.size)
    arguments = (source, y, wide_scalar(backend, x)(parameter), index.scalar(x.size))
    launch(backend, "elementwise", "activate", backend.dtype_name(x), (index.name, name), x.size, arguments)
    return memory.restore(backend, y)


def _backward(backend: GpuBackend, name: str, dy: Array, kept: Array, parameter: float = 0.0) -> Array:
    memory = flat(backend, kept, dy)
    source, gradient = memory.arrays
    dx, index = backend.empty(source.shape, dy.dtype), index_for(dy.size)
    arguments = (gradient, source, dx, wide_scalar(backend, dy)(parameter), index.scalar(dy.size))
    launch(backend, "elementwise", "activate_backward", backend.dtype_name(dy), (index.name, name), dy.size, arguments)
    return memory.restore(backend, dx)


def relu(backend: GpuBackend, x: Array) -> Array:
    """``max(x, 0)``."""
    return _forward(backend, "Relu", x)


def relu_backward(backend: GpuBackend, dy: Array, y: Array) -> Array:
    """``dy`` where the result y is positive, else 0."""
    return _backward(backend, "Relu", dy, y)


def leaky_relu(backend: GpuBackend, x: Array, negative_slope: float) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``."""
    return _forward(backend, "LeakyRelu", x, negative_slope)


def leaky_relu_backward(backend: GpuBackend, dy: Array, x: Array, negative_slope: float) -> Array:
    """``dy`` where x is positive, else ``negative_slope * dy``."""
    return _backward(backend, "LeakyRelu", dy, x, negative_slope)


def tanh(backend: GpuBackend, x: Array) -> Array:
    """Hyperbolic tangent."""
    return _forward(backend, "Tanh", x)


def tanh_backward(backend: GpuBackend, dy: Array, y: Array) -> Array:
    """``dy * (1 - y**2)``, y the result."""
    return _backward(backend, "Tanh", dy, y)


def sigmoid(backend: GpuBackend, x: Array) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``."""
    return _forward(backend, "Sigmoid", x)


def sigmoid_backward(backend: GpuBackend, dy: Array, y: Array) -> Array:
    """``dy * y * (1 - y)``, y the result."""
    return _backward(backend, "Sigmoid", dy, y)


def silu(backend: GpuBackend, x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return _forward(backend, "Silu", x)


def silu_backward(backend: GpuBackend, dy: Array, x: Array) -> Array:
    """``dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    return _backward(backend, "Silu", dy, x)


def gelu(backend: GpuBackend, x: Array) -> Array:
    """``x * Phi(x)``, exact to rounding."""
    return _forward(backend, "Gelu", x)


def gelu_backward(backend: GpuBackend, dy: Array, x: Array) -> Array:
    """``dy * (Phi(x) + x * exp(-x**2 / 2) / sqrt(2 pi))``."""
    return _backward(backend, "Gelu", dy, x)
