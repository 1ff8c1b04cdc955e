"""Fully connected layer."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..backends import run
from ..backends.protocol import Array, Backend
from ._arguments import check_cache, check_dimensions, check_gradient, check_shape, floating_backend, reshaped

__all__ = ["LinearCache", "linear", "linear_backward"]


class LinearCache(NamedTuple):
    """What `linear_backward` needs of the forward call: the arguments themselves.

    Attributes
    ----------
    x : array (..., in)
        The argument.
    w : array (out, in)
        The argument.
    has_bias : bool
        Whether there is a db.
    """

    x: Array
    w: Array
    has_bias: bool


def linear(x: Array, w: Array, b: Array | None = None) -> tuple[Array, LinearCache]:
    """``x @ w.T + b``.

    Parameters
    ----------
    x : array (..., in)
        At least two axes; half precision is computed in float32.
    w : array (out, in)
        Weights, of the dtype of x.
    b : array (out,), optional
        Bias, of the dtype of x.

    Returns
    -------
    y : array (..., out)
    cache : LinearCache
        For `linear_backward`.

    Raises
    ------
    TypeError
        Arrays that are not floating-point, of several dtypes or of several backends.
    ValueError
        Shapes that do not fit; the message names the argument.
    """
    backend = floating_backend(x=x, w=w, b=b)
    check_dimensions("w", w, 2, "(out, in)")
    if x is None:
        raise TypeError("x: expected an array (..., in), got None")
    if len(x.shape) < 2:
        raise ValueError(f"x: expected at least 2 dimensions (..., in), got {len(x.shape)} with shape {tuple(x.shape)}")
    if x.shape[-1] != w.shape[1]:
        raise ValueError(f"x: expected {w.shape[1]} features in the last axis, as w has, got shape {tuple(x.shape)}")
    if b is not None:
        check_shape("b", b, (w.shape[0],), "(out,)")
    y = run(backend, "linear", _rows(backend, x), w, b)
    return reshaped(backend, y, (*x.shape[:-1], w.shape[0])), LinearCache(x, w, b is not None)


def _rows(backend: Backend, x: Array) -> Array:
    return reshaped(backend, x, (math.prod(x.shape[:-1]), x.shape[-1]))


def linear_backward(dy: Array, cache: LinearCache, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `linear`.

    Parameters
    ----------
    dy : array (..., out)
        Gradient of the loss to the result, in its dtype.
    cache : LinearCache
        From `linear`.
    need_dx : bool
        False saves the work of dx, for a first layer.

    Returns
    -------
    dx : array like x, or None
    dw : array (out, in)
    db : array (out,), or None where there was no bias

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, LinearCache)
    x, w, has_bias = cache
    backend = check_gradient(dy, x, (*x.shape[:-1], w.shape[0]))
    dx, dw, db = run(backend, "linear_backward", _rows(backend, dy), _rows(backend, x), w, need_dx, has_bias)
    return None if dx is None else reshaped(backend, dx, tuple(x.shape)), dw, db
