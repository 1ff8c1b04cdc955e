"""Networks of xpconv and their twins in PyTorch, with the same weights, and a training step of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F
from xpconv import layers, models

__all__ = [
    "NETWORKS",
    "Network",
    "Step",
    "images",
    "torch_step",
    "torch_twin",
    "twin_with_weights",
    "xpconv_model",
    "xpconv_step",
]

Step = Callable[[], float]


class Network(NamedTuple):
    """A network of `xpconv.models`, the images that it is for, and how it is trained."""

    name: str
    channels: int
    size: int
    optimizer: str
    settings: Mapping[str, Any]


_ADAM: Mapping[str, Any] = {"lr": 1e-3}
_SGD: Mapping[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
NETWORKS = (
    Network("lenet", 1, 28, "Adam", _ADAM),
    Network("three-layer-convnet", 3, 32, "Adam", _ADAM),
    Network("resnet20", 3, 32, "SGD", _SGD),
    Network("resnet18", 3, 32, "SGD", _SGD),
)


def images(network: Network, batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, network.channels, size, size), dtype=np.float32), rng.integers(0, 10, batch)


# ---- PyTorch's side -----------------------------------------------------------------------------------------------


def torch_twin(torch: ModuleType, layer: layers.Layer) -> Any:
    """The same network as a `torch.nn.Module`, with weights of its own.

    Raises
    ------
    TypeError
        A layer that this does not know.
    """
    nn = torch.nn
    match layer:
        case models.BasicBlock():
            return _block(torch, layer)
        case layers.Sequential():
            # subclasses are the networks of xpconv.models
            twins = nn.Sequential()
            for name, child in layer.named_children():
                twins.add_module(name, torch_twin(torch, child))
            return twins
        case layers.Conv2d():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                layer.groups, layer.bias is not None,
            )  # fmt: skip
        case layers.Linear():
            return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        case layers.BatchNorm2d(activation=None):
            return _batch_norm(torch, layer)
        case layers.BatchNorm2d(activation="relu"):
            return _batch_norm(torch, layer, relu=True)
        case layers.MaxPool2d():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        case layers.GlobalAvgPool2d():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case layers.ReLU():
            return nn.ReLU()
        case layers.Flatten():
            return nn.Flatten()
        case layers.Dropout():
            return nn.Dropout(layer.p)
    raise TypeError(f"layer: no twin known for {type(layer).__name__}")


def twin_with_weights(torch: ModuleType, model: layers.Layer, *, dropout: bool = True) -> Any:
    """The network in PyTorch, with a copy of its weights."""
    twin = torch_twin(torch, model)
    weights = {name: torch.from_numpy(xpconv.to_numpy(a).copy()) for name, a in model.state_dict().items()}
    twin.load_state_dict(weights, strict=True)
    if not dropout:
        for module in twin.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return twin


def _batch_norm(torch: ModuleType, layer: layers.BatchNorm2d, *, relu: bool = False) -> Any:
    """With the ReLU that is part of xpconv's layer, so that names of parameters stay."""
    nn: Any = torch.nn

    class BatchNormRelu(nn.BatchNorm2d):
        def forward(self, x: Any) -> Any:
            return torch.relu(super().forward(x))

    kind = BatchNormRelu if relu else nn.BatchNorm2d
    return kind(layer.num_features, layer.eps, layer.momentum)


def _block(torch: ModuleType, block: models.BasicBlock) -> Any:
    nn: Any = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in block.named_children():
                # a norm's own ReLU is left out: that behind bn2 comes after the addition
                norm = child if isinstance(child, layers.BatchNorm2d) else None
                setattr(self, name, torch_twin(torch, child) if norm is None else _batch_norm(torch, norm))
            known = {"conv1", "bn1", "conv2", "bn2"}
            self.projection = next((name for name, _ in block.named_children() if name not in known), None)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.projection is None else getattr(self, self.projection)(x)))

    return Block()


def torch_step(
    torch: ModuleType, model: layers.Layer, network: Network, x: np.ndarray, labels: np.ndarray, *,
    channels_last: bool = False, dropout: bool = True,
) -> Step:  # fmt: skip
    """A function that takes one step and returns the loss, from the weights of ``model``."""
    twin = twin_with_weights(torch, model, dropout=dropout)
    batch, targets = torch.from_numpy(x), torch.from_numpy(labels)
    if channels_last:
        twin = twin.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    optimizer = getattr(torch.optim, network.optimizer)(twin.parameters(), **network.settings)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(batch), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# ---- xpconv's side ------------------------------------------------------------------------------------------------


def xpconv_model(network: Network, size: int, *, dropout: bool = True) -> layers.Layer:
    """The network, with the weights of seed 0."""
    model = models.build(network.name, in_channels=network.channels, image_size=size, num_classes=10, rng=0)
    if not dropout:
        for _, layer in model.named_layers():
            if isinstance(layer, layers.Dropout):
                layer.p = 0.0
    return model


def xpconv_step(model: layers.Layer, network: Network, x: np.ndarray, labels: np.ndarray) -> Step:
    """A function that takes one step and returns the loss."""
    optimizer = getattr(xpconv.optim, network.optimizer)(model.parameters(), **network.settings)
    steps = 0

    def step() -> float:
        nonlocal steps
        model.begin_step(steps)
        optimizer.zero_grad()
        loss, dscores = F.softmax_cross_entropy(model(x), labels)
        model.backward(dscores)
        optimizer.step()
        steps += 1
        return float(loss)

    return step
