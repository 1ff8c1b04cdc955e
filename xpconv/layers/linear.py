"""The fully connected layer, and the layers that only change the shape."""

from __future__ import annotations

import math

import numpy as np

from .. import functional
from .._checks import check_integer
from .._random import as_generator
from ..backends import backend_of
from ..backends.protocol import Array
from ..functional._arguments import reshaped
from ._initial import uniform
from .base import Layer, Parameter

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Layer):
    """``y = x @ weight^T + bias``; see `xpconv.functional.linear`.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last axis of the input and of the result.
    bias : bool
        Whether to add a number to each output feature.
    rng : numpy.random.Generator or int, optional
        Where the initial weights come from; the process-wide generator if None.
    dtype : str
        Of the weights, and so of the input.

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,) or None
    need_dx : bool
        False makes backward return None instead of the gradient to the input: for the first layer of a network.

    Raises
    ------
    TypeError, ValueError
        Counts that are no positive integers, or an unknown dtype.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.in_features = check_integer("in_features", in_features, 1)
        self.out_features = check_integer("out_features", out_features, 1)
        self.need_dx = True
        generator = as_generator(rng)
        self.weight = uniform(generator, (self.out_features, self.in_features), self.in_features, dtype)
        self.bias = uniform(generator, (self.out_features,), self.in_features, dtype) if bias else None

    def forward(self, x: Array) -> Array:
        """(N, in_features) to (N, out_features)."""
        y, cache = functional.linear(x, self.weight.data, None if self.bias is None else self.bias.data)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input, or None with ``need_dx = False``; adds to the gradients of the parameters."""
        dx, dw, db = functional.linear_backward(dy, self.pop(), need_dx=self.need_dx)
        self.weight.accumulate_grad(dw)
        if self.bias is not None:
            self.bias.accumulate_grad(db)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Layer):
    """(N, ...) to (N, product of the rest), as the input of a `Linear`."""

    def forward(self, x: Array) -> Array:
        """Rows in C order, whatever the strides of ``x``.

        Raises
        ------
        ValueError
            x has no axis for the batch.
        """
        shape = tuple(x.shape)
        if not shape:
            raise ValueError("x: expected at least 1 dimension (N, ...), got a 0-dimensional array")
        self.push(shape)
        # not -1, which is ambiguous for an empty batch
        return reshaped(backend_of(x=x), x, (shape[0], math.prod(shape[1:])))

    def backward(self, dy: Array) -> Array:
        """``dy`` in the shape of the input.

        Raises
        ------
        ValueError
            dy is not of the shape of the result.
        """
        shape = self.pop()
        flat = (shape[0], math.prod(shape[1:]))
        if tuple(dy.shape) != flat:
            raise ValueError(f"dy: expected shape {flat}, that of the forward result, got {tuple(dy.shape)}")
        return reshaped(backend_of(dy=dy), dy, shape)


class Identity(Layer):
    """Gives back what it gets."""

    def forward(self, x: Array) -> Array:
        """``x`` itself."""
        self.push(None)
        return x

    def backward(self, dy: Array) -> Array:
        """``dy`` itself."""
        self.pop()
        return dy
