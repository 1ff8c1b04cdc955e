"""Layers that a `Sequential` runs together with the ReLU behind them, as one operator.

::

    Conv2d, ReLU                                            functional.conv.conv2d_relu
    BatchNorm, ReLU                                         functional.batch_norm_relu
    Residual whose body ends in a BatchNorm2d, ReLU         the same, the shortcut being its residual

It changes results by no more than rounding, and every layer gets a cache of its own as if it had run alone, so that it
can also be gone back through alone. What decides on the way back is the cache: where that of the layer before a ReLU
holds the very result that the ReLU has kept, the backward of that layer applies the mask.

Only what the classes here define themselves is run in this way: where a subclass or an instance has a forward or a
backward of its own, that one is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["is_fusing", "runs_as", "use_fusion"]

_fusing: ContextVar[bool] = ContextVar("xpconv_fusion", default=True)


def is_fusing() -> bool:
    """Whether layers are run together."""
    return _fusing.get()


@contextmanager
def use_fusion(wanted: bool) -> Iterator[None]:
    """Run layers together or each alone inside a ``with`` block, in this thread or task only."""
    token = _fusing.set(wanted)
    try:
        yield
    finally:
        _fusing.reset(token)


def runs_as(layer: Any, kind: type) -> bool:
    """Whether forward and backward of ``layer`` are those that ``kind`` defines."""
    return (
        getattr(layer.forward, "__func__", None) is kind.forward  # type: ignore[attr-defined]
        and getattr(layer.backward, "__func__", None) is kind.backward  # type: ignore[attr-defined]
    )
