"""Images to columns and back, in the two column orders of the course. Compiled where the backend has a kernel for it.

The names are those of the course's Cython extension; no extension is built. Unlike there, kernels need not be square.
"""

from __future__ import annotations

from .. import functional as F
from ..backends import backend_of
from ..backends.protocol import Array
from ._arrays import check_axes, check_integers, check_shape, on_its_device, out_size, promoted

__all__ = ["col2im_6d_cython", "col2im_cython", "im2col_cython"]


@on_its_device
def im2col_cython(x: Array, field_height: int, field_width: int, padding: int, stride: int) -> Array:
    """Copy every window of the images into a column.

    Parameters
    ----------
    x : array (N, C, H, W)
        float32 or float64.
    field_height, field_width, padding, stride : int
        Windows that would reach beyond the padding are left out.

    Returns
    -------
    array (C * field_height * field_width, out_h * out_w * N)
        Row ``(c * field_height + i) * field_width + j``; column ``(p * out_w + q) * N + n``, the batch last.

    Raises
    ------
    TypeError, ValueError
        x is not a floating-point array of four axes, or sizes are no integers in range.
    """
    backend, x = promoted(x=x)
    check_axes("(N, C, H, W)", x=x)
    field_height, field_width, stride = check_integers(
        1, field_height=field_height, field_width=field_width, stride=stride
    )
    (padding,) = check_integers(0, padding=padding)
    columns = F.im2col(x, (field_height, field_width), stride=stride, padding=padding)
    n, rows, positions = columns.shape
    return backend.xp.reshape(backend.xp.permute_dims(columns, (1, 2, 0)), (rows, positions * n))


@on_its_device
def col2im_cython(
    cols: Array, N: int, C: int, H: int, W: int, field_height: int, field_width: int, padding: int, stride: int
) -> Array:
    """Add every column back to the pixels it was copied from: the adjoint of `im2col_cython`.

    Parameters
    ----------
    cols : array (C * field_height * field_width, out_h * out_w * N)
        In the order of `im2col_cython`.
    N, C, H, W
        Shape of the images.
    field_height, field_width, padding, stride
        As of `im2col_cython`.

    Returns
    -------
    array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        cols is not of that shape, or sizes are no integers in range.
    """
    backend = backend_of(cols=cols)
    N, C, padding = check_integers(0, N=N, C=C, padding=padding)
    H, W, field_height, field_width, stride = check_integers(
        1, H=H, W=W, field_height=field_height, field_width=field_width, stride=stride
    )
    rows = C * field_height * field_width
    out_h = out_size("height", H, padding, field_height, stride)
    out_w = out_size("width", W, padding, field_width, stride)
    positions = out_h * out_w
    check_shape((rows, positions * N), "(C * field_height * field_width, out_h * out_w * N)", cols=cols)
    columns = backend.xp.permute_dims(backend.xp.reshape(cols, (rows, positions, N)), (2, 0, 1))
    return F.col2im(columns, (H, W), (field_height, field_width), stride=stride, padding=padding)


@on_its_device
def col2im_6d_cython(cols: Array, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int) -> Array:
    """Add columns back to the pixels they were copied from, in the order of `fast_layers.conv_forward_strides`.

    Parameters
    ----------
    cols : array (C, HH, WW, N, out_h, out_w)
    N, C, H, W
        Shape of the images.
    HH, WW
        Size of the window.
    pad, stride
        As of `im2col_cython`.

    Returns
    -------
    array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        cols is not of that shape, or sizes are no integers in range.
    """
    backend = backend_of(cols=cols)
    N, C, pad = check_integers(0, N=N, C=C, pad=pad)
    H, W, HH, WW, stride = check_integers(1, H=H, W=W, HH=HH, WW=WW, stride=stride)
    out_h, out_w = out_size("height", H, pad, HH, stride), out_size("width", W, pad, WW, stride)
    check_shape((C, HH, WW, N, out_h, out_w), "(C, HH, WW, N, out_h, out_w)", cols=cols)
    columns = backend.xp.reshape(backend.xp.permute_dims(cols, (3, 0, 1, 2, 4, 5)), (N, C * HH * WW, out_h * out_w))
    return F.col2im(columns, (H, W), (HH, WW), stride=stride, padding=pad)
