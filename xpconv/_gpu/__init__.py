"""Operators on CUDA kernels, for every backend whose arrays the kernels can read: CuPy, and its stand-in on the host.

`ENGINES` maps each operator to its engines, best first: ``(name, function, supports)``. The functions have the
signatures of `xpconv._generic`; their backend is a `GpuBackend`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import augment, columns, conv, conv_transpose, dropout, elementwise, linear, loss, norm, optim, pool
from .backend import GpuBackend
from .module import CTYPES

__all__ = ["ENGINES", "GpuBackend"]


def _real(dtype: str, geometry: Any) -> bool:
    return dtype in CTYPES


def _any(dtype: str, geometry: Any) -> bool:
    return True


_OPERATORS: tuple[Callable[..., Any], ...] = (
    augment.crop_flip_normalize,
    columns.im2col,
    columns.col2im,
    conv.conv2d,
    conv.conv2d_backward,
    conv.conv2d_relu,
    conv_transpose.conv_transpose2d,
    conv_transpose.conv_transpose2d_backward,
    dropout.dropout_mask,
    elementwise.gelu,
    elementwise.gelu_backward,
    elementwise.leaky_relu,
    elementwise.leaky_relu_backward,
    elementwise.relu,
    elementwise.relu_backward,
    elementwise.sigmoid,
    elementwise.sigmoid_backward,
    elementwise.silu,
    elementwise.silu_backward,
    elementwise.tanh,
    elementwise.tanh_backward,
    linear.linear,
    linear.linear_backward,
    loss.mse,
    loss.multiclass_hinge,
    loss.softmax_cross_entropy,
    norm.batch_norm,
    norm.batch_norm_backward,
    norm.batch_norm_inference,
    norm.batch_norm_relu,
    norm.batch_norm_relu_backward,
    norm.batch_norm_relu_inference,
    norm.group_norm,
    norm.group_norm_backward,
    norm.layer_norm,
    norm.layer_norm_backward,
    optim.adam_steps,
    optim.clip_gradients,
    optim.copy_tensors,
    optim.rmsprop_steps,
    optim.sgd_steps,
    optim.squared_norm,
    pool.adaptive_avg_pool2d,
    pool.adaptive_avg_pool2d_backward,
    pool.avg_pool2d,
    pool.avg_pool2d_backward,
    pool.max_pool2d,
    pool.max_pool2d_backward,
)

ENGINES: dict[str, tuple[tuple[str, Callable[..., Any], Callable[[str, Any], bool]], ...]] = {
    operator.__name__: (("cuda", operator, _any if operator is optim.copy_tensors else _real),)
    for operator in _OPERATORS
}
