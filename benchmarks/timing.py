"""The one home of measuring: fair rounds, ratios with their spread, threads, the allocator, peak memory, the machine.

Contenders run in turn in one process, so that whatever else the machine does hits all of them. What is reported is the
median over rounds of the ratio *within* a round: a slow spell of the machine slows both sides of a ratio.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import threadpoolctl

import xpconv

__all__ = [
    "ALLOCATORS",
    "Budget",
    "Ratio",
    "allocator",
    "allocator_environment",
    "assert_same",
    "available_threads",
    "environment",
    "interleave",
    "median",
    "peak_memory",
    "ratio",
    "resident_memory",
    "threads_set",
    "use_allocator",
]

# Keeps freed memory in the process: no page faults after the first round, the harder baseline for a library that
# recycles its buffers itself.
WARM_BUFFERS = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
ALLOCATORS = ("default", "warm")

# Rounds of a contender that is there for comparison alone, and when one call of it is enough.
FEW_ROUNDS, SLOW_SECONDS = 3, 0.5

# OpenBLAS' and OpenMP's idle threads spin for up to some 25 ms and would take a core from the next contender.
REST_SECONDS = 0.04


# ---- rounds -------------------------------------------------------------------------------------------------------


class Budget(NamedTuple):
    """How long to measure one group of contenders: at least the rounds, then until the time is up.

    Attributes
    ----------
    rounds
        Every contender is timed at least that often.
    seconds
        Further rounds start within that time.
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
        Seconds of one call by name, one number a round; the n-th numbers of all belong to the same round.
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
        calls[name] = max(1, math.ceil(budget.sample / max(_time(function, 1), 1e-7)))
    order = list(contenders)
    collecting = gc.isenabled()
    if budget.rounds > 1:  # a single round says nothing about time, and a collection takes longer than minute arrays
        gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        for n in range(budget.most):
            if n >= budget.rounds and time.perf_counter() - began > budget.seconds:
                break
            for name in order:
                if n >= rounds[name]:
                    continue
                if rest:
                    time.sleep(REST_SECONDS)
                samples[name].append(_time(contenders[name], calls[name]))
            order.reverse()  # nobody always runs in the wake of the same other
    finally:
        if collecting:
            gc.enable()
    return samples


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


# ---- the allocator ------------------------------------------------------------------------------------------------


def allocator() -> str:
    """Which of `ALLOCATORS` this process runs with."""
    return "warm" if os.environ.get("GLIBC_TUNABLES") == WARM_BUFFERS else "default"


def allocator_environment(name: str) -> dict[str, str]:
    """Environment variables of a process with that allocator setting.

    Raises
    ------
    RuntimeError
        ``"warm"`` on a system whose C library is not glibc.
    """
    if name == "warm" and platform.libc_ver()[0] != "glibc":
        raise RuntimeError("allocator 'warm' is a setting of glibc, which this system does not use")
    environ = dict(os.environ)
    environ.pop("GLIBC_TUNABLES", None)
    if name == "warm":
        environ["GLIBC_TUNABLES"] = WARM_BUFFERS
    return environ


def use_allocator(name: str) -> None:
    """Restart this process with that allocator setting, unless it has it: glibc reads it only at start.

    Raises
    ------
    RuntimeError
        ``"warm"`` on a system whose C library is not glibc.
    """
    if name == allocator():
        return
    environ = allocator_environment(name)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, environ)


# ---- memory -------------------------------------------------------------------------------------------------------


def _status(field: str) -> int | None:
    """A memory size that Linux tells of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return None


def peak_memory() -> int:
    """The most memory this process ever had resident, in bytes."""
    peak = _status("VmHWM")  # unlike getrusage's, not inherited from the process that started this one
    if peak is None:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    return peak


def resident_memory() -> int:
    """The memory this process has resident now, in bytes; where that cannot be told, the most it ever had."""
    return _status("VmRSS") or peak_memory()


# ---- the machine --------------------------------------------------------------------------------------------------


def _cpu() -> tuple[str, list[str]]:
    """Name of the processor, and the instruction sets that matter to convolutions."""
    name, flags = platform.processor() or platform.machine(), set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags.update(value.split())
    known = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")
    return name, [flag for flag in known if flag in flags]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that is checked out here, ``+changes`` where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    files = [line for line in changes.stdout.splitlines() if "benchmarks/results/" not in line]
    return commit.stdout.strip() + ("+changes" if files else "")


def _instruction_set() -> str | None:
    """What xpconv's kernels run with; None without them."""
    try:
        from xpconv._cpu import _kernels
    except ImportError:
        return None
    return _kernels.instruction_set()


def environment(size: str) -> dict[str, object]:
    """What the numbers depend on: date, processor, library versions, load of the machine before the start.

    Parameters
    ----------
    size
        Of the run: ``"full"``, ``"quick"`` or ``"tiny"``.
    """
    cpu, instructions = _cpu()
    libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return {
        "size": size,
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "cpu": cpu,
        "instructions": instructions,
        "cores": available_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "xpconv": xpconv.__version__,
        "commit": _commit(),
        "instruction_set": _instruction_set(),
        "numpy": np.__version__,
        "blas": sorted({f"{library['internal_api']} {library['version']}" for library in libraries}),
        "torch": _version("torch"),
        "jax": _version("jax"),
    }
