"""Networks ready to train: classes, functions with the names of torchvision, and `build`, which makes one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._geometry import IntOrPair, to_pair
from ..layers import Conv2d, Layer, Linear
from .factories import (
    lenet,
    mobilenet_v2,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    vgg11,
    vgg11_bn,
    vgg16,
    vgg16_bn,
)
from .mobilenet import InvertedResidual, MobileNetV2
from .resnet import BasicBlock, Bottleneck, CifarResNet, ResNet, ResNet18
from .simple import FullyConnectedNet, LeNet, SmallConvNet, ThreeLayerConvNet
from .vgg import VGG

__all__ = [
    "NAMES",
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "FullyConnectedNet",
    "InvertedResidual",
    "LeNet",
    "MobileNetV2",
    "ResNet",
    "ResNet18",
    "SmallConvNet",
    "ThreeLayerConvNet",
    "build",
    "lenet",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
]


def _fully_connected(channels: int, size: tuple[int, int], classes: int, **rest: Any) -> Layer:
    return FullyConnectedNet([256, 128], channels * size[0] * size[1], classes, **rest)


def _cifar(depth: int) -> Callable[..., Layer]:
    return lambda channels, size, classes, **rest: CifarResNet(depth, channels, classes, **rest)


def _resnet(depth: int) -> Callable[..., Layer]:
    return lambda channels, size, classes, **rest: ResNet(depth, channels, classes, **rest)


def _is_small(size: tuple[int, int]) -> bool:
    return min(size) < 64


def _vgg(depth: int) -> Callable[..., Layer]:
    def make(channels: int, size: tuple[int, int], classes: int, **rest: Any) -> Layer:
        if min(size) < 32:
            raise ValueError(f"image_size: must be at least 32 x 32, got {size[0]} x {size[1]}")
        small: dict[str, Any] = {"hidden_features": 512, "pooled_size": 1} if _is_small(size) else {}
        return VGG(depth, channels, classes, **small, **rest)

    return make


def _mobilenet(channels: int, size: tuple[int, int], classes: int, **rest: Any) -> Layer:
    return MobileNetV2(channels, classes, output_stride=8 if _is_small(size) else 32, **rest)


# each takes (in_channels, image_size, num_classes, *, rng, dtype)
_BUILDERS: dict[str, Callable[..., Layer]] = {
    "small-cnn": SmallConvNet,
    "lenet": LeNet,
    "three-layer-convnet": ThreeLayerConvNet,
    "fully-connected": _fully_connected,
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet56": _cifar(56),
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "vgg11-bn": _vgg(11),
    "vgg16-bn": _vgg(16),
    "mobilenet-v2": _mobilenet,
}

NAMES = tuple(_BUILDERS)
"""What `build` takes: the names of the networks, as strings."""


def build(
    name: str,
    *,
    in_channels: int,
    image_size: IntOrPair,
    num_classes: int,
    rng: np.random.Generator | int | None = None,
    dtype: str = "float32",
) -> Layer:
    """A network by name, with fresh weights on the default backend.

    It is made for training: its first convolution or linear layer computes no gradient to the images
    (``need_dx = False``). Images below 64 x 64 get a VGG with ``hidden_features=512, pooled_size=1`` and a MobileNetV2
    with ``output_stride=8``.

    Parameters
    ----------
    name
        One of `NAMES`.
    in_channels, image_size
        Of the images (N, C, H, W): C, and H = W or the pair (H, W).
    num_classes
        Number of scores for each image.
    rng
        Where weights and seeds come from: a generator, an integer, or None for the process-wide generator.
    dtype
        Of the parameters, and so of the images.

    Returns
    -------
    Layer
        The network, in training mode.

    Raises
    ------
    ValueError
        Unknown name; images too small for the network.
    """
    if name not in _BUILDERS:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    network = _BUILDERS[name](in_channels, to_pair("image_size", image_size), num_classes, rng=rng, dtype=dtype)
    first = next(layer for _, layer in network.named_layers() if isinstance(layer, (Conv2d, Linear)))
    first.need_dx = False
    return network
