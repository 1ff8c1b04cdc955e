"""The fast convolution and pooling of the course, on the kernels of xpconv.

`conv_forward_fast` and `max_pool_forward_fast` are the ones to use. The others keep the course's names and forms:
``im2col`` and ``strides`` multiply columns in the two orders of `im2col_cython` and keep them for the backward pass.
"""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..backends import backend_of
from ..backends.protocol import Array
from ..functional._arguments import check_cache
from ..functional.conv import Conv2dCache
from ..functional.pool import AvgPool2dCache, MaxPool2dCache
from ._arrays import (
    check_divides,
    check_gradient,
    check_window,
    conv_sizes,
    on_its_device,
    pool_sizes,
    promoted,
    widest,
)
from .im2col_cython import col2im_6d_cython, col2im_cython, im2col_cython

__all__ = [
    "avg_pool_backward_fast",
    "avg_pool_backward_im2col",
    "avg_pool_backward_reshape",
    "avg_pool_forward_fast",
    "avg_pool_forward_im2col",
    "avg_pool_forward_reshape",
    "conv_backward_fast",
    "conv_backward_im2col",
    "conv_backward_strides",
    "conv_forward_fast",
    "conv_forward_im2col",
    "conv_forward_strides",
    "max_pool_backward_fast",
    "max_pool_backward_im2col",
    "max_pool_backward_reshape",
    "max_pool_forward_fast",
    "max_pool_forward_im2col",
    "max_pool_forward_reshape",
]


# ---- convolution ------------------------------------------------------------------------------------------------


@on_its_device
def conv_forward_fast(x: Array, w: Array, b: Array, conv_param: dict) -> tuple[Array, Any]:
    """Convolution, by the fastest kernel of the backend; `xpconv.functional.conv2d` with the course's arguments.

    Parameters
    ----------
    x : array (N, C, H, W)
    w : array (F, C, HH, WW)
    b : array (F,)
    conv_param : dict
        ``stride`` and ``pad``.

    Returns
    -------
    out : array (N, F, H', W')
        ``H' = 1 + (H + 2 * pad - HH) // stride``, W' likewise. May be a view that is not contiguous.
    cache
        For `conv_backward_fast`.

    Raises
    ------
    TypeError, ValueError
        As `layers.conv_forward_naive`.
    """
    _, x, w, b = promoted(x=x, w=w, b=b)
    stride, pad, _, _ = conv_sizes(x, w, b, conv_param)
    return F.conv2d(x, w, b, stride=stride, padding=pad)


@on_its_device
def conv_backward_fast(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients of `conv_forward_fast`: dx (N, C, H, W), dw (F, C, HH, WW), db (F,).

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache
        From `conv_forward_fast`.

    Returns
    -------
    dx : array (N, C, H, W)
    dw : array (F, C, HH, WW)
    db : array (F,)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    check_cache(cache, Conv2dCache)
    _, dout, x, w = promoted(dout=dout, x=cache.x, w=cache.w)
    size, window = cache.geometry, cache.geometry.window
    check_gradient(dout, (size.batch, size.out_channels, window.out_h, window.out_w))
    dx, dw, db = F.conv2d_backward(dout, cache._replace(x=x, w=w))
    assert dx is not None
    assert db is not None
    return dx, dw, db


@on_its_device
def conv_forward_im2col(x: Array, w: Array, b: Array, conv_param: dict) -> tuple[Array, tuple]:
    """Convolution as one matrix product with the columns of `im2col_cython`; arguments as of `conv_forward_fast`.

    The cache is (x, w, b, conv_param, x_cols).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    w : array (F, C, HH, WW)
        Filters.
    b : array (F,)
        Biases.
    conv_param : dict
        ``stride`` and ``pad``.

    Returns
    -------
    out : array (N, F, H', W')
    cache : tuple (x, w, b, conv_param, x_cols)

    Raises
    ------
    AssertionError
        ``H + 2 * pad - HH`` or ``W + 2 * pad - WW`` is no multiple of the stride.
    TypeError, ValueError
        As `layers.conv_forward_naive`.
    """
    backend, x, w, b = promoted(x=x, w=w, b=b)
    stride, pad, out_h, out_w = conv_sizes(x, w, b, conv_param)
    xp, (n, _, height, width), (f, _, kh, kw) = backend.xp, x.shape, w.shape
    check_divides("width", width, pad, kw, stride)
    check_divides("height", height, pad, kh, stride)
    x_cols = im2col_cython(x, kh, kw, pad, stride)
    product = backend.gemm(xp.reshape(w, (f, -1)), x_cols) + xp.reshape(b, (-1, 1))
    out = xp.permute_dims(xp.reshape(product, (f, out_h, out_w, n)), (3, 0, 1, 2))
    return out, (x, w, b, conv_param, x_cols)


@on_its_device
def conv_backward_im2col(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `conv_forward_im2col`.

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache : tuple (x, w, b, conv_param, x_cols)
        From `conv_forward_im2col`.

    Returns
    -------
    dx : array (N, C, H, W)
    dw : array (F, C, HH, WW)
    db : array (F,)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x, w, b, conv_param, x_cols = cache
    backend, dout, x, w, x_cols = promoted(dout=dout, x=x, w=w, x_cols=x_cols)
    stride, pad, _, _ = conv_sizes(x, w, b, conv_param, dout)
    xp, (n, c, height, width), (f, _, kh, kw) = backend.xp, x.shape, w.shape
    rows = xp.reshape(xp.permute_dims(dout, (1, 2, 3, 0)), (f, -1))
    dw = xp.reshape(backend.gemm(rows, xp.matrix_transpose(x_cols)), w.shape)
    dx_cols = backend.gemm(xp.matrix_transpose(xp.reshape(w, (f, -1))), rows)
    dx = col2im_cython(dx_cols, n, c, height, width, kh, kw, pad, stride)
    return dx, dw, xp.sum(dout, axis=(0, 2, 3))


@on_its_device
def conv_forward_strides(x: Array, w: Array, b: Array, conv_param: dict) -> tuple[Array, tuple]:
    """Convolution as one matrix product with columns ordered (C, HH, WW) x (N, H', W').

    Arguments as of `conv_forward_fast`; the cache is (x, w, b, conv_param, x_cols).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    w : array (F, C, HH, WW)
        Filters.
    b : array (F,)
        Biases.
    conv_param : dict
        ``stride`` and ``pad``.

    Returns
    -------
    out : array (N, F, H', W')
    cache : tuple (x, w, b, conv_param, x_cols)

    Raises
    ------
    TypeError, ValueError
        As `layers.conv_forward_naive`.
    """
    backend, x, w, b = promoted(x=x, w=w, b=b)
    stride, pad, out_h, out_w = conv_sizes(x, w, b, conv_param)
    xp, n, (f, _, kh, kw) = backend.xp, x.shape[0], w.shape
    columns = F.im2col(x, (kh, kw), stride=stride, padding=pad)
    x_cols = xp.reshape(xp.permute_dims(columns, (1, 0, 2)), (columns.shape[1], n * columns.shape[2]))
    product = backend.gemm(xp.reshape(w, (f, -1)), x_cols) + xp.reshape(b, (-1, 1))
    out = xp.permute_dims(xp.reshape(product, (f, n, out_h, out_w)), (1, 0, 2, 3))
    return out, (x, w, b, conv_param, x_cols)


@on_its_device
def conv_backward_strides(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `conv_forward_strides`.

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache : tuple (x, w, b, conv_param, x_cols)
        From `conv_forward_strides`.

    Returns
    -------
    dx : array (N, C, H, W)
    dw : array (F, C, HH, WW)
    db : array (F,)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x, w, b, conv_param, x_cols = cache
    backend, dout, x, w, x_cols = promoted(dout=dout, x=x, w=w, x_cols=x_cols)
    stride, pad, _, _ = conv_sizes(x, w, b, conv_param, dout)
    xp, (n, c, height, width), (f, _, kh, kw) = backend.xp, x.shape, w.shape
    rows = xp.reshape(xp.permute_dims(dout, (1, 0, 2, 3)), (f, -1))
    dw = xp.reshape(backend.gemm(rows, xp.matrix_transpose(x_cols)), w.shape)
    dx_cols = backend.gemm(xp.matrix_transpose(xp.reshape(w, (f, -1))), rows)
    dx_cols = xp.reshape(dx_cols, (c, kh, kw, n, *dout.shape[2:]))
    dx = col2im_6d_cython(dx_cols, n, c, height, width, kh, kw, pad, stride)
    return dx, dw, xp.sum(dout, axis=(0, 2, 3))


# ---- pooling ----------------------------------------------------------------------------------------------------


def _tiles(x: Array, pool_param: dict) -> bool:
    """Whether the windows are square and cover the image without overlap or rest."""
    height, width, stride = check_window(x, pool_param)
    return height == width == stride and x.shape[2] % height == 0 and x.shape[3] % width == 0


def _split(x: Array, pool_param: dict) -> Array:
    """Images as (N, C, H', pool_height, W', pool_width)."""
    height, width, stride = check_window(x, pool_param)
    if not height == width == stride:
        raise AssertionError(
            f"Invalid pool params: the reshape form needs equal pool_height, pool_width and stride, got {height}, "
            f"{width} and {stride}"
        )
    n, c, h, w = x.shape
    if h % height or w % width:
        raise AssertionError(
            f"Invalid pool params: the reshape form needs windows that tile the image, got windows of {height} x "
            f"{width} and images of {h} x {w}"
        )
    return backend_of(x=x).xp.reshape(x, (n, c, h // height, height, w // width, width))


def _in_the_wider(dout: Array, cache: Any) -> tuple[Array, Any]:
    """Both in the wider dtype of the gradient and of the forward result: xpconv's operators take one alone."""
    backend, dout = promoted(dout=dout)
    dtype = widest(backend.dtype_name(dout), cache.dtype)
    return backend.astype(dout, dtype), cache._replace(dtype=dtype)


def _by_method(cache: tuple, backward: dict[str, Any], dout: Array) -> Array:
    method, real_cache = cache
    if method not in backward:
        raise ValueError(f"cache: Unrecognized method {method!r}, expected {' or '.join(map(repr, backward))}")
    return backward[method](dout, real_cache)


@on_its_device
def max_pool_forward_fast(x: Array, pool_param: dict) -> tuple[Array, tuple]:
    """Max pooling: the reshape form where square windows tile the image, else the im2col form, which takes any.

    They differ where several pixels of a window are its maximum: the reshape form divides the gradient between them,
    the im2col form gives it to the first. Call the latter by its name where that matters.

    Parameters
    ----------
    x : array (N, C, H, W)
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache : tuple ("reshape" or "im2col", cache of that form)

    Raises
    ------
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    if _tiles(x, pool_param):
        out, cache = max_pool_forward_reshape(x, pool_param)
        return out, ("reshape", cache)
    out, other = max_pool_forward_im2col(x, pool_param)
    return out, ("im2col", other)


@on_its_device
def max_pool_backward_fast(dout: Array, cache: tuple) -> Array:
    """Gradient of `max_pool_forward_fast`, by the form that the forward pass has chosen.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `max_pool_forward_fast`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    return _by_method(cache, {"reshape": max_pool_backward_reshape, "im2col": max_pool_backward_im2col}, dout)


@on_its_device
def max_pool_forward_reshape(x: Array, pool_param: dict) -> tuple[Array, tuple]:
    """Max pooling of square windows that tile the image, by a reshape; the cache is (x, x_reshaped, out).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache
        What the backward function needs.

    Raises
    ------
    AssertionError
        pool_height, pool_width and stride differ, or do not divide the image.
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    backend, x = promoted(x=x)
    x_reshaped = _split(x, pool_param)
    out = backend.xp.max(backend.xp.max(x_reshaped, axis=5), axis=3)
    return out, (x, x_reshaped, out)


@on_its_device
def max_pool_backward_reshape(dout: Array, cache: tuple) -> Array:
    """Gradient of `max_pool_forward_reshape`, divided equally between the pixels that are the maximum of a window.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `max_pool_forward_reshape`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x, x_reshaped, out = cache
    backend, dout, x = promoted(dout=dout, x=x)
    check_gradient(dout, tuple(out.shape))
    xp = backend.xp
    # where a NaN is the maximum, it is the pixels that are NaN
    hits = (x_reshaped == out[:, :, :, None, :, None]) | (x_reshaped != x_reshaped)
    count = xp.sum(backend.astype(hits, x.dtype), axis=(3, 5))
    share = (dout / count)[:, :, :, None, :, None]
    return xp.reshape(backend.keep(hits, xp.broadcast_to(share, hits.shape)), x.shape)


@on_its_device
def max_pool_forward_im2col(x: Array, pool_param: dict) -> tuple[Array, Any]:
    """Max pooling of any windows: not square, overlapping, or leaving out pixels at the end.

    Arguments as of `max_pool_forward_fast`; it is `xpconv.functional.max_pool2d`.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache
        That of the operator.

    Raises
    ------
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    _, x = promoted(x=x)
    height, width, stride, _, _ = pool_sizes(x, pool_param)
    return F.max_pool2d(x, (height, width), stride=stride)


@on_its_device
def max_pool_backward_im2col(dout: Array, cache: Any) -> Array:
    """Gradient of `max_pool_forward_im2col`: all of it goes to the first maximum of each window.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `max_pool_forward_im2col`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    check_cache(cache, MaxPool2dCache)
    check_gradient(dout, cache.argmax.shape)
    return F.max_pool2d_backward(*_in_the_wider(dout, cache))


@on_its_device
def avg_pool_forward_fast(x: Array, pool_param: dict) -> tuple[Array, tuple]:
    """Average pooling; arguments, results and the choice of the form as of `max_pool_forward_fast`.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache
        The form, "reshape" or "im2col", and its cache.

    Raises
    ------
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    if _tiles(x, pool_param):
        out, cache = avg_pool_forward_reshape(x, pool_param)
        return out, ("reshape", cache)
    out, other = avg_pool_forward_im2col(x, pool_param)
    return out, ("im2col", other)


@on_its_device
def avg_pool_backward_fast(dout: Array, cache: tuple) -> Array:
    """Gradient of `avg_pool_forward_fast`.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `avg_pool_forward_fast`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    return _by_method(cache, {"reshape": avg_pool_backward_reshape, "im2col": avg_pool_backward_im2col}, dout)


@on_its_device
def avg_pool_forward_reshape(x: Array, pool_param: dict) -> tuple[Array, tuple]:
    """Average pooling of square windows that tile the image, by a reshape; the cache is the reshaped shape of x.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache
        What the backward function needs.

    Raises
    ------
    AssertionError
        pool_height, pool_width and stride differ, or do not divide the image.
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    backend, x = promoted(x=x)
    x_reshaped = _split(x, pool_param)
    return backend.xp.mean(x_reshaped, axis=(3, 5)), tuple(x_reshaped.shape)


@on_its_device
def avg_pool_backward_reshape(dout: Array, cache: tuple) -> Array:
    """Gradient of `avg_pool_forward_reshape`: the pixels of a window get equal shares.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `avg_pool_forward_reshape`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    backend, dout = promoted(dout=dout)
    n, c, out_h, height, out_w, width = cache
    check_gradient(dout, (n, c, out_h, out_w))
    share = (dout / (height * width))[:, :, :, None, :, None]
    return backend.xp.reshape(backend.xp.broadcast_to(share, cache), (n, c, out_h * height, out_w * width))


@on_its_device
def avg_pool_forward_im2col(x: Array, pool_param: dict) -> tuple[Array, Any]:
    """Average pooling of any windows; it is `xpconv.functional.avg_pool2d`.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, C, H', W')
    cache
        That of the operator.

    Raises
    ------
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    _, x = promoted(x=x)
    height, width, stride, _, _ = pool_sizes(x, pool_param)
    return F.avg_pool2d(x, (height, width), stride=stride)


@on_its_device
def avg_pool_backward_im2col(dout: Array, cache: Any) -> Array:
    """Gradient of `avg_pool_forward_im2col`: shares add up where windows overlap.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache
        From `avg_pool_forward_im2col`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    check_cache(cache, AvgPool2dCache)
    check_gradient(dout, cache.shape)
    return F.avg_pool2d_backward(*_in_the_wider(dout, cache))
