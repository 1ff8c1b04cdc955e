"""VGG networks (Simonyan, Zisserman 2014, *Very deep convolutional networks*, arXiv:1409.1556), as torchvision's."""

from __future__ import annotations

from .._checks import check_integer, check_number
from .._random import as_generator
from ..layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Dropout,
    Flatten,
    Layer,
    MaxPool2d,
    ReLU,
    Sequential,
)
from ._initial import Rng, he_conv, normal_linear

__all__ = ["VGG"]

# 3x3 convolutions in each of the five stages: columns A, B, D and E of the paper's table 1
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(Sequential):
    """Stages of 3x3 convolutions, each ended by 2x2 max pooling, then three linear layers; state_dict as torchvision's.

    Images must be at least 32 x 32. The default arguments are those for images of 224 x 224; small ones do with
    ``hidden_features=512, pooled_size=1``.

    Parameters
    ----------
    depth : int
        11, 13, 16 or 19: convolutions and linear layers.
    in_channels, num_classes : int
        Of the images (N, C, H, W), and of the result.
    batch_norm : bool
        Whether batch normalisation follows each convolution.
    hidden_features : int
        Sizes of the two hidden linear layers.
    pooled_size : int
        Height and width of what the first linear layer gets, by adaptive average pooling.
    dropout : float
        Probability of dropping a number after a hidden linear layer.
    rng : numpy.random.Generator or int, optional
        Where weights and seeds come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        A depth that is not one of these, counts that are no positive integers, a dropout that is not in 0 to 1, an
        unknown dtype.
    """

    def __init__(
        self,
        depth: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        batch_norm: bool = True,
        hidden_features: int = 4096,
        pooled_size: int = 7,
        dropout: float = 0.5,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        depth = check_integer("depth", depth)
        if depth not in _STAGES:
            raise ValueError(f"depth: must be one of {', '.join(map(str, _STAGES))}, got {depth}")
        num_classes = check_integer("num_classes", num_classes, 1)
        hidden = check_integer("hidden_features", hidden_features, 1)
        pooled = check_integer("pooled_size", pooled_size, 1)
        dropout = check_number("dropout", dropout, 0, 1)
        generator = as_generator(rng)
        features: list[Layer] = []
        channels = in_channels
        for convolutions, width in zip(_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
            for _ in range(convolutions):
                # with a bias, though the batch normalisation takes it out again: torchvision's files have it
                features.append(he_conv(channels, width, 3, 1, generator, dtype, bias=True))
                if batch_norm:
                    features.append(BatchNorm2d(width, dtype=dtype))
                features.append(ReLU())
                channels = width
            features.append(MaxPool2d(2))
        super().__init__(
            {
                "features": Sequential(*features),
                "avgpool": AdaptiveAvgPool2d(pooled),
                "flatten": Flatten(),
                "classifier": Sequential(
                    normal_linear(channels * pooled * pooled, hidden, generator, dtype),
                    ReLU(),
                    Dropout(dropout, rng=generator),
                    normal_linear(hidden, hidden, generator, dtype),
                    ReLU(),
                    Dropout(dropout, rng=generator),
                    normal_linear(hidden, num_classes, generator, dtype),
                ),
            }
        )
