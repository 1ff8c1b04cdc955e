"""Operators on single elements, by CUDA kernels."""

from __future__ import annotations

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import index_for, launch

__all__ = ["add_bias"]


def add_bias(backend: GpuBackend, y: Array, b: Array) -> None:
    """Add ``b[f]`` to row f of the matrix ``y``, in place."""
    index = index_for(y.size)
    arguments = (y, backend.contiguous(b), index.scalar(y.shape[1]), index.scalar(y.size))
    launch(backend, "elementwise", "add_bias", backend.dtype_name(y), (index.name,), y.size, arguments)
