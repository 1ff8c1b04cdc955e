"""im2col and col2im, the pair behind convolution; `col2im` is the adjoint of `im2col`."""

from __future__ import annotations

from collections.abc import Sequence

from .._geometry import IntOrPair, Padding, conv_window, to_pair
from ..backends import run
from ..backends.protocol import Array
from ._arguments import check_dimensions, check_shape, floating_backend

__all__ = ["col2im", "im2col"]


def im2col(
    x: Array, kernel_size: IntOrPair, *, stride: IntOrPair = 1, padding: Padding = 0, dilation: IntOrPair = 1
) -> Array:
    """Copy every window of the images into a column, as `torch.nn.functional.unfold` does.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images, floating-point.
    kernel_size, stride, dilation : int or pair
        In pixels, (vertical, horizontal).
    padding : int, pair, two pairs, "valid" or "same"
        Zeros around the image; see `conv2d`.

    Returns
    -------
    array (N, C * kh * kw, out_h * out_w)
        Row ``(c * kh + i) * kw + j`` holds tap (i, j) of channel c; columns run over output pixels row by row.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend = floating_backend(x=x)
    check_dimensions("x", x, 4, "(N, C, H, W)")
    window = conv_window(x.shape[2:], kernel_size, stride, padding, dilation)
    return run(backend, "im2col", x, geometry=window)


def col2im(
    cols: Array,
    image_size: Sequence[int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Add every column back to the pixels it was copied from: the adjoint of `im2col`, `torch.nn.functional.fold`.

    Parameters
    ----------
    cols : array (N, C * kh * kw, out_h * out_w)
        Columns in the order of `im2col`.
    image_size : pair
        (H, W) of the result.
    kernel_size, stride, padding, dilation
        As for `im2col`.

    Returns
    -------
    array (N, C, H, W)
        Sums: a pixel that k windows contain gets k contributions.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend = floating_backend(cols=cols)
    window = conv_window(to_pair("image_size", image_size), kernel_size, stride, padding, dilation)
    check_shape("cols", cols, (None, None, window.positions), "(N, C * kh * kw, out_h * out_w)")
    if cols.shape[1] % window.taps:
        raise ValueError(
            f"cols: {cols.shape[1]} rows are no multiple of kh * kw = {window.kernel_h} * {window.kernel_w}"
        )
    return run(backend, "col2im", cols, geometry=window)
