"""How much of a ResNet-20 training step is spent waiting for its batch.

The loader reads or unpacks the images of each batch, shifts and mirrors them, changes their colours and normalises
them: crop, flip, jitter. A step is forward pass, loss, backward pass and optimizer. `ready` is the step on a batch that
lies in memory; `xpconv` is the step with its batch from the loader, waiting included. The note says which part of it
the wait for the batch was, by the clock, over all steps: the first two of an epoch, while the first batches are being
made, are not counted. Threads that make batches take time of the cores from the step too, which the wait does not show
and the ratio does.

The cases: 128 images of CIFAR's size from an array, from a memory map, and from JPEG files of 224 x 224 that are scaled
down; and 16 JPEG files as they are. Pictures are random, with more detail than photographs have.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpconv import data
from xpconv._bench.networks import NETWORKS

from .command import Options, main
from .cpu.training import xpconv_model, xpconv_step
from .report import Row, row_of_samples
from .timing import threads_set

__all__ = ["measure"]

NETWORK = next(network for network in NETWORKS if network.name == "resnet20")
WORKERS = (0, 1, 2)
JPEG_SIDE = 224
UNCOUNTED = 2  # steps of an epoch


class Case(NamedTuple):
    """A data set and how many of its images a step takes."""

    name: str
    dataset: data.Dataset
    batch: int
    steps: int


def _arrays(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8), rng.integers(0, 10, count)


def _jpegs(folder: Path, count: int, side: int) -> list[Path]:
    """Pictures of smooth colours and some noise, as JPEG files of quality 90."""
    from PIL import Image

    rng = np.random.default_rng(1)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((side, side))
        pixels = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (side, side, 3))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def _cases(options: Options, folder: Path) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Names of the cases, and functions that make them."""
    tiny = options.size == "tiny"
    side, batch, steps = (8, 4, 3) if tiny else (32, 128, 30 if options.size == "full" else 10)
    large, small_batch, few = (12, 2, 3) if tiny else (JPEG_SIDE, 16, 10 if options.size == "full" else 4)
    size = f"{side}x{side}"

    def array(name: str) -> Case:
        return Case(name, data.ArrayDataset(*_arrays(batch * (steps + UNCOUNTED), side)), batch, steps)

    def memory_map(name: str) -> Case:
        images, labels = _arrays(batch * (steps + UNCOUNTED), side)
        np.save(folder / "images.npy", images)
        return Case(name, data.LazyDataset(np.load(folder / "images.npy", mmap_mode="r"), labels), batch, steps)

    def files(name: str, scaled: bool) -> Case:
        shape = (batch, steps, side) if scaled else (small_batch, few, large)
        paths = _jpegs(folder, shape[0], large)
        once = data.ImageFiles(paths, np.arange(len(paths)) % 10, image_size=shape[2])
        again = np.arange(shape[0] * (shape[1] + UNCOUNTED)) % len(paths)
        return Case(name, once.subset(again), shape[0], shape[1])

    for name, make in (
        (f"array {batch}x3x{size}", array),
        (f"memory map {batch}x3x{size}", memory_map),
        (f"JPEG {large}x{large} to {batch}x3x{size}", lambda name: files(name, True)),
        (f"JPEG {small_batch}x3x{large}x{large}", lambda name: files(name, False)),
    ):
        if options.wants(name):
            yield name, lambda make=make, name=name: make(name)


def _timed(case: Case, workers: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of steps with their wait, of the wait alone, and of steps on the last batch again."""
    transform = data.Compose(
        [
            data.ShiftCrop(case.dataset.image_shape[1] // 8),
            data.RandomFlip(),
            data.ColorJitter(0.4, 0.4, 0.4, 0.1),
            data.Normalize(0.5, 0.25),
        ]
    )
    batches = data.Batches(case.dataset, case.batch, transform=transform, workers=workers, backend="numpy")
    model = xpconv_model(NETWORK, case.dataset.image_shape[1])
    whole, waits, ready = [], [], []
    epoch = batches.epoch(0)
    for number in range(case.steps + UNCOUNTED):
        start = time.perf_counter()
        x, labels = next(epoch)
        arrived = time.perf_counter()
        xpconv_step(model, NETWORK, x, labels)()
        if number >= UNCOUNTED:
            whole.append(time.perf_counter() - start)
            waits.append(arrived - start)
    epoch.close()
    for _ in range(max(3, case.steps // 4)):
        start = time.perf_counter()
        xpconv_step(model, NETWORK, x, labels)()
        ready.append(time.perf_counter() - start)
    return whole, waits, ready


def measure(options: Options) -> Iterator[Row]:
    """One row for each data set, number of threads and number of workers."""
    for threads in options.threads:
        for name, make in _in_folder(options):
            case = make()
            for workers in WORKERS:
                if options.late:
                    return
                with threads_set(threads):
                    whole, waits, ready = _timed(case, workers)
                part = sum(waits) / sum(whole)
                # equally many: the ratio is formed of pairs, here of medians
                samples = {"ready": [float(np.median(ready))] * len(whole), "xpconv": whole}
                note = f"waiting {part:.1%} of the step"
                operation = f"{workers} worker{'s' * (workers != 1)}"
                yield row_of_samples("loader", name, operation, threads, samples, baseline="ready", note=note)


def _in_folder(options: Options) -> Iterator[tuple[str, Callable[[], Case]]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _cases(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
