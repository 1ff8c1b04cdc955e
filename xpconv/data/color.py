"""Random changes of colour, in the pure array API."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._checks import check_number
from ..backends.protocol import Array
from .augment import Random, checked_images, work_dtype
from .order import uniforms

__all__ = ["ColorJitter"]

# red, green and blue in luma, and the two axes of colour that hue turns: YIQ, as of the NTSC standard
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass
class ColorJitter:
    """Changes brightness, contrast, saturation and hue of each image at random; without ``training`` nothing.

    With ``f`` drawn from ``1 - strength`` to ``1 + strength`` anew for each: brightness multiplies pixels by f;
    contrast is ``mean + f (pixel - mean)`` with the mean luma of the image; saturation ``luma + f (pixel - luma)``; hue
    turns the colour about the grey axis (in YIQ, so that luma stays) by up to ``hue`` of the full circle. Each of them
    is linear in the pixel: the four are done in this order as one product and one sum, and only the result is cut off
    at black and white.

    Parameters
    ----------
    brightness, contrast, saturation : float
        0 to 1.
    hue : float
        0 to 0.5.

    Raises
    ------
    TypeError, ValueError
        Not numbers, or out of range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            setattr(self, name, check_number(name, getattr(self, name), 0, most))

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape, between 0 and 1: float32 for uint8; floating-point ones keep their dtype.

        Parameters
        ----------
        images : array (N, C, H, W)
            uint8, or floating-point between 0 and 1. With 3 channels (red, green, blue), or 1: then saturation and hue
            change nothing.
        """
        backend = checked_images(images)
        count, channels, height, width = images.shape
        if channels not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels, got {channels}")
        is_bytes = backend.dtype_name(images) == "uint8"
        if not is_bytes and not backend.is_floating(images):
            raise TypeError(f"images: expected uint8 or floating-point, got {backend.dtype_name(images)}")
        if not training or count == 0:
            return images
        dtype = "float32" if is_bytes else backend.dtype_name(images)
        work = work_dtype(dtype)
        matrix, share = self._draw(rng, count, channels)
        if is_bytes:
            matrix, share = matrix / 255, share / 255
        xp = backend.xp
        matrix, luma = (backend.asarray(a.astype(work)) for a in (matrix, self._luma(channels) * share[:, None]))
        with backend.running():
            flat = xp.reshape(backend.astype(images, work), (count, channels, height * width))
            # what contrast adds is the same number for each pixel of an image: a share of its mean luma
            means = xp.sum(flat, axis=2) * (1 / (height * width))
            offset = xp.reshape(xp.sum(means * luma, axis=1), (count, 1, 1))
            if channels == 1:
                changed = flat * matrix + offset
            else:
                changed = xp.matmul(matrix, flat)
                changed += offset
            changed = xp.clip(changed, 0.0, 1.0)
        return backend.astype(xp.reshape(changed, images.shape), dtype)

    def _luma(self, channels: int) -> np.ndarray:
        return _LUMA if channels == 3 else np.ones(1)

    def _draw(self, rng: Random, count: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """For each image the matrix (N, C, C) and how much of its mean luma is added (N,)."""
        u = 2 * uniforms(rng, count, 4) - 1
        strength = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = (1 + strength * u[:, :3]).T
        matrix = (brightness * contrast)[:, None, None] * np.eye(channels)
        if channels == 3:
            angle = 2 * np.pi * self.hue * u[:, 3]
            turn = np.zeros((count, 3, 3))
            turn[:, 0, 0] = 1
            turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
            turn[:, 2, 1] = np.sin(angle)
            turn[:, 1, 2] = -turn[:, 2, 1]
            hue = np.linalg.inv(_YIQ) @ turn @ _YIQ
            grey = np.ones((3, 1)) * _LUMA
            s = saturation[:, None, None]
            matrix = hue @ (s * np.eye(3) + (1 - s) * grey) @ matrix
        # neither saturation nor hue changes a grey offset
        return matrix, brightness * (1 - contrast)
