"""The course's im2col by index arrays; the columns are those of `im2col_cython`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends.protocol import Array
from ._arrays import check_divides, check_integers, out_size
from .im2col_cython import col2im_cython, im2col_cython

__all__ = ["col2im_indices", "get_im2col_indices", "im2col_indices"]


def _check_sizes(x_shape: Sequence[int], field_height: int, field_width: int, padding: int, stride: int) -> None:
    """Raise AssertionError, as the course does, unless windows end where the padded image does."""
    if len(x_shape) != 4:
        raise ValueError(f"x: expected 4 dimensions (N, C, H, W), got shape {tuple(x_shape)}")
    kh, kw, stride = check_integers(1, field_height=field_height, field_width=field_width, stride=stride)
    (pad,) = check_integers(0, padding=padding)
    check_divides("height", x_shape[2], pad, kh, stride)
    check_divides("width", x_shape[3], pad, kw, stride)


def get_im2col_indices(
    x_shape: Sequence[int], field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where in a padded image each entry of the columns comes from.

    Parameters
    ----------
    x_shape
        (N, C, H, W) of the images.
    field_height, field_width
        Of the window.
    padding
        Zeros around the images.
    stride
        Distance of the windows.

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
    TypeError, ValueError
        Sizes that are no integers in range.
    """
    _check_sizes(x_shape, field_height, field_width, padding, stride)
    _, C, H, W = x_shape
    out_h = out_size("height", H, padding, field_height, stride)
    out_w = out_size("width", W, padding, field_width, stride)
    channel, row, column = np.indices((C, field_height, field_width)).reshape(3, -1, 1)
    p, q = np.indices((out_h, out_w)).reshape(2, 1, -1)
    return channel, row + stride * p, column + stride * q


def im2col_indices(x: Array, field_height: int, field_width: int, padding: int = 1, stride: int = 1) -> Array:
    """`im2col_cython` with the course's defaults and its assertion that sizes divide.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    field_height, field_width
        Of the window.
    padding
        Zeros around the images.
    stride
        Distance of the windows.

    Returns
    -------
    array (C * field_height * field_width, out_h * out_w * N)
        In the order of `im2col_cython`.

    Raises
    ------
    AssertionError
        Windows do not end where the padded image does.
    TypeError, ValueError
        x does not have four axes, or sizes are no integers in range.
    """
    _check_sizes(x.shape, field_height, field_width, padding, stride)
    return im2col_cython(x, field_height, field_width, padding, stride)


def col2im_indices(
    cols: Array, x_shape: Sequence[int], field_height: int = 3, field_width: int = 3, padding: int = 1, stride: int = 1
) -> Array:
    """`col2im_cython` with the shape of the images in one argument, the course's defaults and its assertion.

    Parameters
    ----------
    cols : array (C * field_height * field_width, out_h * out_w * N)
        In the order of `im2col_cython`.
    x_shape
        (N, C, H, W) of the images.
    field_height, field_width, padding, stride
        As of `im2col_indices`.

    Returns
    -------
    array (N, C, H, W)

    Raises
    ------
    AssertionError
        Windows do not end where the padded image does.
    TypeError, ValueError
        cols is not of that shape, or sizes are no integers in range.
    """
    _check_sizes(x_shape, field_height, field_width, padding, stride)
    N, C, H, W = x_shape
    return col2im_cython(cols, N, C, H, W, field_height, field_width, padding, stride)
