"""The network of an estimator: the default one, one by name, an instance or a callable; and copies of networks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .. import models
from ..backends import Backend, asarray, backend_of, load_backend
from ..layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential
from ._images import ImageShape

__all__ = ["DTYPES", "build_network", "copy_network", "dtype_of", "frozen_layers", "network_backend", "small_network"]

DTYPES = ("float32", "float64")


def small_network(image: ImageShape, outputs: int, rng: np.random.Generator, dtype: str) -> Layer:
    """Two times ``3x3 conv - ReLU - 2x2 max pooling``, then a hidden linear layer of 64 and one for the outputs.

    For images of any size: an axis shorter than 4 is not pooled, and one of length 1 not convolved over. Nothing in it
    depends on the other examples of a batch, so that a weight of 2 is the same as an example that is there twice.
    """
    channels, *size = image
    layers: list[Layer] = []
    for filters in (16, 32):
        kernel = (3 if size[0] > 1 else 1, 3 if size[1] > 1 else 1)
        padding = (kernel[0] // 2, kernel[1] // 2)
        layers += [Conv2d(channels, filters, kernel, padding=padding, rng=rng, dtype=dtype), ReLU()]
        window = (2 if size[0] >= 4 else 1, 2 if size[1] >= 4 else 1)
        if window != (1, 1):
            layers.append(MaxPool2d(window))
        size = [length // step for length, step in zip(size, window, strict=True)]
        channels = filters
    hidden = Linear(channels * size[0] * size[1], 64, rng=rng, dtype=dtype)
    return Sequential(*layers, Flatten(), hidden, ReLU(), Linear(64, outputs, rng=rng, dtype=dtype))


def build_network(
    model: Any,
    image: ImageShape,
    outputs: int,
    rng: np.random.Generator,
    backend: Backend,
    dtype: str | None,
    own_dtype: str,
) -> Layer:
    """The network that the parameter ``model`` stands for, on ``backend``, which is the default one.

    Its output is tried out, in evaluation mode. Where ``dtype`` is None, a network that is made here has ``own_dtype``.
    """
    if model is None:
        network = small_network(image, outputs, rng, dtype or own_dtype)
    elif isinstance(model, str):
        network = models.build(
            model,
            in_channels=image[0],
            image_size=image[1:],
            num_classes=outputs,
            rng=rng,
            dtype=dtype or own_dtype,
        )
    elif isinstance(model, Layer):
        network = copy_network(model, backend)
    elif callable(model):
        network = model(image, outputs, rng)
        if not isinstance(network, Layer):
            raise TypeError(f"model: expected a callable that returns a Layer, but it returned {network!r:.200}")
    else:
        raise TypeError(f"model: expected a Layer, a callable, a name or None, got {model!r:.200}")
    network.to(backend, dtype)
    if next(iter(network.parameters()), None) is None:
        raise ValueError(f"model: expected a network with parameters, got {model!r:.200}")
    found = dtype_of(network)
    if found not in DTYPES:
        raise ValueError(f"model: expected parameters of {' or '.join(DTYPES)}, got {found}; dtype=... converts them")
    _check_output(network, image, outputs, backend, found)
    return network


def _check_output(network: Layer, image: ImageShape, outputs: int, backend: Backend, dtype: str) -> None:
    modes = [(layer, layer.training) for _, layer in network.named_layers()]
    network.eval()
    try:
        with backend.running():
            y = network.forward(asarray(np.zeros((2, *image), np.float32), dtype, backend=backend))
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: does not take images of shape {image}: {error}") from error
    finally:
        for layer, training in modes:
            layer.training = training
    if tuple(y.shape) != (2, outputs):
        raise ValueError(
            f"model: expected a result of shape {(2, outputs)} for two images, a column for each class or target, "
            f"got {tuple(y.shape)}"
        )


def network_backend(network: Layer) -> Backend:
    """Where its parameters are."""
    return backend_of(parameter=next(iter(network.parameters())).data)


def dtype_of(network: Layer) -> str:
    """The dtype of its parameters."""
    return network_backend(network).dtype_name(next(iter(network.parameters())).data)


def frozen_layers(network: Layer) -> list[str]:
    """Names of the layers that are in evaluation mode on their own; none in a network that is so as a whole."""
    return [name for name, layer in network.named_layers() if not layer.training] if network.training else []


def copy_network(network: Layer, backend: Backend | str) -> Layer:
    """A copy with its arrays on ``backend``, without gradients and what backward needs."""
    target = load_backend(backend)
    memo: dict[int, Any] = {}
    for _, layer in network.named_layers():
        memo[id(layer._stack)] = []
        for _, parameter in layer._own(layer._parameter_names):
            memo[id(parameter.data)] = asarray(parameter.data, backend=target)
            if parameter.grad is not None:
                memo[id(parameter.grad)] = None
        for _, array in layer._own(layer._buffer_names):
            memo[id(array)] = asarray(array, backend=target)
    copied = copy.deepcopy(network, memo)
    # where nothing had to move, the arrays are still those of the original
    copied.load_state_dict(copied.state_dict())
    return copied
