"""Recording of what runs on the stand-in device, as a CUDA graph records a stream: see `Recording`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..._gpu.graph import CaptureError

__all__ = ["HostCapture", "HostReadError", "check_read", "check_transfer", "hold", "no_host_reads", "perform"]


class HostReadError(RuntimeError):
    """A value of the device is read where `no_host_reads` forbids it."""


class _Thread(threading.local):
    recording: HostCapture | None = None
    reads_forbidden = False


_thread = _Thread()


class HostCapture:
    """What a function does on the device, to be done again; nothing of it is done by recording it.

    As in a CUDA graph, every replay works on the very memory of the recording. Recording runs the operations, as NumPy
    cannot tell shapes otherwise; then all memory that was there before gets its contents back, and what was made since
    becomes NaN, so that an operation that has escaped the recording shows in every result that depends on it.

    Parameters
    ----------
    function
        Called once, without arguments.

    Attributes
    ----------
    result
        What the function has returned; its arrays have their values after a replay.

    Raises
    ------
    CaptureError
        The function does what cannot be recorded, or raises an error.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        if _thread.recording is not None:
            raise CaptureError("a recording within a recording")
        self._operations: list[Callable[[], None]] = []
        self._before: list[tuple[np.ndarray, np.ndarray]] = []
        self._made: list[np.ndarray] = []
        self._held: list[Any] = []
        _thread.recording = self
        try:
            self.result = function()
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(f"{type(error).__name__}: {error}") from error
        finally:
            _thread.recording = None
            for memory, contents in reversed(self._before):
                memory[...] = contents
            for memory in self._made:
                memory.view(np.uint8)[...] = 0xFF
            self._before.clear()
            self._made.clear()

    def replay(self) -> None:
        """Do all operations again, in their order."""
        for operation in self._operations:
            operation()

    def add(self, operation: Callable[[], None]) -> None:
        """Record an operation that has been done.

        Parameters
        ----------
        operation
            What a replay calls.
        """
        self._operations.append(operation)

    def save(self, array: np.ndarray) -> None:
        """Keep the contents of ``array``, which is about to be written.

        Parameters
        ----------
        array : array of any shape
            The contents are copied.

        Raises
        ------
        MemoryError
            There is no room for the copy.
        """
        memory = array.view(np.ndarray)
        self._before.append((memory, memory.copy()))

    def made(self, memory: np.ndarray) -> None:
        """Note a new array; 0xFF in every byte is NaN in every floating-point format.

        Parameters
        ----------
        memory : array of any shape
            What the recorded function has allocated.

        Raises
        ------
        MemoryError
            There is no room to note it.
        """
        if memory.size and memory.flags.c_contiguous and memory.flags.writeable and memory.dtype != np.bool_:
            self._made.append(memory.reshape(-1))


def recording() -> HostCapture | None:
    """What this thread is recording now, if anything."""
    return _thread.recording


def perform(operation: Callable[[], None], writes: Sequence[Any] = ()) -> None:
    """Run an operation of the device that writes to the arrays ``writes``; record it if this thread is recording."""
    now = _thread.recording
    if now is not None:
        for array in writes:
            now.save(array)
        now.add(operation)
    operation()


def hold(array: Any, written: bool) -> None:
    """Keep an array whose address a recorded operation knows, and what is in it if it is about to be written."""
    now = _thread.recording
    if now is not None:
        now._held.append(array)
        if written:
            now.save(array)


def check_read(what: str) -> None:
    """Raise if ``what``, which brings a value to the host and so waits for the device, is not possible now."""
    if _thread.recording is not None:
        raise CaptureError(f"{what} reads a value of the device")
    if _thread.reads_forbidden:
        raise HostReadError(f"{what} reads a value of the device, and waits for it")


def check_transfer(what: str) -> None:
    """Raise if this thread is recording, for ``what`` brings a value of the host to the device."""
    if _thread.recording is not None:
        raise CaptureError(f"{what} brings values of the host to the device; a replay would bring the same again")


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Inside the ``with`` block, in this thread, every read of a value of the device is a `HostReadError`."""
    before = _thread.reads_forbidden
    _thread.reads_forbidden = True
    try:
        yield
    finally:
        _thread.reads_forbidden = before
