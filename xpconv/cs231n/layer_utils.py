"""Layers that often come together, as one forward and one backward function ("sandwich" layers)."""

from __future__ import annotations

from ..backends.protocol import Array
from .fast_layers import conv_backward_fast, conv_forward_fast, max_pool_backward_fast, max_pool_forward_fast
from .layers import (
    affine_backward,
    affine_forward,
    batchnorm_backward_alt,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    layernorm_backward,
    layernorm_forward,
    relu_backward,
    relu_forward,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
)

__all__ = [
    "affine_bn_relu_backward",
    "affine_bn_relu_forward",
    "affine_relu_backward",
    "affine_relu_forward",
    "conv_bn_relu_backward",
    "conv_bn_relu_forward",
    "conv_relu_backward",
    "conv_relu_forward",
    "conv_relu_pool_backward",
    "conv_relu_pool_forward",
    "generic_backward",
    "generic_forward",
]


def affine_relu_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """Affine, ReLU.

    Parameters
    ----------
    x : array (N, d_1, ..., d_k)
        Examples.
    w : array (D, M)
        D = d_1 * ... * d_k.
    b : array (M,)
        Biases.

    Returns
    -------
    out : array (N, M)
    cache : tuple
        For `affine_relu_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    a, affine_cache = affine_forward(x, w, b)
    out, relu_cache = relu_forward(a)
    return out, (affine_cache, relu_cache)


def affine_relu_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `affine_relu_forward`.

    Parameters
    ----------
    dout : array (N, M)
        Gradient of the loss to the result.
    cache : tuple
        From `affine_relu_forward`.

    Returns
    -------
    dx, dw, db : array like x, w, b

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    affine_cache, relu_cache = cache
    return affine_backward(relu_backward(dout, relu_cache), affine_cache)


def affine_bn_relu_forward(
    x: Array, w: Array, b: Array, gamma: Array, beta: Array, bn_param: dict
) -> tuple[Array, tuple]:
    """Affine, batch normalisation, ReLU.

    Parameters
    ----------
    x : array (N, d_1, ..., d_k)
        Examples.
    w : array (D, M)
        D = d_1 * ... * d_k.
    b : array (M,)
        Biases.
    gamma, beta : array (M,)
        Scale and shift.
    bn_param : dict
        As of `layers.batchnorm_forward`.

    Returns
    -------
    out : array (N, M)
    cache : tuple
        For `affine_bn_relu_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    a, affine_cache = affine_forward(x, w, b)
    normalized, bn_cache = batchnorm_forward(a, gamma, beta, bn_param)
    out, relu_cache = relu_forward(normalized)
    return out, (affine_cache, bn_cache, relu_cache)


def affine_bn_relu_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients (dx, dw, db, dgamma, dbeta) of `affine_bn_relu_forward`.

    Parameters
    ----------
    dout : array (N, M)
        Gradient of the loss to the result.
    cache : tuple
        From `affine_bn_relu_forward`.

    Returns
    -------
    dx, dw, db, dgamma, dbeta : array like x, w, b, gamma, beta

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    affine_cache, bn_cache, relu_cache = cache
    da, dgamma, dbeta = batchnorm_backward_alt(relu_backward(dout, relu_cache), bn_cache)
    return *affine_backward(da, affine_cache), dgamma, dbeta


def conv_relu_forward(x: Array, w: Array, b: Array, conv_param: dict) -> tuple[Array, tuple]:
    """Convolution, ReLU.

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
    cache : tuple
        For `conv_relu_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    out, relu_cache = relu_forward(a)
    return out, (conv_cache, relu_cache)


def conv_relu_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `conv_relu_forward`.

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache : tuple
        From `conv_relu_forward`.

    Returns
    -------
    dx, dw, db : array like x, w, b

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    conv_cache, relu_cache = cache
    return conv_backward_fast(relu_backward(dout, relu_cache), conv_cache)


def conv_bn_relu_forward(
    x: Array, w: Array, b: Array, gamma: Array, beta: Array, conv_param: dict, bn_param: dict
) -> tuple[Array, tuple]:
    """Convolution, spatial batch normalisation, ReLU.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    w : array (F, C, HH, WW)
        Filters.
    b : array (F,)
        Biases.
    gamma, beta : array (F,)
        Scale and shift.
    conv_param : dict
        ``stride`` and ``pad``.
    bn_param : dict
        As of `layers.batchnorm_forward`.

    Returns
    -------
    out : array (N, F, H', W')
    cache : tuple
        For `conv_bn_relu_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    normalized, bn_cache = spatial_batchnorm_forward(a, gamma, beta, bn_param)
    out, relu_cache = relu_forward(normalized)
    return out, (conv_cache, bn_cache, relu_cache)


def conv_bn_relu_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients (dx, dw, db, dgamma, dbeta) of `conv_bn_relu_forward`.

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache : tuple
        From `conv_bn_relu_forward`.

    Returns
    -------
    dx, dw, db, dgamma, dbeta : array like x, w, b, gamma, beta

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    conv_cache, bn_cache, relu_cache = cache
    da, dgamma, dbeta = spatial_batchnorm_backward(relu_backward(dout, relu_cache), bn_cache)
    return *conv_backward_fast(da, conv_cache), dgamma, dbeta


def conv_relu_pool_forward(x: Array, w: Array, b: Array, conv_param: dict, pool_param: dict) -> tuple[Array, tuple]:
    """Convolution, ReLU, max pooling.

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
    pool_param : dict
        ``pool_height``, ``pool_width`` and ``stride``.

    Returns
    -------
    out : array (N, F, H', W')
    cache : tuple
        For `conv_relu_pool_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    s, relu_cache = relu_forward(a)
    out, pool_cache = max_pool_forward_fast(s, pool_param)
    return out, (conv_cache, relu_cache, pool_cache)


def conv_relu_pool_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `conv_relu_pool_forward`.

    Parameters
    ----------
    dout : array (N, F, H', W')
        Gradient of the loss to the result.
    cache : tuple
        From `conv_relu_pool_forward`.

    Returns
    -------
    dx, dw, db : array like x, w, b

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    conv_cache, relu_cache, pool_cache = cache
    ds = max_pool_backward_fast(dout, pool_cache)
    return conv_backward_fast(relu_backward(ds, relu_cache), conv_cache)


def generic_forward(
    x: Array,
    w: Array,
    b: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    bn_param: dict | None = None,
    dropout_param: dict | None = None,
    last: bool = False,
) -> tuple[Array, tuple]:
    """Affine, then unless ``last``: batch or layer normalisation, ReLU, dropout.

    Parameters
    ----------
    x : array (N, d_1, ..., d_k)
        Examples.
    w : array (D, M)
        D = d_1 * ... * d_k.
    b : array (M,)
        Biases.
    gamma, beta : array (M,), optional
        Scale and shift of the normalisation.
    bn_param : dict, optional
        With the key ``mode``: batch normalisation; without: layer normalisation; None: neither, and gamma and beta are
        not used.
    dropout_param : dict, optional
        As of `layers.dropout_forward`; None: no dropout.
    last : bool
        Affine only.

    Returns
    -------
    out : array (N, M)
    cache : tuple
        For `generic_backward`.

    Raises
    ------
    TypeError, ValueError
        As the functions that it calls: arrays of several backends, shapes or settings that do not fit.
    """
    out, affine_cache = affine_forward(x, w, b)
    norm, norm_cache, relu_cache, dropout_cache = None, None, None, None
    if not last:
        if bn_param is not None:
            norm = "batchnorm" if "mode" in bn_param else "layernorm"
            forward = batchnorm_forward if norm == "batchnorm" else layernorm_forward
            out, norm_cache = forward(out, gamma, beta, bn_param)
        out, relu_cache = relu_forward(out)
        if dropout_param is not None:
            out, dropout_cache = dropout_forward(out, dropout_param)
    return out, (affine_cache, norm, norm_cache, relu_cache, dropout_cache)


def generic_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Gradients (dx, dw, db, dgamma, dbeta) of `generic_forward`; the last two are None without normalisation.

    Parameters
    ----------
    dout : array (N, M)
        Gradient of the loss to the result.
    cache : tuple
        From `generic_forward`.

    Returns
    -------
    dx, dw, db : array like x, w, b
    dgamma, dbeta : array (M,), or None without normalisation

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    affine_cache, norm, norm_cache, relu_cache, dropout_cache = cache
    dgamma, dbeta = None, None
    if dropout_cache is not None:
        dout = dropout_backward(dout, dropout_cache)
    if relu_cache is not None:
        dout = relu_backward(dout, relu_cache)
    if norm is not None:
        backward = batchnorm_backward_alt if norm == "batchnorm" else layernorm_backward
        dout, dgamma, dbeta = backward(dout, norm_cache)
    return *affine_backward(dout, affine_cache), dgamma, dbeta
