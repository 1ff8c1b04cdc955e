"""Convolution as the course writes it: all windows to columns, one matrix product, col2im on the way back.

The loops are those of `course_im2col.pyx`, compiled as the course compiles them; around them NumPy, and its BLAS for
the products. The batch is the last axis of the columns; the forward pass keeps them for the gradients.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np

__all__ = ["backward", "course_im2col", "forward"]

Array = np.ndarray
SOURCE = Path(__file__).with_name("course_im2col.pyx")


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


def forward(module: ModuleType, x: Array, w: Array, b: Array, stride: int, padding: int) -> tuple[Array, Array]:
    """(y, columns)."""
    n, _, height, width = x.shape
    f, _, kh, kw = w.shape
    out_h, out_w = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    columns = module.im2col(x, kh, kw, padding, stride)
    y = w.reshape(f, -1).dot(columns) + b.reshape(-1, 1)
    return y.reshape(f, out_h, out_w, n).transpose(3, 0, 1, 2), columns


def backward(
    module: ModuleType, dy: Array, shape: tuple[int, ...], columns: Array, w: Array, stride: int, padding: int
) -> tuple[Array, Array, Array]:
    """(dx, dw, db) for images of ``shape``."""
    n, c, height, width = shape
    f, _, kh, kw = w.shape
    rows = dy.transpose(1, 2, 3, 0).reshape(f, -1)
    dw = rows.dot(columns.T).reshape(w.shape)
    dcolumns = w.reshape(f, -1).T.dot(rows)
    dx = module.col2im(dcolumns, n, c, height, width, kh, kw, padding, stride)
    return dx, dw, dy.sum(axis=(0, 2, 3))
