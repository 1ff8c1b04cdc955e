"""Fair timing: contenders in turn, ratios with their spread, the same number of threads for everybody.

Contenders run in turn in one process, so that whatever else the machine does hits all of them. What is reported is the
median over rounds of the ratio *within* a round: a slow spell of the machine slows both sides of a ratio.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

import xpconv

from .._extras import require

__all__ = [
    "FEW_ROUNDS",
    "Budget",
    "Contender",
    "Ratio",
    "assert_same",
    "available_threads",
    "interleave",
    "median",
    "ratio",
    "threads_set",
]

# Rounds of a contender that is there for comparison alone, and when one call of it is enough.
FEW_ROUNDS, SLOW_SECONDS = 3, 0.5

# OpenBLAS' and OpenMP's idle threads spin for up to some 25 ms and would take a core from the next contender.
REST_SECONDS = 0.04

# A round in which other virtual machines had more than this part of the processors is left out, if enough remain.
MOST_STOLEN = 0.02
_STAT = Path("/proc/stat")
_STEAL = 8  # field of its first line: ticks of all processors that others had

_LONG = 10  # samples: a call that takes so long is a sample of its own, however much slower the first one was


# ---- rounds -------------------------------------------------------------------------------------------------------


class Budget(NamedTuple):
    """How long to measure one group of contenders: at least the rounds, then until the time is up.

    Attributes
    ----------
    rounds
        Every contender is timed at least that often.
    seconds
        Further rounds start within that time; within twice that time as long as too few rounds were undisturbed.
    most
        Never more rounds than that.
    sample
        Seconds that one sample lasts at least: shorter calls are repeated, so that the clock does not count.
    """

    rounds: int
    seconds: float
    most: int = 100
    sample: float = 0.01


Contender = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def interleave(
    contenders: Mapping[Name, Contender], budget: Budget, *, rest: bool = False, few: Collection[Name] = ()
) -> dict[Name, list[float]]:
    """Time functions in turn, after a warm-up.

    Parameters
    ----------
    contenders
        Functions of no argument by name. What they return is dropped inside the measured time.
    budget
        How long to go on.
    rest
        Sleep between contenders until the idle threads of the previous one sleep too; for more than one thread.
    few
        Contenders of which a number is wanted and no ratio, and that have run before: they run in the first
        `FEW_ROUNDS` only, and just once if that takes longer than `SLOW_SECONDS`.

    Returns
    -------
    dict
        Seconds of one call by name, one number a round; the n-th numbers of all belong to the same round. On a virtual
        machine, where Linux tells of it, rounds in which others had the processors are left out, for all contenders
        alike, where at least ``budget.rounds`` remain. Those of ``few`` rounds keep all if none is left to them.
    """
    calls, rounds = {}, {}
    samples: dict[Name, list[float]] = {name: [] for name in contenders}
    for name, function in contenders.items():
        seconds = _time(function, 1)
        rounds[name] = FEW_ROUNDS if name in few else budget.most
        if name in few and seconds > SLOW_SECONDS:
            samples[name].append(seconds)
            rounds[name] = 0
            continue
        if seconds < _LONG * budget.sample:  # the first call is slower, which does not matter to a long one
            seconds = _time(function, 1)
        calls[name] = max(1, math.ceil(budget.sample / max(seconds, 1e-7)))
    order = list(contenders)
    undisturbed: list[int] = []
    collecting = gc.isenabled()
    if budget.rounds > 1:  # a single round says nothing about time, and a collection takes longer than minute arrays
        gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        for n in range(budget.most):
            passed = time.perf_counter() - began
            patience = budget.seconds * (1 if len(undisturbed) >= budget.rounds else 2)
            if n >= budget.rounds and passed > patience:
                break
            stolen = _stolen_seconds()
            for name in order:
                if n >= rounds[name]:
                    continue
                if rest:
                    time.sleep(REST_SECONDS)
                samples[name].append(_time(contenders[name], calls[name]))
            order.reverse()  # nobody always runs in the wake of the same other
            took = time.perf_counter() - began - passed
            if _stolen_seconds() - stolen <= MOST_STOLEN * took * (os.cpu_count() or 1):
                undisturbed.append(n)
    finally:
        if collecting:
            gc.enable()
    if len(undisturbed) < budget.rounds:
        return samples
    good = {name: [times[n] for n in undisturbed if n < len(times)] for name, times in samples.items()}
    return {name: good[name] or times for name, times in samples.items()}


def _stolen_seconds() -> float:
    """Time that other virtual machines had of all processors since this one started; 0 where that cannot be told."""
    try:
        with _STAT.open() as stat:
            return int(stat.readline().split()[_STEAL]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _time(function: Contender, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def median(samples: Sequence[float] | np.ndarray) -> float:
    """Median of the samples."""
    return float(statistics.median(samples))


class Ratio(NamedTuple):
    """How many times faster: the median over rounds, and the quartiles as its spread."""

    value: float
    low: float
    high: float


def ratio(slow: Sequence[float] | np.ndarray, fast: Sequence[float] | np.ndarray) -> Ratio:
    """Time of ``slow`` over time of ``fast``, round by round; above 1 where ``fast`` is faster."""
    low, value, high = np.quantile(np.asarray(slow) / np.asarray(fast), (0.25, 0.5, 0.75))
    return Ratio(float(value), float(low), float(high))


def assert_same(what: str, results: Mapping[str, Sequence[np.ndarray]], tolerance: float) -> None:
    """Raise unless all contenders computed the same arrays; the first is what the others are compared with.

    Parameters
    ----------
    tolerance
        Largest difference taken, as a fraction of the largest value of the first contender's array.
    """
    (first, wanted), *others = results.items()
    for name, got in others:
        for k, (a, b) in enumerate(zip(wanted, got, strict=True)):
            if a.shape != b.shape:
                raise AssertionError(f"{what}: result {k} of {name} has shape {b.shape}, that of {first} {a.shape}")
            if a.size == 0:
                continue
            error = float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(a))), 1e-30)
            if not error <= tolerance:  # a NaN is a failure too
                raise AssertionError(
                    f"{what}: result {k} of {name} is {error:.1e} off that of {first}, {tolerance:.0e} taken"
                )


# ---- threads ------------------------------------------------------------------------------------------------------


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """The same number of threads for everybody: xpconv's kernels, NumPy's BLAS, and PyTorch if it is imported."""
    before = xpconv.get_num_threads()
    torch = sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch else 0
    threadpoolctl = require("threadpoolctl", "fair timings")
    with threadpoolctl.threadpool_limits(limits=count):
        xpconv.set_num_threads(count)
        if torch:
            torch.set_num_threads(count)
        try:
            yield
        finally:
            xpconv.set_num_threads(before)
            if torch:
                torch.set_num_threads(torch_before)
