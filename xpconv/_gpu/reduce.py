"""Sums by CUDA kernels: the same bits in every run."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import BLOCKS_PER_MULTIPROCESSOR, THREADS, ceil_div, index_for, launch

__all__ = ["MAX_ROWS", "WARP", "chunks_for", "column_sums", "row_sums"]

# Fewer elements than these, a thread, are not worth a block of their own.
ELEMENTS_PER_THREAD = 8
MAX_ROWS = 65535  # of a grid in y
WARP = 32  # threads
VECTOR = 8  # a chunk is a multiple of these elements: 16 bytes or more of every dtype


def chunks_for(backend: GpuBackend, rows: int, length: int) -> tuple[int, int]:
    """How many chunks to cut a row into, and their length, so that all rows together fill the device.

    All chunks but the last begin and end at a multiple of 16 bytes, if the row does.
    """
    wanted = ceil_div(backend.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, max(rows, 1))
    worth = ceil_div(length, THREADS * ELEMENTS_PER_THREAD)
    chunk = ceil_div(ceil_div(max(length, 1), max(1, min(wanted, worth))), VECTOR) * VECTOR
    return ceil_div(max(length, 1), chunk), chunk


def row_sums(backend: GpuBackend, x: Array) -> Array:
    """Sums (R,) over the rows of a contiguous matrix (R, L)."""
    rows, length = x.shape
    dtype, index = backend.dtype_name(x), index_for(x.size)
    chunks, chunk = chunks_for(backend, rows, length)
    partial = backend.empty((rows, chunks), backend.accumulator(x))
    sums = backend.empty((rows,), x.dtype)
    for start in range(0, rows, MAX_ROWS):
        stop = min(start + MAX_ROWS, rows)
        arguments = (x[start:stop, :], partial[start:stop, :], index.scalar(length), index.scalar(chunk))
        launch(backend, "reduce", "partial_row_sums", dtype, (index.name,), (chunks, stop - start), arguments)
    _finish(backend, partial, sums)
    return sums


def column_sums(backend: GpuBackend, x: Array) -> Array:
    """Sums (C,) over the columns of a contiguous matrix (R, C)."""
    rows, columns = x.shape
    dtype, index = backend.dtype_name(x), index_for(x.size)
    threads = backend.multiprocessors * BLOCKS_PER_MULTIPROCESSOR * THREADS
    wanted = ceil_div(threads, max(columns, 1))
    chunk = max(ELEMENTS_PER_THREAD, ceil_div(rows, wanted))
    chunks = max(1, ceil_div(rows, chunk))
    partial = backend.empty((columns, chunks), backend.accumulator(x))
    sums = backend.empty((columns,), x.dtype)
    arguments = (x, partial, *map(index.scalar, (rows, columns, chunk, chunks)))
    launch(backend, "reduce", "partial_column_sums", dtype, (index.name,), columns * chunks, arguments)
    _finish(backend, partial, sums)
    return sums


def _finish(backend: GpuBackend, partial: Array, sums: Array) -> None:
    """Write the sums of the rows of ``partial`` (R, chunks) to ``sums`` (R,), a warp each."""
    rows, chunks = partial.shape
    index = index_for(partial.size)
    arguments = (partial, sums, index.scalar(rows), index.scalar(chunks))
    launch(backend, "reduce", "finish_row_sums", backend.dtype_name(sums), (index.name,), rows * WARP, arguments)
