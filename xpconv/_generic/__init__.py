"""Every operator in the pure array API: the portability proof, and a second oracle for the native kernels.

An operator takes the backend first, then its arrays and scalars, then the geometry if it has one. It uses only names
of the array API standard (through ``backend.xp``) and modifies no argument, except that the steps of optimizers
update the parameter and the state, which belong to the optimizer.
"""

from .activation import (
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from .columns import col2im, im2col
from .conv import conv2d, conv2d_backward
from .dropout import dropout_mask
from .linear import linear, linear_backward
from .loss import mse, multiclass_hinge, softmax_cross_entropy
from .norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
)
from .optim import adam_step, rmsprop_step, sgd_step
from .pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)

__all__ = [
    "adam_step",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "dropout_mask",
    "gelu",
    "gelu_backward",
    "group_norm",
    "group_norm_backward",
    "im2col",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mse",
    "multiclass_hinge",
    "relu",
    "relu_backward",
    "rmsprop_step",
    "sgd_step",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax_cross_entropy",
    "tanh",
    "tanh_backward",
]
