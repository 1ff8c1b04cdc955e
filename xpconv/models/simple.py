"""Networks that are one layer after the other: fully connected, and small convolutional ones for small images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._checks import check_integer, check_number
from .._geometry import IntOrPair, to_pair
from .._random import as_generator
from ..layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from ._initial import Rng, draw_normal

__all__ = ["FullyConnectedNet", "LeNet", "SmallConvNet", "ThreeLayerConvNet"]


def _pooled(size: tuple[int, int], times: int, least: int) -> tuple[int, int]:
    """Image size after so many poolings by two; the message names ``least``, the smallest size that works."""
    height, width = (length >> times for length in size)
    if not (height and width):
        raise ValueError(f"image_size: must be at least {least} x {least}, got {size[0]} x {size[1]}")
    return height, width


class FullyConnectedNet(Sequential):
    """Any number of hidden layers: ``{linear - [normalisation] - ReLU - [dropout]} x L - linear``.

    Input of any shape (N, ...) is flattened first. The layers are named flatten, linear1, norm1, relu1, dropout1,
    linear2 and so on.

    Parameters
    ----------
    hidden_dims : sequence of int
        Sizes of the hidden layers.
    input_dim, num_classes : int
        Sizes of the input and the result.
    normalization : None, "batchnorm" or "layernorm"
        What comes after each hidden linear layer.
    dropout : float
        Probability of dropping a hidden number; 0 for no dropout.
    weight_scale : float, optional
        Draw weights from N(0, weight_scale**2) and start biases at zero; None is PyTorch's default.
    rng : numpy.random.Generator or int, optional
        Where weights and seeds come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers or too small for the network, a share or a name that is out of range, an
        unknown dtype. The message names the argument.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int],
        input_dim: int = 3 * 32 * 32,
        num_classes: int = 10,
        *,
        normalization: str | None = None,
        dropout: float = 0.0,
        weight_scale: float | None = None,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        if normalization not in (None, "batchnorm", "layernorm"):
            raise ValueError(f"normalization: expected None, 'batchnorm' or 'layernorm', got {normalization!r}")
        if isinstance(hidden_dims, str) or not isinstance(hidden_dims, Iterable):
            raise TypeError(f"hidden_dims: expected a sequence of integers, got {hidden_dims!r}")
        hidden_dims = [check_integer("hidden_dims", hidden, 1) for hidden in hidden_dims]
        input_dim = check_integer("input_dim", input_dim, 1)
        num_classes = check_integer("num_classes", num_classes, 1)
        dropout = check_number("dropout", dropout, 0, 1)
        generator = as_generator(rng)
        layers: dict[str, Layer] = {"flatten": Flatten()}
        size = input_dim
        for i, hidden in enumerate(hidden_dims, 1):
            layers[f"linear{i}"] = Linear(size, hidden, rng=generator, dtype=dtype)
            if normalization is not None:
                norm = BatchNorm1d if normalization == "batchnorm" else LayerNorm
                layers[f"norm{i}"] = norm(hidden, dtype=dtype)
            layers[f"relu{i}"] = ReLU()
            if dropout:
                layers[f"dropout{i}"] = Dropout(dropout, rng=generator)
            size = hidden
        layers[f"linear{len(hidden_dims) + 1}"] = Linear(size, num_classes, rng=generator, dtype=dtype)
        super().__init__(layers)
        if weight_scale is not None:
            draw_normal(self, weight_scale, generator)


class ThreeLayerConvNet(Sequential):
    """``conv - ReLU - 2x2 max pooling - linear - ReLU - linear``, the first convolutional network of Stanford's CS231n.

    Parameters
    ----------
    in_channels : int
        C of the images (N, C, H, W).
    image_size : int or pair
        (H, W), at least 2 x 2; the convolution keeps it.
    num_classes : int
        Size of the result.
    num_filters, filter_size, hidden_dim : int
        Of the convolution (odd size), and of the hidden linear layer.
    weight_scale, rng, dtype
        As for `FullyConnectedNet`.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers or too small for the network, a share or a name that is out of range, an
        unknown dtype. The message names the argument.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: IntOrPair = 32,
        num_classes: int = 10,
        *,
        num_filters: int = 32,
        filter_size: int = 7,
        hidden_dim: int = 100,
        weight_scale: float | None = None,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        filter_size = check_integer("filter_size", filter_size, 1)
        if filter_size % 2 == 0:
            raise ValueError(f"filter_size: must be odd, so that the convolution keeps the size, got {filter_size}")
        num_filters = check_integer("num_filters", num_filters, 1)
        hidden_dim = check_integer("hidden_dim", hidden_dim, 1)
        num_classes = check_integer("num_classes", num_classes, 1)
        generator = as_generator(rng)
        height, width = _pooled(to_pair("image_size", image_size), 1, 2)
        padding = filter_size // 2
        super().__init__(
            {
                "conv1": Conv2d(in_channels, num_filters, filter_size, padding=padding, rng=generator, dtype=dtype),
                "relu1": ReLU(),
                "pool1": MaxPool2d(2),
                "flatten": Flatten(),
                "linear1": Linear(num_filters * height * width, hidden_dim, rng=generator, dtype=dtype),
                "relu2": ReLU(),
                "linear2": Linear(hidden_dim, num_classes, rng=generator, dtype=dtype),
            }
        )
        if weight_scale is not None:
            draw_normal(self, weight_scale, generator)


class LeNet(Sequential):
    """LeNet-5 (LeCun et al. 1998, *Gradient-based learning applied to document recognition*), with ReLU, max pooling.

    Parameters
    ----------
    in_channels : int
        C of the images (N, C, H, W).
    image_size : int or pair
        (H, W), at least 12 x 12. Images below 32 x 32 are padded by 2 pixels, as the 28 x 28 digits were in the paper.
    num_classes : int
        Size of the result.
    rng : numpy.random.Generator or int, optional
        Where weights come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers or too small for the network, a share or a name that is out of range, an
        unknown dtype. The message names the argument.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: IntOrPair = 28,
        num_classes: int = 10,
        *,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        num_classes = check_integer("num_classes", num_classes, 1)
        generator = as_generator(rng)
        size = to_pair("image_size", image_size)
        padding = 2 if min(size) < 32 else 0
        height, width = ((((length + 2 * padding - 4) // 2) - 4) // 2 for length in size)
        if height < 1 or width < 1:
            raise ValueError(f"image_size: must be at least 12 x 12, got {size[0]} x {size[1]}")
        super().__init__(
            {
                "conv1": Conv2d(in_channels, 6, 5, padding=padding, rng=generator, dtype=dtype),
                "relu1": ReLU(),
                "pool1": MaxPool2d(2),
                "conv2": Conv2d(6, 16, 5, rng=generator, dtype=dtype),
                "relu2": ReLU(),
                "pool2": MaxPool2d(2),
                "flatten": Flatten(),
                "fc1": Linear(16 * height * width, 120, rng=generator, dtype=dtype),
                "relu3": ReLU(),
                "fc2": Linear(120, 84, rng=generator, dtype=dtype),
                "relu4": ReLU(),
                "fc3": Linear(84, num_classes, rng=generator, dtype=dtype),
            }
        )


class SmallConvNet(Sequential):
    """Three times ``3x3 conv - batch norm - ReLU - 2x2 max pooling``, then dropout and a linear layer.

    About 2 million multiplications for an image of 28 x 28; the channels double at each step.

    Parameters
    ----------
    in_channels : int
        C of the images (N, C, H, W).
    image_size : int or pair
        (H, W), at least 8 x 8.
    num_classes : int
        Size of the result.
    width : int
        Channels after the first convolution.
    dropout : float
        Probability of dropping a feature before the linear layer; 0 for no dropout.
    rng : numpy.random.Generator or int, optional
        Where weights and seeds come from; the process-wide generator if None.
    dtype : str
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers or too small for the network, a share or a name that is out of range, an
        unknown dtype. The message names the argument.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: IntOrPair = 28,
        num_classes: int = 10,
        *,
        width: int = 16,
        dropout: float = 0.1,
        rng: Rng = None,
        dtype: str = "float32",
    ) -> None:
        width = check_integer("width", width, 1)
        num_classes = check_integer("num_classes", num_classes, 1)
        dropout = check_number("dropout", dropout, 0, 1)
        generator = as_generator(rng)
        height, columns = _pooled(to_pair("image_size", image_size), 3, 8)
        layers: dict[str, Layer] = {}
        channels = in_channels
        for i in (1, 2, 3):
            filters = width << (i - 1)
            # no bias: the batch normalisation behind it would take it out again
            layers[f"conv{i}"] = Conv2d(channels, filters, 3, padding=1, bias=False, rng=generator, dtype=dtype)
            layers[f"bn{i}"] = BatchNorm2d(filters, dtype=dtype)
            layers[f"relu{i}"] = ReLU()
            layers[f"pool{i}"] = MaxPool2d(2)
            channels = filters
        layers["flatten"] = Flatten()
        if dropout:
            layers["dropout"] = Dropout(dropout, rng=generator)
        layers["fc"] = Linear(channels * height * columns, num_classes, rng=generator, dtype=dtype)
        super().__init__(layers)
