"""`xpconv.cs231n.conv_forward_fast` and `conv_backward_fast` against the course's own compiled im2col, on its shape.

The course times its fast layers on 100 images of 3 x 31 x 31 and 25 filters of 3 x 3, stride 2, padding 1, in float64;
so here, and in float32. Its method, in `benchmarks.course`: pad, copy windows to columns (the batch last),
one matrix product, add the bias; backwards two products with a transposed copy of the gradient and with the columns
that the forward pass has kept, and col2im. The loops are compiled for each run, with the compiler's default flags as
the course does it; that takes Cython and a C compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np

from xpconv.cs231n.fast_layers import conv_backward_fast, conv_forward_fast

from . import course
from .command import Options, main
from .report import Row, row_of_samples
from .timing import assert_same, interleave, threads_set

__all__ = ["measure"]

CONV = {"stride": 2, "pad": 1}


def _course(module: ModuleType, dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, Callable]:
    """Forward and backward pass as the course writes them around its extension."""
    stride, padding = CONV["stride"], CONV["pad"]
    columns = course.forward(module, x, w, b, stride, padding)[1]
    return {
        "forward": lambda: course.forward(module, x, w, b, stride, padding)[:1],
        "backward": lambda: course.backward(module, dy, x.shape, columns, w, stride, padding),
    }


def _xpconv(dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, Callable]:
    cache = conv_forward_fast(x, w, b, CONV)[1]
    return {
        "forward": lambda: conv_forward_fast(x, w, b, CONV)[:1],
        "backward": lambda: conv_backward_fast(dy, cache),
    }


def measure(options: Options) -> Iterator[Row]:
    """A row for each dtype, pass and number of threads."""
    batch, size = (2, 7) if options.size == "tiny" else (100, 31)
    out = (size + 2 - 3) // 2 + 1
    for dtype in ("float64", "float32"):
        case = f"x {batch}x3x{size}x{size}, 25 filters 3x3 s2, {dtype}"
        if not options.wants(case):
            continue
        rng = np.random.default_rng(0)
        shapes = ((batch, 25, out, out), (batch, 3, size, size), (25, 3, 3, 3), (25,))
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        libraries = {"xpconv": _xpconv(*arrays)}
        module = course.course_im2col()
        if module is not None:
            libraries = {"course": _course(module, *arrays), **libraries}
        for operation in ("forward", "backward"):
            results = {name: run[operation]() for name, run in libraries.items()}
            assert_same(f"{case}, {operation}", results, 1e-4 if dtype == "float32" else 1e-12)
        contenders = {(name, way): function for name, run in libraries.items() for way, function in run.items()}
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1)
            for operation in ("forward", "backward"):
                times = {name: samples[name, operation] for name in libraries}
                yield row_of_samples("course_convolution", case, operation, threads, times, baseline="course")


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
