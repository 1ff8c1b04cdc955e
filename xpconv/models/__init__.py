"""Networks ready to train; `build` makes one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._geometry import IntOrPair, to_pair
from ..layers import Conv2d, Layer, Linear
from .resnet import BasicBlock, CifarResNet, ResNet18
from .simple import FullyConnectedNet, LeNet, SmallConvNet, ThreeLayerConvNet

__all__ = [
    "NAMES",
    "BasicBlock",
    "CifarResNet",
    "FullyConnectedNet",
    "LeNet",
    "ResNet18",
    "SmallConvNet",
    "ThreeLayerConvNet",
    "build",
]


def _fully_connected(channels: int, size: tuple[int, int], classes: int, **rest: Any) -> Layer:
    return FullyConnectedNet([256, 128], channels * size[0] * size[1], classes, **rest)


def _cifar(depth: int) -> Callable[..., Layer]:
    return lambda channels, size, classes, **rest: CifarResNet(depth, channels, classes, **rest)


# each takes (in_channels, image_size, num_classes, *, rng, dtype)
_BUILDERS: dict[str, Callable[..., Layer]] = {
    "small-cnn": SmallConvNet,
    "lenet": LeNet,
    "three-layer-convnet": ThreeLayerConvNet,
    "fully-connected": _fully_connected,
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet56": _cifar(56),
    "resnet18": lambda channels, size, classes, **rest: ResNet18(channels, classes, **rest),
}

NAMES = tuple(_BUILDERS)


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
    (``need_dx = False``).

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
