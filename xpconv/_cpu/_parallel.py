"""Slices of a convolution side by side: each thread runs im2col, one matrix product and col2im on slices of its own.

Two pools of threads that take turns, the kernels' and the BLAS's, wait for each other at every turn; on a busy machine
that costs many times the work itself. So while slices run in parallel, kernels stay in the thread that calls them and
the BLAS is held at one thread.
"""

from __future__ import annotations

import _thread
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from . import _kernels

__all__ = ["for_each"]

Item = TypeVar("Item")

# names under which OpenBLAS exports its number of threads: NumPy's wheels, other 64-bit builds, a system's library
_OPENBLAS_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


def _find_blas() -> tuple[int, int] | None:
    """Addresses of getter and setter of the number of threads of NumPy's BLAS; None if it is not OpenBLAS."""
    try:
        # looked up in the library that links to the BLAS: the system's loader follows its dependencies
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
    for name in _OPENBLAS_NAMES:
        try:
            functions = [getattr(library, name.format(verb)) for verb in ("get", "set")]
        except AttributeError:
            continue
        getter, setter = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
        return getter, setter
    return None


_blas = _find_blas()
if _blas is not None:
    _kernels.use_blas(*_blas)


class _Task:
    """Work that the caller shares with helpers, if they come before it is over.

    A helper signs in first and looks whether the task is closed after; the caller closes it first and counts who has
    signed in after: so whoever works is waited for, and whoever comes late does nothing.
    """

    def __init__(self, work: Callable[[], None], context: Context) -> None:
        self.work, self.context = work, context
        self.closed = False
        self.signed_in: list[bool] = []
        self.results: SimpleQueue[BaseException | None] = SimpleQueue()

    def help(self) -> None:
        """Work in a helper's thread."""
        self.signed_in.append(True)
        error = None
        if not self.closed:
            try:
                self.context.run(self.work)
            except BaseException as raised:
                error = raised
        self.results.put(error)

    def close(self) -> None:
        """Wait for the helpers at work; raise what one of them has raised."""
        self.closed = True
        errors = [self.results.get() for _ in range(len(self.signed_in))]
        for error in errors:
            if error is not None:
                raise error


# Plain threads and a queue written in C: a signal handler that raises (Ctrl-C) can leave none of their locks taken.
_tasks: SimpleQueue[_Task] = SimpleQueue()
_helpers = 0


def _help(tasks: SimpleQueue[_Task]) -> None:
    while True:
        tasks.get().help()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _tasks, _helpers
    _tasks, _helpers = SimpleQueue(), 0
    _kernels.release_blas()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def for_each(function: Callable[[Item], Any], items: Sequence[Item], threads: int) -> None:
    """Call ``function`` on every item, in up to ``threads`` threads; which thread takes which item is not fixed.

    The BLAS is held at one thread meanwhile, for a single item too: the sums of its products depend on the number.
    Where it cannot be held, or another call has the pool, the caller does all items by itself.
    """
    helpers = min(_kernels.get_num_threads(), threads, len(items)) - 1
    with _kernels.BlasAtOneThread() as held:
        if held and helpers > 0:
            with _kernels.PoolClaim() as claimed:
                if claimed:
                    _share(function, iter(items), helpers)
                    return
        for item in items:
            function(item)


def _share(function: Callable[[Item], Any], items: Iterator[Item], helpers: int) -> None:
    """Only the one call that has claimed the pool is here."""
    global _helpers

    def work() -> None:
        for item in items:  # a list's iterator is safe to share
            function(item)

    try:
        while _helpers < helpers:
            _thread.start_new_thread(_help, (_tasks,))
            _helpers += 1
    except RuntimeError:
        pass  # a limit of the system, or the interpreter is ending: go on with those there are
    # with the caller's context: numpy.errstate and the like hold in the helpers too
    tasks = [_Task(work, copy_context()) for _ in range(min(helpers, _helpers))]
    try:
        for task in tasks:
            _tasks.put(task)
        work()
    finally:
        for task in tasks:
            task.close()
