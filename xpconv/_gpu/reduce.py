"""Sums by CUDA kernels: the same bits in every run."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import BLOCKS_PER_MULTIPROCESSOR, THREADS, ceil_div, index_for, launch

__all__ = ["chunks_for", "row_sums"]

# Fewer elements than these, a thread, are not worth a block of their own.
ELEMENTS_PER_THREAD = 8
MAX_ROWS = 65535  # of a grid in y


def chunks_for(backend: GpuBackend, rows: int, length: int) -> tuple[int, int]:
    """How many chunks to cut a row into, and their length, so that all rows together fill the device."""
    wanted = ceil_div(backend.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, max(rows, 1))
    worth = ceil_div(length, THREADS * ELEMENTS_PER_THREAD)
    chunk = ceil_div(max(length, 1), max(1, min(wanted, worth)))
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
    arguments = (partial, sums, index.scalar(rows), index.scalar(chunks))
    launch(backend, "reduce", "finish_row_sums", dtype, (index.name,), rows, arguments)
    return sums
