"""Two-dimensional convolution (cross-correlation, as everywhere in deep learning) and its gradients."""

from __future__ import annotations

from typing import NamedTuple

from .._geometry import ConvGeometry, IntOrPair, Padding, check_layout, conv_geometry
from ..backends import run
from ..backends.protocol import Array
from ._arguments import check_gradient, check_shape, floating_backend

__all__ = ["Conv2dCache", "conv2d", "conv2d_backward"]


class Conv2dCache(NamedTuple):
    """What `conv2d_backward` needs of the forward call: the arguments themselves, no columns."""

    x: Array
    w: Array
    has_bias: bool
    geometry: ConvGeometry
    layout: str
    weight_layout: str


def _axes(backend_xp, array: Array, axes: tuple[int, ...] | None) -> Array:
    return array if axes is None else backend_xp.permute_dims(array, axes)


# axes that turn a layout into NCHW or OIHW and back: views, never copies
_TO_NCHW = {"NCHW": None, "NHWC": (0, 3, 1, 2)}
_FROM_NCHW = {"NCHW": None, "NHWC": (0, 2, 3, 1)}
_TO_OIHW = {"OIHW": None, "HWIO": (3, 2, 0, 1)}
_FROM_OIHW = {"OIHW": None, "HWIO": (2, 3, 1, 0)}


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
    backend = floating_backend(x=x, w=w, b=b)
    check_layout("layout", layout, ("NCHW", "NHWC"))
    check_layout("weight_layout", weight_layout, ("OIHW", "HWIO"))
    check_shape("x", x, (None,) * 4, "(N, C, H, W)" if layout == "NCHW" else "(N, H, W, C)")
    check_shape("w", w, (None,) * 4, "(F, C/groups, kh, kw)" if weight_layout == "OIHW" else "(kh, kw, C/groups, F)")
    x = _axes(backend.xp, x, _TO_NCHW[layout])
    w = _axes(backend.xp, w, _TO_OIHW[weight_layout])
    geometry = conv_geometry(
        tuple(x.shape), tuple(w.shape), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if b is not None:
        check_shape("b", b, (geometry.out_channels,), "(F,)")
    y = run(backend, "conv2d", x, w, b, geometry=geometry)
    cache = Conv2dCache(x, w, b is not None, geometry, layout, weight_layout)
    return _axes(backend.xp, y, _FROM_NCHW[layout]), cache


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
    x, w, has_bias, geometry, layout, weight_layout = cache
    window = geometry.window
    shape = (geometry.batch, geometry.out_channels, window.out_h, window.out_w)
    if layout == "NHWC":
        shape = (shape[0], shape[2], shape[3], shape[1])
    backend = check_gradient(dy, x, shape)
    dy = _axes(backend.xp, dy, _TO_NCHW[layout])
    dx, dw, db = run(backend, "conv2d_backward", dy, x, w, need_dx, has_bias, geometry=geometry)
    if dx is not None:
        dx = _axes(backend.xp, dx, _FROM_NCHW[layout])
    return dx, _axes(backend.xp, dw, _FROM_OIHW[weight_layout]), db
