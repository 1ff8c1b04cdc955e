"""Normalisation, by CUDA kernels. Results are in the memory order of the argument."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._generic.norm import unbiased
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import (
    MAX_BLOCKS,
    THREADS,
    Index,
    Planes,
    Strided,
    ceil_div,
    empty_planes,
    index_for,
    launch,
    planes,
    wide_scalar,
)
from .reduce import MAX_ROWS, WARP, chunks_for

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_norm_relu_inference",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
]


def _optional(backend: GpuBackend, vector: Array | None) -> Array | None:
    return None if vector is None else backend.contiguous(vector)


class _Channels(NamedTuple):
    """How kernels go through the channels of several images of one shape.

    Attributes
    ----------
    steps
        For each of the images, the structure `Planes` of common.cuh.
    batch, length
        N and L; or 1 and N * L where in all of them the images of a channel lie one after the other.
    """

    steps: tuple[np.ndarray, ...]
    batch: int
    length: int


def _channels(index: Index, *images: Planes) -> _Channels:
    n, _, length = images[0].array.shape
    if n > 1 and all(planes.image == length for planes in images):
        return _Channels(tuple(index.struct(0, planes.channel) for planes in images), 1, n * length)
    return _Channels(tuple(index.struct(planes.image, planes.channel) for planes in images), n, length)


def _normalise(
    backend: GpuBackend,
    source: Planes,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    mean: Array,
    rest: Array | None,
    inv_std: Array,
) -> Array:
    """``(x - mean) * inv_std * weight + bias`` for images (N, C, L), vectors (C,); with relu ``max(it + residual, 0)``.

    Parameters
    ----------
    rest
        What rounding left of the mean; None for nothing.
    residual
        Images like those of ``source``, only with ``relu``; None for nothing.
    """
    x = source.array
    y = empty_planes(backend, source, x.shape[2:], x.dtype)
    beside = source if residual is None else planes(backend, residual)
    index = index_for(source.extent, beside.extent, y.extent)
    steps, batch, length = _channels(index, source, beside, y)
    arguments = (
        Strided(x),
        None if residual is None else Strided(beside.array),
        Strided(y.array),
        mean,
        rest,
        inv_std,
        _optional(backend, weight),
        _optional(backend, bias),
        np.bool_(relu),
        *steps,
        *map(index.scalar, (batch, x.shape[1], length)),
    )
    launch(backend, "norm", "batch_normalise", backend.dtype_name(x), (index.name,), x.size, arguments)
    return y.array


def _over_channels(start: int, channels: int) -> slice:
    return slice(start, min(start + MAX_ROWS, channels))


def _batch_norm(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    c, count = x.shape[1], x.shape[0] * x.shape[2]
    source = planes(backend, x)
    wide, dtype, number = backend.accumulator(x), backend.dtype_name(x), wide_scalar(backend, x)
    index = index_for(source.extent, count)
    steps, batch, length = _channels(index, source)
    chunks, chunk = chunks_for(backend, c, count)
    partial = [backend.empty((c, chunks), wide) for _ in range(3)]
    for start in range(0, c, MAX_ROWS):
        part = _over_channels(start, c)
        arguments = (
            Strided(source.array[:, part, :]),
            *(p[part, :] for p in partial),
            *steps,
            *map(index.scalar, (batch, length, chunk)),
        )
        grid = (chunks, part.stop - part.start)
        launch(backend, "norm", "batch_moments", dtype, (index.name,), grid, arguments)
    mean, rest, variance, inv_std = (backend.empty((c,), wide) for _ in range(4))
    running = (running_mean, running_var)
    old = [None if moment is None else backend.contiguous(backend.astype(moment, wide)) for moment in running]
    new = [None if moment is None else backend.empty((c,), wide) for moment in running]
    shares = map(number, (eps, 1 - momentum, momentum, unbiased(x) * momentum))
    counts = map(index.scalar, (c, chunks, count, chunk))
    arguments = (*partial, mean, rest, variance, inv_std, *old, *new, *shares, *counts)
    launch(backend, "norm", "finish_batch_moments", dtype, (index.name,), c * WARP, arguments)
    y = _normalise(backend, source, weight, bias, residual, relu, mean, rest, inv_std)
    updated = [None if a is None else backend.astype(b, a.dtype) for a, b in zip(running, new, strict=True)]
    return y, mean, variance, inv_std, updated[0], updated[1]


def batch_norm(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """Normalise every channel of x (N, C, L) by its moments.

    Returns (y, mean, variance, inv_std, running_mean, running_var), all but y (C,), the last two None where they were.
    """
    return _batch_norm(backend, x, weight, bias, None, False, running_mean, running_var, momentum, eps)


def batch_norm_relu(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """``max(batch_norm(x) + residual, 0)``; returns (y, mean, variance, inv_std, running_mean, running_var)."""
    return _batch_norm(backend, x, weight, bias, residual, True, running_mean, running_var, momentum, eps)


def _batch_norm_inference(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
    mean: Array,
    variance: Array,
    eps: float,
) -> tuple[Array, Array]:
    wide = backend.accumulator(x)
    inv_std = backend.contiguous(1 / backend.xp.sqrt(backend.astype(variance, wide) + eps))
    mean = backend.contiguous(backend.astype(mean, wide))
    return _normalise(backend, planes(backend, x), weight, bias, residual, relu, mean, None, inv_std), inv_std


def batch_norm_inference(
    backend: GpuBackend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Normalise every channel of x (N, C, L) by given moments (C,); returns (y, inv_std)."""
    return _batch_norm_inference(backend, x, weight, bias, None, False, mean, variance, eps)


def batch_norm_relu_inference(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    mean: Array,
    variance: Array,
    eps: float,
) -> tuple[Array, Array]:
    """``max(batch_norm_inference(x) + residual, 0)``; returns (y, inv_std)."""
    return _batch_norm_inference(backend, x, weight, bias, residual, True, mean, variance, eps)


def _batch_norm_backward(
    backend: GpuBackend,
    dy: Array,
    y: Array | None,
    x: Array,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    training: bool,
    need_dresidual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients (dx, dw, db, dresidual); ``y`` is the result of the ReLU, None if there is none."""
    c, count = x.shape[1], x.shape[0] * x.shape[2]
    source, gradient = planes(backend, x), planes(backend, dy)
    result = gradient if y is None else planes(backend, y)
    dx = empty_planes(backend, source, x.shape[2:], dy.dtype)
    dresidual = empty_planes(backend, source, x.shape[2:], dy.dtype) if need_dresidual else None
    wide, dtype = backend.accumulator(x), backend.dtype_name(dy)
    mean, inv_std = (backend.contiguous(backend.astype(v, wide)) for v in (mean, inv_std))
    index = index_for(source.extent, gradient.extent, result.extent, dx.extent)
    steps, batch, length = _channels(index, gradient, result, source, dx)
    chunks, chunk = chunks_for(backend, c, count)
    sums, dots = (backend.empty((c, chunks), wide) for _ in range(2))
    for start in range(0, c, MAX_ROWS):
        part = _over_channels(start, c)
        arguments = (
            Strided(gradient.array[:, part, :]),
            None if y is None else Strided(result.array[:, part, :]),
            Strided(source.array[:, part, :]),
            mean[part],
            sums[part, :],
            dots[part, :],
            *steps[:3],
            *map(index.scalar, (batch, length, chunk)),
        )
        grid = (chunks, part.stop - part.start)
        launch(backend, "norm", "batch_gradient_sums", dtype, (index.name,), grid, arguments)
    db, dw, wide_db, wide_dw = _finish_gradient_sums(backend, sums, dots, inv_std, dtype, dy.dtype, index)
    arguments = (
        Strided(gradient.array),
        None if y is None else Strided(result.array),
        Strided(source.array),
        Strided(dx.array),
        None if dresidual is None else Strided(dresidual.array),
        mean,
        inv_std,
        _optional(backend, weight),
        wide_db,
        wide_dw,
        np.bool_(training),
        *steps,
        *map(index.scalar, (batch, c, length)),
    )
    launch(backend, "norm", "batch_normalise_backward", dtype, (index.name,), x.size, arguments)
    return dx.array, dw, db, None if dresidual is None else dresidual.array


def batch_norm_backward(
    backend: GpuBackend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `batch_norm` if training, where the moments depend on x, else of the inference."""
    return _batch_norm_backward(backend, dy, None, x, weight, mean, inv_std, training, False)[:3]


def batch_norm_relu_backward(
    backend: GpuBackend,
    dy: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    training: bool,
    need_dresidual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients (dx, dw, db, dresidual) of `batch_norm_relu` with the result y; the last None unless needed."""
    return _batch_norm_backward(backend, dy, y, x, weight, mean, inv_std, training, need_dresidual)


def _finish_gradient_sums(
    backend: GpuBackend, sums: Array, dots: Array, scale: Array | None, dtype: str, narrow: Array, index: Index
) -> tuple[Array, Array, Array, Array]:
    """Add up chunks (C, chunks); returns db, dw = dots * scale in ``narrow``, and both before rounding."""
    c, chunks = sums.shape
    db, dw = (backend.empty((c,), narrow) for _ in range(2))
    wide_db, wide_dw = (backend.empty((c,), sums.dtype) for _ in range(2))
    arguments = (sums, dots, scale, db, dw, wide_db, wide_dw, index.scalar(c), index.scalar(chunks))
    launch(backend, "norm", "finish_gradient_sums", dtype, (index.name,), c * WARP, arguments)
    return db, dw, wide_db, wide_dw


def _rows_forward(
    backend: GpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    rows: int,
    groups: int,
    pixels: int,
) -> tuple[Array, Array, Array]:
    """Normalise the rows of x, seen as a matrix; see ``norm.cu`` for groups and pixels."""
    x = backend.contiguous(x)
    index, wide = index_for(x.size), backend.accumulator(x)
    length = x.size // rows if rows else 0
    y = backend.empty(x.shape, x.dtype)
    mean, inv_std = (backend.empty((rows, 1), wide) for _ in range(2))
    arguments = (
        x,
        y,
        _optional(backend, weight),
        _optional(backend, bias),
        mean,
        inv_std,
        wide_scalar(backend, x)(eps),
        index.struct(groups, pixels),
        *map(index.scalar, (rows, length)),
    )
    grid = (min(rows, MAX_BLOCKS),)  # a block each
    launch(backend, "norm", "row_norm", backend.dtype_name(x), (index.name,), grid, arguments)
    return y, mean, inv_std


def _rows_backward(
    backend: GpuBackend,
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inv_std: Array,
    groups: int,
    channels: int,
    pixels: int,
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `_rows_forward`; dw and db have ``channels`` elements."""
    dy, x, wide = backend.contiguous(dy), backend.contiguous(x), backend.accumulator(x)
    mean, inv_std = (backend.contiguous(backend.astype(v, wide)) for v in (mean, inv_std))
    index, dtype = index_for(x.size), backend.dtype_name(dy)
    rows = mean.shape[0]
    dx = backend.empty(x.shape, dy.dtype)
    arguments = (
        dy,
        x,
        dx,
        _optional(backend, weight),
        mean,
        inv_std,
        index.struct(groups, pixels),
        *map(index.scalar, (rows, x.size // rows if rows else 0)),
    )
    launch(backend, "norm", "row_norm_backward", dtype, (index.name,), (min(rows, MAX_BLOCKS),), arguments)
    sums, dots = _parameter_sums(backend, dy, x, mean, inv_std, groups, channels, pixels, index)
    db, dw, _, _ = _finish_gradient_sums(backend, sums, dots, None, dtype, dy.dtype, index)
    return dx, dw, db


def _parameter_sums(
    backend: GpuBackend,
    dy: Array,
    x: Array,
    mean: Array,
    inv_std: Array,
    groups: int,
    channels: int,
    pixels: int,
    index: Index,
) -> tuple[Array, Array]:
    """Sums over chunks of the examples for the gradients of bias and weight, each (channels, chunks)."""
    wide, dtype = mean.dtype, backend.dtype_name(dy)
    examples = mean.shape[0] // groups
    if pixels > 1:
        chunks, chunk = chunks_for(backend, channels, examples * pixels)
        sums, dots = (backend.empty((channels, chunks), wide) for _ in range(2))
        for first in range(0, channels, MAX_ROWS):
            sizes = map(index.scalar, (first, examples, groups, channels, pixels, chunk))
            grid = (chunks, min(MAX_ROWS, channels - first))
            arguments = (dy, x, mean, inv_std, sums, dots, *sizes)
            launch(backend, "norm", "plane_parameter_sums", dtype, (index.name,), grid, arguments)
        return sums, dots
    chunks, chunk = chunks_for(backend, ceil_div(channels, THREADS), examples * THREADS)
    chunk = max(1, chunk // THREADS)
    chunks = ceil_div(max(examples, 1), chunk)
    sums, dots = (backend.empty((channels, chunks), wide) for _ in range(2))
    sizes = map(index.scalar, (examples, groups, channels, chunk, chunks))
    arguments = (dy, x, mean, inv_std, sums, dots, *sizes)
    launch(backend, "norm", "row_parameter_sums", dtype, (index.name,), channels * chunks, arguments)
    return sums, dots


def layer_norm(
    backend: GpuBackend, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every row of x (rows, length), weight and bias (length,); returns (y, mean, inv_std), (rows, 1)."""
    return _rows_forward(backend, x, weight, bias, eps, x.shape[0], 1, 1)


def layer_norm_backward(
    backend: GpuBackend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `layer_norm`."""
    return _rows_backward(backend, dy, x, weight, mean, inv_std, 1, x.shape[1], 1)


def group_norm(
    backend: GpuBackend, x: Array, weight: Array | None, bias: Array | None, num_groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise every group of channels of every image of x (N, C, L), weight and bias (C,).

    Returns (y, mean, inv_std), the last two (N * num_groups, 1).
    """
    return _rows_forward(backend, x, weight, bias, eps, x.shape[0] * num_groups, num_groups, x.shape[2])


def group_norm_backward(
    backend: GpuBackend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, num_groups: int
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `group_norm`."""
    return _rows_backward(backend, dy, x, weight, mean, inv_std, num_groups, x.shape[1], x.shape[2])
