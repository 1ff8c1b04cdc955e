"""Every operator in the pure array API: the portability proof, and a second oracle for the native kernels.

An operator takes the backend first, then its arrays and scalars, then the geometry if it has one. It computes with
names of the array API standard alone (through ``backend.xp``; what depends on nothing but shapes, like the divisors of
a pooling, is made by NumPy on the host) and modifies no argument, except that the steps of optimizers update the
parameter and the state, which belong to the optimizer.
"""

from .activation import (
    gelu,
    gelu_backward,
    hardtanh,
    hardtanh_backward,
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
from .augment import crop_flip_normalize
from .columns import col2im, im2col
from .conv import conv2d, conv2d_backward, conv2d_relu
from .conv_transpose import conv_transpose2d, conv_transpose2d_backward
from .dropout import dropout, dropout_backward, dropout_mask
from .linear import linear, linear_backward
from .loss import mse, multiclass_hinge, softmax_cross_entropy, weighted_cross_entropy
from .norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_relu,
    batch_norm_relu_backward,
    batch_norm_relu_inference,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
)
from .optim import adam_steps, clip_gradients, copy_tensors, rmsprop_steps, sgd_steps, squared_norm
from .pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)

__all__ = [
    "adam_steps",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_norm_relu_inference",
    "clip_gradients",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_relu",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "copy_tensors",
    "crop_flip_normalize",
    "dropout",
    "dropout_backward",
    "dropout_mask",
    "gelu",
    "gelu_backward",
    "group_norm",
    "group_norm_backward",
    "hardtanh",
    "hardtanh_backward",
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
    "rmsprop_steps",
    "sgd_steps",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax_cross_entropy",
    "squared_norm",
    "tanh",
    "tanh_backward",
    "weighted_cross_entropy",
]
