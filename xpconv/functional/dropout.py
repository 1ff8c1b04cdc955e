"""Dropout with masks that are the same on every backend."""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

from .._checks import check_integer, check_number
from .._random import is_step_on_device
from ..backends import compute, run
from ..backends.protocol import Array, Backend
from ._arguments import check_cache, check_gradient, floating_backend

__all__ = ["DropoutCache", "dropout", "dropout_backward"]


class DropoutCache(NamedTuple):
    """What `dropout_backward` needs of the forward call: the mask, None where nothing was dropped.

    Attributes
    ----------
    mask : array like x, or None
        What x was multiplied by: 0, or 1 / (1 - p); None where nothing was dropped.
    shape : tuple of int
        Of x and the result.
    dtype : str
        Of x and the result.
    """

    mask: Array | None
    shape: tuple[int, ...]
    dtype: str


def dropout(
    x: Array, p: float, *, training: bool, key: int | tuple[int, int, int], first: int = 0
) -> tuple[Array, DropoutCache]:
    """Set elements to zero at random and scale the others, so that the expectation stays (Srivastava et al. 2014).

    Parameters
    ----------
    x : array
        Of any shape, floating-point.
    p : float
        Probability of dropping an element, in [0, 1]. The others are multiplied by ``1 / (1 - p)``.
    training : bool
        False: y is x itself.
    key : int or (int, int, int)
        A seed below 2**64, or (seed, layer, step) with layer and step below 2**32. The step may be an array of one
        uint32 on the device of x, whose value counts when the mask is made. Equal keys give equal masks, on every
        backend; the mask of an element depends on nothing but the key, p and its index in C order. The random
        words are those of Philox 4x32-10.
    first : int
        Where x is a part of a larger array: the index there, in C order, of its first element. So the parts have the
        masks that the whole would have.

    Returns
    -------
    y : array like x
        x itself where nothing is dropped.
    cache : DropoutCache
        For `dropout_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend = floating_backend(x=x)
    p = check_number("p", p, 0, 1)
    seed, layer, step = _checked_key(key)
    block, word = divmod(check_integer("first", first, 0, 2**66 - 1), 4)
    mask = None
    if training and p and word and x.shape:
        y, mask = _from_within_a_block(backend, x, p, (seed, layer, step, block), word)
    elif training and p:
        y, mask = run(backend, "dropout", x, p, (seed, layer, step, block))
    else:
        y = x
    return y, DropoutCache(mask, tuple(x.shape), backend.dtype_name(x))


def _from_within_a_block(
    backend: Backend, x: Array, p: float, key: tuple[int, int, int, int], word: int
) -> tuple[Array, Array]:
    """Masks come in blocks of four: one that begins in the middle of a block is the end of a mask that does not."""
    size = math.prod(x.shape)
    longer = run(backend, "dropout_mask", backend.empty((word + size,), x.dtype), p, key)
    mask = backend.reshape(longer[word:], tuple(x.shape))
    return compute(backend, "dropout", operator.mul, x, mask), mask


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """Gradient of `dropout`: dy times the mask; dy itself where nothing was dropped.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss to the result.
    cache : DropoutCache
        From `dropout`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, DropoutCache)
    backend = check_gradient(dy, cache.mask, cache.shape, dtype=cache.dtype)
    return dy if cache.mask is None else run(backend, "dropout_backward", dy, cache.mask)


def _checked_key(key: object) -> tuple[int, int, int]:
    if not isinstance(key, (tuple, list)):
        return check_integer("key", key, 0, 2**64 - 1), 0, 0
    if len(key) != 3:
        raise ValueError(f"key: expected a seed or (seed, layer, step), got {key!r}")
    seed, layer, step = key
    return (
        check_integer("key: seed", seed, 0, 2**64 - 1),
        check_integer("key: layer", layer, 0, 2**32 - 1),
        step if is_step_on_device(step) else check_integer("key: step", step, 0, 2**32 - 1),
    )
