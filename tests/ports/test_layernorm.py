"""``layernorm_forward`` and ``layernorm_backward``: every example by its own mean and deviation."""

import numpy as np

import xpconv
from xpconv import functional as F
from xpconv.cs231n import layers


def reference(x, gamma, beta, dout, eps=1e-5):
    mean, std = x.mean(axis=1, keepdims=True), np.sqrt(x.var(axis=1, keepdims=True) + eps)
    normalised = (x - mean) / std
    scaled = dout * gamma
    centred = scaled - scaled.mean(axis=1, keepdims=True)
    dx = (centred - normalised * (scaled * normalised).mean(axis=1, keepdims=True)) / std
    return gamma * normalised + beta, (dx, (dout * normalised).sum(axis=0), dout.sum(axis=0))


def test_forward_and_backward(on, close, rng):
    x, dout = 5 + 2 * rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    gamma, beta = rng.normal(size=6), rng.normal(size=6)
    y, gradients = reference(x, gamma, beta, dout)
    dtype = on.dtypes[-1]
    here, gradient = [on.asarray(a, dtype) for a in (x, gamma, beta)], on.asarray(dout, dtype)

    out, cache = layers.layernorm_forward(*here, {"eps": 1e-5})
    close(out, y)
    for got, want in zip(layers.layernorm_backward(gradient, cache), gradients, strict=True):
        close(got, want)

    out, cache = F.layer_norm(*here)
    close(out, y)
    for got, want in zip(F.layer_norm_backward(gradient, cache), gradients, strict=True):
        close(got, want)


def test_the_layer_too(on, close, rng):
    x, dout = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    y, (dx, dgamma, dbeta) = reference(x, np.ones(6), np.zeros(6), dout)
    layer = xpconv.layers.LayerNorm(6, dtype=on.dtypes[-1])
    close(layer(on.asarray(x, on.dtypes[-1])), y)
    close(layer.backward(on.asarray(dout, on.dtypes[-1])), dx)
    close(layer.weight.grad, dgamma)
    close(layer.bias.grad, dbeta)
