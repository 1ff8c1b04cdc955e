"""Convolution and its gradients against PyTorch on the CPU, over twelve shapes that networks have.

Operations: the forward pass; the gradients of filters and bias (all that a first layer needs); the gradient of the
images; everything. xpconv computes the filters' gradient in every backward pass, so the time of the images' gradient
is that of all gradients less that of the filters' and bias', on both sides. Layout NCHW, float32. `torch NHWC` is
PyTorch on channels-last arrays, often its faster layout; `generic` is xpconv without compiled kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

import xpconv.functional as F
from xpconv.backends import use_kernels

from .command import Options, main
from .report import Row, row_of_samples
from .timing import assert_same, interleave, median, optional_torch, threads_set

__all__ = ["SHAPES", "Shape", "measure"]


class Shape(NamedTuple):
    """One convolution; square images and kernels."""

    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    width: int | None = None  # where the images are not square

    def arrays(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """(dy, x, w, b) of standard normal float32 numbers."""
        width = self.width or self.size
        out = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (self.size, width)]
        shapes = (
            (self.batch, self.filters, *out),
            (self.batch, self.channels, self.size, width),
            (self.filters, self.channels // self.groups, self.kernel, self.kernel),
            (self.filters,),
        )
        return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


SHAPES: Mapping[str, Shape] = {
    "A 3->64 k3 @32": Shape(128, 3, 32, 64, 3, 1, 1),
    "B 64->64 k3 @32": Shape(128, 64, 32, 64, 3, 1, 1),
    "C 128->128 k3 @16": Shape(128, 128, 16, 128, 3, 1, 1),
    "D 256->256 k3 @8": Shape(128, 256, 8, 256, 3, 1, 1),
    "E 64->128 k3 s2 @32": Shape(128, 64, 32, 128, 3, 2, 1),
    "F 64->128 k1 @32": Shape(128, 64, 32, 128, 1),
    "G 3->64 k7 s2 @224": Shape(32, 3, 224, 64, 7, 2, 3),
    "H 1->32 k5 @28": Shape(128, 1, 28, 32, 5, 1, 2),
    "I 3->16 k3 @28": Shape(128, 3, 28, 16, 3, 1, 1),
    "J 16->32 k7 @11x9": Shape(64, 16, 11, 32, 7, 1, 3, width=9),
    "K 64->64 k3 @56": Shape(32, 64, 56, 64, 3, 1, 1),
    "L depthwise 128 k3 @32": Shape(64, 128, 32, 128, 3, 1, 1, groups=128),
}
QUICK = ("A", "B", "E", "H", "L")


def _xpconv(dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, shape: Shape) -> dict[str, Callable]:
    options = {"stride": shape.stride, "padding": shape.padding, "groups": shape.groups}
    cache = F.conv2d(x, w, b, **options)[1]
    return {
        "forward": lambda: (F.conv2d(x, w, b, **options)[0],),
        "dw, db": lambda: F.conv2d_backward(dy, cache, need_dx=False)[1:],
        "dx, dw, db": lambda: F.conv2d_backward(dy, cache),
    }


def _generic(operations: Mapping[str, Callable]) -> dict[str, Callable]:
    def without_kernels(run: Callable) -> Callable:
        def call():
            with use_kernels("generic"):
                return run()

        return call

    return {operation: without_kernels(run) for operation, run in operations.items()}


def _pytorch(
    torch: ModuleType, arrays: Sequence[np.ndarray], shape: Shape, *, channels_last: bool
) -> dict[str, Callable]:
    """The operators under autograd, called directly: no graph is built."""
    dy, x, w, b = (torch.from_numpy(array) for array in arrays)
    if channels_last:
        dy, x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (dy, x, w))
    strides, paddings = [shape.stride] * 2, [shape.padding] * 2

    def backward(*mask: bool) -> tuple:
        return torch.ops.aten.convolution_backward(
            dy, x, w, [shape.filters], strides, paddings, [1, 1], False, [0, 0], shape.groups, list(mask)
        )

    def forward() -> tuple:
        with torch.no_grad():
            return (torch.nn.functional.conv2d(x, w, b, strides, paddings, 1, shape.groups),)

    return {
        "forward": forward,
        "dw, db": lambda: backward(False, True, True)[1:],
        "dx, dw, db": lambda: backward(True, True, True),
    }


def _tiny(shape: Shape) -> Shape:
    channels = min(shape.channels, 4)
    filters = channels if shape.groups > 1 else 4
    size = shape.kernel + 4
    return shape._replace(
        batch=2, channels=channels, filters=filters, size=size, groups=min(shape.groups, channels),
        width=size + 1 if shape.width else None,
    )  # fmt: skip


def _rows(case: str, threads: int, samples: Mapping[tuple[str, str], Sequence[float]]) -> Iterator[Row]:
    """A row for each operation, those included whose time is a sum or a difference of measured ones."""
    measured: dict[str, dict[str, np.ndarray]] = {}
    for (library, operation), times in samples.items():
        measured.setdefault(operation, {})[library] = np.asarray(times)
    forward, filters, backward = (measured[operation] for operation in ("forward", "dw, db", "dx, dw, db"))
    everything = {library: forward[library] + backward[library] for library in forward}
    # of medians, not within rounds: a difference of two noisy numbers may come out as nothing or less
    images = {library: [max(median(backward[library]) - median(filters[library]), 0.0)] for library in forward}
    yield row_of_samples("convolution", case, "forward", threads, forward, baseline="torch")
    yield row_of_samples("convolution", case, "dw, db", threads, filters, baseline="torch")
    yield row_of_samples("convolution", case, "dx", threads, images, baseline="torch")
    yield row_of_samples("convolution", case, "forward + backward", threads, everything, baseline="torch")


def measure(options: Options) -> Iterator[Row]:
    """Four rows for each shape and number of threads."""
    torch = optional_torch()
    for case, shape in SHAPES.items():
        if not options.wants(case) or (options.size == "quick" and not options.only and case[0] not in QUICK):
            continue
        shape = _tiny(shape) if options.size == "tiny" else shape
        arrays = shape.arrays(np.random.default_rng(0))
        libraries = {}
        if torch:
            libraries["torch"] = _pytorch(torch, arrays, shape, channels_last=False)
            libraries["torch NHWC"] = _pytorch(torch, arrays, shape, channels_last=True)
        ours = _xpconv(*arrays, shape)
        libraries["generic"] = _generic(ours)
        libraries["xpconv"] = ours
        for operation in ours:
            with threads_set(1):
                results = {name: [np.asarray(a) for a in run[operation]()] for name, run in libraries.items()}
            assert_same(f"{case}, {operation}", results, 2e-4)
            del results
        contenders = {(name, operation): run[operation] for operation in ours for name, run in libraries.items()}
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1)
            yield from _rows(case, threads, samples)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
