"""Work of a GPU recorded as one CUDA graph, by CuPy, and started again as a whole.

A graph is replayed on the memory that it was recorded with. Everything that it makes comes from a memory pool of its
own, which lives as long as the graph, so that nobody else gets this memory; what it reads and writes besides must stay
where it is. Numbers that change from replay to replay lie in arrays on the device.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..backends.protocol import CaptureError

if TYPE_CHECKING:
    from ..backends.cupy import CupyBackend

__all__ = ["CaptureError", "CupyCapture", "check_transfer"]


class _Thread(threading.local):
    capturing = False


_thread = _Thread()


@contextlib.contextmanager
def _capturing() -> Iterator[None]:
    _thread.capturing = True
    try:
        yield
    finally:
        _thread.capturing = False


def check_transfer(what: str) -> None:
    """Raise CaptureError if this thread is recording a graph, in which ``what`` would come from the host only once."""
    if _thread.capturing:
        raise CaptureError(f"{what} brings values of the host to the device; a replay would bring the same again")


class CupyCapture:
    """A function's work on the device as a CUDA graph; see `xpconv.backends.Backend.capture`.

    Parameters
    ----------
    backend
        The device.
    function
        Called once, without arguments, on a stream of its own that is recorded.

    Attributes
    ----------
    result
        What the function has returned; its arrays have their values after a replay.

    Raises
    ------
    CaptureError
        The function has raised an error, or CUDA cannot record what it does.
    """

    def __init__(self, backend: CupyBackend, function: Callable[[], Any]) -> None:
        if _thread.capturing:
            raise CaptureError("a recording within a recording")
        if backend.blas is None:
            raise CaptureError(backend.why_no_blas)
        cupy = backend._cupy
        self._backend = backend
        self._pool = cupy.cuda.MemoryPool()
        # what falls out of use later is not freed in the middle of the recording
        gc.collect()
        with backend.running(), cupy.cuda.using_allocator(self._pool.malloc):
            # not the default stream, which cannot be recorded, and one that does not wait for it
            stream = cupy.cuda.Stream(non_blocking=True)
            with stream:
                # relaxed: the pool may allocate while this thread records; other threads are not restricted
                stream.begin_capture(cupy.cuda.runtime.streamCaptureModeRelaxed)
                try:
                    self._record(stream, function)
                finally:
                    # products in the graph work in it; after a failure nobody does, and its stream is gone
                    self._workspace = backend.blas.take_workspace()

    def _record(self, stream: Any, function: Callable[[], Any]) -> None:
        try:
            with _capturing():
                self.result = function()
        except BaseException as error:
            with contextlib.suppress(Exception):  # what was refused has spoilt the recording
                stream.end_capture()
            if isinstance(error, CaptureError) or not isinstance(error, Exception):
                raise
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        try:
            self._graph = stream.end_capture()
        except Exception as error:
            raise CaptureError(f"{type(error).__name__}: {error}") from error

    def replay(self) -> None:
        """Start the graph on the current stream; does not wait for it."""
        with self._backend.running():
            self._graph.launch()
