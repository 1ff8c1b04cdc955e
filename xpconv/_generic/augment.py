"""Batches of a set of bytes, cropped, mirrored and normalised, in the pure array API."""

from __future__ import annotations

from ..backends.protocol import Array, Backend

__all__ = ["crop_flip_normalize"]


def crop_flip_normalize(
    backend: Backend, like: Array, images: Array, choices: Array, scale: Array, shift: Array
) -> Array:
    """Chosen images, each shifted and perhaps mirrored, as floating-point numbers ``pixel * scale + shift``.

    Parameters
    ----------
    like
        Any array of the dtype that the result is to have; float16 and bfloat16 are computed in float32.
    images : (N, C, H, W) uint8
        The whole set.
    choices : (n, 4) integers
        Which image, dy, dx, and whether it is mirrored: pixel (y, x) is pixel (y + dy, x + dx) of the image, 0 where
        that is outside, and mirroring left to right comes behind the shift.
    scale, shift : (C,)
        For each channel.

    Returns
    -------
    y : (n, C, H, W)
        The product is rounded before the sum, as where each is an operation of its own.
    """
    xp = backend.xp
    count, (_, channels, height, width) = choices.shape[0], images.shape
    if count == 0:
        return backend.empty((0, channels, height, width), like.dtype)
    dtype = "int32" if count * channels * height * width < 2**31 else "int64"
    choices = backend.astype(choices, dtype)
    chosen, dy, dx, mirrored = (choices[:, k] for k in range(4))
    rows = backend.arange(height, dtype)[None, :] + dy[:, None]
    columns = backend.arange(width, dtype)[None, :]
    columns = xp.where(mirrored[:, None] != 0, width - 1 - columns, columns) + dx[:, None]
    row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
    planes = xp.reshape(backend.arange(count * channels, dtype), (count, channels, 1, 1))
    pixels = planes * (height * width) + rows[:, None, :, None] * width + columns[:, None, None, :]
    pixels = xp.where(inside, pixels, xp.zeros_like(pixels))
    bytes_ = xp.take(xp.reshape(xp.take(images, chosen, axis=0), (-1,)), xp.reshape(pixels, (-1,)), axis=0)
    bytes_ = xp.reshape(bytes_, pixels.shape) * backend.astype(inside, bytes_.dtype)
    wide = backend.accumulator(like)
    scale, shift = (xp.reshape(backend.astype(a, wide), (1, channels, 1, 1)) for a in (scale, shift))
    y = backend.astype(bytes_, wide) * scale
    y += shift
    return backend.astype(y, like.dtype)
