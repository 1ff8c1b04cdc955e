"""Residual networks (He, Zhang, Ren, Sun 2015, *Deep residual learning for image recognition*, arXiv:1512.03385).

The names of parameters are those of the usual PyTorch implementations, so that their weights can be loaded:
torchvision's for `ResNet18`, and for `CifarResNet` those of the CIFAR-10 repositories whose blocks have a ``shortcut``.
"""

from __future__ import annotations

import math

import numpy as np

from .._checks import check_integer
from .._random import as_generator
from ..backends import backend_of, compute
from ..backends.protocol import Array
from ..layers import BatchNorm2d, Conv2d, GlobalAvgPool2d, Layer, Linear, MaxPool2d, Sequential

__all__ = ["BasicBlock", "CifarResNet", "ResNet18"]

Rng = np.random.Generator | int | None


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int, generator: np.random.Generator, dtype: str
) -> Conv2d:
    """A convolution without bias that keeps the size at stride 1; weights of He's normal initialisation, by fan-out."""
    conv = Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False, rng=generator, dtype=dtype)
    random = backend_of(weight=conv.weight.data).rng(generator)
    scale = math.sqrt(2 / (out_channels * size * size))
    conv.weight.data = random.normal(conv.weight.shape, scale=scale, dtype=dtype)
    return conv


class BasicBlock(Layer):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``, both convolutions 3x3.

    The shortcut is the identity where the shapes agree, else a 1x1 convolution and batch normalisation (option B).

    Parameters
    ----------
    in_channels, out_channels, stride : int
        Of the first convolution.
    shortcut : str
        Name of the attribute that holds the shortcut's layers; it is None where the shortcut is the identity.
    rng, dtype
        As for `Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        shortcut: str = "shortcut",
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        generator = as_generator(rng)
        self.conv1 = _conv(in_channels, out_channels, 3, stride, generator, dtype)
        self.bn1 = BatchNorm2d(out_channels, activation="relu", dtype=dtype)
        self.conv2 = _conv(out_channels, out_channels, 3, 1, generator, dtype)
        self.bn2 = BatchNorm2d(out_channels, activation="relu", dtype=dtype)  # adds the shortcut first
        self._shortcut_name = shortcut
        projection = None
        if stride != 1 or in_channels != out_channels:
            projection = Sequential(
                _conv(in_channels, out_channels, 1, stride, generator, dtype),
                BatchNorm2d(out_channels, dtype=dtype),
            )
        setattr(self, shortcut, projection)

    def forward(self, x: Array) -> Array:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y = self.conv2(self.bn1(self.conv1(x)))
        projection = getattr(self, self._shortcut_name)
        return self.bn2(y, x if projection is None else projection(x))

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        dy, straight = self.bn2.backward(dy)
        projection = getattr(self, self._shortcut_name)
        if projection is not None:
            straight = projection.backward(straight)
        dx = self.conv1.backward(self.bn1.backward(self.conv2.backward(dy)))
        backend = backend_of(dx=dx)
        return compute(backend, "BasicBlock.backward", backend.add, dx, straight)


def _stage(
    in_channels: int,
    out_channels: int,
    blocks: int,
    stride: int,
    shortcut: str,
    generator: np.random.Generator,
    dtype: str,
) -> Sequential:
    """Blocks of one image size; the first of them changes it."""
    first = BasicBlock(in_channels, out_channels, stride, shortcut=shortcut, rng=generator, dtype=dtype)
    rest = [
        BasicBlock(out_channels, out_channels, shortcut=shortcut, rng=generator, dtype=dtype) for _ in range(blocks - 1)
    ]
    return Sequential(first, *rest)


class CifarResNet(Sequential):
    """The residual networks of section 4.2 of the paper, for images of about 32 x 32; depth is 6 n + 2.

    A 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, the mean of each channel, a linear layer.
    Where a shortcut changes the shape it is a 1x1 convolution with batch normalisation (option B; the paper's figures
    are for the parameter-free option A).

    Parameters
    ----------
    depth : int
        20, 32, 44, 56, 110 or any other 6 n + 2.
    in_channels, num_classes : int
        Of the images (N, C, H, W), and of the result.
    rng : numpy.random.Generator or int, optional
        Where weights come from; the process-wide generator if None.
    dtype : str
        Of the parameters.
    """

    def __init__(
        self,
        depth: int = 20,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        depth = check_integer("depth", depth)
        blocks, left = divmod(depth - 2, 6)
        if left or blocks < 1:
            raise ValueError(f"depth: must be 6 n + 2 with n at least 1, such as 20, 32 or 56, got {depth}")
        num_classes = check_integer("num_classes", num_classes, 1)
        generator = as_generator(rng)
        super().__init__(
            {
                "conv1": _conv(in_channels, 16, 3, 1, generator, dtype),
                "bn1": BatchNorm2d(16, activation="relu", dtype=dtype),
                "layer1": _stage(16, 16, blocks, 1, "shortcut", generator, dtype),
                "layer2": _stage(16, 32, blocks, 2, "shortcut", generator, dtype),
                "layer3": _stage(32, 64, blocks, 2, "shortcut", generator, dtype),
                "avgpool": GlobalAvgPool2d(),
                "linear": Linear(64, num_classes, rng=generator, dtype=dtype),
            }
        )


class ResNet18(Sequential):
    """The 18-layer network of the paper's table 1, for images of about 224 x 224; state_dict as torchvision's.

    Parameters
    ----------
    in_channels, num_classes : int
        Of the images (N, C, H, W), and of the result.
    rng : numpy.random.Generator or int, optional
        Where weights come from; the process-wide generator if None.
    dtype : str
        Of the parameters.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 1000, *, rng: Rng = None, dtype: str = "float32"
    ) -> None:
        num_classes = check_integer("num_classes", num_classes, 1)
        generator = as_generator(rng)
        super().__init__(
            {
                "conv1": _conv(in_channels, 64, 7, 2, generator, dtype),
                "bn1": BatchNorm2d(64, activation="relu", dtype=dtype),
                "maxpool": MaxPool2d(3, 2, padding=1),
                "layer1": _stage(64, 64, 2, 1, "downsample", generator, dtype),
                "layer2": _stage(64, 128, 2, 2, "downsample", generator, dtype),
                "layer3": _stage(128, 256, 2, 2, "downsample", generator, dtype),
                "layer4": _stage(256, 512, 2, 2, "downsample", generator, dtype),
                "avgpool": GlobalAvgPool2d(),
                "fc": Linear(512, num_classes, rng=generator, dtype=dtype),
            }
        )
