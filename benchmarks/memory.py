"""Peak memory, each measurement in a process of its own.

`convolution`: forward and backward pass on (32, 64, 56, 56) with 64 filters of 3 x 3. What the process holds beyond its
start-up, at the most, against three times the size of the convolution's inputs and outputs (x, w, b, y) plus the
workspace cap; the gradients count as use, not as allowance. PyTorch's peak is shown beside it.

`LeNet training`: one epoch on 60,000 images in MNIST's file format by the command `xpconv train`, test set included.
All that the process has resident, interpreter and libraries included, against the size of the data plus 300 MB.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .command import Options, main
from .report import Row
from .timing import Ratio, allocator, peak_memory, resident_memory, threads_set

__all__ = ["convolution_peak", "measure", "torch_convolution_peak", "training_peak", "write_mnist"]

CONVOLUTION = (32, 64, 56, 64)  # images, channels, height = width, filters


# ---- what runs in a process of its own ----------------------------------------------------------------------------


def _arrays(n: int, c: int, size: int, f: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = ((n, c, size, size), (f, c, 3, 3), (f,))
    return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


def convolution_peak(n: int, c: int, size: int, f: int, threads: int, kernels: str) -> int:
    """Bytes that a forward and a backward pass of xpconv take beyond the start-up, arguments and results included."""
    import xpconv.functional as F
    from xpconv.backends import use_kernels

    def step(*shape: int) -> tuple:
        x, w, b = _arrays(*shape)
        y, cache = F.conv2d(x, w, b, padding=1)
        dy = np.ones_like(y)
        return x, w, b, y, dy, F.conv2d_backward(dy, cache)

    with threads_set(threads), use_kernels(kernels):
        step(1, 2, 5, 2)  # starts threads, loads kernels
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


def training_peak(folder: str, threads: int) -> int:
    """Bytes resident at the most while ``xpconv train`` runs one epoch of LeNet on the files in ``folder``."""
    from xpconv.cli import main as xpconv

    where = ["--data", folder, "--out", str(Path(folder) / "run")]
    with threads_set(threads):
        status = xpconv(["train", "--model", "lenet", "--epochs", "1", *where])
    if status:
        raise RuntimeError(f"xpconv train ended with status {status}")
    return peak_memory()


def _measured(function: str, *arguments: object) -> int:
    """Call a function of this module in a new interpreter; its result is the last line printed."""
    code = f"from benchmarks import memory; print(); print(memory.{function}(*{arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
    if done.returncode:
        raise RuntimeError(f"{function}{arguments} failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


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


def _row(case: str, operation: str, threads: int, values: dict[str, float], note: str) -> Row:
    value = values["limit"] / values["xpconv"]
    return Row(
        benchmark="memory",
        case=case,
        operation=operation,
        threads=threads,
        allocator=allocator(),
        unit="MB",
        values={name: size / 1e6 for name, size in values.items()},
        baseline="limit",
        subject="xpconv",
        ratio=Ratio(value, value, value),
        note=note,
    )


def measure(options: Options) -> Iterator[Row]:
    """One row for each of the two measurements and each number of threads."""
    import xpconv

    has_torch = importlib.util.find_spec("torch") is not None
    shape = (2, 3, 8, 4) if options.size == "tiny" else CONVOLUTION
    n, c, size, f = shape
    case = f"convolution ({n}, {c}, {size}, {size}) -> {f}, 3x3"
    if options.wants(case):
        arguments = 4 * (n * c * size**2 + f * c * 9 + f + n * f * size**2)
        limit = 3 * arguments + (xpconv.get_workspace_mb() << 20)
        for threads in options.threads:
            values: dict[str, float] = {"limit": limit}
            if has_torch:
                values["torch"] = _measured("torch_convolution_peak", *shape, threads)
            values["generic"] = _measured("convolution_peak", *shape, threads, "generic")
            values["xpconv"] = _measured("convolution_peak", *shape, threads, "auto")
            note = "" if has_torch else "torch not installed"
            yield _row(case, "forward + backward", threads, values, note)
    images = 256 if options.size == "tiny" else 60_000
    case = f"LeNet training, {images:,} images"
    if options.wants(case):
        with tempfile.TemporaryDirectory() as folder:
            data = write_mnist(Path(folder), images, images // 6)
            for threads in options.threads:
                values = {"limit": data + 300e6, "xpconv": _measured("training_peak", folder, threads)}
                yield _row(case, "one epoch", threads, values, f"data {data / 1e6:.0f} MB + 300 MB")


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
