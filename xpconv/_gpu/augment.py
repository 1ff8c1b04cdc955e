"""Batches of a set of bytes, cropped, mirrored and normalised, by a CUDA kernel."""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import index_for, launch
from .walk import walk

__all__ = ["crop_flip_normalize"]


def crop_flip_normalize(
    backend: GpuBackend, like: Array, images: Array, choices: Array, scale: Array, shift: Array
) -> Array:
    """Chosen images (n, C, H, W), each shifted and perhaps mirrored, as ``pixel * scale + shift``."""
    count, (_, channels, height, width) = choices.shape[0], images.shape
    wide = backend.accumulator(like)
    y = backend.empty((count, channels, height, width), like.dtype)
    pixels = 4 if width % 4 == 0 else 1  # that a thread makes
    index = index_for(y.size)
    arguments = (
        backend.contiguous(images),
        backend.contiguous(backend.astype(choices, "int32")),
        backend.contiguous(backend.astype(scale, wide)),
        backend.contiguous(backend.astype(shift, wide)),
        y,
        walk(index, channels, count, height, width // pixels),
        np.int32(channels),
        np.int32(height),
    )
    template = (index.name, str(pixels))
    launch(backend, "augment", "crop_flip_normalize", backend.dtype_name(like), template, y.size // pixels, arguments)
    return y
