"""``batchnorm_forward``, ``batchnorm_backward`` and ``batchnorm_backward_alt``.

Running averages as the system has them: of the biased variance, with the momentum on the old value.
"""

import numpy as np
import pytest

import xpconv
from xpconv.cs231n import layers


def reference(x, gamma, beta, dout, eps=1e-5):
    """Output, gradients (dx, dgamma, dbeta), mean and biased variance, in double precision."""
    mean, variance = x.mean(axis=0), x.var(axis=0)
    std = np.sqrt(variance + eps)
    normalised = (x - mean) / std
    dgamma, dbeta = (dout * normalised).sum(axis=0), dout.sum(axis=0)
    dx = gamma / std * (dout - dbeta / len(x) - normalised * dgamma / len(x))
    return gamma * normalised + beta, (dx, dgamma, dbeta), mean, variance


@pytest.mark.parametrize("backward", [layers.batchnorm_backward, layers.batchnorm_backward_alt])
def test_forward_backward_and_running_averages(on, close, rng, backward):
    x = 4 + 3 * rng.normal(size=(8, 5))
    gamma, beta, dout = rng.normal(size=5), rng.normal(size=5), rng.normal(size=(8, 5))
    y, gradients, mean, variance = reference(x, gamma, beta, dout)
    dtype = on.dtypes[-1]
    here = [on.asarray(a, dtype) for a in (x, gamma, beta)]

    bn_param = {"mode": "train", "momentum": 0.8}
    out, cache = layers.batchnorm_forward(*here, bn_param)
    close(out, y)
    for got, want in zip(backward(on.asarray(dout, dtype), cache), gradients, strict=True):
        close(got, want)
    close(bn_param["running_mean"], 0.2 * mean)
    close(bn_param["running_var"], 0.2 * variance)
    layers.batchnorm_forward(*here, bn_param)
    close(bn_param["running_var"], (0.8 * 0.2 + 0.2) * variance)

    bn_param["mode"] = "test"
    out, _ = layers.batchnorm_forward(*here, bn_param)
    close(out, gamma * (x - 0.36 * mean) / np.sqrt(0.36 * variance + 1e-5) + beta)


def test_the_layer_of_xpconv_differs_in_its_running_variance_alone(on, close, rng):
    x, gamma, beta = rng.normal(size=(8, 5)), np.ones(5), np.zeros(5)
    y, _, mean, variance = reference(x, gamma, beta, np.zeros((8, 5)))
    layer = xpconv.layers.BatchNorm1d(5, dtype=on.dtypes[-1])
    close(layer(on.asarray(x, on.dtypes[-1])), y)
    close(layer.running_mean, 0.1 * mean)
    close(layer.running_var, 0.9 + 0.1 * variance * 8 / 7)  # PyTorch's: unbiased, and it begins at one


def test_an_unknown_mode_is_named(on):
    x, vector = on.asarray(np.zeros((2, 3)), "float32"), on.asarray(np.ones(3), "float32")
    with pytest.raises(ValueError, match="tset"):
        layers.batchnorm_forward(x, vector, vector, {"mode": "tset"})
