"""All of measuring: fair rounds (those of `xpconv bench`), the allocator, peak memory, the machine."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import threadpoolctl

import xpconv
from xpconv._bench.timing import (
    FEW_ROUNDS,
    Budget,
    Ratio,
    assert_same,
    available_threads,
    interleave,
    median,
    ratio,
    threads_set,
)

__all__ = [
    "ALLOCATORS",
    "FEW_ROUNDS",
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
