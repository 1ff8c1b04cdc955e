"""Transposed convolution: the gradient of a convolution to its images, as an operator of its own."""

from __future__ import annotations

from typing import NamedTuple

from .._geometry import ConvGeometry, IntOrPair, Padding, check_layout, conv_transpose_geometry
from ..backends import run
from ..backends.protocol import Array
from ._arguments import check_cache, check_dimensions, check_gradient, check_shape, floating_backend
from ._layout import FROM_NCHW, TO_NCHW, permuted

__all__ = ["ConvTranspose2dCache", "conv_transpose2d", "conv_transpose2d_backward"]


class ConvTranspose2dCache(NamedTuple):
    """What `conv_transpose2d_backward` needs of the forward call: the arguments themselves, no columns.

    Attributes
    ----------
    x : array (N, C, H, W)
        The images; a view in this order of axes where they were passed in another.
    w : array (C, F / groups, kh, kw)
        The filters.
    has_bias : bool
        Whether there is a db.
    geometry : ConvGeometry
        Of the convolution that goes from the result to x.
    layout : str
        In which order the gradient has its axes.
    """

    x: Array
    w: Array
    has_bias: bool
    geometry: ConvGeometry  # of the convolution that goes from the result to x
    layout: str


def conv_transpose2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    layout: str = "NCHW",
) -> tuple[Array, ConvTranspose2dCache]:
    """Spread every pixel over a window of the result, weighted by filters: the adjoint of `conv2d` with the same w.

    ``y[n, f, p * stride + i * dilation - padding, ...] = b[f] + sum over c of w[c, f, i, j] * x[n, c, p, q]``, summed
    where windows overlap (Dumoulin, Visin 2016, arXiv:1603.07285, chapter 4). No zeros are put between the pixels: it
    is computed as the input gradient of a convolution, by the same kernels.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images; float32 or float64, float16 and bfloat16 where the backend has them. Any strides.
    w : array (C, F / groups, kh, kw)
        Filters, of the dtype of x: the first axis is that of the input channels.
    b : array (F,), optional
        Bias, of the dtype of x.
    stride, dilation : int or pair
        Of the windows in the result, in pixels, (vertical, horizontal).
    padding : int, pair, two pairs, "valid" or "same"
        How much is cut off the result: the forms of `conv2d`. "same" gives ``size * stride`` outputs, as the input
        gradient of TensorFlow's SAME convolution does.
    output_padding : int or pair
        Pixels appended at the bottom and on the right, of the sizes that a convolution with stride would map to that
        of x; smaller than stride or dilation.
    groups : int
        The channels are cut into that many groups, each with its own F / groups filters.
    layout : str
        Order of the axes of x and y.

    Returns
    -------
    y : array (N, F, out_h, out_w), or (N, out_h, out_w, F)
        ``out_h = (H - 1) * stride + dilation * (kh - 1) + 1 + output_padding - 2 * padding``. May be a view that is
        not contiguous. Empty batches give empty results.
    cache : ConvTranspose2dCache
        For `conv_transpose2d_backward`.

    Raises
    ------
    TypeError
        Arrays that are not floating-point, of several dtypes or of several backends.
    ValueError
        Wrong rank, channels that do not match, groups that do not divide, padding that leaves nothing, an output
        padding of stride and dilation or more. The message names the argument.
    """
    backend = floating_backend(x=x, w=w, b=b)
    check_layout("layout", layout, ("NCHW", "NHWC"))
    check_dimensions("x", x, 4, "(N, C, H, W)" if layout == "NCHW" else "(N, H, W, C)")
    check_dimensions("w", w, 4, "(C, F/groups, kh, kw)")
    x = permuted(backend.xp, x, TO_NCHW[layout])
    geometry = conv_transpose_geometry(
        tuple(x.shape),
        tuple(w.shape),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
    )
    if b is not None:
        check_shape("b", b, (geometry.in_channels,), "(F,)")
    y = run(backend, "conv_transpose2d", x, w, b, geometry=geometry)
    return permuted(backend.xp, y, FROM_NCHW[layout]), ConvTranspose2dCache(x, w, b is not None, geometry, layout)


def conv_transpose2d_backward(
    dy: Array, cache: ConvTranspose2dCache, *, need_dx: bool = True
) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `conv_transpose2d`: dx is the convolution of dy with w.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape, layout and dtype.
    cache : ConvTranspose2dCache
        From `conv_transpose2d`.
    need_dx : bool
        False saves the work of dx, for a first layer.

    Returns
    -------
    dx : array like x, or None
    dw : array like w
    db : array (F,), or None where there was no bias

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, ConvTranspose2dCache)
    x, w, has_bias, geometry, layout = cache
    shape = (geometry.batch, geometry.in_channels, geometry.window.height, geometry.window.width)
    if layout == "NHWC":
        shape = (shape[0], shape[2], shape[3], shape[1])
    backend = check_gradient(dy, x, shape)
    dy = permuted(backend.xp, dy, TO_NCHW[layout])
    dx, dw, db = run(backend, "conv_transpose2d_backward", dy, x, w, need_dx, has_bias, geometry=geometry)
    return None if dx is None else permuted(backend.xp, dx, FROM_NCHW[layout]), dw, db
