"""Copies on a stream of their own, on a stand-in whose streams run as early or as late as events allow."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from xpconv.backends._pinned import PinnedTransfers


class Event:
    """`cupy.cuda.Event`."""

    def __init__(self, disable_timing):
        assert disable_timing
        self.done = False
        self.stream = None


class Stream:
    """Work in order, done when somebody runs it: by `run`, or by another stream that waits for an event."""

    def __init__(self, non_blocking):
        assert non_blocking  # it would wait for the null stream
        self.work = []

    def add(self, function):
        self.work.append(function)

    def record(self, event):
        event.stream = self

        def happen():
            event.done = True

        self.add(happen)
        return event

    def wait_event(self, event):
        def wait():
            while not event.done:
                event.stream.run(1)

        self.add(wait)

    def run(self, steps=None):
        while self.work and steps != 0:
            self.work.pop(0)()
            steps = None if steps is None else steps - 1


class GPUArray(np.ndarray):
    """Memory that holds garbage until something is copied to it."""

    def set(self, source, stream):
        assert source.dtype == self.dtype
        assert source.shape == self.shape
        stream.add(lambda: self.__setitem__(..., source))


class Machine:
    def __init__(self):
        self.entered = 0
        self.locked = []
        self.current = Stream(non_blocking=True)
        self.streams = []
        self.transfers = PinnedTransfers(SimpleNamespace(empty=self.empty, cuda=self), self)
        self.Event = Event

    def Stream(self, non_blocking):
        assert self.entered
        self.streams.append(Stream(non_blocking))
        return self.streams[-1]

    def __enter__(self):
        self.entered += 1

    def __exit__(self, *exception):
        self.entered -= 1

    def get_current_stream(self):
        assert self.entered
        return self.current

    def alloc_pinned_memory(self, size):
        assert size > 0
        memory = bytearray(size)
        self.locked.append(memory)
        return memory

    def empty(self, shape, dtype):
        assert self.entered
        return np.full(shape, 99, dtype).view(GPUArray)


@pytest.fixture
def gpu():
    return Machine()


ARRAYS = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(4, dtype=np.int64)[::-1], np.zeros((0, 2), np.float32)]


def test_the_current_stream_waits_for_the_copies(gpu):
    sources = [array.copy() for array in ARRAYS]
    arrived = gpu.transfers.send(sources)
    for source in sources:
        source[...] = 77  # the caller's again: what is sent was copied
    targets = arrived()
    gpu.current.run()
    for target, expected in zip(targets, ARRAYS, strict=True):
        assert target.dtype == expected.dtype
        np.testing.assert_array_equal(target, expected)


def test_copies_wait_for_work_that_may_still_use_their_memory_but_not_for_later_work(gpu):
    done = []
    gpu.current.add(lambda: done.append("step 1"))
    arrived = gpu.transfers.send(ARRAYS[:1])
    gpu.current.add(lambda: done.append("step 2"))
    gpu.streams[0].run()
    assert done == ["step 1"]
    np.testing.assert_array_equal(arrived()[0], ARRAYS[0])
    gpu.current.run()
    assert done == ["step 1", "step 2"]


def test_memory_is_kept_until_it_was_copied_even_if_nobody_wants_it(gpu):
    targets = gpu.transfers.send(ARRAYS[:1])()
    target = weakref.ref(targets[0])
    del targets
    gpu.transfers.send(ARRAYS[:1])
    gc.collect()
    assert target() is not None
    assert len(gpu.streams) == 1
    gpu.streams[0].run()
    gpu.transfers.send(ARRAYS[:1])
    gc.collect()
    assert target() is None
