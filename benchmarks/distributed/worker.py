"""What each rank of a measured job runs; started by mpiexec, see `__main__`.

Every rank has one core and one thread. Rank 0 prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from xpconv import models, optim
from xpconv.distributed import Communicator, get_communicator
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, Trainer

WARM_UP = 3  # steps that are not counted
SIZES = (8, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20)  # bytes


class Timed(Communicator):
    """Another communicator, and how long this rank was inside of it."""

    def __init__(self, inner: Communicator) -> None:
        self.inner, self.seconds, self.bytes, self.messages = inner, 0.0, 0, 0

    @property
    def rank(self) -> int:
        """That of the other."""
        return self.inner.rank

    @property
    def size(self) -> int:
        """That of the other."""
        return self.inner.size

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self.seconds += time.perf_counter() - start

    def _count(self, array: Any) -> None:
        self.bytes += np.asarray(array).nbytes
        self.messages += 1

    def broadcast(self, array: Any, root: int = 0) -> Any:
        """Timed."""
        self._count(array)
        return self._timed(self.inner.broadcast, array, root)

    def allreduce_mean(self, array: Any) -> Any:
        """Timed."""
        self._count(array)
        return self._timed(self.inner.allreduce_mean, array)

    def allgather(self, array: Any) -> Any:
        """Timed."""
        self._count(array)
        return self._timed(self.inner.allgather, array)

    def barrier(self) -> None:
        """Timed."""
        self._timed(self.inner.barrier)

    def progress(self) -> None:
        """Timed."""
        self._timed(self.inner.progress)

    def start_mean(self, array: Any) -> Callable[[], Any]:
        """Timed, as is the wait for it."""
        self._count(array)
        finish = self._timed(self.inner.start_mean, array)
        return lambda: self._timed(finish)


class Clock(Callback):
    """The time of each step, and of what it spent in the communicator."""

    def __init__(self, comm: Timed | None) -> None:
        self.comm = comm
        self.steps: list[float] = []
        self.waits: list[float] = []
        self._last = (time.perf_counter(), 0.0)

    def on_step_end(self, trainer: Trainer) -> None:
        """Note the step that has ended."""
        now = time.perf_counter(), 0.0 if self.comm is None else self.comm.seconds
        self.steps.append(now[0] - self._last[0])
        self.waits.append(now[1] - self._last[1])
        self._last = now


def train(comm: Communicator | None, images: int, steps: int) -> dict[str, Any]:
    """Medians over steps of ResNet-20 with so many images on each rank; without ``comm`` each rank trains alone."""
    size = 1 if comm is None else comm.size
    timed = None if comm is None else Timed(comm)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images * size, 3, 32, 32)).astype(np.float32)
    labels = rng.integers(0, 10, len(x))
    net = models.resnet20(rng=0)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    clock = Clock(timed)
    trainer = Trainer(net, softmax_cross_entropy, optimizer, callbacks=[clock], comm=timed)
    trainer.fit((x, labels), epochs=WARM_UP, batch_size=len(x))
    before = (0, 0) if timed is None else (timed.bytes, timed.messages)
    trainer.fit((x, labels), epochs=WARM_UP + steps, batch_size=len(x))
    after = (0, 0) if timed is None else (timed.bytes, timed.messages)
    return {
        "step_s": statistics.median(clock.steps[WARM_UP + 1 :]),
        "wait_s": statistics.median(clock.waits[WARM_UP + 1 :]),
        "bytes": (after[0] - before[0]) / steps,
        "messages": (after[1] - before[1]) / steps,
        "gradient_bytes": 4 * sum(parameter.size for parameter in net.parameters()),
    }


def message_times(comm: Communicator, rounds: int = 15) -> dict[str, float]:
    """Median seconds of one all-reduce, by its bytes."""
    times: dict[str, float] = {}
    for size in SIZES:
        array, samples = np.zeros(size // 4, np.float32), []
        for _ in range(rounds):
            comm.barrier()
            start = time.perf_counter()
            comm.allreduce_mean(array)
            samples.append(time.perf_counter() - start)
        times[str(size)] = statistics.median(samples)
    return times


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "alone", "messages"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    comm = get_communicator()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[comm.rank % len(cores)]})
    if options.what == "messages":
        result: dict[str, Any] = message_times(comm)
    else:
        comm.barrier()
        result = train(comm if options.what == "train" else None, options.images, options.steps)
        comm.barrier()
    if comm.rank == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
