"""Activations: each applies its function to every number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import functional
from .._checks import check_number
from ..backends.protocol import Array
from ..functional.activation import check_bounds
from .base import Layer

__all__ = ["GELU", "Hardtanh", "LeakyReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Tanh"]


class _Activation(Layer):
    """An activation without parameters: a function of `xpconv.functional` and its backward."""

    _function: Callable[..., tuple[Array, Any]]
    _backward: Callable[..., Array]

    def forward(self, x: Array) -> Array:
        """The function of every number, in the shape of ``x``."""
        y, cache = self._function(x)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` times the derivative."""
        return self._backward(dy, self.pop())


class ReLU(_Activation):
    """``max(x, 0)``."""

    _function = staticmethod(functional.relu)
    _backward = staticmethod(functional.relu_backward)


class LeakyReLU(Layer):
    """``x`` where it is positive, ``negative_slope * x`` elsewhere.

    Parameters
    ----------
    negative_slope : float
        Factor of negative numbers.

    Raises
    ------
    TypeError, ValueError
        The slope is not a finite number.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = check_number("negative_slope", negative_slope, -math.inf)

    def forward(self, x: Array) -> Array:
        """The function of every number, in the shape of ``x``."""
        y, cache = functional.leaky_relu(x, negative_slope=self.negative_slope)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` times the derivative."""
        return functional.leaky_relu_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"negative_slope={self.negative_slope}"


class Hardtanh(Layer):
    """``min(max(x, min_val), max_val)``.

    Parameters
    ----------
    min_val, max_val : float
        The first smaller than the second; infinite for no bound.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = check_bounds(min_val, max_val)

    def forward(self, x: Array) -> Array:
        """The function of every number, in the shape of ``x``."""
        y, cache = functional.hardtanh(x, self.min_val, self.max_val)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` where the number was strictly between the bounds, else 0."""
        return functional.hardtanh_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ReLU6(Hardtanh):
    """``min(max(x, 0), 6)`` (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(self) -> None:
        super().__init__(0.0, 6.0)

    def extra_repr(self) -> str:
        """Nothing: it has no arguments."""
        return ""


class GELU(_Activation):
    """``x`` times the normal distribution function of ``x``; exact, no tanh."""

    _function = staticmethod(functional.gelu)
    _backward = staticmethod(functional.gelu_backward)


class SiLU(_Activation):
    """``x * sigmoid(x)``."""

    _function = staticmethod(functional.silu)
    _backward = staticmethod(functional.silu_backward)


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``."""

    _function = staticmethod(functional.sigmoid)
    _backward = staticmethod(functional.sigmoid_backward)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    _function = staticmethod(functional.tanh)
    _backward = staticmethod(functional.tanh_backward)
