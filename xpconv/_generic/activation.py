"""Activations, element by element; stable for arguments of any size, and without overflow on the way.

The backward of one takes what its forward has kept: its result where that is enough (it is the input of the next layer,
so it costs no memory), else its argument.

Cases are told apart by products and maxima rather than by `where`, on which NumPy takes seven times as long when signs
are random.
"""

from __future__ import annotations

import math

from ..backends.protocol import Array, Backend

__all__ = [
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


def _wide(backend: Backend, x: Array) -> Array:
    return backend.astype(x, backend.accumulator(x))


def relu(backend: Backend, x: Array) -> Array:
    """``max(x, 0)``."""
    return backend.xp.maximum(x, 0.0)


def relu_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy`` where the result y is positive, else 0."""
    return backend.keep(y > 0, dy)


def leaky_relu(backend: Backend, x: Array, negative_slope: float) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``."""
    xp = backend.xp
    if negative_slope == 0:
        return relu(backend, x)  # a product of 0 and an infinity would be NaN
    if 0 < negative_slope <= 1:
        return xp.maximum(x, x * negative_slope)
    return xp.where(x > 0, x, x * negative_slope)


def leaky_relu_backward(backend: Backend, dy: Array, x: Array, negative_slope: float) -> Array:
    """``dy`` where x is positive, else ``negative_slope * dy``."""
    xp = backend.xp
    if negative_slope == 0:
        return relu_backward(backend, dy, x)
    if 0 < negative_slope <= 1:
        dx = xp.maximum(backend.astype(x > 0, dy.dtype), negative_slope)
        dx *= dy
        return dx
    return xp.where(x > 0, dy, dy * negative_slope)


def hardtanh(backend: Backend, x: Array, min_val: float, max_val: float) -> Array:
    """The number of ``[min_val, max_val]`` that is nearest to x; NaN stays NaN."""
    xp = backend.xp
    return xp.minimum(xp.maximum(x, min_val), max_val)


def hardtanh_backward(backend: Backend, dy: Array, y: Array, min_val: float, max_val: float) -> Array:
    """``dy`` where the result y is strictly between the bounds, else 0."""
    return backend.keep((y > min_val) & (y < max_val), dy)


def tanh(backend: Backend, x: Array) -> Array:
    """Hyperbolic tangent."""
    return backend.xp.tanh(x)


def tanh_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy * (1 - y**2)``, y the result."""
    dx = 1 - y * y
    dx *= dy
    return dx


def _sigmoid(backend: Backend, x: Array) -> Array:
    """``1 / (1 + exp(-x))``, with the exponential of negative numbers only."""
    xp = backend.xp
    y = xp.exp(xp.minimum(x, 0.0))
    y /= 1 + xp.exp(-xp.abs(x))
    return y


def sigmoid(backend: Backend, x: Array) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``."""
    return backend.astype(_sigmoid(backend, _wide(backend, x)), x.dtype)


def sigmoid_backward(backend: Backend, dy: Array, y: Array) -> Array:
    """``dy * y * (1 - y)``, y the result."""
    dx = 1 - y
    dx *= y
    dx *= dy
    return dx


def silu(backend: Backend, x: Array) -> Array:
    """``x * sigmoid(x)``."""
    wide = _wide(backend, x)
    return backend.astype(wide * _sigmoid(backend, wide), x.dtype)


def silu_backward(backend: Backend, dy: Array, x: Array) -> Array:
    """``dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    wide = _wide(backend, x)
    s = _sigmoid(backend, wide)
    dx = 1 - s
    dx *= wide
    dx += 1
    dx *= s
    dx *= _wide(backend, dy)
    return backend.astype(dx, dy.dtype)


# The array API has no error function. The tail of the normal distribution is
#
#     Phi(-a) = exp(-a**2 / 2) * P((a - 5) / (a + 5)),    a >= 0,
#
# where P is smooth: the construction of Shepherd, Laframboise, "Chebyshev approximation of (1 + 2x) exp(x**2) erfc x in
# 0 <= x < infinity", Mathematics of Computation 36 (1981). Coefficients of P, the constant first, from interpolation at
# the Chebyshev nodes in 40 digits (tests/functional/test_activation.py repeats it); of degree 10 for float32 and 22 for
# float64, where the error is that of rounding: below one unit of the last place of Phi(0), and below ten of the result.
_TAIL_FLOAT32 = (
    0.07691930497500629,
    -0.14345757229711625,
    0.1160688666393982,
    -0.08088354471496252,
    0.04785425178697956,
    -0.023415644227798963,
    0.00899761209752872,
    -0.002375426994269779,
    0.00020491409448946063,
    0.00013219038689808233,
    -4.4954124276192016e-05,
)
_TAIL_FLOAT64 = (
    0.07691930497500629,
    -0.1434575552640116,
    0.11606881188600345,
    -0.08088387726415847,
    0.04785535228415566,
    -0.02341390048689114,
    0.008991370550975594,
    -0.0023788443662113782,
    0.00021955073287424135,
    0.00013427690600413902,
    -6.0427450418741864e-05,
    9.610563846469339e-07,
    6.6442870305655646e-06,
    -1.2694455666983871e-06,
    -6.747250511637097e-07,
    2.423300963971707e-07,
    7.650960666356637e-08,
    -3.814799237634415e-08,
    -1.0364395364834378e-08,
    5.107100129543703e-09,
    1.4462477459535223e-09,
    -4.247536547992714e-10,
    -1.3203494750808843e-10,
)
_CENTRE = 5.0
_FAR = 40.0  # Phi(-40) is 0 in float64


def normal_distribution(backend: Backend, x: Array) -> tuple[Array, Array]:
    """Phi(x), the normal distribution function, and ``exp(-x**2 / 2)``; x in float32 or float64."""
    xp = backend.xp
    a = xp.minimum(xp.abs(x), _FAR)
    bell = xp.exp(a * a * -0.5)
    t = (a - _CENTRE) / (a + _CENTRE)
    coefficients = _TAIL_FLOAT64 if x.dtype == xp.float64 else _TAIL_FLOAT32
    tail = t * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        tail += c
        tail *= t
    tail += coefficients[0]
    tail *= bell
    phi = 1 - 2 * tail
    phi *= backend.astype(x > 0, x.dtype)
    phi += tail
    return phi, bell


def gelu(backend: Backend, x: Array) -> Array:
    """``x * Phi(x)``, exact to rounding."""
    wide = _wide(backend, x)
    phi, _ = normal_distribution(backend, wide)
    phi *= wide
    return backend.astype(phi, x.dtype)


def gelu_backward(backend: Backend, dy: Array, x: Array) -> Array:
    """``dy * (Phi(x) + x * exp(-x**2 / 2) / sqrt(2 pi))``."""
    wide = _wide(backend, x)
    phi, bell = normal_distribution(backend, wide)
    bell *= wide
    bell *= 1 / math.sqrt(2 * math.pi)
    phi += bell
    phi *= _wide(backend, dy)
    return backend.astype(phi, dy.dtype)
