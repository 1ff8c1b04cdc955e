"""The names and arguments of the course, so that changed imports are the only edit of a notebook."""

import importlib
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

MODULES = {
    "layers": """
        affine_forward(x, w, b) affine_backward(dout, cache) relu_forward(x) relu_backward(dout, cache)
        batchnorm_forward(x, gamma, beta, bn_param) batchnorm_backward(dout, cache) batchnorm_backward_alt(dout, cache)
        layernorm_forward(x, gamma, beta, ln_param) layernorm_backward(dout, cache)
        dropout_forward(x, dropout_param) dropout_backward(dout, cache)
        conv_forward_naive(x, w, b, conv_param) conv_backward_naive(dout, cache)
        max_pool_forward_naive(x, pool_param) max_pool_backward_naive(dout, cache)
        spatial_batchnorm_forward(x, gamma, beta, bn_param) spatial_batchnorm_backward(dout, cache)
        spatial_groupnorm_forward(x, gamma, beta, G, gn_param) spatial_groupnorm_backward(dout, cache)
        svm_loss(x, y) softmax_loss(x, y)""",
    "fast_layers": """
        conv_forward_im2col(x, w, b, conv_param) conv_backward_im2col(dout, cache)
        conv_forward_strides(x, w, b, conv_param) conv_backward_strides(dout, cache)
        conv_forward_fast(x, w, b, conv_param) conv_backward_fast(dout, cache)
        max_pool_forward_fast(x, pool_param) max_pool_backward_fast(dout, cache)
        max_pool_forward_reshape(x, pool_param) max_pool_backward_reshape(dout, cache)
        max_pool_forward_im2col(x, pool_param) max_pool_backward_im2col(dout, cache)
        avg_pool_forward_fast(x, pool_param) avg_pool_backward_fast(dout, cache)
        avg_pool_forward_reshape(x, pool_param) avg_pool_backward_reshape(dout, cache)
        avg_pool_forward_im2col(x, pool_param) avg_pool_backward_im2col(dout, cache)""",
    "im2col_cython": """
        im2col_cython(x, field_height, field_width, padding, stride)
        col2im_cython(cols, N, C, H, W, field_height, field_width, padding, stride)
        col2im_6d_cython(cols, N, C, H, W, HH, WW, pad, stride)""",
    "im2col": """
        get_im2col_indices(x_shape, field_height, field_width, padding=1, stride=1)
        im2col_indices(x, field_height, field_width, padding=1, stride=1)
        col2im_indices(cols, x_shape, field_height=3, field_width=3, padding=1, stride=1)""",
    "layer_utils": """
        affine_relu_forward(x, w, b) affine_relu_backward(dout, cache)
        affine_bn_relu_forward(x, w, b, gamma, beta, bn_param) affine_bn_relu_backward(dout, cache)
        conv_relu_forward(x, w, b, conv_param) conv_relu_backward(dout, cache)
        conv_bn_relu_forward(x, w, b, gamma, beta, conv_param, bn_param) conv_bn_relu_backward(dout, cache)
        conv_relu_pool_forward(x, w, b, conv_param, pool_param) conv_relu_pool_backward(dout, cache)
        generic_forward(x, w, b, gamma=None, beta=None, bn_param=None, dropout_param=None, last=False)
        generic_backward(dout, cache)""",
    "optim": """
        sgd(w, dw, config=None) sgd_momentum(w, dw, config=None)
        rmsprop(w, dw, config=None) adam(w, dw, config=None)""",
    "gradient_check": """
        eval_numerical_gradient(f, x, verbose=True, h=1e-05) eval_numerical_gradient_array(f, x, df, h=1e-05)
        grad_check_sparse(f, x, analytic_grad, num_checks=10, h=1e-05) rel_error(x, y)""",
    "classifiers.fc_net": """
        TwoLayerNet(input_dim=3072, hidden_dim=100, num_classes=10, weight_scale=0.001, reg=0.0)
        FullyConnectedNet(hidden_dims, input_dim=3072, num_classes=10, dropout_keep_ratio=1, normalization=None,
            reg=0.0, weight_scale=0.01, dtype=np.float32, seed=None)""",
    "classifiers.cnn": """
        ThreeLayerConvNet(input_dim=(3, 32, 32), num_filters=32, filter_size=7, hidden_dim=100, num_classes=10,
            weight_scale=0.001, reg=0.0, dtype=np.float32)""",
    "solver": "Solver(model, data)",
    "data_utils": """
        get_CIFAR10_data(num_training=49000, num_validation=1000, num_test=1000, subtract_mean=True)
        load_CIFAR10(ROOT)""",
    "vis_utils": "visualize_grid(Xs, ubound=255.0, padding=1)",
}


SIGNATURE = re.compile(r"(\w+)\(((?:[^()]|\([^()]*\))*)\)")


@pytest.mark.parametrize("name", MODULES)
def test_names_and_arguments(name):
    module = importlib.import_module(f"xpconv.cs231n.{name}")
    found = {}
    for function, arguments in SIGNATURE.findall(MODULES[name]):
        # the signature as Python reads it, with the course's defaults
        want = inspect.signature(eval(f"lambda {' '.join(arguments.split())}: None", {"np": np})).parameters.values()
        got = [
            parameter
            for parameter in inspect.signature(getattr(module, function)).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        found[function] = [(p.name, p.default) for p in got][: len(want)]
        assert found[function] == [(p.name, p.default) for p in want], function
        assert getattr(module, function).__doc__
    assert set(found) == set(module.__all__)


def test_a_notebook_imports_what_it_is_used_to_and_nothing_optional():
    code = """
import sys
from xpconv.cs231n.classifiers.fc_net import *
from xpconv.cs231n.classifiers.cnn import *
from xpconv.cs231n.data_utils import get_CIFAR10_data
from xpconv.cs231n.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array
from xpconv.cs231n.layer_utils import *
from xpconv.cs231n.layers import *
from xpconv.cs231n.fast_layers import *
from xpconv.cs231n.solver import Solver
from xpconv.cs231n.classifiers import FullyConnectedNet
assert affine_forward and conv_forward_fast and conv_relu_pool_forward and ThreeLayerConvNet and TwoLayerNet
print([name for name in ("torch", "jax", "cupy", "array_api_strict", "matplotlib", "pytest") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
