"""A short training run as a case: the losses of its steps.

How far rounding carries two runs apart is a property of the run: a weight whose gradient is next to zero moves by a
whole learning rate in Adam's first step, in a direction that rounding decides. So the run is repeated in float64 with
gradients that are disturbed at random by what rounding errors amount to, ``gamma(K) max|g|``, with K the roundings
along the longest chain through the network; what this does to the losses is what the rounding of a backend may do.
That is the backward error view (Higham, section 1.5): a computed run is as good as the exact one of data changed by
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ... import functional as F
from ...backends import to_numpy, use_backend, use_kernels
from ...backends.registry import backend_of
from ...layers import BatchNorm2d, Conv2d, Linear
from ...models import SmallConvNet
from ...optim import Adam
from .bounds import Bound, gamma
from .cases import Bounds, Draw, Key, ParityCase, Results

__all__ = ["training_run"]

STEPS, BATCH, SIZE, CLASSES = 8, 12, 8, 5
_DISTURBED_RUNS = 4
_KEY = "training run"


def _net(dtype: str) -> SmallConvNet:
    """Convolutions, batch norm, max pooling, dropout, a linear layer."""
    return SmallConvNet(2, SIZE, CLASSES, width=4, dropout=0.3, rng=7, dtype=dtype)


def _losses(draw: Draw, dtype: str, disturb: Callable[[np.ndarray], np.ndarray] | None = None) -> list[float]:
    """Losses of the steps; on the backend that the draw places its arrays on."""
    x = draw.normal("x", (STEPS, BATCH, 2, SIZE, SIZE))
    labels = draw.integers("labels", 0, CLASSES, (STEPS, BATCH))
    with use_backend(backend_of(x=x).name):
        net = _net(dtype)
        optimizer = Adam(net.parameters(), lr=1e-2)
        losses = []
        for step in range(STEPS):
            net.begin_step(step, 1)
            net.zero_grad()
            loss, dscores = F.softmax_cross_entropy(net(x[step, ...]), labels[step, ...])
            net.backward(dscores)
            if disturb is not None:
                for parameter in net.parameters():
                    if parameter.grad is not None:
                        parameter.grad = disturb(parameter.grad)
            optimizer.step()
            losses.append(loss)
    return [float(to_numpy(loss)) for loss in losses]


def _chain() -> float:
    """Roundings along the longest chain through forward and backward pass: the sums, one layer after the other."""
    net = _net("float32")
    length, side = 2.0 * CLASSES + BATCH, SIZE
    for _, layer in net.named_layers():
        if isinstance(layer, Conv2d):
            taps = math.prod(layer.weight.shape[2:])
            length += (layer.in_channels + layer.out_channels) * taps + BATCH * side * side  # y, dx and dw
        elif isinstance(layer, BatchNorm2d):
            length += 5 * BATCH * side * side  # of two means each in y and dx, see cases
            side //= 2  # by the pooling behind it
        elif isinstance(layer, Linear):
            length += layer.in_features + layer.out_features + BATCH
    return length


def training_run() -> ParityCase:
    """The case."""
    keys: list[Key] = [(_KEY, f"loss of step {step}") for step in range(STEPS)]

    def call(draw: Draw) -> Results:
        return {key: np.asarray(loss, draw.dtype) for key, loss in zip(keys, _losses(draw, draw.dtype), strict=True)}

    def bounds(draw: Draw) -> Bounds:
        length = _chain()
        size = gamma(length, draw.dtype)
        with use_kernels("generic"):
            exact = np.asarray(_losses(draw, "float64"))
            apart = np.zeros(STEPS)
            for number in range(_DISTURBED_RUNS):
                rng = np.random.default_rng(number)

                def disturb(g: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
                    return g + size * np.max(np.abs(g)) * rng.uniform(-1, 1, g.shape)

                apart = np.maximum(apart, np.abs(_losses(draw, "float64", disturb) - exact))
        # what the runs have come apart by, and the roundings of the loss itself
        scales = np.maximum.accumulate(apart) / size + exact
        return {key: Bound(length, scale) for key, scale in zip(keys, scales.tolist(), strict=True)}

    # in half precision the disturbance is so large that any run would do
    return ParityCase("training run: convolutions, batch norm, dropout, Adam", call, bounds, in_half=False)
