"""Numerical gradients by centred differences, one number after the other, as the course checks its layers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backends import backend_of, to_numpy
from ..backends.protocol import Array
from ._arrays import put

__all__ = ["eval_numerical_gradient", "eval_numerical_gradient_array", "grad_check_sparse", "rel_error"]


def _indices(x: Array) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, x.shape))


def _read_only(x: Array) -> bool:
    return isinstance(x, np.ndarray) and not x.flags.writeable


def _with(f: Callable[[Array], Any], x: Array, index: tuple[int, ...], step: float) -> Any:
    """The result of f where one number of x has moved; as in the course x itself is changed, and then restored."""
    backend = backend_of(x=x)
    if not backend.is_floating(x):
        raise TypeError(f"x: expected floating-point numbers, which can move by a step, got {backend.dtype_name(x)}")
    if _read_only(x):
        x = np.array(x)
    with backend.running():
        # a copy of the one number: on some backends x[index] is a view
        old = backend.asarray(np.array(to_numpy(x[index])), x.dtype)
        moved = put(x, index, old + step)
        try:
            result = f(moved)
            # a result that shares memory with x would change with it
            return backend.xp.asarray(result, copy=True) if getattr(result, "shape", ()) else result
        finally:
            put(x, index, old)


def eval_numerical_gradient(f: Callable[[Array], Any], x: Array, verbose: bool = True, h: float = 0.00001) -> Array:
    """Gradient of a function that returns one number.

    Parameters
    ----------
    f
        Called with x after one number in it was changed, so it may also read x from elsewhere, such as a net that holds
        it. (Where arrays cannot be written to, a changed copy is passed, and f must use that.)
    x : array of any shape
        Where to take the gradient; as before when done.
    verbose
        Print every index and derivative.
    h
        The step.

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        x is not an array, or f does not return a number.
    """
    gradient = np.zeros(x.shape)
    for index in _indices(x):
        upper, lower = float(_with(f, x, index, h)), float(_with(f, x, index, -h))
        gradient[index] = (upper - lower) / (2 * h)
        if verbose:
            print(index, gradient[index])
    return backend_of(x=x).asarray(gradient, x.dtype)


def eval_numerical_gradient_array(f: Callable[[Array], Array], x: Array, df: Any, h: float = 1e-5) -> Array:
    """Gradient of ``sum(f(x) * df)`` for a function that returns an array; arguments as of `eval_numerical_gradient`.

    df is an array like f(x), or a number.

    Parameters
    ----------
    f
        As of `eval_numerical_gradient`, but what it returns is an array.
    x : array of any shape
        Where to take the gradient; as before when done.
    df : array like f(x), or number
        Weight of each number that f returns.
    h
        The step.

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        x is not an array, or df does not fit f(x).
    """
    gradient, df = np.zeros(x.shape), to_numpy(df)
    for index in _indices(x):
        upper, lower = to_numpy(_with(f, x, index, h)), to_numpy(_with(f, x, index, -h))
        gradient[index] = np.sum((upper - lower) * df) / (2 * h)
    return backend_of(x=x).asarray(gradient, x.dtype)


def grad_check_sparse(
    f: Callable[[Array], Any], x: Array, analytic_grad: Array, num_checks: int = 10, h: float = 1e-5
) -> None:
    """Compare ``analytic_grad`` with differences of f at random places, and print both with their relative error.

    Parameters
    ----------
    f
        As of `eval_numerical_gradient`.
    x : array of any shape
        Where to take the gradient; as before when done.
    analytic_grad : array like x
        What is compared.
    num_checks
        How many places.
    h
        The step.

    Raises
    ------
    TypeError, ValueError
        x is not an array, or f does not return a number.
    """
    for _ in range(num_checks):
        index = tuple(random.randrange(length) for length in x.shape)
        numerical = (float(_with(f, x, index, h)) - float(_with(f, x, index, -h))) / (2 * h)
        analytic = float(analytic_grad[index])
        error = abs(numerical - analytic) / max(abs(numerical) + abs(analytic), 1e-300)
        print(f"numerical: {numerical:f} analytic: {analytic:f}, relative error: {error:e}")


def rel_error(x: Any, y: Any) -> float:
    """Largest relative error, ``max(|x - y| / max(1e-8, |x| + |y|))``, of arrays of any backends or of numbers.

    Parameters
    ----------
    x, y : array of any shape, or number
        Shapes that NumPy can broadcast.

    Returns
    -------
    float
        0 for what is equal.

    Raises
    ------
    TypeError, ValueError
        Not numbers, or shapes that cannot be broadcast.
    """
    x, y = to_numpy(x) * 1.0, to_numpy(y) * 1.0  # differences of unsigned integers would wrap around
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))
