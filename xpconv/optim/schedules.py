"""Learning rates as pure functions of the step, so that a resumed run needs nothing but the number of its next step.

Steps count from 0. ``optimizer.lr = schedule(step)`` before each step is all there is to do; see `xpconv.Trainer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._checks import check_integer, check_number

__all__ = ["ConstantSchedule", "CosineSchedule", "OneCycleSchedule", "Schedule", "StepSchedule", "WarmupSchedule"]


def _check_above_zero(name: str, value: float) -> None:
    if not check_number(name, value, 0) > 0:
        raise ValueError(f"{name}: must be above 0, got {value}")


class Schedule:
    """A learning rate as a function of the step."""

    def __call__(self, step: int) -> float:
        """The learning rate of step number ``step``, counted from 0."""
        return self._rate(check_integer("step", step, 0))

    def _rate(self, step: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """``lr`` in every step.

    Parameters
    ----------
    lr
        The learning rate, at least 0.

    Raises
    ------
    TypeError, ValueError
        Not a number, or out of range.
    """

    lr: float

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0)

    def _rate(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class StepSchedule(Schedule):
    """``lr``, multiplied by ``gamma`` now and then: PyTorch's StepLR and MultiStepLR.

    Parameters
    ----------
    lr
        The learning rate of step 0.
    steps
        An integer: multiply after every so many steps. A sequence: multiply at these steps.
    gamma
        The factor.

    Raises
    ------
    TypeError, ValueError
        Not a number, or out of range.
    """

    lr: float
    steps: int | Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0)
        check_number("gamma", self.gamma, 0)
        if isinstance(self.steps, (list, tuple)):
            for step in self.steps:
                check_integer("steps", step, 0)
            object.__setattr__(self, "steps", tuple(self.steps))
        else:
            check_integer("steps", self.steps, 1)  # type: ignore[arg-type]

    def _rate(self, step: int) -> float:
        times = sum(step >= s for s in self.steps) if isinstance(self.steps, tuple) else step // self.steps  # type: ignore[operator]
        return self.lr * self.gamma**times


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Half a cosine from ``lr`` down to ``min_lr``: Loshchilov, Hutter 2017 (arXiv:1608.03983), eq. 5, no restarts.

    ``min_lr + (lr - min_lr) * (1 + cos(pi * step / total_steps)) / 2``, PyTorch's CosineAnnealingLR; from
    ``total_steps`` on it stays at min_lr (PyTorch's would rise again).

    Parameters
    ----------
    lr
        The learning rate of step 0.
    total_steps
        After how many steps it is min_lr, where it stays.
    min_lr
        The last learning rate.

    Raises
    ------
    TypeError, ValueError
        Not a number, or out of range.
    """

    lr: float
    total_steps: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0)
        check_number("min_lr", self.min_lr, 0)
        check_integer("total_steps", self.total_steps, 1)

    def _rate(self, step: int) -> float:
        return _cosine(self.lr, self.min_lr, step / self.total_steps)


@dataclass(frozen=True)
class OneCycleSchedule(Schedule):
    """Up to ``max_lr`` and down to almost nothing: Smith, Topin 2018 (arXiv:1708.07120), PyTorch's OneCycleLR.

    Half a cosine from ``max_lr / div_factor`` in step 0 to ``max_lr`` in step ``pct_start * total_steps - 1``, then
    half a cosine down to ``max_lr / div_factor / final_div_factor`` in step ``total_steps - 1``, where it stays.

    Parameters
    ----------
    max_lr
        The peak.
    total_steps
        Length of the cycle.
    pct_start
        The part of it that goes up, 0 to 1.
    div_factor, final_div_factor
        See above.

    Raises
    ------
    TypeError, ValueError
        Not a number, or out of range.
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        check_number("max_lr", self.max_lr, 0)
        check_integer("total_steps", self.total_steps, 1)
        check_number("pct_start", self.pct_start, 0, 1)
        _check_above_zero("div_factor", self.div_factor)
        _check_above_zero("final_div_factor", self.final_div_factor)

    def _rate(self, step: int) -> float:
        first = self.max_lr / self.div_factor
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        step = min(step, last)
        if step <= peak and peak > 0:
            return _cosine(first, self.max_lr, step / peak)
        final = first / self.final_div_factor
        return _cosine(self.max_lr, final, (step - peak) / (last - peak)) if last > peak else self.max_lr


@dataclass(frozen=True)
class WarmupSchedule(Schedule):
    """``schedule``, multiplied by ``(step + 1) / steps`` in the first steps: Goyal et al. 2017 (arXiv:1706.02677), 2.2.

    The schedule keeps its own time: it is not delayed by the warm-up.

    Parameters
    ----------
    schedule
        What is multiplied: any schedule.
    steps
        How many first steps, at least 1.

    Raises
    ------
    TypeError, ValueError
        Not a schedule; steps that are no integer or below 1.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise TypeError(f"schedule: expected a schedule, got {self.schedule!r}")
        check_integer("steps", self.steps, 1)

    def _rate(self, step: int) -> float:
        return self.schedule(step) * min(1.0, (step + 1) / self.steps)


def _cosine(start: float, end: float, part: float) -> float:
    """From ``start`` (part 0) to ``end`` (part 1, and beyond) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
