"""Timing on the device, by events around replays of a graph; on the stand-in, by the clock of the host.

A graph has no launch gaps and no Python in it: what is timed is the work of the device. It holds several calls, on
buffers of their own that are together far larger than the L2 cache, so that no call finds its data there.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpconv.backends import CaptureError, load_backend

from .section import Options

__all__ = ["Device"]

_SECONDS = 0.15  # that one figure is measured for
_ROUNDS = 7


class Device:
    """The backend of a run, with what timing needs.

    Attributes
    ----------
    backend
        An `xpconv._gpu.GpuBackend`.
    l2_bytes
        Size of the L2 cache.
    """

    def __init__(self, options: Options) -> None:
        self.backend: Any = load_backend(options.backend)
        self.is_gpu, self.tiny = options.is_gpu, options.tiny
        self.l2_bytes = 1 << 12
        if self.is_gpu:
            import cupy

            self.cupy = cupy
            self.l2_bytes = cupy.cuda.Device(self.backend.number).attributes["L2CacheSize"]
        self.rng = np.random.default_rng(0)

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> Any:
        """Random numbers; drawn on the device where there is one, since large arrays would take long on the host."""
        if self.is_gpu:
            with self.backend.running():
                generator = self.cupy.random.default_rng(int(self.rng.integers(1 << 31)))
                return self.backend.astype(generator.standard_normal(tuple(shape), dtype="float32"), dtype)
        return self.backend.asarray(self.rng.normal(size=tuple(shape)), dtype)

    def copies(self, nbytes: int) -> int:
        """How many sets of buffers of that size are at least four times the L2 cache."""
        return 2 if self.tiny else max(2, min(8, math.ceil(4 * self.l2_bytes / max(nbytes, 1))))

    def seconds(self, call: Callable[[int], object], copies: int = 1) -> tuple[float, bool]:
        """Median time of ``call(k)``, k from 0 to copies - 1 in turn, and whether it was recorded in a graph."""
        for k in range(copies):  # compiles kernels, makes handles and states
            call(k)
        self.backend.synchronize()
        kept: list[object] = []
        recorded = True
        try:
            graph = self.backend.capture(lambda: kept.extend(call(k) for k in range(copies)))
            replay = graph.replay
        except CaptureError:
            recorded = False

            def replay() -> None:
                for k in range(copies):
                    call(k)

        replay()
        once = self._elapsed(replay, 1)
        times = 1 if self.tiny else max(1, math.ceil(_SECONDS / _ROUNDS / max(once, 1e-6)))
        rounds = 1 if self.tiny else _ROUNDS
        return statistics.median(self._elapsed(replay, times) for _ in range(rounds)) / copies, recorded

    def _elapsed(self, replay: Callable[[], object], times: int) -> float:
        """Seconds of one replay, the mean of so many in a row."""
        if not self.is_gpu:
            start = time.perf_counter()
            for _ in range(times):
                replay()
            return (time.perf_counter() - start) / times
        with self.backend.running():
            begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            begin.record()
            for _ in range(times):
                replay()
            end.record()
            end.synchronize()
            return self.cupy.cuda.get_elapsed_time(begin, end) / 1e3 / times

    def copy_rate(self) -> float:
        """Bytes a second of a copy from device memory to device memory, bytes read plus bytes written.

        The faster of the library's kernel and, on a GPU, of the driver's copy.
        """
        size = 1 << 12 if self.tiny else 1 << 28
        source = self.normal((size,))
        targets = [self.backend.empty((size,), "float32") for _ in range(2)]

        def by_kernel(k: int) -> None:
            targets[k][...] = source

        def by_driver(k: int) -> None:
            cuda = self.cupy.cuda
            cuda.runtime.memcpyAsync(
                targets[k].data.ptr,
                source.data.ptr,
                source.nbytes,
                cuda.runtime.memcpyDeviceToDevice,
                cuda.get_current_stream().ptr,
            )

        seconds = []
        for copy in (by_kernel, by_driver) if self.is_gpu else (by_kernel,):
            for target in targets:
                target[...] = 0
            seconds.append(self.seconds(copy, len(targets))[0])
            if not all(bool((target == source).all()) for target in targets):
                raise AssertionError("the copy is not equal to its source")
        return 2 * source.nbytes / min(seconds)

    def release(self) -> None:
        """Give back memory that is kept for later use, PyTorch's too: two libraries share the card."""
        if not self.is_gpu:
            return
        gc.collect()
        self.backend.synchronize()
        self.backend.free_memory()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()

    def error(self, got: Sequence[Any], want: Sequence[Any]) -> float:
        """Largest ``norm(got - want) / norm(want)`` over pairs of results; not a number counts as infinite."""
        worst = 0.0
        xp = self.backend.xp
        for a, b in zip(got, want, strict=True):
            if a is None or b is None:
                if a is not b:
                    raise AssertionError("a result on one side only")
                continue
            if tuple(a.shape) != tuple(b.shape):
                raise AssertionError(f"shape {tuple(a.shape)} instead of {tuple(b.shape)}")
            wide = "float64" if self.backend.is_floating(b) else "int64"
            a, b = self.backend.astype(a, wide), self.backend.astype(b, wide)
            difference = float(xp.sqrt(xp.sum((a - b) * (a - b))))
            size = float(xp.sqrt(xp.sum(b * b)))
            part = difference / size if size else difference
            worst = max(worst, part if math.isfinite(part) else math.inf)
        return worst

    def check(self, got: Sequence[Any], want: Sequence[Any], tolerance: float) -> float:
        """`error`, which must be within ``tolerance``: nothing wrong is timed."""
        error = self.error(got, want)
        if not error <= tolerance:
            raise AssertionError(f"wrong by {error:.1e} of its norm, {tolerance:.0e} taken; not timed")
        return error
