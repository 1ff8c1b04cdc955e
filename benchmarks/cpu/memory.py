"""Peak memory, each measurement in a process of its own.

`ResNet-20`: three training steps on a batch of 128, beyond what the process holds before the first image: interpreter,
libraries and a step on a batch of 2 come before. PyTorch's eager mode with the same network is the peer.

`convolution`: forward and backward pass on (32, 64, 56, 56) with 64 filters of 3 x 3. What the process holds beyond its
start-up, at the most, against three times the size of the convolution's inputs and outputs (x, w, b, y) plus the
workspace cap; the gradients count as use, not as allowance. PyTorch's peak is shown beside it.

`LeNet training`: one epoch on 60,000 images in MNIST's file format by the command `xpconv train`, test set included.
All that the process has resident, interpreter and libraries included, against the size of the data plus 300 MB.
"""

from __future__ import annotations

import ast
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpconv._bench.networks import NETWORKS

from ..command import Options
from ..peers import optional_torch
from ..report import Row, left_out
from ..timing import Ratio, allocator, assert_same, peak_memory, resident_memory, threads_set

__all__ = [
    "RESNET",
    "convolution_peak",
    "measure",
    "step_peak",
    "torch_convolution_peak",
    "training_peak",
    "write_mnist",
]

RESNET = "resnet20 training"

CONVOLUTION = (32, 64, 56, 64)  # images, channels, height = width, filters


# ---- what runs in a process of its own ----------------------------------------------------------------------------


def _arrays(n: int, c: int, size: int, f: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = ((n, c, size, size), (f, c, 3, 3), (f,))
    return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


def convolution_peak(n: int, c: int, size: int, f: int, threads: int, kernels: str) -> int:
    """Bytes that a forward and a backward pass of xpconv take beyond the start-up, arguments and results included."""
    import xpconv
    import xpconv.functional as F
    from xpconv.backends import use_kernels

    def step(*shape: int) -> tuple:
        x, w, b = _arrays(*shape)
        y, cache = F.conv2d(x, w, b, padding=1)
        dy = np.ones_like(y)
        return x, w, b, y, dy, F.conv2d_backward(dy, cache)

    with threads_set(threads), use_kernels(kernels):
        step(1, 2, 5, 2)  # starts threads, loads kernels
        xpconv.free_memory()  # memory that is used again counts as well
        before = resident_memory()
        kept = step(n, c, size, f)
    assert kept
    return peak_memory() - before


def torch_convolution_peak(n: int, c: int, size: int, f: int, threads: int) -> int:
    """The same for PyTorch."""
    import torch

    def step(*shape: int) -> tuple:
        x, w, b = (torch.from_numpy(array).requires_grad_() for array in _arrays(*shape))
        y = torch.nn.functional.conv2d(x, w, b, padding=1)
        dy = torch.ones_like(y)
        y.backward(dy)
        return x, w, b, y, dy

    with threads_set(threads):
        step(1, 2, 5, 2)
        before = resident_memory()
        kept = step(n, c, size, f)
    assert kept
    return peak_memory() - before


def step_peak(library: str, batch: int, size: int, threads: int) -> tuple[int, int, float]:
    """Bytes that three steps of ResNet-20 take beyond the start-up, bytes before them, and the last loss."""
    from .training import images, torch_step, xpconv_model, xpconv_step

    network = next(network for network in NETWORKS if network.name == "resnet20")

    def steps(batch: int) -> float:
        x, labels = images(network, batch, size)
        model = xpconv_model(network, size)
        step = xpconv_step(model, network, x, labels)
        if library == "torch":
            import torch

            step = torch_step(torch, model, network, x, labels)
            del model
        return [step() for _ in range(3)][-1]

    with threads_set(threads):
        steps(2)
        before = resident_memory()
        loss = steps(batch)
    return peak_memory() - before, before, loss


def training_peak(folder: str, threads: int) -> int:
    """Bytes resident at the most while ``xpconv train`` runs one epoch of LeNet on the files in ``folder``."""
    from xpconv.cli import main as xpconv

    where = ["--data", folder, "--out", str(Path(folder) / f"run-{threads}")]
    with threads_set(threads):
        status = xpconv(["train", "--model", "lenet", "--epochs", "1", *where])
    if status:
        raise RuntimeError(f"xpconv train ended with status {status}")
    return peak_memory()


def _measured(function: str, *arguments: object) -> Any:
    """Call a function of this module in a new interpreter; its result is the last line printed."""
    code = f"from benchmarks.cpu import memory; print(); print(memory.{function}(*{arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
    if done.returncode:
        raise RuntimeError(f"{function}{arguments} failed:\n{done.stderr}")
    return ast.literal_eval(done.stdout.splitlines()[-1])


# ---- data ---------------------------------------------------------------------------------------------------------


def write_mnist(folder: Path, images: int, test_images: int) -> int:
    """Write random images in MNIST's four files, gzipped; return the bytes of their decompressed content."""
    rng = np.random.default_rng(0)
    total = 0
    for part, count in (("train", images), ("t10k", test_images)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte.gz", pixels), (f"{part}-labels-idx1-ubyte.gz", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / name).write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))
            total += len(header) + array.nbytes
    return total


# ---- the benchmark ------------------------------------------------------------------------------------------------


def _row(case: str, operation: str, threads: int, values: dict[str, float], note: str, baseline: str = "limit") -> Row:
    ratio = None
    if baseline in values and values["xpconv"] > 0:
        value = values[baseline] / values["xpconv"]
        ratio = Ratio(value, value, value)
    megabytes = {name: size / 1e6 for name, size in values.items()}
    return Row("memory", case, operation, threads, allocator(), "MB", megabytes, baseline, "xpconv", ratio, note)


def _resnet(options: Options, libraries: Sequence[str]) -> Iterator[Row]:
    batch, size = (4, 16) if options.size == "tiny" else (128, 32)
    for threads in options.threads:
        found = {library: _measured("step_peak", library, batch, size, threads) for library in libraries}
        losses = {library: [np.asarray(loss)] for library, (_, _, loss) in found.items()}
        assert_same(f"{RESNET}: loss of the third step", losses, 1e-2)
        values: dict[str, float] = {library: max(peak, 0) for library, (peak, _, _) in found.items()}
        before = ", ".join(f"{library} {start / 1e6:.0f} MB" for library, (_, start, _) in found.items())
        yield _row(f"{RESNET}, {batch} of 3x{size}x{size}", "steps", threads, values, f"held before: {before}", "torch")


def _convolution(options: Options, shape: tuple[int, int, int, int], case: str, torch: bool) -> Iterator[Row]:
    import xpconv

    n, c, size, f = shape
    arguments = 4 * (n * c * size**2 + f * c * 9 + f + n * f * size**2)
    limit = 3 * arguments + (xpconv.get_workspace_mb() << 20)
    for threads in options.threads:
        values: dict[str, float] = {"limit": limit}
        if torch:
            values["torch"] = _measured("torch_convolution_peak", *shape, threads)
        values["generic"] = _measured("convolution_peak", *shape, threads, "generic")
        values["xpconv"] = _measured("convolution_peak", *shape, threads, "auto")
        yield _row(case, "forward + backward", threads, values, "" if torch else "without torch")


def _lenet(options: Options, images: int, case: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        data = write_mnist(Path(folder), images, images // 6)
        for threads in options.threads:
            values = {"limit": data + 300e6, "xpconv": _measured("training_peak", folder, threads)}
            yield _row(case, "one epoch", threads, values, f"data {data / 1e6:.0f} MB + 300 MB")


def measure(options: Options) -> Iterator[Row]:
    """One row for each of the three measurements and each number of threads."""
    torch = options.peers and optional_torch() is not None
    shape = (8, 16, 64, 16) if options.size == "tiny" else CONVOLUTION
    n, c, size, f = shape
    images = 256 if options.size == "tiny" else 60_000
    convolution, lenet = f"convolution ({n}, {c}, {size}, {size}) -> {f}, 3x3", f"LeNet training, {images:,} images"
    parts = {
        RESNET: lambda: _resnet(options, ("torch", "xpconv") if torch else ("xpconv",)),
        convolution: lambda: _convolution(options, shape, convolution, torch),
        lenet: lambda: _lenet(options, images, lenet),
    }
    for case, rows in parts.items():
        # the last one takes a minute
        if options.wants(case) and not (case == lenet and options.size == "quick" and not options.only):
            if options.late:
                yield from (left_out("memory", case, threads) for threads in options.threads)
            else:
                yield from rows()
