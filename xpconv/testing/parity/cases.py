"""The table of cases: what is computed on both sides, from which numbers, and how exact it is.

Numbers are drawn on the host from the names of the case and of the array, so that every backend gets the same. A case
has a ``call``, which runs operators of `xpconv.functional`, optimizers or transforms, and ``bounds``, which gives for
each of its results a `Bound`; for operators that are linear, the scale of that is the call itself on absolute values.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ... import functional as F
from ... import optim
from ..._workspace import get_workspace_mb, set_workspace_mb
from ...backends import backend_of, to_numpy, use_kernels
from ...backends.protocol import Array, Backend
from ...data import ArrayDataset, Batches, Normalize, RandomFlip, ShiftCrop, standard_transform
from ...layers import Parameter
from .bounds import ELEMENTARY, EXACT, Bound, accumulator, gamma, rounded

__all__ = ["Draw", "ParityCase", "cases", "on_backend", "on_host"]

Key = tuple[str, str]  # operator and which of its results
Results = dict[Key, Array]
Bounds = dict[Key, Bound]


class Draw:
    """The arrays of a case.

    Parameters
    ----------
    case
        Name of the case, part of the seed.
    dtype
        Floating-point dtype to compute in.
    place
        ``place(array, layout)``: what becomes of a host array.
    rounding
        What numbers are rounded to, the dtype itself if not given.
    """

    def __init__(
        self, case: str, dtype: str, place: Callable[[np.ndarray, str], Array], rounding: str | None = None
    ) -> None:
        self.case, self.dtype, self._place, self._rounding = case, dtype, place, rounding or dtype

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.case}/{name}".encode()))

    def normal(
        self,
        name: str,
        shape: Sequence[int],
        *,
        shift: float = 0.0,
        factor: float = 1.0,
        layout: str = "contiguous",
    ) -> Array:
        """Normal deviates of standard deviation ``factor`` around ``shift``."""
        values = self._rng(name).normal(size=tuple(shape)) * factor + shift
        return self._place(rounded(values, self._rounding), layout)

    def positive(self, name: str, shape: Sequence[int]) -> Array:
        """Numbers from 0.5 to 1.5."""
        values = self._rng(name).uniform(0.5, 1.5, tuple(shape))
        return self._place(rounded(values, self._rounding), "contiguous")

    def like(self, name: str, array: Array, *, layout: str = "contiguous") -> Array:
        """Normal deviates of the shape of an array: a gradient to a result."""
        return self.normal(name, array.shape, layout=layout)

    def values(self, array: Any) -> Array:
        """Given numbers; integers and bytes stay so."""
        array = np.asarray(array)
        return self._place(rounded(array, self._rounding) if array.dtype.kind == "f" else array, "contiguous")

    def integers(self, name: str, low: int, high: int, shape: Sequence[int], dtype: str = "int64") -> Array:
        """Integers from ``low`` up to, not including, ``high``."""
        return self._place(self._rng(name).integers(low, high, tuple(shape)).astype(dtype), "contiguous")

    def magnitudes(self) -> Draw:
        """The absolute values of the same numbers on the host, in float64."""
        return Draw(self.case, self.dtype, lambda array, layout: np.abs(_wide(array)), self._rounding)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _on_device(backend: Backend, dtype: str, array: np.ndarray, layout: str) -> Array:
    """``array`` on the backend; its strides there are made by views there, as transfers keep none."""
    xp, kind = backend.xp, dtype if array.dtype.kind == "f" else None
    if layout == "contiguous":
        return backend.asarray(array, kind)
    if layout == "channels-last":
        axes = (0, array.ndim - 1, *range(1, array.ndim - 1))
        return xp.permute_dims(backend.asarray(np.ascontiguousarray(np.moveaxis(array, 1, -1)), kind), axes)
    if layout == "transposed":
        axes = (*range(array.ndim - 2), array.ndim - 1, array.ndim - 2)
        return xp.permute_dims(backend.asarray(np.ascontiguousarray(array.swapaxes(-1, -2)), kind), axes)
    if layout == "sliced":
        parent = np.full([2 * n + 1 for n in array.shape], np.nan, array.dtype)
        odd = tuple(slice(1, None, 2) for _ in array.shape)
        parent[odd] = array
        return backend.asarray(parent, kind)[odd]
    raise ValueError(f"layout: expected contiguous, channels-last, transposed or sliced, got {layout!r}")


def on_backend(case: str, dtype: str, backend: Backend, rounding: str | None = None) -> Draw:
    """The arrays of a case on a backend, their numbers rounded to another dtype if that is given."""
    return Draw(case, dtype, partial(_on_device, backend, dtype), rounding)


def on_host(case: str, dtype: str) -> Draw:
    """The same numbers as NumPy arrays of float64, for bounds."""
    return Draw(case, accumulator(dtype), lambda array, layout: _wide(array), dtype)


class ParityCase(NamedTuple):
    """One row of the table of cases.

    Attributes
    ----------
    name
        What is special about it; unique.
    call
        ``call(draw) -> {(operator, result): array}``.
    bounds
        ``bounds(draw) -> {(operator, result): Bound}`` for the same keys, from float64 arrays of the host.
    in_half
        Whether its bounds hold for float16 and bfloat16 too.
    """

    name: str
    call: Callable[[Draw], Results]
    bounds: Callable[[Draw], Bounds]
    in_half: bool = True


def _named(operator: str, names: Sequence[str], arrays: Sequence[Array | None]) -> Results:
    return {(operator, name): array for name, array in zip(names, arrays, strict=True) if array is not None}


def _linear_case(name: str, call: Callable[[Draw], Results], lengths: Mapping[Key, float]) -> ParityCase:
    """A case whose results are sums of products of its inputs: the scale is the call on their absolute values."""

    def bounds(draw: Draw) -> Bounds:
        with use_kernels("generic"):
            scales = call(draw.magnitudes())
        return {key: Bound(lengths[key], to_numpy(scale)) for key, scale in scales.items()}

    return ParityCase(name, call, bounds)


def _exact_case(name: str, call: Callable[[Draw], Results]) -> ParityCase:
    """A case without rounding."""

    def bounds(draw: Draw) -> Bounds:
        with use_kernels("generic"):
            return dict.fromkeys(call(draw), EXACT)

    return ParityCase(name, call, bounds)


# ---- convolutions and columns -----------------------------------------------------------------------------------


@contextmanager
def _workspace(megabytes: int | None) -> Iterator[None]:
    before = get_workspace_mb()
    set_workspace_mb(megabytes or before)
    try:
        yield
    finally:
        set_workspace_mb(before)


def _conv2d(
    name: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    bias: bool = True,
    memory: str = "contiguous",
    need_dx: bool = True,
    workspace: int | None = None,
    **options: Any,
) -> ParityCase:
    """Forward and backward; shapes are those of the layouts in ``options``, memory that of x and dy."""
    hwio = options.get("weight_layout") == "HWIO"
    taps = math.prod(w_shape[:2] if hwio else w_shape[2:])
    filters, per_group = (w_shape[3], w_shape[2]) if hwio else w_shape[:2]

    def call(draw: Draw) -> Results:
        x = draw.normal("x", x_shape, layout=memory)
        b = draw.normal("b", (filters,)) if bias else None
        with _workspace(workspace):
            y, cache = F.conv2d(x, draw.normal("w", w_shape), b, **options)
            gradients = F.conv2d_backward(draw.like("dy", y, layout=memory), cache, need_dx=need_dx)
        return {("conv2d", "y"): y, **_named("conv2d_backward", ("dx", "dw", "db"), gradients)}

    def bounds(draw: Draw) -> Bounds:
        y = to_numpy(call(draw.magnitudes())["conv2d", "y"])
        pixels = y.size // filters
        lengths = {
            ("conv2d", "y"): per_group * taps + bias,
            ("conv2d_backward", "dx"): filters // options.get("groups", 1) * taps,
            ("conv2d_backward", "dw"): pixels,
            ("conv2d_backward", "db"): pixels,
        }
        return _linear_case(name, call, lengths).bounds(draw)

    return ParityCase(f"conv2d, {name}", call, bounds)


def _conv1d(
    name: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], *, bias: bool = True, **options: Any
) -> ParityCase:
    def call(draw: Draw) -> Results:
        b = draw.normal("b", w_shape[:1]) if bias else None
        y, cache = F.conv1d(draw.normal("x", x_shape), draw.normal("w", w_shape), b, **options)
        gradients = F.conv1d_backward(draw.like("dy", y), cache)
        return {("conv1d", "y"): y, **_named("conv1d_backward", ("dx", "dw", "db"), gradients)}

    def bounds(draw: Draw) -> Bounds:
        y = to_numpy(call(draw.magnitudes())["conv1d", "y"])
        pixels = y.size // w_shape[0]
        lengths = {
            ("conv1d", "y"): w_shape[1] * w_shape[2] + bias,
            ("conv1d_backward", "dx"): w_shape[0] // options.get("groups", 1) * w_shape[2],
            ("conv1d_backward", "dw"): pixels,
            ("conv1d_backward", "db"): pixels,
        }
        return _linear_case(name, call, lengths).bounds(draw)

    return ParityCase(f"conv1d, {name}", call, bounds)


def _conv_transpose2d(
    name: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], *, memory: str = "contiguous", **options: Any
) -> ParityCase:
    """Filters w are (C, F / groups, kh, kw); each pixel of the result is a sum over channels and at most all taps."""
    taps, groups = math.prod(w_shape[2:]), options.get("groups", 1)

    def call(draw: Draw) -> Results:
        x, w = draw.normal("x", x_shape, layout=memory), draw.normal("w", w_shape)
        y, cache = F.conv_transpose2d(x, w, draw.normal("b", (w_shape[1] * groups,)), **options)
        gradients = F.conv_transpose2d_backward(draw.like("dy", y, layout=memory), cache)
        return {
            ("conv_transpose2d", "y"): y,
            **_named("conv_transpose2d_backward", ("dx", "dw", "db"), gradients),
        }

    def bounds(draw: Draw) -> Bounds:
        y = to_numpy(call(draw.magnitudes())["conv_transpose2d", "y"])
        lengths = {
            ("conv_transpose2d", "y"): w_shape[0] // groups * taps + 1,
            ("conv_transpose2d_backward", "dx"): w_shape[1] * taps,
            ("conv_transpose2d_backward", "dw"): math.prod(x_shape) // w_shape[0],
            ("conv_transpose2d_backward", "db"): y.size // (w_shape[1] * groups),
        }
        return _linear_case(name, call, lengths).bounds(draw)

    return ParityCase(f"conv_transpose2d, {name}", call, bounds)


def _convolutions() -> Iterator[ParityCase]:
    yield _conv2d("3x3, padding 1", (2, 3, 9, 11), (4, 3, 3, 3), padding=1)
    yield _conv2d(
        "3x2, stride (2, 1), dilation 2, groups 2, four paddings",
        (3, 4, 8, 7),
        (6, 2, 3, 2),
        stride=(2, 1),
        padding=((1, 0), (2, 1)),
        dilation=2,
        groups=2,
    )
    yield _conv2d("1x1", (2, 5, 6, 7), (3, 5, 1, 1))
    yield _conv2d("1x1, stride 2, no bias", (2, 5, 6, 7), (3, 5, 1, 1), bias=False, stride=2)
    yield _conv2d('5x2, padding "same", stride 2', (2, 3, 10, 9), (4, 3, 5, 2), padding="same", stride=2)
    yield _conv2d("NHWC and HWIO", (2, 8, 9, 3), (3, 3, 3, 5), layout="NHWC", weight_layout="HWIO", padding=1)
    yield _conv2d("channels-last view", (2, 4, 8, 9), (5, 4, 3, 3), memory="channels-last", padding=1)
    yield _conv2d("sliced view", (2, 3, 7, 8), (4, 3, 3, 3), memory="sliced", padding=1)
    yield _conv2d("depthwise", (2, 6, 8, 9), (6, 1, 3, 3), groups=6, padding=1)
    yield _conv2d("stride above the kernel, pixels left over", (2, 2, 11, 12), (3, 2, 2, 2), stride=(4, 3))
    yield _conv2d("long sums, no dx", (4, 16, 14, 14), (8, 16, 7, 7), padding=3, need_dx=False)
    yield _conv2d("batch cut into slices", (8, 8, 24, 24), (4, 8, 5, 5), padding=2, workspace=1)
    yield _conv2d("empty batch", (0, 2, 5, 5), (3, 2, 3, 3))
    yield _conv1d("dilation 2, padding (2, 1)", (3, 4, 17), (6, 4, 3), dilation=2, padding=(2, 1))
    yield _conv1d("stride 2, groups 2, no bias", (2, 4, 12), (6, 2, 5), bias=False, stride=2, groups=2)
    yield _conv_transpose2d("3x2, stride 2, padding 1", (2, 4, 5, 6), (4, 3, 3, 2), stride=2, padding=1)
    yield _conv_transpose2d(
        "groups 2, dilation 2, output padding, sliced view",
        (2, 4, 5, 4),
        (4, 3, 3, 3),
        memory="sliced",
        stride=3,
        dilation=2,
        groups=2,
        output_padding=(1, 2),
    )
    yield _conv_transpose2d("NHWC", (2, 5, 4, 3), (3, 4, 3, 2), layout="NHWC", stride=2)
    yield _conv_transpose2d("empty batch", (0, 2, 4, 4), (2, 3, 2, 2))


def _columns(
    name: str, shape: tuple[int, ...], kernel: tuple[int, int], memory: str = "contiguous", **options: Any
) -> Iterator[ParityCase]:
    def im2col(draw: Draw) -> Results:
        return {("im2col", "columns"): F.im2col(draw.normal("x", shape, layout=memory), kernel, **options)}

    def col2im(draw: Draw) -> Results:
        rows = F.im2col(np.zeros(shape, np.float32), kernel, **options).shape
        columns = draw.normal("columns", rows, layout=memory if memory == "sliced" else "contiguous")
        return {("col2im", "x"): F.col2im(columns, shape[2:], kernel, **options)}

    yield _exact_case(f"im2col, {name}", im2col)
    yield _linear_case(f"col2im, {name}", col2im, {("col2im", "x"): math.prod(kernel)})


def _all_columns() -> Iterator[ParityCase]:
    yield from _columns("3x3, padding 1", (2, 3, 10, 12), (3, 3), padding=1)
    yield from _columns("5x5, stride 2, four paddings", (1, 2, 9, 8), (5, 5), stride=2, padding=((2, 1), (0, 3)))
    yield from _columns("2x4, stride (1, 3), dilation (3, 2)", (2, 2, 12, 9), (2, 4), stride=(1, 3), dilation=(3, 2))
    yield from _columns("1x1, stride 3", (2, 1, 9, 8), (1, 1), stride=3)
    yield from _columns("channels-last view", (2, 4, 7, 6), (3, 3), "channels-last", padding=1)
    yield from _columns("sliced view", (2, 2, 7, 6), (3, 2), "sliced")
    yield from _columns("empty batch", (0, 2, 5, 5), (3, 3))


# ---- linear layer -----------------------------------------------------------------------------------------------


def _linear(
    name: str, x_shape: tuple[int, ...], out: int, *, bias: bool = True, memory: str = "contiguous"
) -> ParityCase:
    rows = math.prod(x_shape[:-1])

    def call(draw: Draw) -> Results:
        x, w = draw.normal("x", x_shape, layout=memory), draw.normal("w", (out, x_shape[-1]))
        y, cache = F.linear(x, w, draw.normal("b", (out,)) if bias else None)
        gradients = F.linear_backward(draw.like("dy", y), cache)
        return {("linear", "y"): y, **_named("linear_backward", ("dx", "dw", "db"), gradients)}

    lengths = {
        ("linear", "y"): x_shape[-1] + bias,
        ("linear_backward", "dx"): out,
        ("linear_backward", "dw"): rows,
        ("linear_backward", "db"): rows,
    }
    return _linear_case(f"linear, {name}", call, lengths)


def _linears() -> Iterator[ParityCase]:
    yield _linear("a batch", (7, 33), 10)
    yield _linear("three axes, no bias", (2, 3, 20), 5, bias=False)
    yield _linear("transposed view, long sums", (40, 900), 12, memory="transposed")
    yield _linear("empty batch", (0, 4), 3)


# ---- pooling ----------------------------------------------------------------------------------------------------


def _max_pool(
    name: str,
    shape: tuple[int, ...],
    kernel: Any,
    *,
    ties: bool = False,
    nan: bool = False,
    memory: str = "contiguous",
    **options: Any,
) -> ParityCase:
    """Maxima and their places are equal bit for bit; the gradient of a pixel is a sum over windows that overlap."""
    taps = math.prod(np.broadcast_to(kernel, 2).tolist())

    def call(draw: Draw) -> Results:
        if ties:
            x = draw.values(np.random.default_rng(5).integers(-2, 3, shape).astype(float))
        elif nan:
            rng = np.random.default_rng(6)
            x = draw.values(np.where(rng.random(shape) < 0.1, np.nan, rng.normal(size=shape)))
        else:
            x = draw.normal("x", shape, layout=memory)
        y, cache = F.max_pool2d(x, kernel, **options)
        dx = F.max_pool2d_backward(draw.like("dy", y, layout=memory), cache)
        return {
            ("max_pool2d", "y"): y,
            ("max_pool2d", "argmax"): cache.argmax,
            ("max_pool2d_backward", "dx"): dx,
        }

    def bounds(draw: Draw) -> Bounds:
        # the windows of the same x, but a gradient of absolute values
        magnitudes = draw.magnitudes()

        class Mixed(Draw):
            def like(self, name: str, array: Array, *, layout: str = "contiguous") -> Array:
                return magnitudes.like(name, array)

        with use_kernels("generic"):
            scale = call(Mixed(draw.case, draw.dtype, lambda array, layout: _wide(array), draw._rounding))
        dx = Bound(taps, to_numpy(scale["max_pool2d_backward", "dx"]))
        return {("max_pool2d", "y"): EXACT, ("max_pool2d", "argmax"): EXACT, ("max_pool2d_backward", "dx"): dx}

    return ParityCase(f"max_pool2d, {name}", call, bounds)


def _avg_pool(
    name: str, shape: tuple[int, ...], kernel: Any, *, memory: str = "contiguous", **options: Any
) -> ParityCase:
    taps = math.prod(np.broadcast_to(kernel, 2).tolist())

    def call(draw: Draw) -> Results:
        y, cache = F.avg_pool2d(draw.normal("x", shape, layout=memory), kernel, **options)
        dx = F.avg_pool2d_backward(draw.like("dy", y, layout=memory), cache)
        return {("avg_pool2d", "y"): y, ("avg_pool2d_backward", "dx"): dx}

    # the terms, the reciprocal of their number and the product with it
    lengths = {("avg_pool2d", "y"): taps + 2, ("avg_pool2d_backward", "dx"): taps + 2}
    return _linear_case(f"avg_pool2d, {name}", call, lengths)


def _adaptive_pool(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> ParityCase:
    # A bin of size / n pixels reaches over at most ceil(size / n) + 1 of them, a pixel lies in ceil(n / size) + 1 bins.
    pixels, bins = (
        math.prod(-(-a // b) + 1 for a, b in zip(over, of, strict=True))
        for over, of in ((shape[2:], size), (size, shape[2:]))
    )

    def call(draw: Draw) -> Results:
        y, cache = F.adaptive_avg_pool2d(draw.normal("x", shape), size)
        dx = F.adaptive_avg_pool2d_backward(draw.like("dy", y), cache)
        return {("adaptive_avg_pool2d", "y"): y, ("adaptive_avg_pool2d_backward", "dx"): dx}

    lengths = {("adaptive_avg_pool2d", "y"): pixels + 2, ("adaptive_avg_pool2d_backward", "dx"): bins + 2}
    return _linear_case(f"adaptive_avg_pool2d, {name}", call, lengths)


def _global_pool(name: str, shape: tuple[int, ...], *, memory: str = "contiguous", **options: Any) -> ParityCase:
    def call(draw: Draw) -> Results:
        y, cache = F.global_avg_pool2d(draw.normal("x", shape, layout=memory), **options)
        dx = F.global_avg_pool2d_backward(draw.like("dy", y), cache)
        return {("global_avg_pool2d", "y"): y, ("global_avg_pool2d_backward", "dx"): dx}

    pixels = math.prod(shape[1:3] if options.get("layout") == "NHWC" else shape[2:])
    lengths = {("global_avg_pool2d", "y"): pixels + 2, ("global_avg_pool2d_backward", "dx"): 3}
    return _linear_case(f"global_avg_pool2d, {name}", call, lengths)


def _poolings() -> Iterator[ParityCase]:
    yield _max_pool("2x2", (2, 3, 10, 12), 2)
    yield _max_pool("3x3, stride 2, padding 1, ceil mode", (2, 3, 11, 10), 3, stride=2, padding=1, ceil_mode=True)
    yield _max_pool("2x3, stride (3, 1), dilation 2", (1, 2, 9, 13), (2, 3), stride=(3, 1), dilation=2)
    yield _max_pool("equal pixels, windows that overlap", (2, 3, 9, 8), 3, ties=True, stride=1, padding=1)
    yield _max_pool("NaN", (1, 2, 9, 9), 3, nan=True, stride=2)
    yield _max_pool("NHWC", (2, 8, 9, 3), (2, 3), layout="NHWC")
    yield _max_pool("channels-last view", (2, 4, 8, 9), 3, memory="channels-last", stride=2)
    yield _max_pool("more taps than fit into a byte", (1, 2, 20, 21), 17, stride=2, padding=2)
    yield _max_pool("empty batch", (0, 2, 6, 6), 2)
    yield _avg_pool("2x2", (2, 3, 10, 12), 2)
    yield _avg_pool("3x3, stride 2, padding 1, ceil mode", (2, 3, 11, 10), 3, stride=2, padding=1, ceil_mode=True)
    yield _avg_pool("padding not counted", (2, 3, 9, 8), (3, 2), stride=1, padding=1, count_include_pad=False)
    yield _avg_pool("NHWC", (2, 8, 9, 3), (2, 3), layout="NHWC")
    yield _avg_pool("sliced view", (2, 2, 8, 7), 2, memory="sliced")
    yield _avg_pool("empty batch", (0, 2, 6, 6), 2)
    yield _adaptive_pool("bins that overlap", (2, 3, 9, 11), (4, 3))
    yield _adaptive_pool("more bins than pixels", (1, 2, 3, 4), (5, 7))
    yield _adaptive_pool("empty batch", (0, 2, 4, 4), (2, 1))
    yield _global_pool("NCHW", (3, 5, 9, 11))
    yield _global_pool("NHWC, axes kept", (2, 8, 9, 3), layout="NHWC", keepdims=True)
    yield _global_pool("channels-last view", (2, 4, 8, 9), memory="channels-last")


# ---- normalisation ----------------------------------------------------------------------------------------------


class _Moments(NamedTuple):
    """What bounds of a normalisation are made of; reductions over ``axes``, which are kept with length one."""

    axes: tuple[int, ...]
    terms: int
    level: np.ndarray  # mean of |x|: what the error of the mean is relative to
    variance: np.ndarray
    inv_std: np.ndarray
    spread: np.ndarray  # the terms of (x - mean) * inv_std; the second part is for the error of inv_std

    @classmethod
    def of(cls, x: np.ndarray, axes: tuple[int, ...], eps: float) -> _Moments:
        level = np.mean(np.abs(x), axis=axes, keepdims=True)
        centred = np.abs(x - np.mean(x, axis=axes, keepdims=True))
        variance = np.mean(centred**2, axis=axes, keepdims=True)
        inv_std = 1 / np.sqrt(variance + eps)
        terms = math.prod(x.shape[a] for a in axes)
        return cls(axes, terms, level, variance, inv_std, (level + 2 * centred) * inv_std)

    def given(self, x: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float) -> _Moments:
        """With given moments in the place of those of x: nothing is summed up for y."""
        inv_std = 1 / np.sqrt(var + eps)
        return self._replace(terms=4, inv_std=inv_std, spread=2 * (np.abs(x) + np.abs(mean)) * inv_std)


def _normalisation_bounds(
    operator: str,
    moments: _Moments,
    dy: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    parameter_axes: tuple[int, ...],
    shape: tuple[int, ...],
    parameter_shape: tuple[int, ...],
) -> Bounds:
    """Bounds of y, dx, dw and db of ``y = (x - mean) * inv_std * weight + bias``.

    A mean of m terms has m roundings, a variance m + 4 (Higham, section 1.9), inv_std half of those and 3, the rest of
    the formula 4; in ``dx = inv_std * (g - mean(g) - normalised * mean(g * normalised))`` with ``g = dy * weight`` two
    such means follow one another.
    """
    axes, m, _, _, inv_std, spread = moments
    terms = math.prod(dy.shape[a] for a in parameter_axes)
    weights = np.abs(1.0 if weight is None else weight)
    g = np.abs(dy) * weights
    y = spread * weights + np.abs(0.0 if bias is None else bias)
    dx = inv_std * (g + np.mean(g, axis=axes, keepdims=True) + spread * np.mean(g * spread, axis=axes, keepdims=True))
    bounds = {
        (operator, "y"): Bound(2 * m + 12, np.broadcast_to(y, dy.shape).reshape(shape)),
        (f"{operator}_backward", "dx"): Bound(3 * m + 24, dx.reshape(shape)),
    }
    if weight is not None:
        dw = np.sum(np.abs(dy) * spread, axis=parameter_axes).reshape(parameter_shape)
        bounds[f"{operator}_backward", "dw"] = Bound(2 * m + terms + 12, dw)
    if bias is not None:
        db = np.sum(np.abs(dy), axis=parameter_axes).reshape(parameter_shape)
        bounds[f"{operator}_backward", "db"] = Bound(terms, db)
    return bounds


def _parameters(draw: Draw, shape: tuple[int, ...], affine: bool) -> tuple[Array | None, Array | None]:
    return (draw.normal("weight", shape), draw.normal("bias", shape)) if affine else (None, None)


def _batch_norm(
    name: str,
    shape: tuple[int, ...],
    *,
    shift: float = 0.0,
    affine: bool = True,
    running: bool = True,
    training: bool = True,
    memory: str = "contiguous",
    layout: str = "NCHW",
    eps: float = 1e-5,
) -> ParityCase:
    channel = 1 if layout == "NCHW" else len(shape) - 1
    channels = (shape[channel],)
    momentum = 0.1
    options: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps, "layout": layout}

    def call(draw: Draw) -> Results:
        x, (weight, bias) = draw.normal("x", shape, shift=shift, layout=memory), _parameters(draw, channels, affine)
        statistics = (draw.normal("mean", channels, shift=shift), draw.positive("var", channels))
        y, cache = F.batch_norm(x, weight, bias, *(statistics if running else (None, None)), **options)
        gradients = F.batch_norm_backward(draw.like("dy", y, layout=memory), cache)
        updated = ("running_mean", cache.running_mean), ("running_var", cache.running_var)
        return {
            ("batch_norm", "y"): y,
            **{("batch_norm", key): value for key, value in updated if training and running},
            **_named("batch_norm_backward", ("dx", "dw", "db"), gradients),
        }

    def bounds(draw: Draw) -> Bounds:
        x, (weight, bias) = draw.normal("x", shape, shift=shift), _parameters(draw, channels, affine)
        mean, var, dy = draw.normal("mean", channels, shift=shift), draw.positive("var", channels), draw.like("dy", x)
        axes = tuple(axis for axis in range(x.ndim) if axis != channel)
        along = tuple(-1 if axis == channel else 1 for axis in range(x.ndim))
        weight_, bias_ = (None if v is None else v.reshape(along) for v in (weight, bias))
        moments = _Moments.of(x, axes, eps)
        if not training:
            moments = moments.given(x, mean.reshape(along), var.reshape(along), eps)
        found = _normalisation_bounds("batch_norm", moments, dy, weight_, bias_, axes, shape, channels)
        if training and running:
            m = moments.terms
            level, variance = moments.level.reshape(channels), moments.variance.reshape(channels) * m / (m - 1)
            found["batch_norm", "running_mean"] = Bound(m + 3, (1 - momentum) * np.abs(mean) + momentum * level)
            found["batch_norm", "running_var"] = Bound(m + 8, (1 - momentum) * var + momentum * variance)
        return found

    return ParityCase(f"batch_norm, {name}", call, bounds)


def _batch_norm_relu(
    name: str, shape: tuple[int, ...], *, residual: bool, training: bool = True, memory: str = "contiguous"
) -> ParityCase:
    channels, axes, eps = (shape[1],), (0, *range(2, len(shape))), 1e-5

    def call(draw: Draw) -> Results:
        x, (weight, bias) = draw.normal("x", shape, layout=memory), _parameters(draw, channels, True)
        beside = draw.normal("residual", shape, layout=memory) if residual else None
        statistics = draw.normal("mean", channels), draw.positive("var", channels)
        y, cache = F.batch_norm_relu(x, weight, bias, *statistics, residual=beside, training=training, eps=eps)
        gradients = F.batch_norm_relu_backward(draw.like("dy", y, layout=memory), cache)
        return {
            ("batch_norm_relu", "y"): y,
            **_named("batch_norm_relu_backward", ("dx", "dw", "db", "dresidual"), gradients),
        }

    def bounds(draw: Draw) -> Bounds:
        x, beside = draw.normal("x", shape), draw.normal("residual", shape) if residual else 0.0
        along = (1, -1, *(1 for _ in axes[1:]))
        weight, bias = (draw.normal(parameter, channels).reshape(along) for parameter in ("weight", "bias"))
        moments, mean = _Moments.of(x, axes, eps), x.mean(axis=axes, keepdims=True)
        if not training:
            mean, var = draw.normal("mean", channels).reshape(along), draw.positive("var", channels).reshape(along)
            moments = moments.given(x, mean, var, eps)
        before_relu = (x - mean) * moments.inv_std * weight + bias + beside
        dy = draw.like("dy", x) * (before_relu > 0)
        found = _normalisation_bounds("batch_norm_relu", moments, dy, weight, bias, axes, shape, channels)
        y = found["batch_norm_relu", "y"]
        y = Bound(y.length + 1, y.scale + np.abs(beside))
        _check_kink(before_relu, y, draw.dtype)
        found["batch_norm_relu", "y"] = y
        return found | ({("batch_norm_relu_backward", "dresidual"): EXACT} if residual else {})

    return ParityCase(f"batch_norm_relu, {name}", call, bounds)


def _check_kink(values: np.ndarray, bound: Bound, dtype: str) -> None:
    """Raise unless all values are further from zero than rounding goes: the gradient of a ReLU or hinge jumps there."""
    if not np.all(np.abs(values) > gamma(bound.length, dtype) * np.asarray(bound.scale)):
        raise AssertionError("the inputs of this case are so near to a kink that rounding decides about its gradient")


def _layer_norm(name: str, shape: tuple[int, ...], last: int, *, shift: float = 0.0, affine: bool = True) -> ParityCase:
    """Over the ``last`` axes."""
    axes = tuple(range(len(shape) - last, len(shape)))
    lengths = shape[-last:]

    def call(draw: Draw) -> Results:
        weight, bias = _parameters(draw, lengths, affine)
        y, cache = F.layer_norm(draw.normal("x", shape, shift=shift), weight, bias, normalized_shape=lengths)
        gradients = F.layer_norm_backward(draw.like("dy", y), cache)
        return {("layer_norm", "y"): y, **_named("layer_norm_backward", ("dx", "dw", "db"), gradients)}

    def bounds(draw: Draw) -> Bounds:
        x, (weight, bias) = draw.normal("x", shape, shift=shift), _parameters(draw, lengths, affine)
        before = tuple(range(len(shape) - last))
        moments = _Moments.of(x, axes, 1e-5)
        return _normalisation_bounds("layer_norm", moments, draw.like("dy", x), weight, bias, before, shape, lengths)

    return ParityCase(f"layer_norm, {name}", call, bounds)


def _group_norm(
    name: str, shape: tuple[int, ...], groups: int, *, affine: bool = True, memory: str = "contiguous"
) -> ParityCase:
    """`group_norm`, or with a group for each channel `instance_norm`."""
    channels = shape[1]
    operator = "instance_norm" if groups == channels else "group_norm"
    parts = (shape[0], groups, channels // groups, math.prod(shape[2:]))

    def call(draw: Draw) -> Results:
        x, parameters = draw.normal("x", shape, shift=1.0, layout=memory), _parameters(draw, (channels,), affine)
        if operator == "instance_norm":
            y, cache = F.instance_norm(x, *parameters)
            gradients = F.instance_norm_backward(draw.like("dy", y), cache)
        else:
            y, cache = F.group_norm(x, groups, *parameters)
            gradients = F.group_norm_backward(draw.like("dy", y), cache)
        return {(operator, "y"): y, **_named(f"{operator}_backward", ("dx", "dw", "db"), gradients)}

    def bounds(draw: Draw) -> Bounds:
        x = draw.normal("x", shape, shift=1.0)
        weight, bias = (
            None if v is None else v.reshape(1, groups, -1, 1) for v in _parameters(draw, (channels,), affine)
        )
        dy = draw.like("dy", x).reshape(parts)
        moments = _Moments.of(x.reshape(parts), (2, 3), 1e-5)
        return _normalisation_bounds(operator, moments, dy, weight, bias, (0, 3), shape, (channels,))

    return ParityCase(f"{operator}, {name}", call, bounds)


def _normalisations() -> Iterator[ParityCase]:
    yield _batch_norm("images", (3, 5, 8, 9))
    yield _batch_norm("a batch of vectors", (12, 7))
    yield _batch_norm("no weight and statistics, far from zero", (2, 3, 6, 5), shift=100.0, affine=False, running=False)
    yield _batch_norm("long sums, channels-last view", (8, 4, 20, 20), memory="channels-last")
    yield _batch_norm("NHWC", (2, 5, 6, 4), layout="NHWC")
    yield _batch_norm_relu("images", (3, 4, 6, 7), residual=False)
    yield _batch_norm_relu("residual, channels-last view", (2, 5, 6, 4), residual=True, memory="channels-last")
    yield _batch_norm_relu("residual, evaluation", (2, 4, 5, 3), residual=True, training=False)
    yield _batch_norm("evaluation", (2, 4, 5, 6), training=False)
    yield _layer_norm("last axis", (5, 40), 1, shift=2.0)
    yield _layer_norm("last two axes, no weight", (3, 2, 6, 7), 2, affine=False)
    yield _layer_norm("empty batch", (0, 5), 1)
    yield _group_norm("two groups", (3, 6, 5, 4), 2)
    yield _group_norm("one group, no weight, sliced view", (2, 4, 3, 5), 1, affine=False, memory="sliced")
    yield _group_norm("images", (3, 5, 6, 4), 5)


# ---- activations and dropout ------------------------------------------------------------------------------------

# name -> roundings of the forward and of the backward pass, and what the latter is relative to for x and dy. The
# functions with an exponential are bounded by the range of the sigmoid or of the normal distribution function, 1.
_Activation = tuple[float, float, Callable[[np.ndarray], Any], Callable[[np.ndarray, np.ndarray], Any]]
_ACTIVATIONS: dict[str, _Activation] = {
    "relu": (0, 0, lambda x: 0.0, lambda x, dy: 0.0),
    "leaky_relu": (2, 2, np.abs, lambda x, dy: np.abs(dy)),
    "hardtanh": (0, 0, lambda x: 0.0, lambda x, dy: 0.0),
    "sigmoid": (ELEMENTARY + 3, ELEMENTARY + 6, lambda x: 1.0, lambda x, dy: np.abs(dy)),
    "tanh": (ELEMENTARY, 2 * ELEMENTARY + 4, lambda x: 1.0, lambda x, dy: np.abs(dy)),
    "silu": (ELEMENTARY + 4, ELEMENTARY + 8, np.abs, lambda x, dy: np.abs(dy) * (1 + np.abs(x))),
    # x**2 / 2 in the exponent: its rounding counts as often as the exponent is large, while exp(-x**2 / 2) x is small
    "gelu": (ELEMENTARY + 8, 2 * ELEMENTARY + 12, np.abs, lambda x, dy: np.abs(dy) * (1 + np.abs(x))),
}


def _activation(name: str, operator: str, shape: tuple[int, ...], memory: str = "contiguous") -> ParityCase:
    forward, backward = getattr(F, operator), getattr(F, f"{operator}_backward")
    arguments = (0.2,) if operator == "leaky_relu" else ()
    roundings, backward_roundings, scale, backward_scale = _ACTIVATIONS[operator]

    def call(draw: Draw) -> Results:
        y, cache = forward(draw.normal("x", shape, factor=3.0, layout=memory), *arguments)
        return {(operator, "y"): y, (f"{operator}_backward", "dx"): backward(draw.like("dy", y), cache)}

    def bounds(draw: Draw) -> Bounds:
        x = draw.normal("x", shape, factor=3.0)
        found = {
            (operator, "y"): Bound(roundings, scale(x)),
            (f"{operator}_backward", "dx"): Bound(backward_roundings, backward_scale(x, draw.like("dy", x))),
        }
        return {key: bound if bound.length else EXACT for key, bound in found.items()}

    return ParityCase(f"{operator}, {name}", call, bounds)


def _dropout(name: str, shape: tuple[int, ...], p: float, key: Any, memory: str = "contiguous") -> ParityCase:
    """Masks are promised to be the same bits on every backend; the product with them is rounded once, the same way."""

    def call(draw: Draw) -> Results:
        y, cache = F.dropout(draw.normal("x", shape, layout=memory), p, training=True, key=key)
        dx = F.dropout_backward(draw.like("dy", y), cache)
        return {("dropout", "mask"): cache.mask, ("dropout", "y"): y, ("dropout_backward", "dx"): dx}

    def bounds(draw: Draw) -> Bounds:
        with use_kernels("generic"):
            results = call(draw.magnitudes())
        # the half types round the factor of what is kept too
        return {key: EXACT if key[1] == "mask" else Bound(0, to_numpy(array)) for key, array in results.items()}

    return ParityCase(f"dropout, {name}", call, bounds)


def _elementwise() -> Iterator[ParityCase]:
    for operator in _ACTIVATIONS:
        yield _activation("images", operator, (2, 3, 9, 11))
        yield _activation("channels-last view", operator, (2, 3, 5, 4), "channels-last")
    yield _dropout("p 0.3, largest key", (5, 7, 41), 0.3, (2**64 - 1, 2**32 - 1, 7))
    yield _dropout("p 0.5, transposed view", (3, 4, 6, 5), 0.5, 11, "transposed")
    yield _dropout("everything dropped", (2, 3), 1.0, 1)


# ---- losses -----------------------------------------------------------------------------------------------------


def _cross_entropy(name: str, count: int, classes: int, scale: float = 1.0, smoothing: float = 0.0) -> ParityCase:
    def call(draw: Draw) -> Results:
        scores = draw.normal("scores", (count, classes), factor=scale)
        labels = draw.integers("labels", 0, classes, (count,))
        loss, dscores = F.softmax_cross_entropy(scores, labels, label_smoothing=smoothing)
        return {("softmax_cross_entropy", "loss"): loss, ("softmax_cross_entropy", "dscores"): dscores}

    def bounds(draw: Draw) -> Bounds:
        # -log p = log(sum exp(s - max)) - (s - max): the exponent is rounded relative to its size, and so is exp of it
        scores = draw.normal("scores", (count, classes), factor=scale)
        labels = draw.integers("labels", 0, classes, (count,))
        below = scores.max(axis=1, keepdims=True) - scores
        terms = np.exp(-below)
        total = terms.sum(axis=1, keepdims=True)
        p = terms / total
        log_p = below + np.log(total) + np.sum(p * (1 + below), axis=1, keepdims=True)
        hits = np.eye(classes)[labels]
        target = (1 - smoothing) * hits + smoothing / classes
        mean_below = np.sum(p * (1 + below), axis=1, keepdims=True)
        return {
            ("softmax_cross_entropy", "loss"): Bound(
                2 * classes + count + 2 * ELEMENTARY + 8, np.sum(target * log_p) / count
            ),
            ("softmax_cross_entropy", "dscores"): Bound(
                classes + ELEMENTARY + 8, (p * (1 + below + mean_below) + target) / count
            ),
        }

    return ParityCase(f"softmax_cross_entropy, {name}", call, bounds)


def _hinge(name: str, count: int, classes: int, margin: float = 1.0) -> ParityCase:
    def call(draw: Draw) -> Results:
        labels = draw.integers("labels", 0, classes, (count,))
        loss, dscores = F.multiclass_hinge(draw.normal("scores", (count, classes)), labels, margin=margin)
        return {("multiclass_hinge", "loss"): loss, ("multiclass_hinge", "dscores"): dscores}

    def bounds(draw: Draw) -> Bounds:
        scores, labels = draw.normal("scores", (count, classes)), draw.integers("labels", 0, classes, (count,))
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        others = np.arange(classes) != labels[:, None]
        size = np.abs(scores) + np.abs(own) + margin
        _check_kink((scores - own + margin)[others], Bound(3, size[others]), draw.dtype)
        terms = others * (scores - own + margin > 0) * size
        # dscores are counts of classes times 1 / N
        return {
            ("multiclass_hinge", "loss"): Bound(classes + count + 4, np.sum(terms) / count),
            ("multiclass_hinge", "dscores"): Bound(2, classes / count),
        }

    return ParityCase(f"multiclass_hinge, {name}", call, bounds)


def _mse(name: str, shape: tuple[int, ...]) -> ParityCase:
    def call(draw: Draw) -> Results:
        loss, dpred = F.mse(draw.normal("pred", shape), draw.normal("target", shape))
        return {("mse", "loss"): loss, ("mse", "dpred"): dpred}

    def bounds(draw: Draw) -> Bounds:
        difference, count = draw.normal("pred", shape) - draw.normal("target", shape), math.prod(shape)
        return {
            ("mse", "loss"): Bound(count + 4, np.mean(difference**2)),
            ("mse", "dpred"): Bound(4, np.abs(difference) * 2 / count),
        }

    return ParityCase(f"mse, {name}", call, bounds)


def _losses() -> Iterator[ParityCase]:
    yield _cross_entropy("10 classes", 37, 10)
    yield _cross_entropy("100 classes, large scores", 5, 100, 30.0)
    yield _cross_entropy("label smoothing", 20, 7, smoothing=0.1)
    yield _hinge("10 classes", 23, 10)
    yield _hinge("margin 0.3", 4, 3, 0.3)
    yield _mse("images", (3, 4, 5, 6))


# ---- optimizers -------------------------------------------------------------------------------------------------

_STEPS = 3


def _steps(draw: Draw, shape: tuple[int, ...]) -> tuple[Array, list[Array]]:
    return draw.normal("p", shape), [draw.normal(f"g{step}", shape) for step in range(_STEPS)]


def _optimizer(
    name: str, kind: str, scales: Callable[[np.ndarray, list[np.ndarray]], dict[str, Any]], **settings: Any
) -> ParityCase:
    """Three steps; results are the parameter and the state that the optimizer keeps of it.

    A step has at most 20 roundings besides the functions that correct the bias of Adam, and writes three arrays.
    """
    shape = (3, 5, 7)

    def call(draw: Draw) -> Results:
        data, gradients = _steps(draw, shape)
        parameter = Parameter(backend_of(data=data).xp.asarray(data, copy=True))
        optimizer = getattr(optim, kind)([parameter], **settings)
        for gradient in gradients:
            parameter.grad = gradient
            optimizer.step()
        state = optimizer.state_dict()["arrays"]
        kept = {(kind, key.partition(".")[2]): array for key, array in state.items()}
        return {(kind, "parameter"): parameter.data, **kept}

    def bounds(draw: Draw) -> Bounds:
        found = scales(*_steps(draw, shape))
        length = _STEPS * (20 + 2 * ELEMENTARY)
        return {(kind, key): Bound(length, scale, stored=3 * _STEPS) for key, scale in found.items()}

    return ParityCase(f"{kind}, {name}", call, bounds)


def _sgd_scales(p, gradients, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False) -> dict[str, Any]:
    p, velocity = np.abs(p), None
    for gradient in map(np.abs, gradients):
        g = gradient + weight_decay * p
        velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
        p = p + lr * (g + momentum * velocity if nesterov else velocity if momentum else g)
    return {"parameter": p, **({"velocity": velocity} if momentum else {})}


def _rmsprop_scales(p, gradients, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0) -> dict[str, Any]:
    exact, magnitude = p, np.abs(p)
    square, square_magnitude, buffer, buffer_magnitude = 0.0, 0.0, 0.0, 0.0
    for gradient in gradients:
        g, g_magnitude = gradient + weight_decay * exact, np.abs(gradient) + weight_decay * magnitude
        square = alpha * square + (1 - alpha) * g**2
        square_magnitude = alpha * square_magnitude + (1 - alpha) * g_magnitude**2
        step = g / (np.sqrt(square) + eps)
        # the root halves the relative error of the mean square
        step_magnitude = g_magnitude / (np.sqrt(square) + eps) * (1 + square_magnitude / square)
        buffer, buffer_magnitude = momentum * buffer + step, momentum * buffer_magnitude + step_magnitude
        exact, magnitude = exact - lr * buffer, magnitude + lr * buffer_magnitude
    return {
        "parameter": magnitude,
        "square_avg": square_magnitude,
        **({"momentum_buffer": buffer_magnitude} if momentum else {}),
    }


def _adam_scales(
    p, gradients, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
) -> dict[str, Any]:
    exact, magnitude = p, np.abs(p)
    m, m_magnitude, v, v_magnitude = 0.0, 0.0, 0.0, 0.0
    (beta1, beta2), coupled = betas, 0.0 if decoupled else weight_decay
    for step, gradient in enumerate(gradients, 1):
        g, g_magnitude = gradient + coupled * exact, np.abs(gradient) + coupled * magnitude
        m, m_magnitude = beta1 * m + (1 - beta1) * g, beta1 * m_magnitude + (1 - beta1) * g_magnitude
        v, v_magnitude = beta2 * v + (1 - beta2) * g**2, beta2 * v_magnitude + (1 - beta2) * g_magnitude**2
        factor = lr / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)
        shrink = 1 - lr * weight_decay if decoupled else 1.0
        exact = exact * shrink - factor * m
        magnitude = magnitude + factor * m_magnitude * (1 + v_magnitude / v)
    return {"parameter": magnitude, "m": m_magnitude, "v": v_magnitude}


def _optimizers() -> Iterator[ParityCase]:
    def case(name: str, kind: str, scales: Callable[..., dict[str, Any]], **settings: Any) -> ParityCase:
        more = {"decoupled": True} if kind == "AdamW" else {}
        return _optimizer(name, kind, partial(scales, **settings, **more), **settings)

    yield case("plain, weight decay", "SGD", _sgd_scales, lr=0.1, weight_decay=0.1)
    yield case("momentum, dampening", "SGD", _sgd_scales, lr=0.1, momentum=0.9, dampening=0.5)
    yield case("Nesterov", "SGD", _sgd_scales, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    yield case("plain", "RMSprop", _rmsprop_scales, lr=0.01, weight_decay=0.1)
    yield case("momentum", "RMSprop", _rmsprop_scales, lr=0.01, alpha=0.9, momentum=0.9)
    yield case("weight decay", "Adam", _adam_scales, lr=0.01, weight_decay=0.1)
    yield case("no first mean", "Adam", _adam_scales, lr=0.01, betas=(0.0, 0.5))
    yield case("decoupled weight decay", "AdamW", _adam_scales, lr=0.01, weight_decay=0.1)
    yield _clipped()


def _clipped() -> ParityCase:
    shapes = ((4, 3, 5), (17,))

    def gradients(draw: Draw) -> list[Array]:
        return [draw.normal(f"g{k}", shape) for k, shape in enumerate(shapes)]

    def call(draw: Draw) -> Results:
        parameters = []
        for gradient in gradients(draw):
            parameters.append(Parameter(gradient))
            parameters[-1].grad = gradient
        norm = optim.clip_grad_norm(parameters, 2.5)
        results = {("clip_grad_norm", f"gradient {k}"): p.grad for k, p in enumerate(parameters)}
        return {("clip_grad_norm", "norm"): np.asarray(to_numpy(norm), np.float64), **results}

    def bounds(draw: Draw) -> Bounds:
        arrays = gradients(draw)
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in arrays))
        length = sum(g.size for g in arrays) + 8
        results = {
            ("clip_grad_norm", f"gradient {k}"): Bound(length, np.abs(g) * 2.5 / norm) for k, g in enumerate(arrays)
        }
        return {("clip_grad_norm", "norm"): Bound(length, norm), **results}

    return ParityCase("clip_grad_norm, two gradients", call, bounds)


# ---- augmentation -----------------------------------------------------------------------------------------------


def _augmentations() -> Iterator[ParityCase]:
    """Shifts and flips choose the same on every backend and only move bytes; normalising has two roundings of two."""
    shape = (9, 3, 12, 10)

    def images(draw: Draw) -> Array:
        return draw.integers("images", 0, 256, shape, "uint8")

    def moved(transform: Any, draw: Draw) -> Results:
        rng = np.random.default_rng(3)
        return {(type(transform).__name__, "images"): transform(images(draw), rng, True)}

    yield _exact_case("ShiftCrop, (4, 3)", partial(moved, ShiftCrop((4, 3))))
    yield _exact_case("RandomFlip", partial(moved, RandomFlip(0.5)))

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def normalised(draw: Draw) -> Results:
        rng = np.random.default_rng(3)
        return {("Normalize", "images"): Normalize(mean, std, draw.dtype)(images(draw), rng, True)}

    def bounds(draw: Draw) -> Bounds:
        means, stds = (np.reshape(v, (1, 3, 1, 1)) for v in (mean, std))
        return {("Normalize", "images"): Bound(4, images(draw) / 255 / stds + means / stds)}

    yield ParityCase("Normalize, bytes", normalised, bounds)
    yield _batches()


def _batches() -> ParityCase:
    """An epoch of a data set, shuffled, shifted, mirrored and normalised; where it fits it lies on the device."""

    def dataset() -> ArrayDataset:
        rng = np.random.default_rng(8)
        images = rng.integers(0, 256, (20, 3, 12, 10)).astype(np.uint8)
        return ArrayDataset(images, rng.integers(0, 4, 20), name="cifar10")

    def call(draw: Draw) -> Results:
        data = dataset()
        transform = standard_transform(data, dtype=draw.dtype)
        found: Results = {}
        for number, (images, labels) in enumerate(Batches(data, 7, seed=5, transform=transform, dtype=draw.dtype)):
            found |= {("Batches", f"images {number}"): images, ("Batches", f"labels {number}"): labels}
        return found

    def bounds(draw: Draw) -> Bounds:
        normalize: Any = standard_transform(dataset()).transforms[-1]
        means, stds = (np.reshape(v, (1, 3, 1, 1)) for v in (normalize.mean, normalize.std))
        pixels = Bound(4, (1 + means) / stds)  # that a pixel is another one shows, bytes being 1 / 255 apart
        return {key: pixels if key[1].startswith("images") else EXACT for key in call(draw)}

    return ParityCase("Batches, shuffled and augmented", call, bounds)


def cases() -> list[ParityCase]:
    """The whole table, in the order of printing; the training run is the last."""
    from .training import training_run

    parts = (
        _convolutions,
        _all_columns,
        _linears,
        _poolings,
        _normalisations,
        _elementwise,
        _losses,
        _optimizers,
        _augmentations,
    )
    found = [case for part in parts for case in part()]
    return [*found, training_run()]
