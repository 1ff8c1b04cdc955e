"""The compiled CPU kernels as operators of the NumPy backend.

`ENGINES` maps each operator to its engines, best first: ``(name, function, supports)``. The functions have the
signatures of `xpconv._generic`. Importing this package raises ImportError where the kernels were not compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import xpconv._cpu._kernels as _kernels  # spelled so, a missing module is called missing, and not a circular import

from .. import _threads
from . import activation, columns, conv, dropout, linear, loss, norm, optim, pool
from ._memory import empty

__all__ = ["ENGINES", "empty", "trim_memory"]

trim_memory = _kernels.trim_memory

_kernels.set_num_threads(_threads._number)  # not get_num_threads(), which asks the kernels

_isa = os.environ.get("XPCONV_ISA")
if _isa:
    try:
        _kernels.use_instruction_set(_isa)
    except ValueError as error:
        raise ValueError(f"XPCONV_ISA: {error}") from None


def _real(dtype: str, geometry: Any) -> bool:
    return dtype in ("float32", "float64")


ENGINES: dict[str, tuple[tuple[str, Callable[..., Any], Callable[[str, Any], bool]], ...]] = {
    "im2col": (("cpu", columns.im2col, _real),),
    "col2im": (("cpu", columns.col2im, _real),),
    "conv2d": (("cpu", conv.conv2d, _real),),
    "conv2d_backward": (("cpu", conv.conv2d_backward, _real),),
    "conv2d_relu": (("cpu", conv.conv2d_relu, _real),),
    "conv_transpose2d": (("cpu", conv.conv_transpose2d, _real),),
    "conv_transpose2d_backward": (("cpu", conv.conv_transpose2d_backward, _real),),
    "max_pool2d": (("cpu", pool.max_pool2d, _real),),
    "max_pool2d_backward": (("cpu", pool.max_pool2d_backward, _real),),
    "avg_pool2d": (("cpu", pool.avg_pool2d, _real),),
    "avg_pool2d_backward": (("cpu", pool.avg_pool2d_backward, _real),),
    "batch_norm": (("cpu", norm.batch_norm, _real),),
    "batch_norm_backward": (("cpu", norm.batch_norm_backward, _real),),
    "batch_norm_inference": (("cpu", norm.batch_norm_inference, _real),),
    "batch_norm_relu": (("cpu", norm.batch_norm_relu, _real),),
    "batch_norm_relu_backward": (("cpu", norm.batch_norm_relu_backward, _real),),
    "batch_norm_relu_inference": (("cpu", norm.batch_norm_relu_inference, _real),),
    "layer_norm": (("cpu", norm.layer_norm, _real),),
    "layer_norm_backward": (("cpu", norm.layer_norm_backward, _real),),
    "group_norm": (("cpu", norm.group_norm, _real),),
    "group_norm_backward": (("cpu", norm.group_norm_backward, _real),),
    "adaptive_avg_pool2d": (("cpu", pool.adaptive_avg_pool2d, _real),),
    "adaptive_avg_pool2d_backward": (("cpu", pool.adaptive_avg_pool2d_backward, _real),),
    "dropout": (("cpu", dropout.dropout, _real),),
    "dropout_backward": (("cpu", dropout.dropout_backward, _real),),
    "dropout_mask": (("cpu", dropout.dropout_mask, _real),),
    "softmax_cross_entropy": (("cpu", loss.softmax_cross_entropy, _real),),
    "linear": (("cpu", linear.linear, _real),),
    "linear_backward": (("cpu", linear.linear_backward, _real),),
    "relu": (("cpu", activation.relu, _real),),
    "relu_backward": (("cpu", activation.relu_backward, _real),),
    "leaky_relu": (("cpu", activation.leaky_relu, _real),),
    "leaky_relu_backward": (("cpu", activation.leaky_relu_backward, _real),),
    "sigmoid": (("cpu", activation.sigmoid, _real),),
    "sigmoid_backward": (("cpu", activation.sigmoid_backward, _real),),
    "tanh": (("cpu", activation.tanh, _real),),
    "tanh_backward": (("cpu", activation.tanh_backward, _real),),
    "silu": (("cpu", activation.silu, _real),),
    "silu_backward": (("cpu", activation.silu_backward, _real),),
    "gelu": (("cpu", activation.gelu, _real),),
    "gelu_backward": (("cpu", activation.gelu_backward, _real),),
    "sgd_steps": (("cpu", optim.sgd_steps, _real),),
    "rmsprop_steps": (("cpu", optim.rmsprop_steps, _real),),
    "adam_steps": (("cpu", optim.adam_steps, _real),),
    "squared_norm": (("cpu", optim.squared_norm, _real),),
}
