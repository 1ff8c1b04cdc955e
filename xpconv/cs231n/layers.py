"""The layers of the course: a forward and a backward function each, with a cache between them.

The convolution and the pooling here are loops straight from the definitions: slow, to be read, and an oracle for
`fast_layers`. All functions take arrays of any backend, all of one call from the same.
"""

from __future__ import annotations

from typing import Any

from .. import functional as F
from .._checks import check_integer, check_number
from ..backends import backend_of
from ..backends.protocol import Array, Backend
from ._arrays import (
    add,
    check_axes,
    check_gradient,
    check_shape,
    conv_sizes,
    on_its_device,
    pool_sizes,
    promoted,
    put,
    scalar,
)
from ._random import rand, seed

__all__ = [
    "affine_backward",
    "affine_forward",
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "batchnorm_forward",
    "conv_backward_naive",
    "conv_forward_naive",
    "dropout_backward",
    "dropout_forward",
    "layernorm_backward",
    "layernorm_forward",
    "max_pool_backward_naive",
    "max_pool_forward_naive",
    "relu_backward",
    "relu_forward",
    "softmax_loss",
    "spatial_batchnorm_backward",
    "spatial_batchnorm_forward",
    "spatial_groupnorm_backward",
    "spatial_groupnorm_forward",
    "svm_loss",
]


# ---- fully connected, ReLU --------------------------------------------------------------------------------------


@on_its_device
def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple]:
    """``x @ w + b``, each example flattened to a row.

    Parameters
    ----------
    x : array (N, d_1, ..., d_k)
    w : array (D, M), D = d_1 * ... * d_k
    b : array (M,)

    Returns
    -------
    out : array (N, M)
    cache : tuple (x, w, b)

    Raises
    ------
    ValueError
        Shapes that do not match.
    TypeError
        Not arrays of numbers, or of several backends.
    """
    backend, x, w, b = promoted(x=x, w=w, b=b)
    if len(w.shape) != 2 or len(x.shape) < 2:
        raise ValueError(f"expected x (N, d_1, ..., d_k) and w (D, M), got {tuple(x.shape)} and {tuple(w.shape)}")
    rows = backend.xp.reshape(x, (x.shape[0], -1)) if x.shape[0] else backend.xp.reshape(x, (0, w.shape[0]))
    if rows.shape[1] != w.shape[0]:
        raise ValueError(
            f"w: has {w.shape[0]} rows, but x of shape {tuple(x.shape)} has {rows.shape[1]} numbers an example"
        )
    check_shape((w.shape[1],), "(M,)", b=b)
    return backend.gemm(rows, w) + b, (x, w, b)


@on_its_device
def affine_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of `affine_forward`.

    Parameters
    ----------
    dout : array (N, M)
    cache : tuple (x, w, b)

    Returns
    -------
    dx : array (N, d_1, ..., d_k)
    dw : array (D, M)
    db : array (M,)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x, w, _ = cache
    backend, dout, x, w = promoted(dout=dout, x=x, w=w)
    check_gradient(dout, (x.shape[0], w.shape[1]))
    xp = backend.xp
    rows = xp.reshape(x, (x.shape[0], w.shape[0]))
    dx = xp.reshape(backend.gemm(dout, xp.matrix_transpose(w)), x.shape)
    dw = backend.gemm(xp.matrix_transpose(rows), dout)
    return dx, dw, xp.sum(dout, axis=0)


@on_its_device
def relu_forward(x: Array) -> tuple[Array, Array]:
    """``max(x, 0)``; the cache is x.

    Parameters
    ----------
    x : array of any shape
        Numbers.

    Returns
    -------
    out : array like x
    cache : array like x
        x itself.

    Raises
    ------
    TypeError
        Not arrays of numbers, or of several backends.
    """
    _, x = promoted(x=x)
    return F.relu(x)[0], x


@on_its_device
def relu_backward(dout: Array, cache: Array) -> Array:
    """``dout`` where x, the cache, was positive, else 0.

    Parameters
    ----------
    dout : array like x
        Gradient of the loss to the result.
    cache : array of any shape
        x, from `relu_forward`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    TypeError, ValueError
        dout is not of the shape of x.
    """
    backend, dout, x = promoted(dout=dout, x=cache)
    check_gradient(dout, x.shape)
    return backend.keep(x > 0, dout)


# ---- normalisation ----------------------------------------------------------------------------------------------


def _mode(parameter: str, mode: Any) -> str:
    if mode not in ("train", "test"):
        raise ValueError(f'{parameter}["mode"]: Invalid mode {mode!r}, expected "train" or "test"')
    return mode


@on_its_device
def batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: dict) -> tuple[Array, tuple | None]:
    """Batch normalisation (Ioffe, Szegedy 2015): every feature is normalised over the batch, then scaled and shifted.

    Parameters
    ----------
    x : array (N, D)
    gamma, beta : array (D,)
        Scale and shift.
    bn_param : dict
        ``mode``: "train", normalise by the moments of the batch, or "test", by the running ones. ``eps`` (1e-5), added
        to the variance. ``momentum`` (0.9): ``running = momentum * running + (1 - momentum) * new``, of the mean and of
        the *biased* variance. ``running_mean``, ``running_var`` : array (D,), zeros at first; replaced in the
        dictionary when training.

    Returns
    -------
    out : array (N, D)
    cache : tuple, or None in test mode

    Raises
    ------
    ValueError
        Another mode, shapes that do not match, or no example to train on; bn_param is as it was.
    TypeError
        Not arrays of numbers, or of several backends.
    """
    backend, x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    xp = backend.xp
    mode = _mode("bn_param", bn_param["mode"])
    eps = _eps("bn_param", bn_param)
    momentum = float(bn_param.get("momentum", 0.9))  # a number of NumPy would promote float32
    _check_features(x, gamma=gamma, beta=beta)
    if mode == "train" and not x.shape[0]:
        raise ValueError("x: training needs at least one value of each feature, got none")
    for name in ("running_mean", "running_var"):
        if name in bn_param:
            backend_of(x=x, **{name: bn_param[name]})
            _check_features(x, **{f'bn_param["{name}"]': bn_param[name]})
    for name in ("running_mean", "running_var"):
        bn_param.setdefault(name, backend.zeros((x.shape[1],), x.dtype))

    if mode == "test":
        x_hat = (x - bn_param["running_mean"]) / xp.sqrt(bn_param["running_var"] + eps)
        return gamma * x_hat + beta, None

    mean = xp.mean(x, axis=0)
    var = xp.var(x, axis=0)
    std = xp.sqrt(var + eps)
    x_hat = (x - mean) / std
    bn_param["running_mean"] = momentum * bn_param["running_mean"] + (1 - momentum) * mean
    bn_param["running_var"] = momentum * bn_param["running_var"] + (1 - momentum) * var
    return gamma * x_hat + beta, (x, mean, std, x_hat, gamma)


def _eps(parameter: str, parameters: dict) -> float:
    """As a number of Python: one of NumPy would promote float32."""
    return check_number(f'{parameter}["eps"]', parameters.get("eps", 1e-5), 0)


def _check_features(x: Array, **vectors: Array) -> None:
    """Raise ValueError unless x is (N, D) and the vectors are (D,)."""
    check_axes("(N, D)", x=x)
    check_shape((x.shape[1],), "(D,)", **vectors)


def _trained(cache: tuple | None) -> tuple:
    if cache is None:
        raise ValueError('cache: is None; batch normalisation has a backward pass only in mode "train"')
    return cache


@on_its_device
def batchnorm_backward(dout: Array, cache: tuple | None) -> tuple[Array, Array, Array]:
    """Gradients of `batchnorm_forward`, step by step through its graph.

    Parameters
    ----------
    dout : array (N, D)
    cache : tuple
        From `batchnorm_forward` in mode "train".

    Returns
    -------
    dx : array (N, D)
    dgamma, dbeta : array (D,)

    Raises
    ------
    TypeError, ValueError
        dout is not of the shape of the result; or the cache is of test mode.
    """
    x, mean, std, x_hat, gamma = _trained(cache)
    backend, dout, x = promoted(dout=dout, x=x)
    check_gradient(dout, x.shape)
    xp, count = backend.xp, x.shape[0]
    # out = gamma * x_hat + beta
    dbeta = xp.sum(dout, axis=0)
    dgamma = xp.sum(dout * x_hat, axis=0)
    dx_hat = dout * gamma
    # x_hat = centered / std
    centered = x - mean
    dcentered = dx_hat / std
    dstd = -xp.sum(dx_hat * centered, axis=0) / (std * std)
    # std = sqrt(var + eps), var = sum(centered ** 2) / count
    dvar = dstd / (2 * std)
    dcentered = dcentered + 2 * centered * dvar / count
    # centered = x - mean, mean = sum(x) / count
    dmean = -xp.sum(dcentered, axis=0)
    return dcentered + dmean / count, dgamma, dbeta


@on_its_device
def batchnorm_backward_alt(dout: Array, cache: tuple | None) -> tuple[Array, Array, Array]:
    """Gradients of `batchnorm_forward` in one formula; arguments and results as of `batchnorm_backward`.

    With the mean taken over the batch, ``dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / std``.

    Parameters
    ----------
    dout : array (N, D)
        Gradient of the loss to the result.
    cache : tuple
        From `batchnorm_forward` in mode "train".

    Returns
    -------
    dx : array (N, D)
    dgamma, dbeta : array (D,)

    Raises
    ------
    TypeError, ValueError
        dout is not of the shape of the result; or the cache is of test mode.
    """
    x, _, std, x_hat, gamma = _trained(cache)
    backend, dout, x = promoted(dout=dout, x=x)
    check_gradient(dout, x.shape)
    xp = backend.xp
    dx = _normalized_backward(backend, dout * gamma, x_hat, std, axis=0)
    return dx, xp.sum(dout * x_hat, axis=0), xp.sum(dout, axis=0)


def _normalized(backend: Backend, x: Array, eps: float, axis: int) -> tuple[Array, Array]:
    """Numbers with mean 0 and variance 1 along an axis, and the standard deviation it was divided by."""
    xp = backend.xp
    std = xp.sqrt(xp.var(x, axis=axis, keepdims=True) + eps)
    return (x - xp.mean(x, axis=axis, keepdims=True)) / std, std


def _normalized_backward(backend: Backend, dx_hat: Array, x_hat: Array, std: Array, axis: int) -> Array:
    """Gradient of `_normalized` to x."""
    xp = backend.xp
    mean = xp.mean(dx_hat, axis=axis, keepdims=True)
    slope = xp.mean(dx_hat * x_hat, axis=axis, keepdims=True)
    return (dx_hat - mean - x_hat * slope) / std


@on_its_device
def layernorm_forward(x: Array, gamma: Array, beta: Array, ln_param: dict) -> tuple[Array, tuple]:
    """Layer normalisation (Ba, Kiros, Hinton 2016): every example is normalised over its features.

    Parameters
    ----------
    x : array (N, D)
    gamma, beta : array (D,)
        Scale and shift of each feature.
    ln_param : dict
        ``eps`` (1e-5), added to the variance. Training and testing do not differ.

    Returns
    -------
    out : array (N, D)
    cache : tuple

    Raises
    ------
    ValueError
        Shapes that do not match.
    TypeError
        Not arrays of numbers, or of several backends.
    """
    backend, x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    _check_features(x, gamma=gamma, beta=beta)
    x_hat, std = _normalized(backend, x, _eps("ln_param", ln_param), axis=1)
    return gamma * x_hat + beta, (x_hat, std, gamma)


@on_its_device
def layernorm_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of `layernorm_forward`: dx (N, D), dgamma (D,), dbeta (D,).

    Parameters
    ----------
    dout : array (N, D)
        Gradient of the loss to the result.
    cache : tuple
        From `layernorm_forward`.

    Returns
    -------
    dx : array (N, D)
    dgamma, dbeta : array (D,)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x_hat, std, gamma = cache
    backend, dout, x_hat = promoted(dout=dout, x_hat=x_hat)
    check_gradient(dout, x_hat.shape)
    xp = backend.xp
    dx = _normalized_backward(backend, dout * gamma, x_hat, std, axis=1)
    return dx, xp.sum(dout * x_hat, axis=0), xp.sum(dout, axis=0)


def _pixels_as_rows(backend: Backend, x: Array) -> Array:
    """Images (N, C, H, W) as examples (N * H * W, C)."""
    n, c, h, w = x.shape
    return backend.xp.reshape(backend.xp.permute_dims(x, (0, 2, 3, 1)), (n * h * w, c))


def _rows_as_pixels(backend: Backend, rows: Array, shape: tuple[int, ...]) -> Array:
    n, c, h, w = shape
    return backend.xp.permute_dims(backend.xp.reshape(rows, (n, h, w, c)), (0, 3, 1, 2))


@on_its_device
def spatial_batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: dict) -> tuple[Array, tuple | None]:
    """`batchnorm_forward` of every channel of images (N, C, H, W), over the batch and all pixels.

    gamma, beta and the running statistics have shape (C,); returns out (N, C, H, W) and the cache.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    gamma, beta : array (C,)
        Scale and shift.
    bn_param : dict
        As of `batchnorm_forward`; running statistics are (C,).

    Returns
    -------
    out : array (N, C, H, W)
    cache : tuple, or None in test mode

    Raises
    ------
    TypeError, ValueError
        As `batchnorm_forward`; x that does not have four axes.
    """
    backend = backend_of(x=x)
    check_axes("(N, C, H, W)", x=x)
    rows, cache = batchnorm_forward(_pixels_as_rows(backend, x), gamma, beta, bn_param)
    return _rows_as_pixels(backend, rows, x.shape), None if cache is None else (cache, tuple(x.shape))


@on_its_device
def spatial_batchnorm_backward(dout: Array, cache: tuple | None) -> tuple[Array, Array, Array]:
    """Gradients of `spatial_batchnorm_forward`: dx (N, C, H, W), dgamma (C,), dbeta (C,).

    Parameters
    ----------
    dout : array (N, C, H, W)
        Gradient of the loss to the result.
    cache : tuple
        From `spatial_batchnorm_forward` in mode "train".

    Returns
    -------
    dx : array (N, C, H, W)
    dgamma, dbeta : array (C,)

    Raises
    ------
    TypeError, ValueError
        dout is not of the shape of the result; or the cache is of test mode.
    """
    backend = backend_of(dout=dout)
    of_rows, shape = _trained(cache)
    check_gradient(dout, shape)
    dx, dgamma, dbeta = batchnorm_backward_alt(_pixels_as_rows(backend, dout), of_rows)
    return _rows_as_pixels(backend, dx, shape), dgamma, dbeta


@on_its_device
def spatial_groupnorm_forward(x: Array, gamma: Array, beta: Array, G: int, gn_param: dict) -> tuple[Array, tuple]:
    """Group normalisation (Wu, He 2018): the channels of each image are normalised in G groups.

    Parameters
    ----------
    x : array (N, C, H, W)
    gamma, beta : array (1, C, 1, 1)
        Scale and shift of each channel; (C,) is taken as well.
    G : int
        Number of groups; divides C.
    gn_param : dict
        ``eps`` (1e-5), added to the variance.

    Returns
    -------
    out : array (N, C, H, W)
    cache : tuple

    Raises
    ------
    TypeError, ValueError
        G is no integer or does not divide C, or shapes do not match.
    TypeError
        Not arrays of numbers, or of several backends.
    """
    backend, x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    check_axes("(N, C, H, W)", x=x)
    xp, (n, c, h, w) = backend.xp, x.shape
    G = check_integer("G", G, 1)
    if c % G:
        raise ValueError(f"G: the number of groups must divide the {c} channels, got {G}")
    for name, vector in (("gamma", gamma), ("beta", beta)):
        if tuple(vector.shape) != (c,):
            check_shape((1, c, 1, 1), f"(1, C, 1, 1) or {(c,)}", **{name: vector})
    grouped, std = _normalized(backend, xp.reshape(x, (n, G, c // G * h * w)), _eps("gn_param", gn_param), axis=2)
    x_hat, shape = xp.reshape(grouped, (n, c, h, w)), tuple(gamma.shape)
    scale, shift = (xp.reshape(v, (1, c, 1, 1)) for v in (gamma, beta))
    return scale * x_hat + shift, (x_hat, std, scale, shape)


@on_its_device
def spatial_groupnorm_backward(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of `spatial_groupnorm_forward`: dx (N, C, H, W), dgamma and dbeta in the shape that gamma had.

    Parameters
    ----------
    dout : array (N, C, H, W)
        Gradient of the loss to the result.
    cache : tuple
        From `spatial_groupnorm_forward`.

    Returns
    -------
    dx : array (N, C, H, W)
    dgamma, dbeta : array of the shape that gamma had

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x_hat, std, scale, shape = cache
    backend, dout, x_hat = promoted(dout=dout, x_hat=x_hat)
    check_gradient(dout, x_hat.shape)
    xp, (n, c, h, w), groups = backend.xp, x_hat.shape, std.shape[1]
    grouped, dgrouped = (xp.reshape(v, (n, groups, c // groups * h * w)) for v in (x_hat, dout * scale))
    dx = xp.reshape(_normalized_backward(backend, dgrouped, grouped, std, axis=2), x_hat.shape)
    dgamma = xp.reshape(xp.sum(dout * x_hat, axis=(0, 2, 3)), shape)
    return dx, dgamma, xp.reshape(xp.sum(dout, axis=(0, 2, 3)), shape)


# ---- dropout ----------------------------------------------------------------------------------------------------


@on_its_device
def dropout_forward(x: Array, dropout_param: dict) -> tuple[Array, tuple]:
    """Inverted dropout: keep each number with probability p, and scale what is kept by 1 / p.

    Parameters
    ----------
    x : array
        Of any shape.
    dropout_param : dict
        ``p``: the probability of *keeping*, in (0, 1]. ``mode``: "train", or "test", which returns x. ``seed``: makes
        the mask repeatable; as in the course it restarts NumPy's global generator, from which the mask is drawn, so
        that every backend gets the same one.

    Returns
    -------
    out : array like x
    cache : tuple (dropout_param, mask)
        The mask has shape and dtype of x, or is None in test mode.

    Raises
    ------
    ValueError
        Another mode, or p outside (0, 1].
    TypeError
        Not arrays of numbers, or of several backends.
    """
    backend, x = promoted(x=x)
    p, mode = dropout_param["p"], _mode("dropout_param", dropout_param["mode"])
    if not 0 < p <= 1:
        raise ValueError(f'dropout_param["p"]: expected a probability of keeping in (0, 1], got {p!r}')
    if "seed" in dropout_param:
        seed(dropout_param["seed"])
    if mode == "test":
        return x, (dropout_param, None)
    mask = backend.asarray((rand(*x.shape) < p) / p, x.dtype)
    return x * mask, (dropout_param, mask)


@on_its_device
def dropout_backward(dout: Array, cache: tuple) -> Array:
    """Gradient of `dropout_forward`: what was dropped gets none.

    Parameters
    ----------
    dout : array like x
        Gradient of the loss to the result.
    cache : tuple (dropout_param, mask)
        From `dropout_forward`.

    Returns
    -------
    dx : array like x

    Raises
    ------
    ValueError
        dout is not of the shape of the result.
    """
    dropout_param, mask = cache
    if _mode("dropout_param", dropout_param["mode"]) == "test":
        return dout
    check_gradient(dout, mask.shape)
    return dout * mask


# ---- convolution and pooling, naive -----------------------------------------------------------------------------


def _padded(backend: Backend, x: Array, pad: int) -> Array:
    """Images with a frame of zeros."""
    n, c, h, w = x.shape
    frame = backend.zeros((n, c, h + 2 * pad, w + 2 * pad), x.dtype)
    return put(frame, (slice(None), slice(None), slice(pad, pad + h), slice(pad, pad + w)), x)


@on_its_device
def conv_forward_naive(x: Array, w: Array, b: Array, conv_param: dict) -> tuple[Array, tuple]:
    """Convolution by loops over images, filters and output pixels.

    ``out[n, f, i, j] = b[f] + sum of w[f] * (the window of the padded image n that begins at (i, j) * stride)``

    Parameters
    ----------
    x : array (N, C, H, W)
    w : array (F, C, HH, WW)
    b : array (F,)
    conv_param : dict
        ``stride``: distance of the windows; ``pad``: zeros on every side of the image.

    Returns
    -------
    out : array (N, F, H', W')
        ``H' = 1 + (H + 2 * pad - HH) // stride``, W' likewise.
    cache : tuple (x, w, b, conv_param)

    Raises
    ------
    TypeError, ValueError
        Shapes that do not match, a filter larger than the padded image, or a stride or padding that is no such number.
    """
    backend, x, w, b = promoted(x=x, w=w, b=b)
    stride, pad, out_h, out_w = conv_sizes(x, w, b, conv_param)
    N, (F, _, HH, WW) = x.shape[0], w.shape

    padded = _padded(backend, x, pad)
    out = backend.zeros((N, F, out_h, out_w), x.dtype)
    for n in range(N):
        for f in range(F):
            for i in range(out_h):
                for j in range(out_w):
                    top, left = i * stride, j * stride
                    window = padded[n, :, top : top + HH, left : left + WW]
                    out = put(out, (n, f, i, j), backend.xp.sum(window * w[f, ...]) + b[f])
    return out, (x, w, b, conv_param)


@on_its_device
def conv_backward_naive(dout: Array, cache: tuple) -> tuple[Array, Array, Array]:
    """Gradients of `conv_forward_naive`, by the same loops: every output pixel pays back to what it was made of.

    Parameters
    ----------
    dout : array (N, F, H', W')
    cache : tuple (x, w, b, conv_param)

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
    x, w, b, conv_param = cache
    backend, dout, x, w = promoted(dout=dout, x=x, w=w)
    stride, pad, out_h, out_w = conv_sizes(x, w, b, conv_param, dout)
    N, _, H, W = x.shape
    F, _, HH, WW = w.shape

    padded = _padded(backend, x, pad)
    dpadded = backend.zeros(padded.shape, x.dtype)
    dw = backend.zeros(w.shape, x.dtype)
    db = backend.zeros((F,), x.dtype)
    for n in range(N):
        for f in range(F):
            for i in range(out_h):
                for j in range(out_w):
                    top, left = i * stride, j * stride
                    rows, columns = slice(top, top + HH), slice(left, left + WW)
                    gradient = dout[n, f, i, j]
                    dpadded = add(dpadded, (n, slice(None), rows, columns), gradient * w[f, ...])
                    dw = add(dw, (f, ...), gradient * padded[n, :, rows, columns])
                    db = add(db, f, gradient)
    return dpadded[:, :, pad : pad + H, pad : pad + W], dw, db


@on_its_device
def max_pool_forward_naive(x: Array, pool_param: dict) -> tuple[Array, tuple]:
    """Maximum of every window, by loops over images, channels and output pixels.

    Parameters
    ----------
    x : array (N, C, H, W)
    pool_param : dict
        ``pool_height``, ``pool_width``: size of the window; ``stride``: distance of the windows. There is no padding;
        pixels behind the last window are left out.

    Returns
    -------
    out : array (N, C, H', W')
        ``H' = 1 + (H - pool_height) // stride``, W' likewise.
    cache : tuple (x, pool_param)

    Raises
    ------
    TypeError, ValueError
        x is not an array (N, C, H, W) of numbers, or the sizes are no positive integers that fit it.
    """
    backend, x = promoted(x=x)
    height, width, stride, out_h, out_w = pool_sizes(x, pool_param)
    N, C, _, _ = x.shape

    out = backend.zeros((N, C, out_h, out_w), x.dtype)
    for n in range(N):
        for c in range(C):
            for i in range(out_h):
                for j in range(out_w):
                    top, left = i * stride, j * stride
                    window = x[n, c, top : top + height, left : left + width]
                    out = put(out, (n, c, i, j), backend.xp.max(window))
    return out, (x, pool_param)


@on_its_device
def max_pool_backward_naive(dout: Array, cache: tuple) -> Array:
    """Gradient of `max_pool_forward_naive`: all of it goes to the maximum of the window, the first of equal ones.

    Parameters
    ----------
    dout : array (N, C, H', W')
        Gradient of the loss to the result.
    cache : tuple (x, pool_param)
        From `max_pool_forward_naive`.

    Returns
    -------
    dx : array (N, C, H, W)

    Raises
    ------
    TypeError, ValueError
        dout is not an array of numbers, or its shape is not that of the result; or no cache of the forward function.
    """
    x, pool_param = cache
    backend, dout, x = promoted(dout=dout, x=x)
    height, width, stride, out_h, out_w = pool_sizes(x, pool_param, dout)
    N, C, _, _ = x.shape

    dx = backend.zeros(x.shape, x.dtype)
    for n in range(N):
        for c in range(C):
            for i in range(out_h):
                for j in range(out_w):
                    top, left = i * stride, j * stride
                    window = x[n, c, top : top + height, left : left + width]
                    row, column = divmod(int(backend.xp.argmax(window)), width)  # of the window taken row by row
                    dx = add(dx, (n, c, top + row, left + column), dout[n, c, i, j])
    return dx


# ---- losses -----------------------------------------------------------------------------------------------------


@on_its_device
def svm_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Multi-class hinge loss with margin 1, the mean over the batch.

    Parameters
    ----------
    x : array (N, C)
        Scores.
    y : array (N,)
        Labels, integers from 0 to C - 1.

    Returns
    -------
    loss : scalar
        A NumPy scalar of NumPy arrays, a 0-d array of others.
    dx : array (N, C)

    Raises
    ------
    TypeError, ValueError
        As `xpconv.functional.multiclass_hinge`: scores that are not floating-point, labels that are no integers or out
        of range, other shapes.
    """
    loss, dx = F.multiclass_hinge(x, y)
    return scalar(backend_of(x=x), loss), dx


@on_its_device
def softmax_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Cross-entropy of the softmax of the scores, the mean over the batch; arguments and results as of `svm_loss`.

    Parameters
    ----------
    x : array (N, C)
        Scores.
    y : array (N,)
        Labels, integers from 0 to C - 1.

    Returns
    -------
    loss : scalar
        A NumPy scalar of NumPy arrays, a 0-d array of others.
    dx : array (N, C)

    Raises
    ------
    TypeError, ValueError
        As `xpconv.functional.softmax_cross_entropy`: scores that are not floating-point, labels that are no integers or
        out of range, other shapes.
    """
    loss, dx = F.softmax_cross_entropy(x, y)
    return scalar(backend_of(x=x), loss), dx
