"""A convolution and all its gradients, against the NumPy loops that courses teach.

A batch of 128 small colour images, 28 x 28 x 3 with the channels last, meets 16 filters of 3 x 3 with one pixel of
padding; then the gradients of images, filters and bias. The loops visit every output pixel of every image: they copy
its window into a row of a matrix (by channel, then row and column of the window), multiply once, and add the rows of
the gradient back one by one (col2im).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

import xpconv.functional as F
from xpconv.backends import use_kernels

from .command import Options, main
from .peers import optional_torch
from .report import Row, row_of_samples
from .timing import assert_same, interleave, threads_set

__all__ = ["loops", "measure"]

LAYOUTS = {"layout": "NHWC", "weight_layout": "HWIO"}

Results = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # y, dx, dw, db


def loops(dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, padding: int) -> Results:
    """Convolution of stride 1 and its gradients by loops over output pixels.

    Parameters
    ----------
    dy : array (N, out_h, out_w, F)
    x : array (N, H, W, C)
    w : array (kh, kw, C, F)
    b : array (F,)

    Returns
    -------
    y, dx, dw, db
    """
    n, height, width, _ = x.shape
    kh, kw, c, f = w.shape
    _, out_h, out_w, _ = dy.shape
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, border)

    columns = np.zeros((n * out_h * out_w, kh * kw * c), dtype=x.dtype)
    row = 0
    for image in range(n):
        for p in range(out_h):
            for q in range(out_w):
                columns[row] = padded[image, p : p + kh, q : q + kw].transpose(2, 0, 1).reshape(-1)
                row += 1
    filters = w.transpose(2, 0, 1, 3).reshape(-1, f)
    y = (columns @ filters + b).reshape(dy.shape)

    dy_rows = dy.reshape(-1, f)
    db = dy.sum(axis=(0, 1, 2))
    dw = (columns.T @ dy_rows).reshape(c, kh, kw, f).transpose(1, 2, 0, 3)
    dcolumns = dy_rows @ filters.T
    dpadded = np.zeros_like(padded)
    row = 0
    for image in range(n):
        for p in range(out_h):
            for q in range(out_w):
                dpadded[image, p : p + kh, q : q + kw] += dcolumns[row].reshape(c, kh, kw).transpose(1, 2, 0)
                row += 1
    return y, dpadded[:, padding : padding + height, padding : padding + width], dw, db


def _xpconv(dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, padding: int) -> Results:
    y, cache = F.conv2d(x, w, b, padding=padding, **LAYOUTS)
    return (y, *F.conv2d_backward(dy, cache))


def _pytorch(torch, dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, padding: int) -> Callable[[], Results]:
    """The same in PyTorch, on its own channels-last arrays, so that nothing is copied."""
    tx, tdy = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, dy))
    tw = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    tensors = [t.detach().requires_grad_() for t in (tx, tw, torch.from_numpy(b))]

    def run() -> Results:
        y = torch.nn.functional.conv2d(*tensors, padding=padding)
        dx, dw, db = torch.autograd.grad(y, tensors, tdy)
        y, dx = (t.detach().permute(0, 2, 3, 1).numpy() for t in (y, dx))
        return y, dx, dw.permute(2, 3, 1, 0).numpy(), db.numpy()

    return run


def measure(options: Options) -> Iterator[Row]:
    """One row for each dtype and number of threads."""
    torch = optional_torch()
    n, size = (2, 6) if options.size == "tiny" else (128, 28)
    for dtype in ("float32", "float64"):
        case = f"x {n}x{size}x{size}x3, 16 filters 3x3, {dtype}"
        if not options.wants(case):
            continue
        rng = np.random.default_rng(0)
        x, w, b, dy = (
            rng.standard_normal(shape).astype(dtype)
            for shape in ((n, size, size, 3), (3, 3, 3, 16), (16,), (n, size, size, 16))
        )
        arguments = (dy, x, w, b, 1)

        def generic(arguments=arguments):
            with use_kernels("generic"):
                return _xpconv(*arguments)

        contenders = {
            "loops": lambda arguments=arguments: loops(*arguments),
            "generic": generic,
            "xpconv": lambda arguments=arguments: _xpconv(*arguments),
        }
        if torch:
            contenders["torch"] = _pytorch(torch, *arguments)
        tolerance = 1e-4 if dtype == "float32" else 1e-11
        assert_same(case, {name: run() for name, run in contenders.items()}, tolerance)
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1)
            yield row_of_samples(
                "naive_loops", case, "forward + backward", threads, samples, baseline="loops",
                note="" if torch else "without torch",
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
