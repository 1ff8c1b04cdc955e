"""Slices of a convolution side by side: each thread runs im2col, one matrix product and col2im on slices of its own.

Two pools of threads that take turns, the kernels' and the BLAS's, wait for each other at every turn; on a busy machine
that costs many times the work itself. So while slices run in parallel, kernels stay in the thread that calls them and
the BLAS is held at one thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import numpy as np

from . import _kernels

__all__ = ["for_each"]

Item = TypeVar("Item")

# names under which OpenBLAS exports its number of threads: NumPy's wheels, other 64-bit builds, a system's library
_OPENBLAS_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


def _find_blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Getter and setter of the number of threads of NumPy's BLAS; None if it is another BLAS than OpenBLAS."""
    try:
        # looked up in the library that links to the BLAS: the system's loader follows its dependencies
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
    for name in _OPENBLAS_NAMES:
        try:
            getter, setter = (getattr(library, name.format(verb)) for verb in ("get", "set"))
        except AttributeError:
            continue
        getter.argtypes, getter.restype = (), ctypes.c_int
        setter.argtypes, setter.restype = (ctypes.c_int,), None
        return getter, setter
    return None


_blas = _find_blas()
_holders = 0  # calls that need the BLAS at one thread now
_before = 1  # its number of threads before the first of them
_executor: ThreadPoolExecutor | None = None
_workers = 0
_lock = threading.Lock()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, so nobody who would let go of what they hold."""
    global _executor, _lock, _holders
    _executor, _lock = None, threading.Lock()
    if _blas is not None and _holders:
        _blas[1](_before)
    _holders = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _helpers(number: int) -> ThreadPoolExecutor:
    global _executor, _workers
    with _lock:
        if _executor is None or _workers < number:
            if _executor is not None:
                _executor.shutdown(wait=False)
            _executor, _workers = ThreadPoolExecutor(number, thread_name_prefix="xpconv"), number
        return _executor


@contextmanager
def _blas_at_one_thread() -> Iterator[bool]:
    """Hold the BLAS at one thread, for all calls that are inside at the same time; yields whether that was possible."""
    global _holders, _before
    if _blas is None:
        yield False
        return
    get, set_ = _blas
    with _lock:
        if not _holders:
            _before = get()
            set_(1)
        _holders += 1
    try:
        yield True
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                set_(_before)


def for_each(function: Callable[[Item], Any], items: Sequence[Item], threads: int) -> None:
    """Call ``function`` on every item, in up to ``threads`` threads; which thread takes which item is not fixed.

    The BLAS is held at one thread meanwhile, for a single item too: the sums of its products depend on the number.
    Where it cannot be held, or another call has the pool, the caller does all items by itself.
    """
    helpers = min(_kernels.get_num_threads(), threads, len(items)) - 1
    with _blas_at_one_thread() as held:
        if held and helpers > 0 and _kernels.claim_pool():
            try:
                _share(function, iter(items), helpers)
            finally:
                _kernels.release_pool()
        else:
            for item in items:
                function(item)


def _share(function: Callable[[Item], Any], items: Iterator[Item], helpers: int) -> None:
    def work() -> None:
        for item in items:  # a list's iterator is safe to share
            function(item)

    # with the caller's context: numpy.errstate and the like hold in the helpers too
    futures = [_helpers(helpers).submit(copy_context().run, work) for _ in range(helpers)]
    try:
        work()
    finally:
        # those that have not begun are not waited for: on a busy machine they may be late
        for future in futures:
            if not future.cancel():
                future.result()
