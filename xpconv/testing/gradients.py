"""Checks of backward passes against differences of the forward pass, along a random direction, in float64.

For a function y = f(x) and a random dy the backward pass gives g, the gradient of sum(dy * y) to x. Along a direction d
of length one that sum must change at the rate sum(g * d). The rate is taken from four evaluations of f,

    (8 * (s(+e) - s(-e)) - (s(+2e) - s(-2e))) / (12 * e),    s(t) = sum(dy * f(x + t * d)),

whose error is of the order e**4. One random direction is enough: a wrong gradient goes unseen only if it differs from
the right one at a right angle to it. So this costs four forward passes an input, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import backend_of, to_numpy
from ..backends.protocol import Array

if TYPE_CHECKING:
    from ..layers import Layer

__all__ = ["check_gradients", "check_layer"]


def check_gradients(
    forward: Callable[..., tuple[Array, Any]],
    backward: Callable[[Array, Any], Array | Sequence[Array | None]],
    inputs: Sequence[Array | None],
    *,
    names: Sequence[str] | None = None,
    rng: np.random.Generator | int | None = 0,
    eps: float = 1e-4,
    rtol: float = 1e-6,
) -> None:
    """Assert that ``backward`` gives the gradients of ``forward``, for all inputs.

    Parameters
    ----------
    forward
        ``forward(*inputs) -> (y, cache)``; y is an array or a number. Fix other arguments with a lambda:
        ``check_gradients(lambda x, w: conv2d(x, w, stride=2), conv2d_backward, [x, w])``.
    backward
        ``backward(dy, cache) -> gradients``: one for each input, in their order, alone or in a sequence. More may
        follow if they are None.
    inputs : sequence of arrays of any shape
        Of float64 and of one backend. None stands for an argument that is left out; its gradient must be None.
    names
        Of the inputs, for messages.
    rng
        Where dy and the directions come from.
    eps
        Length of a step. Functions with kinks (relu, max pooling) must not have one that near.
    rtol
        Error allowed, relative to the size of the derivative in a typical direction.

    Raises
    ------
    AssertionError
        A gradient is wrong, missing, of another shape, dtype or backend than its input; the function gives two results
        for the same inputs, or modifies them.
    TypeError
        An input is not of float64.
    ValueError
        Not as many names as inputs.
    """
    names = [f"input {k}" for k in range(len(inputs))] if names is None else list(names)
    if len(names) != len(inputs):
        raise ValueError(f"names: expected {len(inputs)}, one for each input, got {len(names)}")
    generator = np.random.default_rng(rng)
    for name, array in zip(names, inputs, strict=True):
        _check_float64(name, array)
    before = [None if array is None else np.array(to_numpy(array)) for array in inputs]

    y, cache = forward(*inputs)
    y_host = np.array(to_numpy(y))
    dy = generator.standard_normal(y_host.shape)
    dy_array = _like(y, dy)
    gradients = backward(dy_array, cache)
    _check_unmodified("dy", dy_array, dy)
    if not isinstance(gradients, (tuple, list)):
        gradients = [gradients]
    matching = len(gradients) >= len(inputs) and all(g is None for g in gradients[len(inputs) :])
    _require(matching, f"backward gave {len(gradients)} gradients for {len(inputs)} inputs")

    for name, array, values in zip(names, inputs, before, strict=True):
        if array is not None and values is not None:
            _check_unmodified(name, array, values)
    _check_same(y_host, to_numpy(forward(*inputs)[0]))

    for k, (name, array, gradient) in enumerate(zip(names, inputs, gradients, strict=False)):
        if array is None:
            _require(gradient is None, f"{name}: is None, but has a gradient")
            continue

        def moved(values: np.ndarray, k: int = k, array: Array = array) -> np.ndarray:
            shifted = backend_of(array=array).asarray(values, "float64")
            return to_numpy(forward(*inputs[:k], shifted, *inputs[k + 1 :])[0])

        _compare(name, moved, array, gradient, dy, y_host, generator, eps, rtol)


def check_layer(
    layer: Layer,
    x: Array,
    *,
    rng: np.random.Generator | int | None = 0,
    eps: float = 1e-4,
    rtol: float = 1e-6,
) -> None:
    """Assert that ``layer.backward`` gives the gradient to ``x`` and to every parameter of the layer, in training mode.

    Parameters
    ----------
    layer
        With parameters of float64 (``layer.to(dtype="float64")``), on the backend of x. Values, gradients, buffers and
        mode are afterwards what they were; caches are dropped. Random layers draw what they draw in step 0, in every
        forward.
    x : array
        Of float64, of a shape that the layer takes.
    rng, eps, rtol
        As for `check_gradients`.

    Raises
    ------
    AssertionError
        The gradient to x or to a parameter (named by its path) is wrong or missing. None as the gradient to x is taken
        for that of a layer which was told not to give one.
    TypeError
        x or a parameter is not of float64.
    """
    generator = np.random.default_rng(rng)
    _check_float64("x", x)
    parameters = dict(layer.named_parameters())
    for name, parameter in parameters.items():
        _check_float64(name, parameter.data)
    buffer_names = {name for name, _ in layer.named_buffers()}
    buffers = {name: array for name, array in layer.state_dict().items() if name in buffer_names}
    gradients_before = {name: parameter.grad for name, parameter in parameters.items()}
    modes = [(part, part.training) for _, part in layer.named_layers()]
    x_host = np.array(to_numpy(x))

    def forward(values: Array) -> np.ndarray:
        layer.begin_step(0)
        return np.array(to_numpy(layer.forward(values)))

    try:
        layer.train()
        layer.zero_grad()
        layer.begin_step(0)
        y = layer.forward(x)
        y_host = np.array(to_numpy(y))
        dy = generator.standard_normal(y_host.shape)
        dy_array = _like(y, dy)
        dx = layer.backward(dy_array)
        _check_unmodified("dy", dy_array, dy)
        gradients = {name: parameter.grad for name, parameter in parameters.items()}
        _check_unmodified("x", x, x_host)
        _check_same(y_host, forward(x))

        if dx is not None:

            def shifted(values: np.ndarray) -> np.ndarray:
                return forward(backend_of(x=x).asarray(values, "float64"))

            _compare("x", shifted, x, dx, dy, y_host, generator, eps, rtol)
        for name, parameter in parameters.items():
            original = parameter.data

            def moved(values: np.ndarray, parameter: Any = parameter, original: Array = original) -> np.ndarray:
                parameter.data = backend_of(data=original).asarray(values, "float64")
                try:
                    return forward(x)
                finally:
                    parameter.data = original

            _compare(name, moved, original, gradients[name], dy, y_host, generator, eps, rtol)
    finally:
        layer.load_state_dict(buffers, strict=False)
        layer.clear_cache()
        for name, parameter in parameters.items():
            parameter.grad = gradients_before[name]
        for part, training in modes:
            part.training = training


def _check_float64(name: str, array: Array | None) -> None:
    if array is None:
        return
    dtype = backend_of(**{name: array}).dtype_name(array)
    if dtype != "float64":
        raise TypeError(f"{name}: gradients are checked in float64 only, got {dtype}")


def _like(y: Array | float, values: np.ndarray) -> Array | float:
    """``values`` as an array of the backend of y, or as a number if y is one."""
    if isinstance(y, (int, float)):
        return float(values)
    return backend_of(y=y).asarray(values.copy(), "float64")


def _require(condition: bool, message: str) -> None:
    if not condition:  # not an assert statement: python -O leaves those out
        raise AssertionError(message)


def _check_unmodified(name: str, array: Array, before: np.ndarray) -> None:
    _require(np.array_equal(to_numpy(array), before, equal_nan=True), f"{name}: was modified by forward or backward")


def _check_same(first: np.ndarray, second: np.ndarray) -> None:
    _require(
        np.array_equal(first, second, equal_nan=True),
        "forward: gives two results for the same inputs, so its derivative cannot be taken",
    )


def _compare(
    name: str,
    moved: Callable[[np.ndarray], np.ndarray],
    at: Array,
    gradient: Array | None,
    dy: np.ndarray,
    y: np.ndarray,
    generator: np.random.Generator,
    eps: float,
    rtol: float,
) -> None:
    """Compare ``gradient`` with differences of ``moved`` (the result for other values of one input) around ``at``."""
    if gradient is None:
        raise AssertionError(f"{name}: backward gave no gradient")
    backend = backend_of(at=at)
    _require(backend_of(gradient=gradient) is backend, f"{name}: the gradient is an array of another backend")
    shapes = tuple(at.shape), tuple(gradient.shape)
    _require(shapes[0] == shapes[1], f"{name}: has shape {shapes[0]}, but its gradient has {shapes[1]}")
    dtype = backend.dtype_name(gradient)
    _require(dtype == "float64", f"{name}: is float64, but its gradient is {dtype}")
    values, g = to_numpy(at), to_numpy(gradient)
    _require(bool(np.all(np.isfinite(g))), f"{name}: the gradient is not finite")
    if values.size == 0:
        return
    direction = generator.standard_normal(values.shape)
    direction /= np.sqrt((direction * direction).sum())

    def rate(step: float) -> float:
        # results are subtracted before they are summed: their common part would cost digits
        return float((dy * (moved(values + step * direction) - moved(values - step * direction))).sum())

    numeric = (8 * rate(eps) - rate(2 * eps)) / (12 * eps)
    analytic = float((g * direction).sum())
    typical = np.sqrt((g * g).sum() / g.size)  # along a random direction
    # what rounding of y alone makes of a rate that is zero
    noise = 64 * np.finfo(np.float64).eps * np.sqrt(np.square(dy * y).sum()) / eps
    _require(
        abs(numeric - analytic) <= max(noise, rtol * max(abs(numeric), abs(analytic), typical)),
        f"{name}: backward gives {analytic:.12g} along a random direction, differences of forward give {numeric:.12g} "
        f"(shape {values.shape}, eps {eps:g}); if the function has a kink that near, move the inputs away from it",
    )
