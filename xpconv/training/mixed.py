"""Mixed precision: forward and backward in a half type, weights, their updates and the loss in float32.

::

    weights float32 -> half      batch -> half
    forward in half              normalisation in float32, with its own weights and running statistics
    scores -> float32, loss      its gradient times the loss scale -> half
    backward in half             gradients -> float32, divided by the scale, added up over the parts of the batch
    step in float32              none where a gradient is not finite; the scale is halved then

float16 needs the scale: small gradients would be 0 in it. bfloat16 has the range of float32, and no scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import Backend, backend_of
from ..backends.protocol import Array
from ..layers import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm

if TYPE_CHECKING:
    from ..layers import Layer, Parameter

__all__ = ["HALF_TYPES", "HalfModel", "LossScale", "check_half_type"]

HALF_TYPES = ("float16", "bfloat16")

_NORMALISATION = (BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm)


@dataclass
class LossScale:
    """A factor on the loss that keeps gradients of float16 from vanishing, as `torch.amp.GradScaler` chooses it.

    Attributes
    ----------
    scale
        The factor of the next step.
    growth_interval
        After so many steps in a row without an overflow the scale is doubled; an overflow halves it.
    good_steps
        Steps without an overflow since the last change.
    skipped
        Steps that were not taken because gradients overflowed.
    """

    scale: float = 65536.0
    growth_interval: int = 2000
    good_steps: int = 0
    skipped: int = 0

    def update(self, finite: bool) -> None:
        """After a step whose gradients were all finite, or not.

        Parameters
        ----------
        finite
            Whether the step was taken.
        """
        if not finite:
            self.scale, self.good_steps, self.skipped = self.scale / 2, 0, self.skipped + 1
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        return asdict(self)


def check_half_type(model: Layer, dtype: str | None) -> None:
    """Raise TypeError or ValueError unless the model can be trained in the half type ``dtype``; None is none."""
    if dtype is None:
        return
    if dtype not in HALF_TYPES:
        raise ValueError(f"mixed_precision: expected {' or '.join(HALF_TYPES)}, got {dtype!r}")
    for name, parameter in model.named_parameters():
        backend = backend_of(parameter=parameter.data)
        got = backend.dtype_name(parameter.data)
        if got != "float32":
            raise TypeError(f"mixed_precision: expected a model in float32, got {name} in {got}")
        try:
            backend.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"mixed_precision: the backend {backend.name} has no {dtype}") from error


def _stays_wide(layer: Layer) -> bool:
    """Whether the layer computes in float32: normalisation, and what else keeps floating-point statistics."""
    return isinstance(layer, _NORMALISATION) or any(
        backend_of(buffer=buffer).is_floating(buffer) for _, buffer in layer._own(layer._buffer_names)
    )


def _cast(value: Any, backend: Backend, dtype: str) -> Any:
    """Arrays of floating-point in ``dtype``, also those of a tuple; everything else as it is."""
    if isinstance(value, tuple):
        return tuple(_cast(item, backend, dtype) for item in value)
    if backend.owns(value) and backend.is_floating(value):
        return backend.astype(value, dtype)
    return value


class HalfModel:
    """A model in a half type, for one step: made from its float32 weights by `of`.

    Attributes
    ----------
    scale
        What gradients are multiplied by on their way back.
    """

    def __init__(self, model: Layer, backend: Backend, dtype: str, scale: float) -> None:
        self.model, self.backend, self.dtype, self.scale = model, backend, dtype, scale
        self._weights: list[tuple[Parameter, Array]] = []
        self._gradients: dict[int, Array] = {}
        self._wrapped: list[tuple[Layer, str, Any]] = []

    @classmethod
    @contextmanager
    def of(cls, model: Layer, backend: Backend, dtype: str, scale: float) -> Iterator[HalfModel]:
        """Inside the block the weights are of ``dtype``; behind it they and their gradients are float32 again."""
        half = cls(model, backend, dtype, scale)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is noticed, and dealt with
            try:
                half._enter()
                yield half
            finally:
                half._leave()
            half._unscale()

    def _enter(self) -> None:
        wide: set[int] = set()
        for _, layer in self.model.named_layers():
            if _stays_wide(layer):
                wide |= {id(parameter) for _, parameter in layer._own(layer._parameter_names)}
                for name in ("forward", "backward"):
                    self._wrap(layer, name)
        for parameter in self.model.parameters():
            if id(parameter) not in wide:
                self._weights.append((parameter, parameter.data))
                parameter.data = self.backend.astype(parameter.data, self.dtype)

    def _wrap(self, layer: Layer, name: str) -> None:
        """Let a method compute in float32. An instance that has it of its own is not run together with a ReLU."""
        function = getattr(layer, name)
        self._wrapped.append((layer, name, layer.__dict__.get(name)))

        def wide(*arguments: Any) -> Any:
            result = function(*(_cast(argument, self.backend, "float32") for argument in arguments))
            return _cast(result, self.backend, self.dtype)

        layer.__dict__[name] = wide

    def _leave(self) -> None:
        for layer, name, before in self._wrapped:
            if before is None:
                layer.__dict__.pop(name, None)
            else:
                layer.__dict__[name] = before
        for parameter, weights in self._weights:
            parameter.data, parameter.grad = weights, self._gradients.get(id(parameter))

    def forward(self, x: Array) -> Array:
        """Scores in float32."""
        return self.backend.astype(self.model.forward(self.backend.astype(x, self.dtype)), "float32")

    def backward(self, dscores: Array) -> None:
        """Add the gradients, times the scale, to what earlier parts of the batch have given."""
        self.model.backward(self.backend.astype(dscores * self.scale, self.dtype))
        for parameter, _ in self._weights:
            if parameter.grad is not None:
                new = self.backend.astype(parameter.grad, "float32")
                before = self._gradients.get(id(parameter))
                self._gradients[id(parameter)] = new if before is None else self.backend.add(before, new)
                parameter.grad = None

    def _unscale(self) -> None:
        if self.scale != 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.backend.asarray(parameter.grad * (1 / self.scale))
