"""Which learning rates train a net: the range test of Smith 2015 (arXiv:1506.01186), section 3.3."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._checks import check_integer, check_number
from .._files import write_atomically
from ..backends import to_numpy
from .curves import draw_learning_rates
from .rehearsal import rehearsal
from .sums import TrainingError

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["LearningRates", "find_learning_rate"]

_SMOOTHING = 0.9
_DIVERGED = 4.0  # times the smallest loss
_FEWEST = 10


class LearningRates(NamedTuple):
    """What `Trainer.find_lr` has seen.

    Attributes
    ----------
    rates : array (S,)
        Learning rates of the steps.
    losses : array (S,)
        Loss of the batch of each step, before the step.
    smoothed : array (S,)
        Their moving average.
    suggestion : float or None
        A tenth of the rate with the smallest smoothed loss; None where the loss has not become smaller.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw loss over learning rate as a PNG, with matplotlib.

        Parameters
        ----------
        path
            The file; an earlier one is replaced.

        Raises
        ------
        MissingExtraError
            matplotlib is not installed.
        OSError
            The file cannot be written.
        """
        write_atomically(path, [draw_learning_rates(self.rates, self.losses, self.smoothed, self.suggestion)])


def find_learning_rate(
    trainer: Trainer, data: Any, *, start: float, end: float, steps: int, batch_size: int
) -> LearningRates:
    """See `Trainer.find_lr`."""
    start = check_number("start", start, 0, above=True)
    end = check_number("end", end, start, above=True)
    steps = check_integer("steps", steps, _FEWEST)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, best = 0.0, math.inf
    with np.errstate(over="ignore", invalid="ignore"), rehearsal(trainer, data, batch_size) as (_, batches):
        for number in range(steps):
            rate = start * (end / start) ** (number / (steps - 1))
            trainer.optimizer.lr = rate
            x, targets = next(batches)
            try:
                loss = float(to_numpy(trainer._step_on(x, targets, number).loss))
            except TrainingError:  # gradients are not finite any more
                if not losses:
                    raise
                break
            if not math.isfinite(loss):
                if not losses:
                    raise TrainingError(
                        f"loss is {loss} at the first step, with learning rate {rate:g}; look for NaN and huge "
                        "values in the data"
                    )
                break
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(mean / (1 - _SMOOTHING ** (number + 1)))  # it began with 0
            best = min(best, smoothed[-1])
            if number >= _FEWEST and smoothed[-1] > _DIVERGED * best:
                break
    lowest = int(np.argmin(smoothed))
    suggestion = rates[lowest] / 10 if lowest else None
    return LearningRates(np.array(rates), np.array(losses), np.array(smoothed), suggestion)
