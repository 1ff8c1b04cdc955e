"""How fast the kernels move memory, as a share of what a plain copy does.

A figure is *bytes over time*, the bytes counted as each input read once and each output written once, whatever a kernel
really moves; so it cannot be raised by moving more. An operator that must read its input twice, such as batch norm (the
moments come before the first result), cannot reach 100 %: its single kernels stand below it. Arrays are beyond the L2
cache and change from call to call. Results are compared with those of the generic operator on the same device first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import xpconv
from xpconv import optim
from xpconv._geometry import conv_window, pool_window
from xpconv.backends import backend_of, use_backend, use_kernels
from xpconv.backends import run as run_operator
from xpconv.layers import Parameter

from .device import Device
from .section import Options, Row, Rows

SECONDS = 65
NEEDS_GPU = False
TARGET = 0.7  # share of the copy rate

_TOLERANCE = 1e-5  # of the norm, in float32


class Call(NamedTuple):
    """An operator on arrays of the device.

    Attributes
    ----------
    operator
        Its name.
    arguments
        Behind the backend, without the geometry.
    geometry
        Or None.
    like
        Whether the first argument gives the result its shape and dtype and is not read.
    """

    operator: str
    arguments: tuple[Any, ...]
    geometry: Any = None
    like: bool = False

    def nbytes(self, device: Device) -> int:
        """Bytes of what it reads."""
        return _nbytes(_arrays(device, self.arguments[1:] if self.like else self.arguments))

    def __call__(self, device: Device) -> Any:
        """Run it; returns its results."""
        first, *rest = self.arguments
        return run_operator(device.backend, self.operator, first, *rest, geometry=self.geometry)


def _arrays(device: Device, value: Any) -> list[Any]:
    """The device's arrays in nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in _arrays(device, item)]
    return [value] if device.backend.owns(value) else []


def _nbytes(arrays: Sequence[Any]) -> int:
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)


# ---- the table ----------------------------------------------------------------------------------------------------


def _table(device: Device) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Cases by name: a function that draws fresh arguments."""
    tiny = device.tiny
    shape = (2, 3, 8, 8) if tiny else (512, 16, 32, 32)
    wide = (2, 6, 4, 4) if tiny else (512, 64, 16, 16)
    normal = device.normal

    for kernel, stride in ((3, 1), (3, 2), (5, 1)):
        window = conv_window(shape[2:], kernel, stride, kernel // 2, 1)
        columns = (shape[0], shape[1] * window.taps, window.positions)
        name = f"{kernel}x{kernel}, stride {stride}"
        yield f"im2col {name}", lambda w=window: Call("im2col", (normal(shape),), w)
        yield f"col2im {name}", lambda w=window, c=columns: Call("col2im", (normal(c),), w)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1)):
        window = pool_window(shape[2:], kernel, stride, padding, 1, False)
        out = (*shape[:2], window.out_h, window.out_w)
        name = f"{kernel}x{kernel}, stride {stride}"

        def max_pool_backward(w=window, out=out) -> Call:
            argmax = run_operator(device.backend, "max_pool2d", normal(shape), geometry=w)[1]
            return Call("max_pool2d_backward", (normal(out), argmax), w)

        yield f"max pooling {name}", lambda w=window: Call("max_pool2d", (normal(shape),), w)
        yield f"max pooling {name}, backward", max_pool_backward
        yield f"mean pooling {name}", lambda w=window: Call("avg_pool2d", (normal(shape), True), w)
        yield (
            f"mean pooling {name}, backward",
            lambda w=window, o=out: Call("avg_pool2d_backward", (normal(o), True), w),
        )
    yield "global mean pooling", lambda: Call("adaptive_avg_pool2d", (normal(wide), (1, 1)))
    one = (*wide[:2], 1, 1)
    yield "global mean pooling, backward", lambda: Call("adaptive_avg_pool2d_backward", (normal(one), wide[2:]))

    def tracked(vector: tuple[int, ...]) -> tuple[Any, ...]:
        return normal(vector), normal(vector), 0.1, 1e-5  # running statistics, momentum and eps

    for n, c, h, w in (shape, wide):
        flat, vector = (n, c, h * w), (c,)

        def batch_norm_backward(flat=flat, vector=vector) -> Call:
            x, weight = normal(flat), normal(vector)
            _, mean, _, inv_std = run_operator(device.backend, "batch_norm", x, weight, None, *tracked(vector))[:4]
            return Call("batch_norm_backward", (normal(flat), x, weight, mean, inv_std, True))

        yield (
            f"batch norm, {c} channels",
            lambda f=flat, v=vector: Call("batch_norm", (normal(f), normal(v), normal(v), *tracked(v))),
        )
        yield f"batch norm, {c} channels, backward", batch_norm_backward

        def batch_norm_relu_backward(flat=flat, vector=vector) -> Call:
            x, weight, bias, residual = normal(flat), normal(vector), normal(vector), normal(flat)
            arguments = (x, weight, bias, residual, *tracked(vector))
            y, mean, _, inv_std = run_operator(device.backend, "batch_norm_relu", *arguments)[:4]
            return Call("batch_norm_relu_backward", (normal(flat), y, x, weight, mean, inv_std, True, True))

        yield (
            f"batch norm + residual + ReLU, {c} channels",
            lambda f=flat, v=vector: Call("batch_norm_relu", (normal(f), normal(v), normal(v), normal(f), *tracked(v))),
        )
        yield f"batch norm + residual + ReLU, {c} ch., backward", batch_norm_relu_backward
    rows, length = (5, 12) if tiny else (1 << 16, 256)

    def layer_norm_backward() -> Call:
        x, weight = normal((rows, length)), normal((length,))
        _, mean, inv_std = run_operator(device.backend, "layer_norm", x, weight, None, 1e-5)
        return Call("layer_norm_backward", (normal((rows, length)), x, weight, mean, inv_std))

    yield "layer norm", lambda: Call("layer_norm", (normal((rows, length)), normal((length,)), normal((length,)), 1e-5))
    yield "layer norm, backward", layer_norm_backward

    def group_norm_backward() -> Call:
        (n, c, h, w), vector = wide, (wide[1],)
        x, weight = normal((n, c, h * w)), normal(vector)
        _, mean, inv_std = run_operator(device.backend, "group_norm", x, weight, None, 2, 1e-5)
        return Call("group_norm_backward", (normal((n, c, h * w)), x, weight, mean, inv_std, 2))

    images = (*wide[:2], wide[2] * wide[3])
    yield "group norm", lambda: Call("group_norm", (normal(images), normal(wide[1:2]), normal(wide[1:2]), 2, 1e-5))
    yield "group norm, backward", group_norm_backward
    for name in ("relu", "gelu"):
        yield name, lambda n=name: Call(n, (normal(shape),))
        yield f"{name}, backward", lambda n=name: Call(f"{n}_backward", (normal(shape), normal(shape)))
    yield "dropout mask", lambda: Call("dropout_mask", (normal(shape), 0.5, (1, 2, 3, 0)), like=True)

    def crop_flip_normalize() -> Call:
        rng, (n, c, h, w) = device.rng, (5, 3, 6, 6) if tiny else (1 << 15, 3, 32, 32)
        images = device.backend.asarray(rng.integers(0, 256, (n, c, h, w), dtype=np.uint8))
        moves = rng.integers(-2, 3, (n, 2))
        choices = np.column_stack([rng.permutation(n), moves, rng.integers(0, 2, n)])
        arrays = (normal((1,)), images, device.backend.asarray(choices), normal((c,)), normal((c,)))
        return Call("crop_flip_normalize", arrays, like=True)

    yield "crop, flip, normalise", crop_flip_normalize
    count, classes = (6, 5) if tiny else (1 << 16, 256)

    def cross_entropy() -> Call:
        labels = device.backend.asarray(device.rng.integers(0, classes, count))
        return Call("softmax_cross_entropy", (normal((count, classes)), labels, 0.0))

    yield "softmax cross-entropy", cross_entropy
    yield "squared error", lambda: Call("mse", (normal(shape), normal(shape)))
    sizes = (7, 30, 64) if tiny else (64, 4096, 1 << 18, 1 << 22, 1 << 24)
    yield "norm of gradients", lambda: Call("squared_norm", ([normal((size,)) for size in sizes],))


# ---- measuring ----------------------------------------------------------------------------------------------------


class _Launch(NamedTuple):
    kernel: str
    function: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]

    def __call__(self) -> None:
        self.function(self.grid, self.block, self.arguments)


def _launches(device: Device, call: Call) -> list[_Launch]:
    """The kernels that an operator starts, to be started one by one."""
    found: list[_Launch] = []
    kernels = device.backend.kernels
    get = kernels.get

    def recording(file: str, kernel: str, *rest: str) -> Callable[..., None]:
        function = get(file, kernel, *rest)

        def start(grid: Any, block: Any, arguments: Any, **options: Any) -> None:
            found.append(_Launch(kernel, function, grid, block, arguments))
            function(grid, block, arguments, **options)

        return start

    kernels.get = recording
    try:
        call(device)
    finally:
        del kernels.get  # the method of the class shows again
    return found


def _kernel_rows(device: Device, calls: Sequence[Call], copy: float) -> list[Row]:
    """The single kernels of an operator that has several; those that move next to nothing are left out."""
    launches = [_launches(device, call) for call in calls]
    if len(launches[0]) < 2:
        return []
    found = []
    with device.backend.running():
        for position, first in enumerate(launches[0]):
            nbytes = _nbytes(_arrays(device, first.arguments))
            if nbytes * 20 < calls[0].nbytes(device):
                continue
            seconds, _ = device.seconds(lambda k, p=position: launches[k][p](), len(launches))
            rate = nbytes / seconds
            found.append({"kernel": first.kernel, "us": seconds * 1e6, "gb_per_s": rate / 1e9, "share": rate / copy})
    return found


def _measured(device: Device, draw: Callable[[], Call], copy: float) -> Row:
    first = draw()
    results = _arrays(device, got := first(device))
    with use_kernels("generic"):
        want = first(device)
    pairs = [(a, b) for a, b in zip(_tuple(got), _tuple(want), strict=True)]
    error = device.check([a for a, _ in pairs], [b for _, b in pairs], _TOLERANCE)
    nbytes = first.nbytes(device) + _nbytes(results)
    del got, want, results, pairs
    calls = [first, *(draw() for _ in range(device.copies(nbytes) - 1))]
    seconds, recorded = device.seconds(lambda k: calls[k](device), len(calls))
    rate = nbytes / seconds
    return {
        "mb": nbytes / 1e6,
        "us": seconds * 1e6,
        "gb_per_s": rate / 1e9,
        "share": rate / copy,
        "in_graph": recorded,
        "difference": error,
        "kernels": _kernel_rows(device, calls, copy),
    }


def _tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


# ---- optimizers ---------------------------------------------------------------------------------------------------


def _optimizer(device: Device, kind: str, settings: dict[str, Any], copy: float) -> Row:
    """A step over the parameters of a network, of many sizes; the state is read and written as well."""
    sizes = [7, 30, 64] if device.tiny else [64, 4096, 1 << 18, 1 << 22, 1 << 24] * 2
    kept = {"SGD": 1, "RMSprop": 1, "Adam": 2, "AdamW": 2}[kind]
    with use_backend(device.backend.name):
        parameters = [Parameter(device.normal((size,))) for size in sizes]
        twins = [Parameter(backend_of(p=p.data).xp.asarray(p.data, copy=True)) for p in parameters]
        for parameter, twin in zip(parameters, twins, strict=True):
            parameter.grad = twin.grad = device.normal(parameter.shape)
        optimizer, generic = (getattr(optim, kind)(which, **settings) for which in (parameters, twins))
        optimizer.step()
        with use_kernels("generic"):
            generic.step()
        error = device.check([p.data for p in parameters], [p.data for p in twins], _TOLERANCE)
        nbytes = sum(sizes) * 4 * (3 + 2 * kept)  # p and the state read and written, the gradient read
        seconds, recorded = device.seconds(lambda k: optimizer.step())
    rate = nbytes / seconds
    return {
        "mb": nbytes / 1e6,
        "us": seconds * 1e6,
        "gb_per_s": rate / 1e9,
        "share": rate / copy,
        "in_graph": recorded,
        "difference": error,
        "kernels": [],
    }


def run(options: Options, rows: Rows) -> None:
    """A row for each operator."""
    device = Device(options)
    copy = device.copy_rate()
    rows.add(copy_gb_per_s=copy / 1e9, l2_mb=device.l2_bytes / 1e6, workspace_mb=xpconv.get_workspace_mb())
    for name, draw in _table(device):
        rows.attempt(options, lambda d=draw: _measured(device, d, copy), operator=name)
        device.release()
    for kind, settings in (
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("RMSprop", {"lr": 0.01}),
        ("Adam", {"lr": 1e-3}),
        ("AdamW", {"lr": 1e-3}),
    ):
        rows.attempt(options, lambda k=kind, s=settings: _optimizer(device, k, s, copy), operator=kind)


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = [f"copy {row['copy_gb_per_s']:.4g} GB/s" for row in rows if "copy_gb_per_s" in row]
    figures = [row for row in rows if "share" in row]
    for row in figures:
        parts = ", ".join(f"{part['kernel']} {part['share']:.0%}" for part in row["kernels"])
        found.append(
            f"{row['operator']:<46}{row['us']:>9.1f} us{row['gb_per_s']:>8.0f} GB/s{row['share']:>6.0%}"
            + (f" ({parts})" if parts else "")
        )
    if figures:
        reached = sum(row["share"] >= TARGET for row in figures)
        found.append(f"{reached} of {len(figures)} operators at {TARGET:.0%} of the copy rate or above")
    return found
