"""Dropout masks, by CUDA kernels; the bits of `xpconv._generic.dropout`."""

from __future__ import annotations

import numpy as np

from .._random import is_step_on_device
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import index_for, launch, wide_scalar

__all__ = ["dropout_mask"]

_WORD = 0xFFFFFFFF


def dropout_mask(backend: GpuBackend, like: Array, p: float, key: tuple[int, int, int | Array, int]) -> Array:
    """Mask of the shape and dtype of ``like``: 0 with probability p, else ``1 / (1 - p)``.

    The key is (seed, layer, step, first block); the step may be an array of one uint32 on the device, as in a graph.
    """
    seed, layer, step, block = key
    threshold = int(p * 2**32)
    if threshold > _WORD:  # p is 1: everything is dropped
        return backend.zeros(like.shape, like.dtype)
    mask, index = backend.empty(like.shape, like.dtype), index_for(like.size)
    on_device = is_step_on_device(step)
    words = (threshold, seed & _WORD, seed >> 32, layer, 0 if on_device else step)
    arguments = (
        mask,
        wide_scalar(backend, like)(1 / (1 - p)),
        *map(np.uint32, words),
        step if on_device else None,
        np.uint64(block),
        index.scalar(like.size),
    )
    count = -(-like.size // 4)
    launch(backend, "dropout", "dropout_mask", backend.dtype_name(like), (index.name,), count, arguments)
    return mask
