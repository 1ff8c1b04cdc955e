"""Copies from the host to an NVIDIA GPU that go on while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .protocol import Array

__all__ = ["PinnedTransfers"]


class PinnedTransfers:
    """Sends arrays through page-locked memory, on a stream of its own.

    ::

        current stream    step 3 ......... | wait for copied, step 4 ........
        this stream         wait for asked, batch 4 ... copied

    Parameters
    ----------
    cupy
        The module.
    device
        The `cupy.cuda.Device` that the arrays go to.
    """

    def __init__(self, cupy: Any, device: Any) -> None:
        self._cupy = cupy
        self._device = device
        self._stream: Any = None
        # (event, page-locked memory, arrays) of copies that may be going on: the memory of neither end may be given to
        # anybody else before they are done, even where nobody wants the arrays any more
        self._under_way: deque[tuple[Any, list[np.ndarray], tuple[Array, ...]]] = deque()

    def send(self, arrays: Sequence[np.ndarray]) -> Callable[[], tuple[Array, ...]]:
        """Start to copy; the function that is returned gives the arrays, for use on the stream that is current then."""
        cuda = self._cupy.cuda
        with self._device:
            while self._under_way and self._under_way[0][0].done:
                self._under_way.popleft()
            if self._stream is None:
                self._stream = cuda.Stream(non_blocking=True)
            staged = [self._page_locked(array) for array in arrays]
            # Of the current stream's memory, which it may still be using for what it has not come to yet.
            targets = tuple(self._cupy.empty(array.shape, array.dtype) for array in arrays)
            asked = cuda.get_current_stream().record(cuda.Event(disable_timing=True))
            self._stream.wait_event(asked)
            for target, source in zip(targets, staged, strict=True):
                target.set(source, stream=self._stream)
            copied = self._stream.record(cuda.Event(disable_timing=True))
            self._under_way.append((copied, staged, targets))

        def arrived() -> tuple[Array, ...]:
            with self._device:
                cuda.get_current_stream().wait_event(copied)
            return targets

        return arrived

    def _page_locked(self, array: np.ndarray) -> np.ndarray:
        """A copy that the device can read by itself; others would be staged by the driver while the host waits."""
        memory = self._cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        copy = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        copy[...] = array
        return copy
