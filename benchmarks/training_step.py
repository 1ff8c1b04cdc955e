"""Whole training steps against PyTorch on the CPU: forward pass, loss, backward pass, optimizer.

Each network starts from the same weights on both sides, carried over by its state_dict, and first takes three steps of
which the losses must agree (without dropout, whose random numbers differ). Batches of 128. `torch NHWC` is PyTorch with
network and images in channels-last memory; `generic` is xpconv without compiled kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F
from xpconv import layers, models
from xpconv.backends import use_kernels

from .command import Options, main
from .report import Row, row_of_samples
from .timing import assert_same, interleave, optional_torch, threads_set

__all__ = ["NETWORKS", "measure", "torch_twin"]


class Network(NamedTuple):
    """A network of `xpconv.models`, the images that it is for, and how it is trained."""

    name: str
    channels: int
    size: int
    optimizer: str
    settings: Mapping[str, Any]


_ADAM: Mapping[str, Any] = {"lr": 1e-3}
NETWORKS = (
    Network("lenet", 1, 28, "Adam", _ADAM),
    Network("three-layer-convnet", 3, 32, "Adam", _ADAM),
    Network("small-cnn", 1, 28, "Adam", _ADAM),
    Network("resnet20", 3, 32, "SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}),
)

Step = Callable[[], float]


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


def _batch_norm(torch: ModuleType, layer: layers.BatchNorm2d, *, relu: bool = False) -> Any:
    """With the ReLU that is part of xpconv's layer, so that names of parameters stay."""

    class BatchNormRelu(torch.nn.BatchNorm2d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    kind = BatchNormRelu if relu else torch.nn.BatchNorm2d
    return kind(layer.num_features, layer.eps, layer.momentum)


def _block(torch: ModuleType, block: models.BasicBlock) -> Any:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in block.named_children():
                # the ReLU behind bn2 comes after the addition
                norm = isinstance(child, layers.BatchNorm2d)
                setattr(self, name, _batch_norm(torch, child) if norm else torch_twin(torch, child))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))

    return Block()


def _torch_step(
    torch: ModuleType, model: layers.Layer, network: Network, x: np.ndarray, labels: np.ndarray, *,
    channels_last: bool, dropout: bool,
) -> Step:  # fmt: skip
    twin = torch_twin(torch, model)
    weights = {name: torch.from_numpy(xpconv.to_numpy(a).copy()) for name, a in model.state_dict().items()}
    twin.load_state_dict(weights, strict=True)
    if not dropout:
        for module in twin.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    images, targets = torch.from_numpy(x), torch.from_numpy(labels)
    if channels_last:
        twin = twin.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = getattr(torch.optim, network.optimizer)(twin.parameters(), **network.settings)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(images), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# ---- xpconv's side ------------------------------------------------------------------------------------------------


def _xpconv_step(model: layers.Layer, network: Network, x: np.ndarray, labels: np.ndarray, kernels: str) -> Step:
    optimizer = getattr(xpconv.optim, network.optimizer)(model.parameters(), **network.settings)
    steps = 0

    def step() -> float:
        nonlocal steps
        with use_kernels(kernels):
            model.begin_step(steps)
            optimizer.zero_grad()
            loss, dscores = F.softmax_cross_entropy(model(x), labels)
            model.backward(dscores)
            optimizer.step()
        steps += 1
        return float(loss)

    return step


def _model(network: Network, size: int, *, dropout: bool) -> layers.Layer:
    model = models.build(network.name, in_channels=network.channels, image_size=size, num_classes=10, rng=0)
    if not dropout:
        for _, layer in model.named_layers():
            if isinstance(layer, layers.Dropout):
                layer.p = 0.0
    return model


def measure(options: Options) -> Iterator[Row]:
    """One row for each network and number of threads."""
    torch = optional_torch()
    batch = 2 if options.size == "tiny" else 128
    for network in NETWORKS:
        size = 12 if options.size == "tiny" else network.size
        case = f"{network.name}, batch {batch} of {network.channels}x{size}x{size}, {network.optimizer}"
        if not options.wants(case):
            continue
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, network.channels, size, size), dtype=np.float32)
        labels = rng.integers(0, 10, batch)

        def steps(*, dropout: bool, network=network, size=size, x=x, labels=labels) -> dict[str, Step]:
            """A training step by contender, all from the same weights."""
            found = {}
            if torch:
                model = _model(network, size, dropout=dropout)
                for name, channels_last in (("torch", False), ("torch NHWC", True)):
                    found[name] = _torch_step(
                        torch, model, network, x, labels, channels_last=channels_last, dropout=dropout
                    )
            for name, kernels in (("generic", "generic"), ("xpconv", "auto")):
                found[name] = _xpconv_step(_model(network, size, dropout=dropout), network, x, labels, kernels)
            return found

        with threads_set(1):
            losses = {name: [np.asarray([step() for _ in range(3)])] for name, step in steps(dropout=False).items()}
        assert_same(f"{case}: losses of the first three steps", losses, 1e-3)
        contenders = steps(dropout=True)
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1)
            yield row_of_samples("training_step", case, "training step", threads, samples, baseline="torch")


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
