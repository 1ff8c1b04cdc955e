"""How long NVRTC takes for the kernels, all files in parallel; behind this section they come from CuPy's cache on disk.

The time of a file counts once for a machine, unless CuPy is so old that it keeps no templates on disk: then every later
section compiles again what it needs.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time
from typing import Any

from xpconv._gpu.module import INSTANCES
from xpconv.backends import load_backend

from ..timing import available_threads
from .section import Options, Row, Rows

SECONDS = 60
NEEDS_GPU = False

_DTYPES = ("float32", "float64", "bfloat16")
_WORKERS = 8


def _compile(backend: str, file: str, dtype: str) -> float:
    """Seconds to the first kernel of a file, in a process of its own."""
    device: Any = load_backend(backend)
    template = INSTANCES[file][0]
    start = time.perf_counter()
    with device.running():  # CuPy compiles for the current device
        device.kernels.get(file, template.kernel, dtype, *template.arguments[0].split(", "))
    return time.perf_counter() - start


def run(options: Options, rows: Rows) -> None:
    """A row for each file and dtype, as they are done."""
    tasks = [("reduce", "float32")] if options.tiny else [(file, dtype) for dtype in _DTYPES for file in INSTANCES]
    workers = min(_WORKERS, available_threads(), len(tasks))
    # not forked: a device that is in use does not survive that
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        started = {pool.submit(_compile, options.backend, *task): task for task in tasks}
        for done in concurrent.futures.as_completed(started):
            file, dtype = started[done]
            rows.attempt(options, lambda d=done: {"seconds": d.result()}, file=file, dtype=dtype)


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    times = {f"{row['file']} {row['dtype']}": row["seconds"] for row in rows if "seconds" in row}
    if not times:
        return []
    slowest = max(times, key=times.__getitem__)
    return [f"{len(times)} files in {sum(times.values()):.1f} s of work, the longest {slowest}, {times[slowest]:.1f} s"]
