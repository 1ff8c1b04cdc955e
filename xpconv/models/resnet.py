"""Residual networks (He, Zhang, Ren, Sun 2015, *Deep residual learning for image recognition*, arXiv:1512.03385).

The names of parameters are those of the usual PyTorch implementations, so that their weights can be loaded:
torchvision's for `ResNet`, and for `CifarResNet` those of the CIFAR-10 repositories whose blocks have a ``shortcut``.
"""

from __future__ import annotations

import numpy as np

from .._checks import check_integer
from .._random import as_generator
from ..backends import backend_of, compute
from ..backends.protocol import Array
from ..layers import BatchNorm2d, GlobalAvgPool2d, Layer, Linear, MaxPool2d, Sequential
from ._initial import Rng, he_conv

__all__ = ["BasicBlock", "Bottleneck", "CifarResNet", "ResNet", "ResNet18"]


class _Block(Layer):
    """What the two kinds of blocks share: convolutions with normalisation, named by numbers, beside a shortcut.

    The last normalisation adds the shortcut before its ReLU. The names of what `forward` runs are in `_pairs`.
    """

    expansion: int
    _pairs: tuple[tuple[str, str], ...]
    _shortcut_name: str

    def _add_shortcut(
        self, name: str, in_channels: int, out_channels: int, stride: int, generator: np.random.Generator, dtype: str
    ) -> None:
        """The identity (None) where the shapes agree, else a 1x1 convolution and batch normalisation (option B)."""
        self._shortcut_name = name
        projection = None
        if stride != 1 or in_channels != out_channels:
            projection = Sequential(
                he_conv(in_channels, out_channels, 1, stride, generator, dtype),
                BatchNorm2d(out_channels, dtype=dtype),
            )
        setattr(self, name, projection)

    @property
    def projection(self) -> Sequential | None:
        """The layers of the shortcut; None where it is the identity."""
        return getattr(self, self._shortcut_name)

    def forward(self, x: Array) -> Array:
        """(N, in_channels, H, W) to (N, result's channels, ceil(H / stride), ceil(W / stride))."""
        y = x
        *first, (last_conv, last_norm) = self._pairs
        for conv, norm in first:
            y = getattr(self, norm)(getattr(self, conv)(y))
        y = getattr(self, last_conv)(y)
        projection = self.projection
        return getattr(self, last_norm)(y, x if projection is None else projection(x))

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        *first, (last_conv, last_norm) = self._pairs
        dy, straight = getattr(self, last_norm).backward(dy)
        projection = self.projection
        if projection is not None:
            straight = projection.backward(straight)
        dx = getattr(self, last_conv).backward(dy)
        for conv, norm in reversed(first):
            dx = getattr(self, conv).backward(getattr(self, norm).backward(dx))
        backend = backend_of(dx=dx)
        return compute(backend, f"{type(self).__name__}.backward", backend.add, dx, straight)


class BasicBlock(_Block):
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

    Raises
    ------
    TypeError, ValueError
        Counts that are no positive integers, an unknown dtype, or a shortcut that is the name of another attribute.
    """

    expansion = 1
    _pairs = (("conv1", "bn1"), ("conv2", "bn2"))

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
        self.conv1 = he_conv(in_channels, out_channels, 3, stride, generator, dtype)
        self.bn1 = BatchNorm2d(out_channels, activation="relu", dtype=dtype)
        self.conv2 = he_conv(out_channels, out_channels, 3, 1, generator, dtype)
        self.bn2 = BatchNorm2d(out_channels, activation="relu", dtype=dtype)  # adds the shortcut first
        self._add_shortcut(shortcut, in_channels, out_channels, stride, generator, dtype)


class Bottleneck(_Block):
    """``relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))``: 1x1, 3x3 and 1x1 convolutions.

    The stride is that of the 3x3 convolution, as in torchvision ("ResNet V1.5"; in the paper it is the first one's).

    Parameters
    ----------
    in_channels, width, stride : int
        Channels of the input, channels of the 3x3 convolution, and its stride; the result has ``4 * width`` channels.
    shortcut, rng, dtype
        As for `BasicBlock`.

    Raises
    ------
    TypeError, ValueError
        As for `BasicBlock`.
    """

    expansion = 4
    _pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        *,
        shortcut: str = "shortcut",
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        generator = as_generator(rng)
        out_channels = self.expansion * width
        self.conv1 = he_conv(in_channels, width, 1, 1, generator, dtype)
        self.bn1 = BatchNorm2d(width, activation="relu", dtype=dtype)
        self.conv2 = he_conv(width, width, 3, stride, generator, dtype)
        self.bn2 = BatchNorm2d(width, activation="relu", dtype=dtype)
        self.conv3 = he_conv(width, out_channels, 1, 1, generator, dtype)
        self.bn3 = BatchNorm2d(out_channels, activation="relu", dtype=dtype)  # adds the shortcut first
        self._add_shortcut(shortcut, in_channels, out_channels, stride, generator, dtype)


def _stage(
    kind: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    blocks: int,
    stride: int,
    shortcut: str,
    generator: np.random.Generator,
    dtype: str,
) -> Sequential:
    """Blocks of one image size; the first of them changes it."""
    channels = (in_channels, *[width * kind.expansion] * (blocks - 1))
    strides = (stride, *[1] * (blocks - 1))
    return Sequential(
        *[
            kind(before, width, step, shortcut=shortcut, rng=generator, dtype=dtype)
            for before, step in zip(channels, strides, strict=True)
        ]
    )


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

    Raises
    ------
    TypeError, ValueError
        A depth that is not 6 n + 2, counts that are no positive integers, an unknown dtype.
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
                "conv1": he_conv(in_channels, 16, 3, 1, generator, dtype),
                "bn1": BatchNorm2d(16, activation="relu", dtype=dtype),
                "layer1": _stage(BasicBlock, 16, 16, blocks, 1, "shortcut", generator, dtype),
                "layer2": _stage(BasicBlock, 16, 32, blocks, 2, "shortcut", generator, dtype),
                "layer3": _stage(BasicBlock, 32, 64, blocks, 2, "shortcut", generator, dtype),
                "avgpool": GlobalAvgPool2d(),
                "linear": Linear(64, num_classes, rng=generator, dtype=dtype),
            }
        )


# kind of the blocks, and how many in each stage: table 1 of the paper
_TABLE: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(Sequential):
    """The networks of the paper's table 1, for images of about 224 x 224; state_dict as torchvision's.

    Parameters
    ----------
    depth : int
        18, 34 or 50.
    in_channels, num_classes : int
        Of the images (N, C, H, W), and of the result.
    rng : numpy.random.Generator or int, optional
        Where weights come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        A depth that is not one of these, counts that are no positive integers, an unknown dtype.
    """

    def __init__(
        self,
        depth: int = 50,
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        depth = check_integer("depth", depth)
        if depth not in _TABLE:
            raise ValueError(f"depth: must be one of {', '.join(map(str, _TABLE))}, got {depth}")
        num_classes = check_integer("num_classes", num_classes, 1)
        generator = as_generator(rng)
        kind, blocks = _TABLE[depth]
        layers: dict[str, Layer] = {
            "conv1": he_conv(in_channels, 64, 7, 2, generator, dtype),
            "bn1": BatchNorm2d(64, activation="relu", dtype=dtype),
            "maxpool": MaxPool2d(3, 2, padding=1),
        }
        channels = 64
        for i, count in enumerate(blocks):
            width, stride = 64 << i, 2 if i else 1
            layers[f"layer{i + 1}"] = _stage(kind, channels, width, count, stride, "downsample", generator, dtype)
            channels = width * kind.expansion
        layers["avgpool"] = GlobalAvgPool2d()
        layers["fc"] = Linear(channels, num_classes, rng=generator, dtype=dtype)
        super().__init__(layers)


class ResNet18(ResNet):
    """`ResNet` of 18 layers.

    Parameters
    ----------
    in_channels, num_classes, rng, dtype
        As for `ResNet`.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 1000, *, rng: Rng = None, dtype: str = "float32"
    ) -> None:
        super().__init__(18, in_channels, num_classes, rng=rng, dtype=dtype)
