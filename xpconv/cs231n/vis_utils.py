"""Pictures of many images at once."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from ..backends import to_numpy
from ..backends.protocol import Array

__all__ = ["visualize_grid"]


def visualize_grid(Xs: Array, ubound: float = 255.0, padding: int = 1) -> np.ndarray:
    """Lay images out in a square grid, each stretched to the range 0 to ``ubound``.

    Parameters
    ----------
    Xs : array (N, H, W, C)
        Images or filters with the channels last, of any backend.
    ubound
        The brightest value.
    padding
        Black pixels between two images.

    Returns
    -------
    numpy.ndarray (grid height, grid width, C)
        On the host, for matplotlib. An image of one value is black.

    Raises
    ------
    ValueError
        Xs does not have four dimensions.
    """
    images = to_numpy(Xs)
    if images.ndim != 4:
        raise ValueError(f"Xs: expected 4 dimensions (N, H, W, C), got shape {images.shape}")
    count, height, width, channels = images.shape
    side = ceil(sqrt(count))
    grid = np.zeros((side * (height + padding) - padding, side * (width + padding) - padding, channels))
    for n, image in enumerate(images.astype(np.float64)):
        row, column = divmod(n, side)
        top, left = row * (height + padding), column * (width + padding)
        low, high = image.min(), image.max()
        scale = ubound / (high - low) if high > low else 0.0
        grid[top : top + height, left : left + width] = (image - low) * scale
    return grid
