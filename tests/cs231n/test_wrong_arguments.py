"""Shapes and numbers that do not match are named on every backend, where NumPy would broadcast, or leave some out."""

import re

import numpy as np
import pytest

from xpconv.cs231n import fast_layers, im2col, im2col_cython, layers

CONV = {"stride": 2, "pad": 1}
POOL = {"pool_height": 2, "pool_width": 2, "stride": 1}
TRAIN = {"mode": "train"}
NORMS = {  # forward, shape of x, of gamma and beta, what else
    "batchnorm": ((3, 4), (4,), (TRAIN,)),
    "layernorm": ((3, 4), (4,), ({},)),
    "spatial_batchnorm": ((2, 4, 3, 2), (4,), (TRAIN,)),
    "spatial_groupnorm": ((2, 4, 3, 2), (1, 4, 1, 1), (2, {})),
}


@pytest.fixture
def zeros(on):
    """``zeros(*shape)``: float32 zeros of the backend."""
    return lambda *shape: on.asarray(np.zeros(shape, "float32"))


def function(name, way, form):
    return getattr(layers if form == "naive" else fast_layers, f"{name}_{way}_{form}")


def refuses(message, call, *arguments, error=ValueError):
    with pytest.raises(error, match=re.escape(message)):
        call(*arguments)


@pytest.mark.parametrize("form", ["naive", "fast", "im2col", "strides"])
def test_arrays_of_a_convolution(form, zeros):
    forward = function("conv", "forward", form)
    x, w, b = zeros(1, 2, 5, 3), zeros(3, 2, 3, 3), zeros(3)
    for wrong in ((5,), (1,), (3, 1)):
        refuses(f"b: expected shape (3,) (F,), got {wrong}", forward, x, w, zeros(*wrong), CONV)
    refuses("w: filters of 1 channels, but x has 2", forward, x, zeros(3, 1, 3, 3), b, CONV)
    refuses("x: expected 4 dimensions (N, C, H, W), got shape (2, 5, 3)", forward, zeros(2, 5, 3), w, b, CONV)
    refuses("w: expected 4 dimensions (F, C, HH, WW), got shape (3, 2)", forward, x, zeros(3, 2), b, CONV)
    refuses("height: a kernel of 0 does not fit", forward, x, zeros(3, 2, 0, 3), b, CONV)


@pytest.mark.parametrize("form", ["naive", "fast", "im2col", "strides"])
def test_numbers_of_a_convolution(form, zeros):
    forward = function("conv", "forward", form)
    arrays = zeros(1, 2, 5, 3), zeros(3, 2, 3, 3), zeros(3)
    for name, value in (("stride", (1, 1)), ("stride", 1.0), ("pad", 1.0), ("pad", "1")):
        message = f"{name}: expected an integer, got {value!r}"
        refuses(message, forward, *arrays, {**CONV, name: value}, error=TypeError)
    refuses("pad: must be at least 0, got -1", forward, *arrays, {**CONV, "pad": -1})


@pytest.mark.parametrize("form", ["naive", "fast", "im2col", "strides"])
def test_gradient_of_a_convolution(form, zeros, sparing):
    sparing(False)
    _, cache = function("conv", "forward", form)(zeros(1, 2, 5, 3), zeros(3, 2, 3, 3), zeros(3), CONV)
    for wrong in ((1, 3, 2, 2), (1, 3, 4, 2), (1, 3, 2, 3), (2, 3, 3, 2), (3, 3, 2)):
        message = f"dout: expected shape (1, 3, 3, 2), that of the forward result, got {wrong}"
        refuses(message, function("conv", "backward", form), zeros(*wrong), cache)


@pytest.mark.parametrize(("name", "form"), [("max_pool", "naive"), ("max_pool", "im2col"), ("avg_pool", "fast")])
def test_pooling(name, form, zeros, sparing):
    forward = function(name, "forward", form)
    x = zeros(1, 2, 4, 3)
    for key, value in (("stride", (1, 1)), ("pool_width", 2.0), ("pool_height", None)):
        refuses(f"{key}: expected an integer, got {value!r}", forward, x, {**POOL, key: value}, error=TypeError)
    refuses("x: expected 4 dimensions (N, C, H, W), got shape (2, 4, 3)", forward, zeros(2, 4, 3), POOL)
    refuses("width: a kernel of 4 does not fit into 3 pixels", forward, x, {**POOL, "pool_width": 4})
    sparing(False)
    _, cache = forward(x, POOL)
    for wrong in ((1, 2, 2, 2), (1, 2, 3, 3), (1, 2, 2, 3), (1, 1, 3, 2)):
        message = f"dout: expected shape (1, 2, 3, 2), that of the forward result, got {wrong}"
        refuses(message, function(name, "backward", form), zeros(*wrong), cache)


def test_affine_relu_and_dropout(zeros, sparing):
    x, w = zeros(3, 4), zeros(4, 2)
    for wrong in ((3, 2), (1,), (1, 2)):
        refuses(f"b: expected shape (2,) (M,), got {wrong}", layers.affine_forward, x, w, zeros(*wrong))
    sparing(False)
    _, cache = layers.affine_forward(x, w, zeros(2))
    refuses("dout: expected shape (3, 2)", layers.affine_backward, zeros(1, 2), cache)
    _, cache = layers.relu_forward(x)
    refuses("dout: expected shape (3, 4)", layers.relu_backward, zeros(1, 4), cache)
    _, cache = layers.dropout_forward(x, {**TRAIN, "p": 0.5})
    refuses("dout: expected shape (3, 4)", layers.dropout_backward, zeros(4), cache)


@pytest.mark.parametrize("name", NORMS)
def test_normalisation(name, zeros, sparing):
    shape, vector, rest = NORMS[name]
    forward = getattr(layers, f"{name}_forward")
    rest = [dict(r) if isinstance(r, dict) else r for r in rest]
    x, good = zeros(*shape), zeros(*vector)
    for wrong in ((shape[0], 1), (1,), (1, 4), (4, 1, 1)):
        refuses(f"gamma: expected shape {vector}", forward, x, zeros(*wrong), good, *rest)
        refuses(f"beta: expected shape {vector}", forward, x, good, zeros(*wrong), *rest)
    refuses(
        '["eps"]: expected a number of at least 0, got -1', forward, x, good, good, *rest[:-1], {**TRAIN, "eps": -1}
    )
    sparing(False)
    _, cache = forward(x, good, good, *rest)
    wider = (shape[0], 1, *shape[2:]), (*shape[:-2], *shape[:-3:-1])  # would be broadcast, or read in another order
    for wrong in wider:
        message = f"dout: expected shape {shape}, that of the forward result, got {wrong}"
        refuses(message, getattr(layers, f"{name}_backward"), zeros(*wrong), cache)


@pytest.mark.parametrize(("name", "shape"), [("batchnorm", (0, 4)), ("spatial_batchnorm", (2, 4, 0, 3))])
def test_no_example_leaves_the_running_statistics_as_they_are(name, shape, zeros):
    forward = getattr(layers, f"{name}_forward")
    fresh, mean = dict(TRAIN), zeros(4)
    kept = {**TRAIN, "running_mean": mean}
    for parameters in (fresh, kept):
        refuses("x: training needs at least one value", forward, zeros(*shape), zeros(4), zeros(4), parameters)
    assert fresh == TRAIN
    assert set(kept) == {"mode", "running_mean"}
    assert kept["running_mean"] is mean


def test_running_statistics_of_another_shape(zeros):
    parameters = {**TRAIN, "running_mean": zeros(4), "running_var": zeros(3, 4)}
    message = 'bn_param["running_var"]: expected shape (4,) (D,), got (3, 4)'
    refuses(message, layers.batchnorm_forward, zeros(3, 4), zeros(4), zeros(4), parameters)


def test_groups(zeros):
    call = layers.spatial_groupnorm_forward
    x, vector = zeros(1, 2, 3, 3), zeros(1, 2, 1, 1)
    refuses("G: expected an integer, got '2'", call, x, vector, vector, "2", {}, error=TypeError)
    refuses("G: must be at least 1, got 0", call, x, vector, vector, 0, {})


def test_columns(zeros):
    x, cols, shape = zeros(1, 2, 6, 5), zeros(18, 12), (1, 2, 6, 5)
    images = "x: expected 4 dimensions (N, C, H, W), got shape (2, 6, 5)"
    refuses(images, im2col_cython.im2col_cython, zeros(2, 6, 5), 3, 3, 0, 1)
    refuses(images, im2col.im2col_indices, zeros(2, 6, 5), 3, 3, 0, 1)
    refuses(images, im2col.get_im2col_indices, (2, 6, 5), 3, 3, 0, 1)
    stride = "stride: expected an integer, got (1, 1)"
    refuses(stride, im2col_cython.im2col_cython, x, 3, 3, 0, (1, 1), error=TypeError)
    refuses(stride, im2col_cython.col2im_cython, cols, *shape, 3, 3, 0, (1, 1), error=TypeError)
    refuses(stride, im2col_cython.col2im_6d_cython, cols, *shape, 3, 3, 0, (1, 1), error=TypeError)
    refuses(stride, im2col.col2im_indices, cols, shape, 3, 3, 0, (1, 1), error=TypeError)
    refuses("padding: must be at least 0, got -1", im2col.im2col_indices, x, 3, 3, -1, 1)
