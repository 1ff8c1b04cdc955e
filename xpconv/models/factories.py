"""The networks as functions, with torchvision's names and first argument: ``resnet18(num_classes=10)``.

Each returns a network with fresh weights on the default backend; its gradient to the images is computed, unlike that of
`build`. ``options`` are the other keyword arguments of the class that is named: ``rng``, ``dtype`` and so on.
"""

from __future__ import annotations

from typing import Any

from .._geometry import IntOrPair
from .mobilenet import MobileNetV2
from .resnet import CifarResNet, ResNet
from .simple import LeNet
from .vgg import VGG

__all__ = [
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


def resnet18(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> ResNet:
    """`ResNet` of 18 layers: basic blocks.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `ResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    ResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `ResNet`.
    """
    return ResNet(18, in_channels, num_classes, **options)


def resnet34(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> ResNet:
    """`ResNet` of 34 layers: basic blocks.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `ResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    ResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `ResNet`.
    """
    return ResNet(34, in_channels, num_classes, **options)


def resnet50(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> ResNet:
    """`ResNet` of 50 layers: bottleneck blocks.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `ResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    ResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `ResNet`.
    """
    return ResNet(50, in_channels, num_classes, **options)


def resnet20(num_classes: int = 10, *, in_channels: int = 3, **options: Any) -> CifarResNet:
    """`CifarResNet` of 20 layers.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `CifarResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    CifarResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `CifarResNet`.
    """
    return CifarResNet(20, in_channels, num_classes, **options)


def resnet32(num_classes: int = 10, *, in_channels: int = 3, **options: Any) -> CifarResNet:
    """`CifarResNet` of 32 layers.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `CifarResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    CifarResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `CifarResNet`.
    """
    return CifarResNet(32, in_channels, num_classes, **options)


def resnet56(num_classes: int = 10, *, in_channels: int = 3, **options: Any) -> CifarResNet:
    """`CifarResNet` of 56 layers.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `CifarResNet`: ``rng`` and ``dtype``.

    Returns
    -------
    CifarResNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `CifarResNet`.
    """
    return CifarResNet(56, in_channels, num_classes, **options)


def lenet(num_classes: int = 10, *, in_channels: int = 1, image_size: IntOrPair = 28, **options: Any) -> LeNet:
    """`LeNet` for images of that size.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    image_size
        (H, W) of the images, or one number for both; at least 12.
    **options
        Of `LeNet`: ``rng`` and ``dtype``.

    Returns
    -------
    LeNet
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `LeNet`.
    """
    return LeNet(in_channels, image_size, num_classes, **options)


def vgg11(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> VGG:
    """`VGG` of 11 layers, without batch normalisation.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `VGG`: ``hidden_features``, ``pooled_size``, ``dropout``, ``rng``, ``dtype``.

    Returns
    -------
    VGG
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `VGG`.
    """
    return VGG(11, in_channels, num_classes, batch_norm=False, **options)


def vgg11_bn(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> VGG:
    """`VGG` of 11 layers, with batch normalisation.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `VGG`: ``hidden_features``, ``pooled_size``, ``dropout``, ``rng``, ``dtype``.

    Returns
    -------
    VGG
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `VGG`.
    """
    return VGG(11, in_channels, num_classes, batch_norm=True, **options)


def vgg16(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> VGG:
    """`VGG` of 16 layers, without batch normalisation.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `VGG`: ``hidden_features``, ``pooled_size``, ``dropout``, ``rng``, ``dtype``.

    Returns
    -------
    VGG
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `VGG`.
    """
    return VGG(16, in_channels, num_classes, batch_norm=False, **options)


def vgg16_bn(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> VGG:
    """`VGG` of 16 layers, with batch normalisation.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `VGG`: ``hidden_features``, ``pooled_size``, ``dropout``, ``rng``, ``dtype``.

    Returns
    -------
    VGG
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `VGG`.
    """
    return VGG(16, in_channels, num_classes, batch_norm=True, **options)


def mobilenet_v2(num_classes: int = 1000, *, in_channels: int = 3, **options: Any) -> MobileNetV2:
    """`MobileNetV2`.

    Parameters
    ----------
    num_classes
        Number of scores for each image.
    in_channels
        C of the images (N, C, H, W).
    **options
        Of `MobileNetV2`: ``width_mult``, ``output_stride``, ``dropout``, ``rng``, ``dtype``.

    Returns
    -------
    MobileNetV2
        With fresh weights, in training mode.

    Raises
    ------
    TypeError, ValueError
        As `MobileNetV2`.
    """
    return MobileNetV2(in_channels, num_classes, **options)
