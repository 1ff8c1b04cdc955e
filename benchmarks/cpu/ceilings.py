"""What the machine can do: multiply-adds in registers, large matrix products, and copying memory; float32.

Multiply-adds are counted by `peak.c`, compiled for this processor where there is a C compiler; else the best matrix
product stands in. Copying is the C library's memmove between arrays far beyond the caches, bytes read and written.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..command import Options
from ..peers import optional_torch
from ..report import Row
from ..timing import allocator, assert_same, threads_set

__all__ = ["COPY", "MULTIPLY_ADDS", "measure"]

SOURCE = Path(__file__).with_name("peak.c")
MULTIPLY_ADDS, COPY = "multiply-adds", "copy"


def _compiled() -> Callable[[int], float] | None:
    """A function that does so many rounds and returns the operations done, or None without a compiler."""
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        for target in ("-march=native", "-mcpu=native"):
            flags = ["-O3", target, "-ffp-contract=fast", "-shared", "-fPIC"]
            done = subprocess.run([*compiler.split(), *flags, str(SOURCE), "-o", str(library)], capture_output=True)
            if done.returncode == 0:
                break
        else:
            return None
        function = ctypes.CDLL(str(library)).multiply_adds
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float, ctypes.c_void_p]

    def run(rounds: int) -> float:
        result = np.zeros(64, np.float32)
        return function(rounds, 0.999, 0.001, result.ctypes.data)

    return run


def _best(calls: int, work: Callable[[], float]) -> float:
    """The highest rate of several calls; each returns how much it has done."""
    rates = []
    for _ in range(calls):
        start = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - start))
    return max(rates)


def _multiply_adds(run: Callable[[int], float], threads: int, rounds: int, calls: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        return _best(calls, lambda: sum(pool.map(run, [rounds] * threads)))


def _copy_rate(threads: int, nbytes: int, calls: int) -> float:
    source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    part = nbytes // threads

    def copy(k: int) -> int:
        ctypes.memmove(target.ctypes.data + k * part, source.ctypes.data + k * part, part)
        return 2 * part

    with ThreadPoolExecutor(threads) as pool:
        rate = _best(calls, lambda: sum(pool.map(copy, range(threads))))
    assert_same("copy", {"source": [source[: part * threads]], "copy": [target[: part * threads]]}, 0)
    return rate


def _product_rates(size: int, calls: int) -> dict[str, float]:
    """Operations a second of a matrix product by library, with the threads set."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    products: dict[str, Callable[[], object]] = {"numpy": lambda: a @ b}
    torch = optional_torch()
    if torch:
        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        products["torch"] = lambda: ta @ tb
    assert_same("matrix product", {name: [np.asarray(run())] for name, run in products.items()}, 1e-4)

    def work(run: Callable[[], object]) -> float:
        run()
        return 2.0 * size**3

    return {f"{name} matrix product": _best(calls, lambda run=run: work(run)) for name, run in products.items()}


def _row(case: str, threads: int, unit: str, rates: dict[str, float], note: str) -> Row:
    values = {name: rate / 1e9 for name, rate in rates.items()}
    return Row("ceilings", case, "best", threads, allocator(), unit, values, "", "", None, note)


def measure(options: Options) -> Iterator[Row]:
    """Two rows for each number of threads."""
    tiny = options.size == "tiny"
    calls = 1 if tiny else 10
    run = _compiled()
    optional_torch()  # imported now, so that its threads are set as well
    for threads in options.threads:
        with threads_set(threads):
            rates = _product_rates(48 if tiny else 2048, calls)
        note = "no C compiler: the best matrix product stands in"
        if run is not None:
            note = ""
            rates["registers"] = _multiply_adds(run, threads, 1000 if tiny else 3_000_000, 3 * calls)
        yield _row(MULTIPLY_ADDS, threads, "GFLOP/s", rates, note)
        size = 1 << 16 if tiny else 512 << 20
        yield _row(COPY, threads, "GB/s", {"memmove": _copy_rate(threads, size, calls)}, "")
