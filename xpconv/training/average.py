"""An exponential moving average of the weights of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..backends import backend_of, compute
from ..backends.protocol import Array

if TYPE_CHECKING:
    from ..layers import Layer

__all__ = ["WeightAverage"]


class WeightAverage:
    """``average = decay * average + (1 - decay) * weight`` after every step; the first step starts it.

    It is PyTorch's `AveragedModel` with ``get_ema_multi_avg_fn(decay)``: parameters are averaged; buffers, such as the
    running statistics of batch normalisation, are those of the model itself.

    Parameters
    ----------
    model : Layer
    decay : float
        In [0, 1).

    Attributes
    ----------
    count : int
        Steps that it has seen.
    """

    def __init__(self, model: Layer, decay: float) -> None:
        self.model, self.decay, self.count = model, decay, 0
        self._arrays: dict[str, Array] = {}

    def update(self) -> None:
        """Take in the weights as they are now."""
        for name, parameter in self.model.named_parameters():
            backend = backend_of(parameter=parameter.data)
            if self.count:
                new = compute(backend, "average of weights", self._mixed, self._arrays[name], parameter.data)
                self._arrays[name] = backend.asarray(new)  # NumPy makes scalars of arrays without axes
            else:
                self._arrays[name] = compute(
                    backend, "average of weights", backend.xp.asarray, parameter.data, copy=True
                )
        self.count += 1

    def _mixed(self, average: Array, weight: Array) -> Array:
        new = weight - average
        new *= 1 - self.decay  # in place, which spares large arrays
        new += average
        return new

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights; before the first step there are none."""
        if not self.count:
            yield
            return
        own = [(parameter, parameter.data) for parameter in self.model.parameters()]
        try:
            for name, parameter in self.model.named_parameters():
                parameter.data = self._arrays[name]
            yield
        finally:
            for parameter, data in own:
                parameter.data = data

    def load(self, arrays: Mapping[str, Array], count: int) -> None:
        """Go on from a checkpoint: the average of every parameter by name, on its backend, after ``count`` steps.

        Parameters
        ----------
        arrays
            NumPy arrays by the names of parameters, each of the shape of its parameter.
        count
            Steps that are in the average.

        Raises
        ------
        ValueError
            One is missing, or has another shape or dtype than its parameter.
        """
        loaded = {}
        for name, parameter in self.model.named_parameters():
            if not count:
                break
            if name not in arrays:
                raise ValueError(f"no average of {name}")
            backend = backend_of(parameter=parameter.data)
            array, dtype = arrays[name], backend.dtype_name(parameter.data)
            if tuple(array.shape) != parameter.shape:
                raise ValueError(f"average of {name}: expected shape {parameter.shape}, got {tuple(array.shape)}")
            if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype.name == "float32"):
                raise ValueError(f"average of {name}: expected {dtype}, got {array.dtype.name}")
            loaded[name] = compute(backend, "copy", backend.xp.asarray, backend.asarray(array, dtype), copy=True)
        self._arrays, self.count = loaded, count
