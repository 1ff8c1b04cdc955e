"""Loss and hits of an epoch, added up without waiting for the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backends import to_numpy
from ..backends.protocol import Backend
from ..optim.clip import check_norm
from .capture import SLOTS
from .metrics import Metrics

__all__ = ["StepResult", "Sums", "TrainingError"]

# So many steps are left unread at most, which bounds how late a loss that is not finite is noticed. The newest ones are
# left unread then: waiting for them would let the device run out of work.
_UNREAD = 50
_NEWEST = 8
assert _UNREAD < SLOTS


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is no longer a finite number."""


class StepResult(NamedTuple):
    """A step whose loss may still be on the device."""

    number: int
    images: int
    loss: Any
    hits: Any | None
    lr: float
    norm: Any | None = None  # of the gradients, where they are clipped


class Sums:
    """Loss and hits over an epoch.

    Steps are collected as they are and added up, in order and in double precision, when somebody asks: so no step waits
    for the device, and the sums do not depend on when they are read.
    """

    def __init__(self, loss: float = 0.0, hits: int | None = 0, images: int = 0) -> None:
        self.loss, self.hits, self.images = loss, hits, images
        self.pending: deque[StepResult] = deque()
        self.losses: list[float] = []
        self._read_older: Callable[[Any], np.ndarray] = to_numpy

    def add(self, step: StepResult, backend: Backend) -> None:
        """Collect a step of a backend; where there are many, the older ones are read."""
        self.pending.append(step)
        if len(self.pending) == _UNREAD - _NEWEST:
            read = backend.mark()
            self._read_older = lambda value: read(value) if backend.owns(value) else to_numpy(value)
        elif len(self.pending) >= _UNREAD:
            self._read(_UNREAD - _NEWEST, self._read_older)

    def read(self) -> Metrics:
        """Add up what is pending; TrainingError if a loss or a norm is not finite, then and ever after."""
        self._read(len(self.pending), to_numpy)
        if not self.images:
            return Metrics(math.nan, math.nan)
        return Metrics(self.loss / self.images, math.nan if self.hits is None else self.hits / self.images)

    def _read(self, count: int, bring: Callable[[Any], np.ndarray]) -> None:
        for _ in range(count):
            step = self.pending[0]
            loss = float(bring(step.loss))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss became {loss} at step {step.number}, with learning rate {step.lr:g}; try a smaller one, "
                    "clip_norm, or look for NaN and huge values in the data"
                )
            if step.norm is not None:
                try:
                    check_norm(float(bring(step.norm)))
                except FloatingPointError as error:
                    raise TrainingError(f"step {step.number}, with learning rate {step.lr:g}: {error}") from error
            self.losses.append(loss)
            self.loss += loss * step.images
            self.images += step.images
            self.hits = None if step.hits is None or self.hits is None else self.hits + int(bring(step.hits))
            self.pending.popleft()
