"""Convolution in one and two dimensions (cross-correlation, as everywhere in deep learning) and its gradients."""

from __future__ import annotations

from typing import NamedTuple

from .._geometry import ConvGeometry, IntOrPair, Padding, check_layout, conv1d_arguments, conv_geometry
from ..backends import run
from ..backends.protocol import Array
from ._arguments import check_cache, check_dimensions, check_gradient, check_shape, floating_backend
from ._layout import FROM_NCHW, FROM_OIHW, TO_NCHW, TO_OIHW, permuted

__all__ = ["Conv1dCache", "Conv2dCache", "conv1d", "conv1d_backward", "conv2d", "conv2d_backward", "conv2d_relu"]


class Conv2dCache(NamedTuple):
    """What `conv2d_backward` needs of the forward call: the arguments themselves, no columns.

    Attributes
    ----------
    x : array (N, C, H, W)
        The images; a view in this order of axes where they were passed in another.
    w : array (F, C / groups, kh, kw)
        The filters, likewise.
    has_bias : bool
        Whether there is a db.
    geometry : ConvGeometry
        All lengths, strides and paddings, checked.
    layout, weight_layout : str
        In which order the gradients have their axes.
    """

    x: Array
    w: Array
    has_bias: bool
    geometry: ConvGeometry
    layout: str
    weight_layout: str


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
) -> tuple[Array, Conv2dCache]:
    """Convolve a batch of images with a bank of filters.

    ``y[n, f, p, q] = b[f] + sum over c, i, j of w[f, c, i, j] * x[n, c, p * stride + i * dilation - padding, ...]``,
    the cross-correlation of Goodfellow, Bengio, Courville, *Deep Learning* (2016), eq. 9.6.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images; float32 or float64, float16 and bfloat16 where the backend has them. Any strides.
    w : array (F, C / groups, kh, kw), or (kh, kw, C / groups, F) with ``weight_layout="HWIO"``
        Filters, of the dtype of x.
    b : array (F,), optional
        Bias, of the dtype of x.
    stride, dilation : int or pair
        In pixels, (vertical, horizontal).
    padding : int, pair, two pairs, "valid" or "same"
        Zeros around the image: the same on all sides, (vertical, horizontal), ((top, bottom), (left, right)), none, or
        as many as give ``ceil(size / stride)`` outputs (TensorFlow's SAME: an odd pixel goes to the bottom or right).
    groups : int
        The channels are cut into that many groups, each convolved with its own F / groups filters.
    layout, weight_layout : str
        Order of the axes of images and of filters.

    Returns
    -------
    y : array (N, F, out_h, out_w), or (N, out_h, out_w, F)
        May be a view that is not contiguous. Empty batches give empty results.
    cache : Conv2dCache
        For `conv2d_backward`.

    Raises
    ------
    TypeError
        Arrays that are not floating-point, of several dtypes or of several backends.
    ValueError
        Wrong rank, channels that do not match, groups that do not divide, a kernel larger than the padded input, a
        stride below one. The message names the argument.
    """
    return _convolve("conv2d", x, w, b, stride, padding, dilation, groups, layout, weight_layout)


def conv2d_relu(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
) -> tuple[Array, Conv2dCache]:
    """``max(conv2d(x), 0)`` in one pass over the memory, where there is a kernel for it; see `conv2d`.

    The cache is that of `conv2d`: on the way back comes `relu_backward`, with the result, and then `conv2d_backward`.

    Parameters
    ----------
    x, w, b, stride, padding, dilation, groups, layout, weight_layout
        As for `conv2d`: x is an array (N, C, H, W), w (F, C / groups, kh, kw), b (F,).

    Returns
    -------
    y : array (N, F, out_h, out_w), or (N, out_h, out_w, F)
        At least 0; NaN stays NaN.
    cache : Conv2dCache
        That of `conv2d`.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`.
    """
    return _convolve("conv2d_relu", x, w, b, stride, padding, dilation, groups, layout, weight_layout)


def _convolve(
    operator: str,
    x: Array,
    w: Array,
    b: Array | None,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
    layout: str,
    weight_layout: str,
) -> tuple[Array, Conv2dCache]:
    """Check the arguments and run ``operator``."""
    backend = floating_backend(x=x, w=w, b=b)
    check_layout("layout", layout, ("NCHW", "NHWC"))
    check_layout("weight_layout", weight_layout, ("OIHW", "HWIO"))
    check_dimensions("x", x, 4, "(N, C, H, W)" if layout == "NCHW" else "(N, H, W, C)")
    check_dimensions("w", w, 4, "(F, C/groups, kh, kw)" if weight_layout == "OIHW" else "(kh, kw, C/groups, F)")
    if layout != "NCHW":
        x = permuted(backend.xp, x, TO_NCHW[layout])
    if weight_layout != "OIHW":
        w = permuted(backend.xp, w, TO_OIHW[weight_layout])
    geometry = conv_geometry(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if b is not None:
        check_shape("b", b, (geometry.out_channels,), "(F,)")
    y = run(backend, operator, x, w, b, geometry=geometry)
    cache = Conv2dCache(x, w, b is not None, geometry, layout, weight_layout)
    return y if layout == "NCHW" else permuted(backend.xp, y, FROM_NCHW[layout]), cache


def conv2d_backward(dy: Array, cache: Conv2dCache, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `conv2d`.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape, layout and dtype.
    cache : Conv2dCache
        From `conv2d`.
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
    check_cache(cache, Conv2dCache)
    x, w, has_bias, geometry, layout, weight_layout = cache
    window = geometry.window
    shape = (geometry.batch, geometry.out_channels, window.out_h, window.out_w)
    if layout == "NHWC":
        shape = (shape[0], shape[2], shape[3], shape[1])
    backend = check_gradient(dy, x, shape)
    dy = permuted(backend.xp, dy, TO_NCHW[layout])
    dx, dw, db = run(backend, "conv2d_backward", dy, x, w, need_dx, has_bias, geometry=geometry)
    if dx is not None:
        dx = permuted(backend.xp, dx, FROM_NCHW[layout])
    return dx, permuted(backend.xp, dw, FROM_OIHW[weight_layout]), db


class Conv1dCache(NamedTuple):
    """What `conv1d_backward` needs of the forward call: the convolution of images of height one.

    Attributes
    ----------
    conv2d : Conv2dCache
        Of that convolution.
    """

    conv2d: Conv2dCache


def conv1d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> tuple[Array, Conv1dCache]:
    """Convolve a batch of signals with a bank of filters: `conv2d` along one axis.

    Parameters
    ----------
    x : array (N, C, L)
        Signals, floating-point.
    w : array (F, C / groups, k)
        Filters, of the dtype of x.
    b : array (F,), optional
        Bias, of the dtype of x.
    stride, dilation, groups : int
        As for `conv2d`.
    padding : int, pair, "valid" or "same"
        Zeros at both ends, (before, behind), none, or as many as give ``ceil(L / stride)`` outputs.

    Returns
    -------
    y : array (N, F, out)
    cache : Conv1dCache
        For `conv1d_backward`.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`, which sees the signals as images of height one.
    """
    floating_backend(x=x, w=w, b=b)
    check_dimensions("x", x, 3, "(N, C, L)")
    check_dimensions("w", w, 3, "(F, C/groups, k)")
    steps, pads, spread = conv1d_arguments(stride, padding, dilation)
    y, cache = conv2d(x[:, :, None, :], w[:, :, None, :], b, stride=steps, padding=pads, dilation=spread, groups=groups)
    return y[:, :, 0, :], Conv1dCache(cache)


def conv1d_backward(dy: Array, cache: Conv1dCache, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `conv1d`.

    Parameters
    ----------
    dy : array (N, F, out)
        Gradient of the loss to the result, in its dtype.
    cache : Conv1dCache
        From `conv1d`.
    need_dx : bool
        False saves the work of dx, for a first layer.

    Returns
    -------
    dx : array (N, C, L), or None
    dw : array (F, C / groups, k)
    db : array (F,), or None where there was no bias

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, Conv1dCache)
    geometry = cache.conv2d.geometry
    check_gradient(dy, cache.conv2d.x, (geometry.batch, geometry.out_channels, geometry.window.out_w))
    dx, dw, db = conv2d_backward(dy[:, :, None, :], cache.conv2d, need_dx=need_dx)
    return None if dx is None else dx[:, :, 0, :], dw[:, :, 0, :], db
