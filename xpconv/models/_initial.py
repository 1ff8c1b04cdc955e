"""How the weights of networks start, and what their constructors share."""

from __future__ import annotations

import math

import numpy as np

from .._checks import check_number
from ..backends import backend_of
from ..layers import Conv2d, Layer, Linear, Parameter

__all__ = ["Rng", "draw_normal", "he_conv", "normal_linear"]

Rng = np.random.Generator | int | None


def _draw(parameter: Parameter, scale: float, generator: np.random.Generator) -> None:
    backend = backend_of(weight=parameter.data)
    dtype = backend.dtype_name(parameter.data)
    parameter.data = backend.rng(generator).normal(parameter.shape, scale=scale, dtype=dtype)


def _zero(parameter: Parameter | None) -> None:
    if parameter is not None:
        backend = backend_of(bias=parameter.data)
        parameter.data = backend.zeros(parameter.shape, backend.dtype_name(parameter.data))


def draw_normal(network: Layer, scale: float, generator: np.random.Generator) -> None:
    """Weights of N(0, scale**2) and biases of zero for all convolutions and linear layers."""
    scale = check_number("weight_scale", scale, 0, above=True)
    for _, layer in network.named_layers():
        if isinstance(layer, (Conv2d, Linear)):
            _draw(layer.weight, scale, generator)
            _zero(layer.bias)


def he_conv(
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int,
    generator: np.random.Generator,
    dtype: str,
    *,
    groups: int = 1,
    bias: bool = False,
) -> Conv2d:
    """A convolution that keeps the size at stride 1; weights of He's normal initialisation, by fan-out, biases of 0.

    He et al. 2015, arXiv:1502.01852. The fan-out is ``out_channels * size**2`` whatever the groups are, as PyTorch's.
    """
    conv = Conv2d(
        in_channels, out_channels, size, stride, size // 2, groups=groups, bias=bias, rng=generator, dtype=dtype
    )
    _draw(conv.weight, math.sqrt(2 / (out_channels * size * size)), generator)
    _zero(conv.bias)
    return conv


def normal_linear(in_features: int, out_features: int, generator: np.random.Generator, dtype: str) -> Linear:
    """A linear layer with weights of N(0, 0.01**2) and biases of 0, as torchvision's VGG and MobileNet start."""
    linear = Linear(in_features, out_features, rng=generator, dtype=dtype)
    _draw(linear.weight, 0.01, generator)
    _zero(linear.bias)
    return linear
