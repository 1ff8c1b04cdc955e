"""Where the way back through a network may end: before the first layer that an optimizer trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Layer

__all__ = ["ending_early"]


@contextmanager
def ending_early(model: Layer, trained: Collection[int]) -> Iterator[None]:
    """Inside the block ``model.backward`` ends, with None, where nothing in front is trained.

    Parameters
    ----------
    model
        Any layer. A `Sequential`, one within it, and the graph of an ONNX file know what comes first; others go back
        all the way.
    trained
        The ``id`` of each parameter that is trained.
    """
    if all(id(parameter) in trained for parameter in model.parameters()):
        yield
        return
    uses = Counter(id(layer) for _, layer in model._walk("", None))

    def is_frozen(layer: Layer) -> bool:
        # a layer that has two names may come a second time, behind one that is trained
        return all(uses[id(part)] == 1 for _, part in layer.named_layers()) and not any(
            id(parameter) in trained for parameter in layer.parameters()
        )

    try:
        model._mark_untrained(is_frozen)
        for _, layer in list(model.named_layers()):
            if layer._untrained:
                for _, part in layer.named_layers():
                    part._untrained = True
        yield
    finally:
        for _, layer in model.named_layers():
            layer.__dict__.pop("_untrained", None)
