"""What each rank of a measured job runs; started by mpiexec, see `__main__`.

Every rank has one thread, and one core as long as there are enough. Rank 0 prints one line of JSON.
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

from xpconv import layers, models, optim
from xpconv.distributed import Communicator, SelfComm, get_communicator
from xpconv.distributed.gradients import GradientMean
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, Trainer

WARM_UP = 2  # steps that are not counted
SIZES = (8, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 12 << 20)  # bytes


def _wide() -> layers.Layer:
    """4.2 million parameters that a few images are soon through: most of a step are messages."""
    return layers.Sequential(
        layers.Flatten(),
        layers.Linear(3072, 1024, rng=0),
        layers.ReLU(),
        layers.Linear(1024, 1024, rng=1),
        layers.ReLU(),
        layers.Linear(1024, 10, rng=2),
    )


NETS: dict[str, Callable[[], layers.Layer]] = {"resnet20": lambda: models.resnet20(rng=0), "wide": _wide}


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
    """The time of each step, and what it spent in the communicator and sent."""

    def __init__(self, comm: Timed | None) -> None:
        self.comm = comm
        self.notes: list[np.ndarray] = []  # seconds, those in the communicator, bytes, messages, seconds of the core
        self._last = self._now()

    def _now(self) -> np.ndarray:
        comm = self.comm
        more = (0.0, 0, 0) if comm is None else (comm.seconds, comm.bytes, comm.messages)
        return np.array([time.perf_counter(), *more, time.process_time()])

    def on_step_end(self, trainer: Trainer) -> None:
        """Note the step that has ended."""
        now = self._now()
        self.notes.append(now - self._last)
        self._last = now


def _trainer(name: str, images: int, **more: Any) -> tuple[Trainer, tuple[np.ndarray, np.ndarray]]:
    """A trainer, and so many images and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, 3, 32, 32)).astype(np.float32)
    net = NETS[name]()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    return Trainer(net, softmax_cross_entropy, optimizer, **more), (x, rng.integers(0, 10, images))


def train(ranks: Communicator, name: str, images: int, steps: int, *, alone: bool) -> dict[str, Any]:
    """Medians over steps with so many images on each rank, which all train together or each for itself."""
    timed, size = (None, 1) if alone else (Timed(ranks), ranks.size)
    clock = Clock(timed)
    trainer, data = _trainer(name, images * size * (WARM_UP + steps), callbacks=[clock], comm=timed)
    trainer.fit(data, epochs=1, batch_size=images * size)
    notes = np.array(clock.notes[WARM_UP:])
    seconds, waits, sent, messages, _ = (float(value) for value in np.median(notes, axis=0))
    # of the middle half, as that of a normal distribution: other programs disturb a step now and then
    low, high = np.quantile(notes[:, 0], (0.25, 0.75))
    spread = float(high - low) / 1.349 / seconds
    # whether other programs have taken a core away: a rank computes or, while it waits, asks without end
    core = float(ranks.allgather(notes.sum(axis=0)[[4]] / notes.sum(axis=0)[[0]]).min())
    return {"step_s": seconds, "wait_s": waits, "bytes": sent, "messages": messages, "spread": spread, "core": core}


def profile(name: str, counts: list[int], steps: int) -> dict[str, Any]:
    """Seconds of each layer for each number of images, and the bytes of its parameters."""
    found = {}
    for images in counts:
        trainer, data = _trainer(name, images)
        measured = trainer.profile(data, steps=steps, batch_size=images)
        sizes: dict[str, list[int]] = {}
        for path, parameter in trainer.model.named_parameters():
            sizes.setdefault(path.rpartition(".")[0], []).append(4 * parameter.size)
        found[str(images)] = {
            "layers": [(layer.name, layer.forward, layer.backward) for layer in measured.layers],
            "names": [path for path, _ in trainer.model.named_layers()],
            "sizes": sizes,
        }
    return found


def handling(name: str, rounds: int = 15) -> dict[str, float]:
    """Median seconds that a rank is busy with the gradients of a step besides their messages, for each byte."""
    net = NETS[name]()
    mean = GradientMean(SelfComm(), net)
    samples = []
    for _ in range(rounds):
        with mean.collecting(1):
            for parameter in net.parameters():
                parameter.grad = np.ones(parameter.shape, np.float32)
            start = time.perf_counter()
        mean.finish(check=True)
        samples.append(time.perf_counter() - start)
    return {"s_per_byte": statistics.median(samples) / (4 * sum(p.size for p in net.parameters()))}


def message_times(comm: Communicator, rounds: int = 15) -> dict[str, float]:
    """Median seconds of one mean over the ranks, where it lies, by its bytes."""
    times: dict[str, float] = {}
    for size in SIZES:
        array, samples = np.zeros(size // 4, np.float32), []
        for _ in range(rounds):
            comm.barrier()
            start = time.perf_counter()
            comm.start_mean(array)()
            samples.append(time.perf_counter() - start)
        times[str(size)] = statistics.median(samples)
    return times


def wait_asleep(comm: Communicator) -> None:
    """A barrier whose waiting takes nothing from who works: neither a core nor memory."""
    inner = getattr(comm, "_comm", None)
    if inner is None:
        return
    request = inner.Ibarrier()
    while not request.Test():
        time.sleep(0.005)


def one_round(comm: Communicator, options: argparse.Namespace) -> dict[str, Any]:
    """All that is measured, within seconds: a machine may be another one a minute later."""
    found: dict[str, Any] = {}
    name, images, steps = options.net, options.images, options.steps
    if comm.rank == 0:
        found["one"] = train(SelfComm(), name, images, steps, alone=True)
        if options.profile:
            found["profile"] = profile(name, options.profile, 2)
            found["handling"] = handling(name)
    wait_asleep(comm)
    if options.profile:
        found["alone"] = train(comm, name, images, steps, alone=True)
        comm.barrier()
    found["train"] = train(comm, name, images, steps, alone=False)
    found["messages"] = message_times(comm)
    return found


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", choices=list(NETS), default="resnet20")
    parser.add_argument("--images", type=int, default=128, help="of a rank")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", type=int, nargs="*", default=[], help="numbers of images; also what needs them")
    options = parser.parse_args()
    comm = get_communicator()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[comm.rank % len(cores)]})
    rounds = [one_round(comm, options) for _ in range(options.rounds)]
    if comm.rank == 0:
        print(json.dumps(rounds), flush=True)


if __name__ == "__main__":
    main()
