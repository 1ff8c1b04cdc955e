"""Running a network to look at it, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Layer

__all__ = ["unchanged"]


@contextmanager
def unchanged(network: Layer, *, keeps: bool = False) -> Iterator[None]:
    """Evaluation mode inside of the block; behind it, also after an error, the network is as it was.

    Put back are the attributes of all layers, such as modes, buffers, caches of earlier forwards and methods that were
    replaced inside, and the gradients of the parameters, which begin as None.

    Parameters
    ----------
    network
        Any layer.
    keeps
        Whether forwards keep what a backward needs.
    """
    layers = [(layer, dict(layer.__dict__)) for _, layer in network.named_layers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    try:
        for layer, _ in layers:
            layer.__dict__.update(training=False, _keeps=keeps, _untrained=False, _stack=[])
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for layer, before in layers:
            for name in layer.__dict__.keys() - before.keys():
                del layer.__dict__[name]
            layer.__dict__.update(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
