"""Normalisation, by CUDA kernels. Results are in the memory order of the argument."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import (
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
from .reduce import MAX_ROWS, chunks_for

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
]


def _optional(backend: GpuBackend, vector: Array | None) -> Array | None:
    return None if vector is None else backend.contiguous(vector)


def _normalise(
    backend: GpuBackend,
    source: Planes,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    rest: Array | None,
    inv_std: Array,
) -> Array:
    """``(x - mean) * inv_std * weight + bias`` for images (N, C, L), vectors (C,)."""
    x = source.array
    n, c, length = x.shape
    y = empty_planes(backend, source, (length,), x.dtype)
    index = index_for(source.extent, y.extent)
    arguments = (
        Strided(x),
        Strided(y.array),
        mean,
        rest,
        inv_std,
        _optional(backend, weight),
        _optional(backend, bias),
        index.struct(source.image, source.channel),
        index.struct(y.image, y.channel),
        *map(index.scalar, (n, c, length)),
    )
    launch(backend, "norm", "batch_normalise", backend.dtype_name(x), (index.name,), x.size, arguments)
    return y.array


def _over_channels(start: int, channels: int) -> slice:
    return slice(start, min(start + MAX_ROWS, channels))


def batch_norm(
    backend: GpuBackend, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """Normalise every channel of x (N, C, L) by its moments; returns (y, mean, variance, inv_std), the last (C,)."""
    n, c, length = x.shape
    source = planes(backend, x)
    wide, dtype, number = backend.accumulator(x), backend.dtype_name(x), wide_scalar(backend, x)
    index = index_for(source.extent, n * length)
    chunks, chunk = chunks_for(backend, c, n * length)
    partial = [backend.empty((c, chunks), wide) for _ in range(3)]
    for start in range(0, c, MAX_ROWS):
        part = _over_channels(start, c)
        arguments = (
            Strided(source.array[:, part, :]),
            *(p[part, :] for p in partial),
            index.struct(source.image, source.channel),
            *map(index.scalar, (n, length, chunk)),
        )
        grid = (chunks, part.stop - part.start)
        launch(backend, "norm", "batch_moments", dtype, (index.name,), grid, arguments)
    mean, rest, variance, inv_std = (backend.empty((c,), wide) for _ in range(4))
    counts = map(index.scalar, (c, chunks, n * length, chunk))
    arguments = (*partial, mean, rest, variance, inv_std, number(eps), *counts)
    launch(backend, "norm", "finish_batch_moments", dtype, (index.name,), c, arguments)
    return _normalise(backend, source, weight, bias, mean, rest, inv_std), mean, variance, inv_std


def batch_norm_inference(
    backend: GpuBackend, x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Normalise every channel of x (N, C, L) by given moments (C,); returns (y, inv_std)."""
    wide = backend.accumulator(x)
    inv_std = backend.contiguous(1 / backend.xp.sqrt(backend.astype(variance, wide) + eps))
    mean = backend.contiguous(backend.astype(mean, wide))
    return _normalise(backend, planes(backend, x), weight, bias, mean, None, inv_std), inv_std


def batch_norm_backward(
    backend: GpuBackend, dy: Array, x: Array, weight: Array | None, mean: Array, inv_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `batch_norm` if training, where the moments depend on x, else of the inference."""
    n, c, length = x.shape
    source, gradient = planes(backend, x), planes(backend, dy)
    dx = empty_planes(backend, source, (length,), dy.dtype)
    wide, dtype = backend.accumulator(x), backend.dtype_name(dy)
    mean, inv_std = (backend.contiguous(backend.astype(v, wide)) for v in (mean, inv_std))
    index = index_for(source.extent, gradient.extent, dx.extent)
    chunks, chunk = chunks_for(backend, c, n * length)
    sums, dots = (backend.empty((c, chunks), wide) for _ in range(2))
    steps = (index.struct(gradient.image, gradient.channel), index.struct(source.image, source.channel))
    for start in range(0, c, MAX_ROWS):
        part = _over_channels(start, c)
        arguments = (
            Strided(gradient.array[:, part, :]),
            Strided(source.array[:, part, :]),
            mean[part],
            sums[part, :],
            dots[part, :],
            *steps,
            *map(index.scalar, (n, length, chunk)),
        )
        grid = (chunks, part.stop - part.start)
        launch(backend, "norm", "batch_gradient_sums", dtype, (index.name,), grid, arguments)
    db, dw, wide_db, wide_dw = _finish_gradient_sums(backend, sums, dots, inv_std, dtype, dy.dtype, index)
    arguments = (
        Strided(gradient.array),
        Strided(source.array),
        Strided(dx.array),
        mean,
        inv_std,
        _optional(backend, weight),
        wide_db,
        wide_dw,
        np.bool_(training),
        *steps,
        index.struct(dx.image, dx.channel),
        *map(index.scalar, (n, c, length)),
    )
    launch(backend, "norm", "batch_normalise_backward", dtype, (index.name,), x.size, arguments)
    return dx.array, dw, db


def _finish_gradient_sums(
    backend: GpuBackend, sums: Array, dots: Array, scale: Array | None, dtype: str, narrow: Array, index: Index
) -> tuple[Array, Array, Array, Array]:
    """Add up chunks (C, chunks); returns db, dw = dots * scale in ``narrow``, and both before rounding."""
    c, chunks = sums.shape
    db, dw = (backend.empty((c,), narrow) for _ in range(2))
    wide_db, wide_dw = (backend.empty((c,), sums.dtype) for _ in range(2))
    arguments = (sums, dots, scale, db, dw, wide_db, wide_dw, index.scalar(c), index.scalar(chunks))
    launch(backend, "norm", "finish_gradient_sums", dtype, (index.name,), c, arguments)
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
    grid = (min(rows, 1 << 16),)  # a block each
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
    launch(backend, "norm", "row_norm_backward", dtype, (index.name,), (min(rows, 1 << 16),), arguments)
    examples = rows // groups
    chunks, chunk = chunks_for(backend, ceil_div(channels, 256), examples * 256)
    chunk = max(1, chunk // 256)
    chunks = ceil_div(max(examples, 1), chunk)
    sums, dots = (backend.empty((channels, chunks), wide) for _ in range(2))
    arguments = (
        dy,
        x,
        mean,
        inv_std,
        sums,
        dots,
        *map(index.scalar, (examples, groups, channels, pixels, chunk, chunks)),
    )
    launch(backend, "norm", "row_parameter_sums", dtype, (index.name,), channels * chunks, arguments)
    db, dw, _, _ = _finish_gradient_sums(backend, sums, dots, None, dtype, dy.dtype, index)
    return dx, dw, db


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
