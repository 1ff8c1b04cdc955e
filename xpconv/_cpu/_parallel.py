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
_executor: ThreadPoolExecutor | None = None
_workers = 0
_lock = threading.Lock()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _executor, _lock
    _executor, _lock = None, threading.Lock()


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
def _alone() -> Iterator[bool]:
    """Hold the kernels and the BLAS at one thread; yields whether that was possible."""
    if not _kernels.claim_pool():
        yield False
        return
    try:
        threads = _blas[0]() if _blas is not None else 1
        if _blas is not None and threads > 1:
            _blas[1](1)
        try:
            yield True
        finally:
            if _blas is not None and threads > 1:
                _blas[1](threads)
    finally:
        _kernels.release_pool()


def for_each(function: Callable[[Item], Any], items: Sequence[Item], threads: int) -> None:
    """Call ``function`` on every item, in up to ``threads`` threads; which thread takes which item is not fixed.

    The BLAS's own threads must be held meanwhile; where they cannot be, the caller does all items by itself. A single
    item has the kernels' and the BLAS's threads to itself, unless the number of threads is one.
    """
    number = _kernels.get_num_threads()
    helpers = min(number if _blas is not None else 1, threads, len(items)) - 1
    if helpers > 0 or number == 1:
        with _alone() as alone:
            if alone and helpers > 0:
                _share(function, iter(items), helpers)
                return
            for item in items:
                function(item)
    else:
        for item in items:
            function(item)


def _share(function: Callable[[Item], Any], items: Iterator[Item], helpers: int) -> None:
    def work() -> None:
        for item in items:  # a list's iterator is safe to share
            function(item)

    futures = [_helpers(helpers).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        # those that have not begun are not waited for: on a busy machine they may be late
        for future in futures:
            if not future.cancel():
                future.result()
