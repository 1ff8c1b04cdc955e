"""The course's im2col by index arrays; the columns are those of `im2col_cython`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends.protocol import Array
from ._arrays import check_divides, out_size
from .im2col_cython import col2im_cython, im2col_cython

__all__ = ["col2im_indices", "get_im2col_indices", "im2col_indices"]


def get_im2col_indices(
    x_shape: Sequence[int], field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where in a padded image each entry of the columns comes from.

    Returns
    -------
    k : numpy.ndarray (C * field_height * field_width, 1)
        Channels.
    i, j : numpy.ndarray (C * field_height * field_width, out_h * out_w)
        Rows and columns: ``padded[:, k, i, j]`` holds the columns of each image.

    Raises
    ------
    AssertionError
        Windows do not end where the padded image does.
    """
    _, C, H, W = x_shape
    check_divides("height", H, padding, field_height, stride)
    check_divides("width", W, padding, field_width, stride)
    out_h = out_size("height", H, padding, field_height, stride)
    out_w = out_size("width", W, padding, field_width, stride)
    channel, row, column = np.indices((C, field_height, field_width)).reshape(3, -1, 1)
    p, q = np.indices((out_h, out_w)).reshape(2, 1, -1)
    return channel, row + stride * p, column + stride * q


def im2col_indices(x: Array, field_height: int, field_width: int, padding: int = 1, stride: int = 1) -> Array:
    """`im2col_cython` with the course's defaults and its assertion that sizes divide."""
    check_divides("height", x.shape[2], padding, field_height, stride)
    check_divides("width", x.shape[3], padding, field_width, stride)
    return im2col_cython(x, field_height, field_width, padding, stride)


def col2im_indices(
    cols: Array, x_shape: Sequence[int], field_height: int = 3, field_width: int = 3, padding: int = 1, stride: int = 1
) -> Array:
    """`col2im_cython` with the shape of the images in one argument, the course's defaults and its assertion."""
    N, C, H, W = x_shape
    check_divides("height", H, padding, field_height, stride)
    check_divides("width", W, padding, field_width, stride)
    return col2im_cython(cols, N, C, H, W, field_height, field_width, padding, stride)
