"""`xpconv.cs231n.conv_forward_fast` and `conv_backward_fast` against the course's own compiled im2col, on its shape.

The course times its fast layers on 100 images of 3 x 31 x 31 and 25 filters of 3 x 3, stride 2, padding 1, in float64;
so here, and in float32. Its method, in `course_im2col.pyx` and below: pad, copy windows to columns (the batch last),
one matrix product, add the bias; backwards two products with a transposed copy of the gradient and with the columns
that the forward pass has kept, and col2im. The loops are compiled for each run, with the compiler's default flags as
the course does it; that takes Cython and a C compiler.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from xpconv.cs231n.fast_layers import conv_backward_fast, conv_forward_fast

from .command import Options, main
from .report import Row, row_of_samples
from .timing import assert_same, interleave, threads_set

__all__ = ["course_im2col", "measure"]

SOURCE = Path(__file__).with_name("course_im2col.pyx")
CONV = {"stride": 2, "pad": 1}


@functools.cache
def course_im2col() -> ModuleType | None:
    """The compiled loops, or None where there is no Cython or no compiler."""
    if importlib.util.find_spec("Cython") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copy(SOURCE, folder))
        flags = f"{os.environ.get('CFLAGS', '')} -I{np.get_include()} -DNPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION"
        command = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet", source.name]
        built = subprocess.run(command, cwd=folder, env={**os.environ, "CFLAGS": flags}, capture_output=True, text=True)
        binaries = [path for path in source.parent.iterdir() if path.suffix in (".so", ".pyd")]
        if built.returncode or not binaries:
            print(built.stderr, file=sys.stderr)
            return None
        spec = importlib.util.spec_from_file_location(SOURCE.stem, binaries[0])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _course(module: ModuleType, dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, Callable]:
    """Forward and backward pass as the course writes them around its extension."""
    (n, c, h, width), (f, _, kh, kw), (_, _, out_h, out_w) = x.shape, w.shape, dy.shape

    def forward() -> tuple[np.ndarray, np.ndarray]:
        cols = module.im2col(x, kh, kw, CONV["pad"], CONV["stride"])
        y = w.reshape(f, -1).dot(cols) + b.reshape(-1, 1)
        return y.reshape(f, out_h, out_w, n).transpose(3, 0, 1, 2), cols

    cols = forward()[1]

    def backward() -> tuple[np.ndarray, ...]:
        db = dy.sum(axis=(0, 2, 3))
        rows = dy.transpose(1, 2, 3, 0).reshape(f, -1)
        dw = rows.dot(cols.T).reshape(w.shape)
        dcols = w.reshape(f, -1).T.dot(rows)
        return module.col2im(dcols, n, c, h, width, kh, kw, CONV["pad"], CONV["stride"]), dw, db

    return {"forward": lambda: forward()[:1], "backward": backward}


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
        module = course_im2col()
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
