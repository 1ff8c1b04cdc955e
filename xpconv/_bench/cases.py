"""What ``xpconv bench`` measures: some convolutions, some other layers, training steps, and one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import xpconv.functional as F

from .networks import NETWORKS, images, torch_step, twin_with_weights, xpconv_model, xpconv_step
from .peers import BOTH, torch_pass
from .timing import Budget, Contender, Ratio, assert_same, interleave, median, ratio, threads_set

__all__ = ["CASES", "Case", "Measurement", "measure"]

_PEER = "PyTorch"
_OURS = "xpconv"
_ROUNDS = 3  # at least

Contenders = dict[str, Contender]


class Case(NamedTuple):
    """One thing to measure.

    Attributes
    ----------
    group
        What is done.
    name
        To what.
    make
        Function of PyTorch (or None) that gives the contenders: functions that return arrays to compare.
    tolerance
        Largest difference of the results, as a part of the largest value.
    quick
        Whether it is part of a short run.
    """

    group: str
    name: str
    make: Callable[[ModuleType | None], Contenders]
    tolerance: float = 2e-4
    quick: bool = False


class Measurement(NamedTuple):
    """Seconds of one call, and how much faster xpconv is.

    Attributes
    ----------
    xpconv, pytorch
        Median over the rounds, between the quartiles; None where PyTorch is not installed.
    ratio
        PyTorch's time by xpconv's, formed within each round: its median between its quartiles.
    rounds
        How many there were.
    """

    xpconv: Ratio
    pytorch: Ratio | None
    ratio: Ratio | None
    rounds: int


# ---- the cases ----------------------------------------------------------------------------------------------------


def _layer(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    theirs: Callable[[ModuleType], Callable[..., Any]],
    shapes: Sequence[tuple[int, ...]],
    torch: ModuleType | None,
) -> Contenders:
    """Forward and backward pass of a function of arrays."""
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    dy = rng.standard_normal(forward(*arguments)[0].shape, dtype=np.float32)

    def both() -> Sequence[Any]:
        y, cache = forward(*arguments)
        gradients = backward(dy, cache)
        return (y, *(gradients if isinstance(gradients, tuple) else (gradients,)))

    found: Contenders = {}
    if torch is not None:
        found[_PEER] = torch_pass(torch, theirs(torch), arguments, dy)[BOTH]
    return {**found, _OURS: both}


def _convolution(
    batch: int, channels: int, size: int, filters: int, kernel: int, stride: int, groups: int, torch: ModuleType | None
) -> Contenders:
    options: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": groups}
    shapes = (batch, channels, size, size), (filters, channels // groups, kernel, kernel), (filters,)
    return _layer(
        lambda x, w, b: F.conv2d(x, w, b, **options),
        F.conv2d_backward,
        lambda torch: lambda x, w, b: torch.nn.functional.conv2d(x, w, b, **options),
        shapes,
        torch,
    )


_ACTIVATIONS = (64, 64, 32, 32)


def _batch_norm(torch: ModuleType | None) -> Contenders:
    channels = _ACTIVATIONS[1]
    running = [np.zeros(channels, np.float32), np.ones(channels, np.float32)]

    def theirs(torch: ModuleType) -> Callable[..., Any]:
        mean, variance = (torch.from_numpy(array.copy()) for array in running)
        return lambda x, w, b: torch.nn.functional.batch_norm(x, mean, variance, w, b, training=True)

    return _layer(
        lambda x, w, b: F.batch_norm(x, w, b, *running, training=True),
        F.batch_norm_backward,
        theirs,
        (_ACTIVATIONS, (channels,), (channels,)),
        torch,
    )


def _relu(torch: ModuleType | None) -> Contenders:
    return _layer(F.relu, F.relu_backward, lambda torch: torch.relu, [_ACTIVATIONS], torch)


def _max_pool(torch: ModuleType | None) -> Contenders:
    return _layer(
        lambda x: F.max_pool2d(x, 2),
        F.max_pool2d_backward,
        lambda torch: lambda x: torch.nn.functional.max_pool2d(x, 2),
        [_ACTIVATIONS],
        torch,
    )


def _linear(torch: ModuleType | None) -> Contenders:
    return _layer(
        F.linear,
        F.linear_backward,
        lambda torch: torch.nn.functional.linear,
        [(128, 1024), (512, 1024), (512,)],
        torch,
    )


def _training(name: str, batch: int, torch: ModuleType | None) -> Contenders:
    """Steps from the same weights: the loss of the first one is the same."""
    network = next(network for network in NETWORKS if network.name == name)
    x, labels = images(network, batch, network.size)
    found: Contenders = {}
    if torch is not None:
        step = torch_step(torch, xpconv_model(network, network.size), network, x, labels)
        found[_PEER] = lambda: (np.asarray(step()),)
    ours = xpconv_step(xpconv_model(network, network.size), network, x, labels)
    return {**found, _OURS: lambda: (np.asarray(ours()),)}


def _inference(name: str, torch: ModuleType | None) -> Contenders:
    network = next(network for network in NETWORKS if network.name == name)
    x, _ = images(network, 1, network.size)
    model = xpconv_model(network, network.size).eval()
    found: Contenders = {}
    if torch is not None:
        twin, image = twin_with_weights(torch, model).eval(), torch.from_numpy(x)

        def theirs() -> Sequence[Any]:
            with torch.inference_mode():
                return (twin(image),)

        found[_PEER] = theirs
    return {**found, _OURS: lambda: (model(x),)}


_CONVOLUTION = "convolution, forward and backward"
_LAYER = "other layers, forward and backward"
_TRAINING = "training step"
_INFERENCE = "inference"

CASES = (
    Case(_CONVOLUTION, "3x3, 64 to 64, 32 of 56x56", partial(_convolution, 32, 64, 56, 64, 3, 1, 1), quick=True),
    Case(_CONVOLUTION, "3x3, 128 to 128, 64 of 16x16", partial(_convolution, 64, 128, 16, 128, 3, 1, 1)),
    Case(_CONVOLUTION, "3x3 stride 2, 64 to 128, 64 of 32x32", partial(_convolution, 64, 64, 32, 128, 3, 2, 1)),
    Case(_CONVOLUTION, "1x1, 64 to 128, 64 of 32x32", partial(_convolution, 64, 64, 32, 128, 1, 1, 1), quick=True),
    Case(_CONVOLUTION, "7x7 stride 2, 3 to 64, 8 of 224x224", partial(_convolution, 8, 3, 224, 64, 7, 2, 1)),
    Case(_CONVOLUTION, "3x3 depthwise, 128, 32 of 32x32", partial(_convolution, 32, 128, 32, 128, 3, 1, 128)),
    Case(_LAYER, "batch norm, 64 of 64x32x32", _batch_norm, quick=True),
    Case(_LAYER, "ReLU, 64 of 64x32x32", _relu),
    Case(_LAYER, "max pool 2x2, 64 of 64x32x32", _max_pool),
    Case(_LAYER, "linear, 1024 to 512, 128 rows", _linear),
    Case(_TRAINING, "LeNet, 128 of 1x28x28", partial(_training, "lenet", 128), 1e-3, quick=True),
    Case(_TRAINING, "ResNet-20, 64 of 3x32x32", partial(_training, "resnet20", 64), 1e-3, quick=True),
    Case(_INFERENCE, "ResNet-20, 1 of 3x32x32", partial(_inference, "resnet20")),
)


# ---- measuring ----------------------------------------------------------------------------------------------------


def measure(case: Case, torch: ModuleType | None, threads: int, seconds: float) -> Measurement:
    """Compare the results, then time the contenders in turn for about so many seconds.

    Raises
    ------
    AssertionError
        The results differ by more than the case takes.
    """
    with threads_set(threads):
        contenders = case.make(torch)
        results = {name: [np.asarray(array) for array in run()] for name, run in contenders.items()}  # type: ignore[attr-defined]
        assert_same(f"{case.group}, {case.name}", results, case.tolerance)
        samples = interleave(contenders, Budget(_ROUNDS, seconds), rest=threads > 1)
    ours, theirs = samples[_OURS], samples.get(_PEER)
    return Measurement(
        _spread(ours),
        None if theirs is None else _spread(theirs),
        None if theirs is None else ratio(theirs, ours),
        len(ours),
    )


def _spread(samples: Sequence[float]) -> Ratio:
    low, high = np.quantile(samples, (0.25, 0.75))
    return Ratio(median(samples), float(low), float(high))
