"""MobileNetV2 as in torchvision (Sandler et al. 2018, *Inverted residuals and linear bottlenecks*, 1801.04381)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .._checks import check_integer, check_number
from .._random import as_generator
from ..backends import backend_of, compute
from ..backends.protocol import Array
from ..layers import BatchNorm2d, Dropout, GlobalAvgPool2d, Layer, Operations, ReLU6, Sequential, count_operations
from ._initial import Rng, he_conv, normal_linear

__all__ = ["InvertedResidual", "MobileNetV2"]

# expansion, channels, blocks and stride of each stage: the paper's table 2
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_norm_relu(
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int,
    generator: np.random.Generator,
    dtype: str,
    groups: int = 1,
) -> Sequential:
    return Sequential(
        he_conv(in_channels, out_channels, size, stride, generator, dtype, groups=groups),
        BatchNorm2d(out_channels, dtype=dtype),
        ReLU6(),
    )


class InvertedResidual(Layer):
    """1x1 convolution to more channels, depthwise 3x3 convolution, 1x1 convolution back; plus x where shapes agree.

    Batch normalisation follows each convolution, and ReLU6 all but the last.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the images before and after.
    stride : int
        Of the depthwise convolution.
    expand_ratio : int
        Channels of the depthwise convolution, in multiples of in_channels; with 1 there is no first convolution.
    rng, dtype
        As for `Conv2d`.

    Attributes
    ----------
    conv : Sequential
        The layers.
    use_res_connect : bool
        Whether x is added: with stride 1 and as many channels as before.

    Raises
    ------
    TypeError, ValueError
        Counts that are no positive integers, or an unknown dtype.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expand_ratio: int = 6,
        *,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        in_channels = check_integer("in_channels", in_channels, 1)
        width = in_channels * check_integer("expand_ratio", expand_ratio, 1)
        generator = as_generator(rng)
        layers: list[Layer] = []
        if expand_ratio != 1:
            layers.append(_conv_norm_relu(in_channels, width, 1, 1, generator, dtype))
        layers.append(_conv_norm_relu(width, width, 3, stride, generator, dtype, groups=width))
        layers.append(he_conv(width, out_channels, 1, 1, generator, dtype))
        layers.append(BatchNorm2d(out_channels, dtype=dtype))
        self.conv = Sequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, x: Array) -> Array:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y = self.conv(x)
        return self._sum("forward", x, y) if self.use_res_connect else y

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        dx = self.conv.backward(dy)
        return self._sum("backward", dx, dy) if self.use_res_connect else dx

    def _sum(self, way: str, a: Array, b: Array) -> Array:
        backend = backend_of(a=a, b=b)
        return compute(backend, f"InvertedResidual.{way}", backend.add, a, b)


@count_operations.register
def _sum(layer: InvertedResidual, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Operations:
    return Operations(0, math.prod(output) * layer.use_res_connect)


def _channels(count: int, width_mult: float) -> int:
    """``count * width_mult`` as a multiple of 8 that is at least 90 % of it, as in the reference implementation."""
    wanted = count * width_mult
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class MobileNetV2(Sequential):
    """Inverted residuals around depthwise convolutions; state_dict as torchvision's.

    Parameters
    ----------
    in_channels, num_classes : int
        Of the images (N, C, H, W), and of the result.
    width_mult : float
        Factor on the channels of every layer; the last convolution has at least 1280.
    output_stride : int
        Factor by which images shrink: 32 for images of about 224 x 224. With 16 the first convolution keeps the size,
        with 8 so does the first stage that would halve it: 8 is for images of about 32 x 32. No name or shape of a
        parameter depends on it.
    dropout : float
        Probability of dropping a feature before the linear layer.
    rng : numpy.random.Generator or int, optional
        Where weights and seeds come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        Counts that are no positive integers, a factor that is not above 0, an output_stride or dropout that is not one
        of these, an unknown dtype.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        width_mult: float = 1.0,
        output_stride: int = 32,
        dropout: float = 0.2,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        in_channels = check_integer("in_channels", in_channels, 1)
        num_classes = check_integer("num_classes", num_classes, 1)
        width_mult = check_number("width_mult", width_mult, 0, above=True)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride: expected 8, 16 or 32, got {output_stride!r}")
        dropout = check_number("dropout", dropout, 0, 1)
        generator = as_generator(rng)
        channels, last = _channels(32, width_mult), _channels(1280, max(1.0, width_mult))
        features: list[Layer] = [
            _conv_norm_relu(in_channels, channels, 3, 2 if output_stride == 32 else 1, generator, dtype)
        ]
        for i, (expansion, width, blocks, stride) in enumerate(_STAGES):
            first = 1 if i == 1 and output_stride == 8 else stride
            width = _channels(width, width_mult)
            for step in (first, *[1] * (blocks - 1)):
                features.append(InvertedResidual(channels, width, step, expansion, rng=generator, dtype=dtype))
                channels = width
        features.append(_conv_norm_relu(channels, last, 1, 1, generator, dtype))
        super().__init__(
            {
                "features": Sequential(*features),
                "avgpool": GlobalAvgPool2d(),
                "classifier": Sequential(
                    Dropout(dropout, rng=generator), normal_linear(last, num_classes, generator, dtype)
                ),
            }
        )
