"""Every function of the course's modules gives on every backend what it gives on NumPy in float64."""

import importlib

import numpy as np
import pytest

from xpconv import to_numpy
from xpconv.backends import backend_of
from xpconv.cs231n import fast_layers, im2col, im2col_cython, layer_utils, layers, optim

CONV = {"stride": 2, "pad": 1}
TILES = {"pool_height": 2, "pool_width": 2, "stride": 2}
OVERLAPS = {"pool_height": 3, "pool_width": 2, "stride": 1}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

SHAPES = {
    "rows": (4, 6),
    "weights": (6, 3),
    "bias": (3,),
    "six": (6,),
    "images": (2, 4, 4, 6),
    "channels": (4,),
    "per_channel": (1, 4, 1, 1),
    "filters": (3, 4, 2, 2),
    "cols": (16, 24),
    "cols_6d": (4, 2, 2, 2, 3, 4),
}


def labels(like):
    return backend_of(like=like).asarray(np.array([1, 0, 5, 2]))


def both(forward, backward, *arguments):
    """Result and gradients; the gradient of the result is a multiple of itself."""
    out, cache = forward(*arguments)
    gradients = backward(out * 0.5 - 1, cache)
    return out, *(gradients if isinstance(gradients, tuple) else (gradients,))


def norm(forward, backward, x, scale, shift, rest=()):
    parameters = {"mode": "train", "momentum": 0.75}
    first = both(forward, backward, x, scale, shift, *rest, parameters)
    if "running_mean" not in parameters:
        return first
    parameters["mode"] = "test"
    second = forward(x, scale, shift, *rest, parameters)[0]
    return *first, second, parameters["running_mean"], parameters["running_var"]


def convolution(form):
    def call(a):
        module = layers if form == "naive" else fast_layers
        forward, backward = (getattr(module, f"conv_{way}_{form}") for way in ("forward", "backward"))
        return both(forward, backward, a["images"], a["filters"], a["bias"], {"stride": 2, "pad": 1})

    return call


def pooling(form, parameters=TILES):
    def call(a):
        kind, _, name = form.partition("_pool_")
        module = layers if name == "naive" else fast_layers
        forward, backward = (getattr(module, f"{kind}_pool_{way}_{name}") for way in ("forward", "backward"))
        return both(forward, backward, a["images"], parameters)

    return call


def sandwich(name, *names, rest=()):
    def call(a):
        forward, backward = (getattr(layer_utils, f"{name}_{way}") for way in ("forward", "backward"))
        arguments = [dict(p) if isinstance(p, dict) else p for p in rest]
        return both(forward, backward, *(a[n] for n in names), *arguments)

    return call


def steps(rule):
    def call(a):
        w, config = a["rows"], {"learning_rate": 0.1}
        for _ in range(2):
            w, config = getattr(optim, rule)(w, a["rows"] * w - 1, config)
        return w, *(value for value in config.values() if hasattr(value, "shape"))

    return call


PLAIN = ("rows", "weights", "bias")
IMAGES = ("images", "filters", "bias")
ON = {"mode": "train"}
KEEP = {"mode": "train", "p": 0.5, "seed": 3}

CALLS = {
    "affine": lambda a: both(layers.affine_forward, layers.affine_backward, *(a[n] for n in PLAIN)),
    "relu": lambda a: both(layers.relu_forward, layers.relu_backward, a["rows"]),
    "batchnorm": lambda a: norm(layers.batchnorm_forward, layers.batchnorm_backward, a["rows"], a["six"], a["six"] - 1),
    "batchnorm_alt": lambda a: norm(
        layers.batchnorm_forward, layers.batchnorm_backward_alt, a["rows"], a["six"], a["six"] - 1
    ),
    "layernorm": lambda a: norm(layers.layernorm_forward, layers.layernorm_backward, a["rows"], a["six"], a["six"] - 1),
    "spatial_batchnorm": lambda a: norm(
        layers.spatial_batchnorm_forward,
        layers.spatial_batchnorm_backward,
        a["images"],
        a["channels"],
        a["channels"] - 1,
    ),
    "spatial_groupnorm": lambda a: norm(
        layers.spatial_groupnorm_forward,
        layers.spatial_groupnorm_backward,
        a["images"],
        a["per_channel"],
        a["per_channel"] - 1,
        (2,),
    ),
    "dropout": lambda a: both(layers.dropout_forward, layers.dropout_backward, a["rows"], KEEP),
    "conv_naive": convolution("naive"),
    "max_pool_naive": pooling("max_pool_naive", OVERLAPS),
    "svm_loss": lambda a: layers.svm_loss(a["rows"], labels(a["rows"])),
    "softmax_loss": lambda a: layers.softmax_loss(a["rows"], labels(a["rows"])),
    "conv_fast": convolution("fast"),
    "conv_im2col": convolution("im2col"),
    "conv_strides": convolution("strides"),
    "max_pool_fast": pooling("max_pool_fast", OVERLAPS),
    "max_pool_reshape": pooling("max_pool_reshape"),
    "max_pool_im2col": pooling("max_pool_im2col", OVERLAPS),
    "avg_pool_fast": pooling("avg_pool_fast", OVERLAPS),
    "avg_pool_reshape": pooling("avg_pool_reshape"),
    "avg_pool_im2col": pooling("avg_pool_im2col", OVERLAPS),
    "im2col_cython": lambda a: (im2col_cython.im2col_cython(a["images"], 2, 3, 1, 1),),
    "col2im_cython": lambda a: (im2col_cython.col2im_cython(a["cols"], 2, 4, 4, 6, 2, 2, 1, 2),),
    "col2im_6d_cython": lambda a: (im2col_cython.col2im_6d_cython(a["cols_6d"], 2, 4, 4, 6, 2, 2, 1, 2),),
    "im2col_indices": lambda a: (im2col.im2col_indices(a["images"], 2, 2, 1, 2),),
    "col2im_indices": lambda a: (im2col.col2im_indices(a["cols"], (2, 4, 4, 6), 2, 2, 1, 2),),
    "affine_relu": sandwich("affine_relu", *PLAIN),
    "affine_bn_relu": sandwich("affine_bn_relu", *PLAIN, "bias", "bias", rest=(ON,)),
    "generic": sandwich("generic", *PLAIN, "bias", "bias", rest=(ON, KEEP)),
    "conv_relu": sandwich("conv_relu", *IMAGES, rest=(CONV,)),
    "conv_bn_relu": sandwich("conv_bn_relu", *IMAGES, "bias", "bias", rest=(CONV, ON)),
    "conv_relu_pool": sandwich("conv_relu_pool", *IMAGES, rest=(CONV, {**TILES, "stride": 1})),
    "sgd": steps("sgd"),
    "sgd_momentum": steps("sgd_momentum"),
    "rmsprop": steps("rmsprop"),
    "adam": steps("adam"),
}
# on JAX each call is compiled, for seconds
ON_JAX = ("affine", "dropout", "conv_naive", "adam")


def values(rng, dtype):
    """Numbers of both signs, none near zero, no two of an array equal."""
    arrays = {}
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        arrays[name] = (rng.permutation(size) - size // 2 + 0.25).reshape(shape) / size * 3
    return {name: array.astype(dtype) for name, array in arrays.items()}


@pytest.mark.parametrize("name", CALLS)
def test_as_on_numpy(name, on, rng):
    if on.backend == "jax" and name not in ON_JAX:
        pytest.skip("some functions are enough on JAX")
    host = values(rng, "float64")
    want = CALLS[name](host)
    for dtype in on.dtypes:
        got = CALLS[name]({key: on.asarray(array.astype(dtype)) for key, array in host.items()})
        assert len(got) == len(want)
        for k, (result, expected) in enumerate(zip(got, want, strict=True)):
            # losses are scalars on NumPy, no arrays
            result = on.to_numpy(result) if np.ndim(expected) else to_numpy(result)
            assert result.dtype == dtype, k
            scale = max(np.abs(expected).max(), 1.0)
            np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=str(k))


def test_no_function_is_left_out():
    tested = set()
    for name in CALLS:
        tested.add(name)
        for way in ("forward", "backward"):
            head, _, form = name.rpartition("_")
            tested.update({f"{name}_{way}", f"{head}_{way}_{form}"})
    modules = ("layers", "fast_layers", "im2col_cython", "im2col", "layer_utils", "optim")
    public = {name for m in modules for name in importlib.import_module(f"xpconv.cs231n.{m}").__all__}
    assert public - tested == {"get_im2col_indices"}  # gives indices of the host


@pytest.mark.parametrize("name", ["affine", "conv_naive", "conv_fast", "conv_im2col"])
def test_numbers_of_several_dtypes_meet_in_the_widest(name, rng):
    arrays = values(rng, "float64")
    arrays["bias"] = np.array([0, 128, 3])  # integers, as for an image filter in a notebook of the course
    arrays["filters"] = arrays["filters"].astype("float32")
    want = CALLS[name]({key: array.astype("float64") for key, array in arrays.items()})
    for result, expected in zip(CALLS[name](arrays), want, strict=True):
        assert result.dtype == "float64"
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-9)
