"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["on_first_interrupt"]


@contextmanager
def on_first_interrupt(request: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first Ctrl-C calls ``request`` only; a second one raises KeyboardInterrupt at once.

    Does nothing outside the main thread, where signals never arrive, and where the program has its own handler of
    SIGINT or ignores the signal. The earlier handler is put back at the end.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def first(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        request()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
