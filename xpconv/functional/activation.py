"""Activation functions, element by element."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._checks import check_number, is_number
from ..backends import run
from ..backends.protocol import Array, Backend
from ._arguments import check_cache, check_gradient, floating_backend

__all__ = [
    "ActivationCache",
    "HardtanhCache",
    "LeakyReluCache",
    "gelu",
    "gelu_backward",
    "hardtanh",
    "hardtanh_backward",
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


class ActivationCache(NamedTuple):
    """What the backward of an activation needs: the argument x for gelu and silu, the result y for the others.

    Attributes
    ----------
    kept : array like x
        x itself for gelu and silu, y for the others.
    """

    kept: Array


class LeakyReluCache(NamedTuple):
    """What `leaky_relu_backward` needs of the forward call.

    Attributes
    ----------
    x : array of any shape
        The argument.
    negative_slope : float
        The argument.
    """

    x: Array
    negative_slope: float


class HardtanhCache(NamedTuple):
    """What `hardtanh_backward` needs of the forward call.

    Attributes
    ----------
    y : array like x
        The result.
    min_val, max_val : float
        The bounds.
    """

    y: Array
    min_val: float
    max_val: float


def _run(backend: Backend, operator: str, *arguments: Any) -> Array:
    result = run(backend, operator, *arguments)
    return result if result.shape else backend.asarray(result)  # NumPy makes scalars of 0-d arrays


def _forward_keeping_x(operator: str, x: Array) -> tuple[Array, ActivationCache]:
    return _run(floating_backend(x=x), operator, x), ActivationCache(x)


def _forward_keeping_y(operator: str, x: Array) -> tuple[Array, ActivationCache]:
    y = _run(floating_backend(x=x), operator, x)
    return y, ActivationCache(y)


def _backward(operator: str, dy: Array, kept: Array) -> Array:
    return _run(check_gradient(dy, kept, kept.shape), operator, dy, kept)


def relu(x: Array) -> tuple[Array, ActivationCache]:
    """``max(x, 0)``; NaN stays NaN.

    Parameters
    ----------
    x : array
        Of any shape, floating-point.

    Returns
    -------
    y : array like x
    cache : ActivationCache
        For `relu_backward`. It keeps y, which must not be overwritten before.

    Raises
    ------
    TypeError
        x is not a floating-point array.
    """
    return _forward_keeping_y("relu", x)


def relu_backward(dy: Array, cache: ActivationCache) -> Array:
    """``dy`` where x was positive, else 0 (NaN where dy is infinite).

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : ActivationCache
        From `relu`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ActivationCache)
    return _backward("relu_backward", dy, cache.kept)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> tuple[Array, LeakyReluCache]:
    """``x`` where it is positive, else ``negative_slope * x``.

    Parameters
    ----------
    x : array
        Of any shape, floating-point.
    negative_slope : float

    Returns
    -------
    y : array like x
    cache : LeakyReluCache
        For `leaky_relu_backward`.

    Raises
    ------
    TypeError, ValueError
        x is not a floating-point array, or negative_slope no finite number.
    """
    backend = floating_backend(x=x)
    negative_slope = check_number("negative_slope", negative_slope, -math.inf)
    return _run(backend, "leaky_relu", x, negative_slope), LeakyReluCache(x, negative_slope)


def leaky_relu_backward(dy: Array, cache: LeakyReluCache) -> Array:
    """``dy`` where x was positive, else ``negative_slope * dy``.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : LeakyReluCache
        From `leaky_relu`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, LeakyReluCache)
    x, negative_slope = cache
    return _run(check_gradient(dy, x, x.shape), "leaky_relu_backward", dy, x, negative_slope)


def gelu(x: Array) -> tuple[Array, ActivationCache]:
    """``x * Phi(x)``, Phi the normal distribution function (Hendrycks, Gimpel 2016); exact, not the tanh formula.

    Parameters
    ----------
    x : array
        Of any shape, floating-point; half precision is computed in float32.

    Returns
    -------
    y : array like x
    cache : ActivationCache
        For `gelu_backward`. It keeps x.

    Raises
    ------
    TypeError
        x is not a floating-point array.
    """
    return _forward_keeping_x("gelu", x)


def gelu_backward(dy: Array, cache: ActivationCache) -> Array:
    """``dy * (Phi(x) + x * phi(x))``, phi the normal density.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : ActivationCache
        From `gelu`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ActivationCache)
    return _backward("gelu_backward", dy, cache.kept)


def silu(x: Array) -> tuple[Array, ActivationCache]:
    """``x * sigmoid(x)``, also known as swish.

    Parameters
    ----------
    x : array
        Of any shape, floating-point; half precision is computed in float32.

    Returns
    -------
    y : array like x
    cache : ActivationCache
        For `silu_backward`. It keeps x.

    Raises
    ------
    TypeError
        x is not a floating-point array.
    """
    return _forward_keeping_x("silu", x)


def silu_backward(dy: Array, cache: ActivationCache) -> Array:
    """``dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : ActivationCache
        From `silu`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ActivationCache)
    return _backward("silu_backward", dy, cache.kept)


def sigmoid(x: Array) -> tuple[Array, ActivationCache]:
    """``1 / (1 + exp(-x))``, for x of any size.

    Parameters
    ----------
    x : array
        Of any shape, floating-point; half precision is computed in float32.

    Returns
    -------
    y : array like x
    cache : ActivationCache
        For `sigmoid_backward`. It keeps y, which must not be overwritten before.

    Raises
    ------
    TypeError
        x is not a floating-point array.
    """
    return _forward_keeping_y("sigmoid", x)


def sigmoid_backward(dy: Array, cache: ActivationCache) -> Array:
    """``dy * y * (1 - y)``.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : ActivationCache
        From `sigmoid`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ActivationCache)
    return _backward("sigmoid_backward", dy, cache.kept)


def check_bounds(min_val: object, max_val: object) -> tuple[float, float]:
    """The bounds of `hardtanh` as floats, which may be infinite; the first must be the smaller one."""
    for name, value in (("min_val", min_val), ("max_val", max_val)):
        if not is_number(value):
            raise TypeError(f"{name}: expected a number, got {value!r:.200}")
    low, high = float(min_val), float(max_val)  # type: ignore[arg-type]
    if not low < high:
        raise ValueError(f"min_val, max_val: the first must be smaller than the second, got {low} and {high}")
    return low, high


def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0) -> tuple[Array, HardtanhCache]:
    """``min(max(x, min_val), max_val)``; NaN stays NaN. From 0 to 6 it is ReLU6.

    Parameters
    ----------
    x : array
        Of any shape, floating-point.
    min_val, max_val : float
        The first smaller than the second; infinite for no bound.

    Returns
    -------
    y : array like x
    cache : HardtanhCache
        For `hardtanh_backward`. It keeps y, which must not be overwritten before.

    Raises
    ------
    TypeError, ValueError
        x is not a floating-point array, a bound is not a number, or the bounds are in the wrong order.
    """
    backend = floating_backend(x=x)
    low, high = check_bounds(min_val, max_val)
    y = _run(backend, "hardtanh", x, low, high)
    return y, HardtanhCache(y, low, high)


def hardtanh_backward(dy: Array, cache: HardtanhCache) -> Array:
    """``dy`` where x was strictly between the bounds, else 0.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : HardtanhCache
        From `hardtanh`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, HardtanhCache)
    y, low, high = cache
    return _run(check_gradient(dy, y, y.shape), "hardtanh_backward", dy, y, low, high)


def tanh(x: Array) -> tuple[Array, ActivationCache]:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : array
        Of any shape, floating-point.

    Returns
    -------
    y : array like x
    cache : ActivationCache
        For `tanh_backward`. It keeps y, which must not be overwritten before.

    Raises
    ------
    TypeError
        x is not a floating-point array.
    """
    return _forward_keeping_y("tanh", x)


def tanh_backward(dy: Array, cache: ActivationCache) -> Array:
    """``dy * (1 - y**2)``.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : ActivationCache
        From `tanh`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ActivationCache)
    return _backward("tanh_backward", dy, cache.kept)
