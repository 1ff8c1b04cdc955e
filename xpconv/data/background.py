"""Work that threads do ahead, handed out in order.

Threads and not processes: NumPy and Pillow give up the interpreter's lock where they spend their time, so that threads
do run at once; they share the data set, its open files and its memory maps; nothing is pickled and no result copied;
and there is nothing that a fork could break or leave behind.
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["in_background"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_background(make: Callable[[Item], Made], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Made]:
    """``make(item)`` for each item, in their order, made by threads before it is asked for.

    ::

        worker 1    make 0 | make 2 ------ | make 4
        worker 2    make 1 ---- | make 3 | make 5
        handed out         0    1          2 3 ...

    An exception of ``make`` is raised where its item would have been handed out. The threads end with the iterator, be
    it at its end, by an exception or by being closed; in a child process, which has none of its parent's threads, the
    iterator starts its own and goes on.

    Parameters
    ----------
    make
        Runs in the context (`contextvars`) of the caller; several at once.
    workers
        Threads; 0: no thread, each is made when it is asked for.
    ahead
        So many items, at least, are being made or are ready while the one before them is used.
    """
    if workers == 0:
        yield from map(make, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # which imports logging

    rest = iter(items)
    pending: deque[tuple[Item, Future[Made]]] = deque()
    executor: ThreadPoolExecutor | None = None
    process = -1
    try:
        while True:
            if os.getpid() != process:
                executor, process = ThreadPoolExecutor(workers, "xpconv-data"), os.getpid()
                pending = deque((item, _submit(executor, make, item)) for item, _ in pending)
            assert executor is not None
            for item in rest:
                pending.append((item, _submit(executor, make, item)))
                if len(pending) > max(ahead, workers):
                    break
            if not pending:
                return
            made = pending[0][1].result()
            pending.popleft()
            yield made
    finally:
        if executor is not None and os.getpid() == process:
            executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: Any, make: Callable[[Item], Made], item: Item) -> Any:
    return executor.submit(contextvars.copy_context().run, make, item)
