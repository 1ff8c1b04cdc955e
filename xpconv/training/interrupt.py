"""Ctrl-C, SIGTERM and SIGUSR1 that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["PREEMPTED", "Preempted", "on_first_interrupt"]

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"


class Preempted(SystemExit):
    """SIGTERM or SIGUSR1 has ended a `Trainer.fit`, after a whole step and the callbacks for an interrupt, which save.

    Not caught, it ends the program with exit code 75, which tells a scheduler to start the job again.
    """

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
if hasattr(signal, "SIGUSR1"):  # which mpiexec passes on to all ranks, while at a SIGTERM of its own it soon kills them
    _DEFAULTS[signal.SIGUSR1] = signal.SIG_DFL


@contextmanager
def on_first_interrupt(request: Callable[[int], None]) -> Iterator[None]:
    """Inside the block the first Ctrl-C, SIGTERM or SIGUSR1 of each only calls ``request`` with the signal's number.

    A second one does what it does otherwise: it raises KeyboardInterrupt, or ends the process. Does nothing outside
    the main thread, where signals never arrive, and for a signal that the program ignores or has its own handler of.
    The earlier handlers are put back at the end.
    """
    mine = [] if threading.current_thread() is not threading.main_thread() else list(_DEFAULTS)
    mine = [number for number in mine if signal.getsignal(number) is _DEFAULTS[number]]

    def first(number: int, frame: object) -> None:
        signal.signal(number, _DEFAULTS[signal.Signals(number)])
        request(number)

    for number in mine:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, _DEFAULTS[number])
