"""``FullyConnectedNet`` with batch or layer normalisation, dropout and L2: the loss and every gradient."""

import numpy as np
import pytest

import xpconv
from xpconv.cs231n.classifiers.fc_net import FullyConnectedNet

SIZES = (6, 5, 7, 4)  # inputs, two hidden layers, classes


def reference_loss(params, x, y, normalization, reg):
    """Loss of the net from the text of its specification, in double precision."""
    a = x.reshape(len(x), -1)
    for layer in (1, 2):
        a = a @ params[f"W{layer}"] + params[f"b{layer}"]
        if normalization:
            axis = 0 if normalization == "batchnorm" else 1
            a = (a - a.mean(axis=axis, keepdims=True)) / np.sqrt(a.var(axis=axis, keepdims=True) + 1e-5)
            a = a * params[f"gamma{layer}"] + params[f"beta{layer}"]
        a = np.maximum(a, 0)
    scores = a @ params["W3"] + params["b3"]
    scores = scores - scores.max(axis=1, keepdims=True)
    log_likelihood = scores[np.arange(len(y)), y] - np.log(np.exp(scores).sum(axis=1))
    return -log_likelihood.mean() + 0.5 * reg * sum((w**2).sum() for name, w in params.items() if name[0] == "W")


def net(normalization=None, keep=1, reg=0.0, dtype=np.float64):
    np.random.seed(231)  # noqa: NPY002 - the course draws from this generator
    inputs, *hidden, classes = SIZES
    return FullyConnectedNet(
        hidden,
        input_dim=inputs,
        num_classes=classes,
        dropout_keep_ratio=keep,
        normalization=normalization,
        reg=reg,
        weight_scale=5e-1,
        dtype=dtype,
        seed=123,
    )


def batch(on, dtype):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4, SIZES[0])), rng.integers(0, SIZES[-1], 4)
    return x, y, on.asarray(x, dtype), on.asarray(y)


@pytest.mark.parametrize("reg", [0.0, 3.14])
@pytest.mark.parametrize("normalization", [None, "batchnorm", "layernorm"])
def test_loss_and_gradients(on, sparing, normalization, reg):
    sparing(normalization == "batchnorm" and reg)
    dtype = on.dtypes[-1]
    model = net(normalization, reg=reg, dtype=np.dtype(dtype))
    x, y, here, labels = batch(on, dtype)
    loss, grads = model.loss(here, labels)
    params = {name: np.array(on.to_numpy(p), np.float64) for name, p in model.params.items()}
    tolerance = {"float32": 1e-4, "float64": 1e-7}[dtype]
    assert abs(float(loss) - reference_loss(params, x, y, normalization, reg)) < tolerance

    assert set(grads) == set(params)
    for name, value in params.items():
        numeric = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            kept = value[index]
            sides = []
            for step in (1e-6, -1e-6):
                value[index] = kept + step
                sides.append(reference_loss(params, x, y, normalization, reg))
            value[index] = kept
            numeric[index] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(on.to_numpy(grads[name]), numeric, atol=max(tolerance, 1e-7) * 10, err_msg=name)


def test_dropout_with_a_seed_is_repeatable_and_scores_do_without_it(on, sparing):
    sparing(False)
    dtype = on.dtypes[-1]
    model, plain = net(keep=0.5, dtype=np.dtype(dtype)), net(dtype=np.dtype(dtype))
    _, _, here, labels = batch(on, dtype)
    (first, grads), (second, _) = model.loss(here, labels), model.loss(here, labels)
    assert float(first) == float(second)
    assert all(np.isfinite(on.to_numpy(g)).all() for g in grads.values())
    assert float(first) != float(plain.loss(here, labels)[0])
    np.testing.assert_array_equal(on.to_numpy(model.loss(here)), on.to_numpy(plain.loss(here)))


def test_the_net_of_xpconv_has_the_same_scores(on, sparing):
    sparing(False)
    dtype = on.dtypes[-1]
    model = net(dtype=np.dtype(dtype))
    _, _, here, _ = batch(on, dtype)
    inputs, *hidden, classes = SIZES
    mine = xpconv.models.FullyConnectedNet(hidden, inputs, classes, dtype=dtype)
    mine.eval()
    weights = [p for _, p in mine.named_parameters()]
    theirs = [model.params[f"{kind}{layer}"] for layer in (1, 2, 3) for kind in "Wb"]
    assert len(weights) == len(theirs)
    for parameter, values in zip(weights, theirs, strict=True):
        host = np.array(on.to_numpy(values))
        parameter.data = on.asarray(host.T if host.ndim == 2 else host, dtype)  # PyTorch's order: (out, in)
    np.testing.assert_allclose(on.to_numpy(mine(here)), on.to_numpy(model.loss(here)), rtol=1e-5, atol=1e-5)
