"""``xpconv bench``."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import __version__, get_num_threads
from .._checks import check_integer, check_number
from .._text import wrap
from .output import emit, fill, result, say, show, transient, width_of
from .status import DONE, FAILED

if TYPE_CHECKING:
    from .._bench.cases import Case, Measurement

__all__ = ["add_command"]

_SECONDS, _QUICK_SECONDS = 20.0, 6.0
_BUSY = 0.5  # of the cores, on average over the last minute
_TIME, _GAP = 10, 2  # columns of a time, and in front of the quartiles


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "bench",
        help="how fast this machine is, against PyTorch if it is installed",
        description="Time some convolutions and other layers (forward and backward pass), training steps of LeNet and "
        "ResNet-20, and the inference of one image, in float32 on the CPU. If PyTorch is installed it does the same "
        "work: first the results of both are compared, then both are timed in turn in this process, with the same "
        "number of threads. The exit status is 1 if results differ.",
        epilog="  example: xpconv bench --threads 1 --quick",
    )
    group = parser.add_argument_group("measurement")
    group.add_argument("--quick", action="store_true", help=f"fewer cases in {_QUICK_SECONDS:g} seconds")
    group.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="time to measure in all, without what it takes to prepare; every case is run three times at least "
        f"(default: {_SECONDS:g}, or {_QUICK_SECONDS:g} with --quick)",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads of both (default: XPCONV_NUM_THREADS or all cores)"
    )
    group.add_argument("--no-torch", action="store_true", help="leave PyTorch out, even if it is installed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    from .. import _config
    from .._bench.cases import CASES, measure
    from .._bench.peers import optional_torch
    from .._bench.timing import available_threads

    seconds = options.seconds
    if seconds is None:
        seconds = _QUICK_SECONDS if options.quick else _SECONDS
    check_number("--seconds", seconds, 0, above=True)
    threads = get_num_threads() if options.threads is None else check_integer("--threads", options.threads, 1, 1024)
    transient("starting PyTorch")
    torch = None if options.no_torch else optional_torch()
    processor = _config.processor()
    say("processor", processor)
    say("xpconv", f"{__version__}, {threads} thread{'s' * (threads > 1)}")
    if torch is None:
        say("PyTorch", "left out" if options.no_torch else "not installed: the times of xpconv alone")
    else:
        say("PyTorch", str(torch.__version__))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = available_threads()
    if load > _BUSY * cores:
        say("busy", f"load {load:.1f} on {cores} cores: other programs run here, and the numbers say little")
    emit(
        "machine",
        processor=processor,
        cores=cores,
        load=load,
        threads=threads,
        xpconv=__version__,
        pytorch=None if torch is None else str(torch.__version__),
    )
    cases = [case for case in CASES if case.quick or not options.quick]
    table = _Table(cases, with_peer=torch is not None)
    ratios: list[float] = []
    left = seconds
    for number, case in enumerate(cases):
        transient(f"{number + 1} of {len(cases)}: {case.group}, {case.name}")
        began = time.perf_counter()
        try:
            found = measure(case, torch, threads, left / (len(cases) - number))
        except AssertionError as error:
            say("differs", str(error))
            emit("error", message=str(error))
            result("xpconv and PyTorch do not compute the same")
            return FAILED
        left = max(0.0, left - (time.perf_counter() - began))
        table.add(case, found)
        if found.ratio is not None:
            ratios.append(found.ratio.value)
        _emit(case, found)
    if ratios:
        _judge(ratios)
    return DONE


def _emit(case: Case, found: Measurement) -> None:
    def seconds(times: Any) -> dict[str, float] | None:
        return None if times is None else {"median": times.value, "low": times.low, "high": times.high}

    emit(
        "measurement",
        group=case.group,
        case=case.name,
        rounds=found.rounds,
        xpconv_seconds=seconds(found.xpconv),
        pytorch_seconds=seconds(found.pytorch),
        ratio=seconds(found.ratio),
    )


def _judge(ratios: Sequence[float]) -> None:
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    show("")
    say(
        "ratio",
        "the time of PyTorch by that of xpconv, in each round: the median, and the quartiles in parentheses; above 1 "
        "xpconv is faster",
    )
    faster = sum(value > 1 for value in ratios)
    verdict = f"xpconv is faster in {faster} of {len(ratios)} cases; the geometric mean of the ratios is {mean:.2f}"
    columns = width_of(sys.stdout)
    result(verdict if columns is None else "\n".join(wrap(verdict, columns)))
    emit("bench", cases=len(ratios), faster=faster, geometric_mean=mean)


def _milliseconds(seconds: float) -> str:
    digits = 0 if seconds >= 1 else 1 if seconds >= 0.01 else 2 if seconds >= 0.001 else 3
    return f"{1e3 * seconds:.{digits}f} ms"


def _ratio(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1}f}"


class _Table:
    """A line for each case, printed when it is measured; two where the terminal is narrow."""

    def __init__(self, cases: Sequence[Case], *, with_peer: bool) -> None:
        self._width = max(len(text) for case in cases for text in (case.name, case.group)) + 1
        self._group = ""
        self._with_peer = with_peer
        self._columns = width_of(sys.stdout)
        times, last = (2, "10.0 (10.0 to 10.0)") if with_peer else (1, "(100.0 ms to 100.0 ms)")
        needed = self._width + times * _TIME + _GAP + len(last)
        self._narrow = self._columns is not None and self._columns < needed

    def add(self, case: Case, found: Measurement) -> None:
        """Print what has been found."""
        if case.group != self._group:
            self._group = case.group
            self._head(case.group)
        times = [_milliseconds(found.xpconv.value)]
        if found.pytorch is not None and found.ratio is not None:
            times.append(_milliseconds(found.pytorch.value))
            last = f"{_ratio(found.ratio.value)} ({_ratio(found.ratio.low)} to {_ratio(found.ratio.high)})"
        else:
            last = f"({_milliseconds(found.xpconv.low)} to {_milliseconds(found.xpconv.high)})"
        self._line(case.name, times, last)

    def _head(self, group: str) -> None:
        show("")
        if self._narrow:
            result(group)
            names = ["xpconv", "PyTorch", "ratio"] if self._with_peer else ["xpconv", "(quartiles)"]
            result(fill([f"  {names[0]}", *names[1:]], self._columns), styled=False)
        else:
            names = ["xpconv", "PyTorch"] if self._with_peer else ["xpconv"]
            self._line(group, names, "ratio (quartiles)" if self._with_peer else "(quartiles)", styled=True)

    def _line(self, name: str, times: Sequence[str], last: str, *, styled: bool = False) -> None:
        if self._narrow:
            result(name, styled=False)
            result(fill([f"  {times[0]}", *times[1:], last], self._columns), styled=False)
        else:
            numbers = "".join(f"{text:>{_TIME}}" for text in times)
            result(f"{name:<{self._width}}{numbers}{'':{_GAP}}{last}", styled=styled)
