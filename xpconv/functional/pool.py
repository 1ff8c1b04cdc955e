"""Pooling: the maximum or the mean of windows that slide over each channel."""

from __future__ import annotations

from typing import NamedTuple

from .._geometry import IntOrPair, Padding, Window, check_layout, pool_window, to_pair
from ..backends import backend_of, run
from ..backends.protocol import Array, Backend
from ._arguments import check_cache, check_dimensions, check_gradient, floating_backend
from ._layout import FROM_NCHW, TO_NCHW, permuted

__all__ = [
    "AdaptiveAvgPool2dCache",
    "AvgPool2dCache",
    "GlobalAvgPool2dCache",
    "MaxPool2dCache",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

_LAYOUTS = {"NCHW": "(N, C, H, W)", "NHWC": "(N, H, W, C)"}


def _channels_second(x: Array, layout: str) -> tuple[Backend, Array]:
    """Check the images; return their backend and their view (N, C, H, W)."""
    backend = floating_backend(x=x)
    check_layout("layout", layout, tuple(_LAYOUTS))
    check_dimensions("x", x, 4, _LAYOUTS[layout])
    return backend, permuted(backend.xp, x, TO_NCHW[layout])


def _in_layout(shape: tuple[int, int, int, int], layout: str) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return shape if layout == "NCHW" else (n, h, w, c)


def _check_pixels(x: Array) -> None:
    if 0 in x.shape[2:]:
        raise ValueError(f"x: images need at least one pixel, got height {x.shape[2]} and width {x.shape[3]}")


class MaxPool2dCache(NamedTuple):
    """What `max_pool2d_backward` needs of the forward call: where the maxima were.

    Attributes
    ----------
    argmax : integer array (N, C, out_h, out_w)
        Which tap of its window, counted row by row, is the first maximum.
    dtype : str
        Of x and the result.
    window : Window
        Image size, window size, strides and paddings, checked.
    layout : str
        In which order x and the result have their axes.
    """

    argmax: Array
    dtype: str
    window: Window
    layout: str


def max_pool2d(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> tuple[Array, MaxPool2dCache]:
    """Maximum of each window, channel by channel.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images, floating-point. A NaN in a window is its maximum.
    kernel_size : int or pair
        Height and width of the window.
    stride : int or pair, optional
        Distance of the windows; ``kernel_size`` if None.
    padding : int, pair, two pairs, "valid" or "same"
        Frame around the image, never chosen as maximum; the forms are those of `conv2d`.
    dilation : int or pair
        Distance of the pixels inside a window.
    ceil_mode : bool
        Keep a last window that reaches beyond the frame, instead of dropping the pixels left over.
    layout : str
        Order of the axes of x and y.

    Returns
    -------
    y : array (N, C, out_h, out_w), or (N, out_h, out_w, C)
    cache : MaxPool2dCache
        For `max_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also where a window would see nothing but
        padding.
    """
    backend, x = _channels_second(x, layout)
    window = pool_window(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    y, argmax = run(backend, "max_pool2d", x, geometry=window)
    cache = MaxPool2dCache(argmax, backend.dtype_name(x), window, layout)
    return permuted(backend.xp, y, FROM_NCHW[layout]), cache


def max_pool2d_backward(dy: Array, cache: MaxPool2dCache) -> Array:
    """Gradient of `max_pool2d`: each dy goes to the pixel that was the maximum, the first one of equals.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape, layout and dtype.
    cache : MaxPool2dCache
        From `max_pool2d`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape, dtype or backend than the result.
    """
    check_cache(cache, MaxPool2dCache)
    argmax, dtype, window, layout = cache
    backend = check_gradient(dy, None, _in_layout(argmax.shape, layout), dtype=dtype)
    backend_of(argmax=argmax, dy=dy)
    wanted = "uint8" if window.taps <= 255 else "int32"
    if backend.dtype_name(argmax) != wanted:
        raise TypeError(f"cache.argmax: expected {wanted}, as max_pool2d gives it, got {backend.dtype_name(argmax)}")
    dy = permuted(backend.xp, dy, TO_NCHW[layout])
    dx = run(backend, "max_pool2d_backward", dy, argmax, geometry=window)
    return permuted(backend.xp, dx, FROM_NCHW[layout])


class AvgPool2dCache(NamedTuple):
    """What `avg_pool2d_backward` needs of the forward call: no arrays.

    Attributes
    ----------
    shape : tuple of int
        Of the result, (N, C, out_h, out_w).
    dtype : str
        Of x and the result.
    count_include_pad : bool
        The argument.
    window : Window
        Image size, window size, strides and paddings, checked.
    layout : str
        In which order x and the result have their axes.
    """

    shape: tuple[int, int, int, int]  # of the result, (N, C, out_h, out_w)
    dtype: str
    count_include_pad: bool
    window: Window
    layout: str


def avg_pool2d(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCHW",
) -> tuple[Array, AvgPool2dCache]:
    """Mean of each window, channel by channel.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images, floating-point; half precision is added up in float32.
    kernel_size : int or pair
        Height and width of the window.
    stride : int or pair, optional
        Distance of the windows; ``kernel_size`` if None.
    padding : int, pair, two pairs, "valid" or "same"
        Zeros around the image; the forms are those of `conv2d`.
    ceil_mode : bool
        Keep a last window that reaches beyond the frame; pixels out there never count.
    count_include_pad : bool
        Whether the zeros count in the mean; if not, it is that of the pixels of the image alone. It says so for "same"
        too: TensorFlow's mean, which never counts them, is that of False.
    layout : str
        Order of the axes of x and y; with "NHWC" y is channels last in memory too on NumPy, and nothing is copied.

    Returns
    -------
    y : array (N, C, out_h, out_w), or (N, out_h, out_w, C)
    cache : AvgPool2dCache
        For `avg_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes; also where a window would see nothing but
        padding.
    """
    backend, x = _channels_second(x, layout)
    window = pool_window(x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    y = run(backend, "avg_pool2d", x, bool(count_include_pad), geometry=window)
    cache = AvgPool2dCache(tuple(y.shape), backend.dtype_name(x), bool(count_include_pad), window, layout)
    return permuted(backend.xp, y, FROM_NCHW[layout]), cache


def avg_pool2d_backward(dy: Array, cache: AvgPool2dCache) -> Array:
    """Gradient of `avg_pool2d`: the pixels of a window get equal shares of its dy.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape, layout and dtype.
    cache : AvgPool2dCache
        From `avg_pool2d`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape or dtype than the result.
    """
    check_cache(cache, AvgPool2dCache)
    shape, dtype, count_include_pad, window, layout = cache
    backend = check_gradient(dy, None, _in_layout(shape, layout), dtype=dtype)
    dy = permuted(backend.xp, dy, TO_NCHW[layout])
    dx = run(backend, "avg_pool2d_backward", dy, count_include_pad, geometry=window)
    return permuted(backend.xp, dx, FROM_NCHW[layout])


class GlobalAvgPool2dCache(NamedTuple):
    """What `global_avg_pool2d_backward` needs of the forward call: no arrays.

    Attributes
    ----------
    shape : tuple of int
        Of the result.
    dtype : str
        Of x and the result.
    image_size : pair of int
        (H, W) of x.
    layout : str
        In which order x has its axes.
    """

    shape: tuple[int, ...]  # of the result
    dtype: str
    image_size: tuple[int, int]
    layout: str


def global_avg_pool2d(x: Array, *, keepdims: bool = False, layout: str = "NCHW") -> tuple[Array, GlobalAvgPool2dCache]:
    """Mean of each channel over the whole image.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images of at least one pixel, floating-point.
    keepdims : bool
        Keep the two axes, with length one.
    layout : str
        Order of the axes of x.

    Returns
    -------
    y : array (N, C); with ``keepdims`` (N, C, 1, 1), or (N, 1, 1, C)
    cache : GlobalAvgPool2dCache
        For `global_avg_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend, x = _channels_second(x, layout)
    _check_pixels(x)
    y = run(backend, "adaptive_avg_pool2d", x, (1, 1))
    y = permuted(backend.xp, y, FROM_NCHW[layout]) if keepdims else y[:, :, 0, 0]
    return y, GlobalAvgPool2dCache(tuple(y.shape), backend.dtype_name(x), tuple(x.shape[2:]), layout)


def global_avg_pool2d_backward(dy: Array, cache: GlobalAvgPool2dCache) -> Array:
    """Gradient of `global_avg_pool2d`: every pixel gets an equal share of its channel's dy.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape and dtype.
    cache : GlobalAvgPool2dCache
        From `global_avg_pool2d`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape or dtype than the result.
    """
    check_cache(cache, GlobalAvgPool2dCache)
    shape, dtype, image_size, layout = cache
    backend = check_gradient(dy, None, shape, dtype=dtype)
    dy = dy[:, :, None, None] if len(shape) == 2 else permuted(backend.xp, dy, TO_NCHW[layout])
    dx = run(backend, "adaptive_avg_pool2d_backward", dy, image_size)
    return permuted(backend.xp, dx, FROM_NCHW[layout])


class AdaptiveAvgPool2dCache(NamedTuple):
    """What `adaptive_avg_pool2d_backward` needs of the forward call: no arrays.

    Attributes
    ----------
    shape : tuple of int
        Of the result, (N, C, out_h, out_w).
    dtype : str
        Of x and the result.
    image_size : pair of int
        (H, W) of x.
    layout : str
        In which order x and the result have their axes.
    """

    shape: tuple[int, int, int, int]  # of the result, (N, C, out_h, out_w)
    dtype: str
    image_size: tuple[int, int]
    layout: str


def adaptive_avg_pool2d(
    x: Array, output_size: IntOrPair, *, layout: str = "NCHW"
) -> tuple[Array, AdaptiveAvgPool2dCache]:
    """Mean of each channel over a grid of bins, so that the result has a given size whatever that of the image.

    Bin k of n reaches over pixels ``floor(k * size / n)`` up to, not including, ``ceil((k + 1) * size / n)``, as in
    PyTorch: neighbours share pixels unless n divides the size.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images of at least one pixel, floating-point.
    output_size : int or pair
        (out_h, out_w); may be larger than the image.
    layout : str
        Order of the axes of x and y.

    Returns
    -------
    y : array (N, C, out_h, out_w), or (N, out_h, out_w, C)
    cache : AdaptiveAvgPool2dCache
        For `adaptive_avg_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes.
    """
    backend, x = _channels_second(x, layout)
    size = to_pair("output_size", output_size)
    _check_pixels(x)
    y = run(backend, "adaptive_avg_pool2d", x, size)
    cache = AdaptiveAvgPool2dCache(tuple(y.shape), backend.dtype_name(x), tuple(x.shape[2:]), layout)
    return permuted(backend.xp, y, FROM_NCHW[layout]), cache


def adaptive_avg_pool2d_backward(dy: Array, cache: AdaptiveAvgPool2dCache) -> Array:
    """Gradient of `adaptive_avg_pool2d`: the pixels of a bin get equal shares of its dy.

    Parameters
    ----------
    dy : array
        Gradient of the loss to the result, in its shape, layout and dtype.
    cache : AdaptiveAvgPool2dCache
        From `adaptive_avg_pool2d`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dy has another shape or dtype than the result.
    """
    check_cache(cache, AdaptiveAvgPool2dCache)
    shape, dtype, image_size, layout = cache
    backend = check_gradient(dy, None, _in_layout(shape, layout), dtype=dtype)
    dx = run(backend, "adaptive_avg_pool2d_backward", permuted(backend.xp, dy, TO_NCHW[layout]), image_size)
    return permuted(backend.xp, dx, FROM_NCHW[layout])
