"""How each layer is written as ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import layers
from .._geometry import Window, conv1d_arguments, conv_transpose_geometry, conv_window, pool_window, to_pair
from ..backends import to_numpy
from ..layers import Layer
from . import layers as more
from ._builder import Builder

__all__ = ["Emitter", "does_as", "find_emitter"]

# (graph, layer, name of the input, shape of the input) -> name of the result
Emitter = Callable[..., str]

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def _numpy(parameter: layers.Parameter) -> np.ndarray:
    return to_numpy(parameter.data)


def _bias(graph: Builder, layer: Any) -> list[str]:
    return [] if layer.bias is None else [graph.constant("bias", _numpy(layer.bias))]


def _channels_second(graph: Builder, layer: Any, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The images as (N, C, H, W), ONNX's only layout."""
    if layer.layout == "NCHW":
        return x, shape
    return graph.transpose(x, _TO_NCHW), tuple(shape[axis] for axis in _TO_NCHW)


def _in_layout(graph: Builder, layer: Any, y: str) -> str:
    return y if layer.layout == "NCHW" else graph.transpose(y, _TO_NHWC)


# ---- products -----------------------------------------------------------------------------------------------


def _conv2d(graph: Builder, layer: layers.Conv2d, x: str, shape: tuple[int, ...]) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    w = conv_window(shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    y = graph.add(
        "Conv",
        x,
        graph.constant("weight", to_numpy(layer.filters())),
        *_bias(graph, layer),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[w.pad_top, w.pad_left, w.pad_bottom, w.pad_right],
        dilations=list(layer.dilation),
        group=layer.groups,
    )
    return _in_layout(graph, layer, y)


def _conv1d(graph: Builder, layer: layers.Conv1d, x: str, shape: tuple[int, ...]) -> str:
    stride, padding, dilation = conv1d_arguments(layer.stride, layer.padding, layer.dilation)
    w = conv_window((1, shape[2]), (1, layer.kernel_size), stride, padding, dilation)
    return graph.add(
        "Conv",
        x,
        graph.constant("weight", _numpy(layer.weight)),
        *_bias(graph, layer),
        kernel_shape=[layer.kernel_size],
        strides=[layer.stride],
        pads=[w.pad_left, w.pad_right],
        dilations=[layer.dilation],
        group=layer.groups,
    )


def _conv_transpose2d(graph: Builder, layer: layers.ConvTranspose2d, x: str, shape: tuple[int, ...]) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    w = conv_transpose_geometry(
        shape,
        layer.weight.shape,
        stride=layer.stride,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation=layer.dilation,
        groups=layer.groups,
    ).window
    y = graph.add(
        "ConvTranspose",
        x,
        graph.constant("weight", _numpy(layer.weight)),
        *_bias(graph, layer),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[w.pad_top, w.pad_left, w.pad_bottom, w.pad_right],
        output_padding=list(_more(layer, w, shape)),
        dilations=list(layer.dilation),
        group=layer.groups,
    )
    return _in_layout(graph, layer, y)


def _more(layer: layers.ConvTranspose2d, w: Window, shape: tuple[int, ...]) -> tuple[int, int]:
    """The output padding that gives ONNX's formula the size that the result has; "same" may need one too."""
    sizes = zip((w.height, w.width), shape[2:], layer.stride, layer.kernel_size, layer.dilation, strict=True)
    pads = (w.pad_top + w.pad_bottom, w.pad_left + w.pad_right)
    high, wide = (
        out - ((size - 1) * stride + (kernel - 1) * dilation + 1 - pad)
        for (out, size, stride, kernel, dilation), pad in zip(sizes, pads, strict=True)
    )
    return high, wide


def _linear(graph: Builder, layer: layers.Linear, x: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return graph.add("Gemm", x, graph.constant("weight", _numpy(layer.weight)), *_bias(graph, layer), transB=1)
    y = graph.add("MatMul", x, graph.constant("weight_transposed", _numpy(layer.weight).T))
    return graph.add("Add", y, *_bias(graph, layer)) if layer.bias is not None else y


# ---- normalisation ------------------------------------------------------------------------------------------


def _batch_norm(graph: Builder, layer: Any, x: str, shape: tuple[int, ...], residual: str | None = None) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    ones = np.ones(layer.num_features, np.float32)
    weight = graph.constant("weight", ones if layer.weight is None else _numpy(layer.weight))
    bias = graph.constant("bias", 0 * ones if layer.bias is None else _numpy(layer.bias))
    if layer.track_running_stats:
        mean = graph.constant("running_mean", to_numpy(layer.running_mean))
        var = graph.constant("running_var", to_numpy(layer.running_var))
        y = graph.add("BatchNormalization", x, weight, bias, mean, var, epsilon=layer.eps)
    else:
        y = _by_its_batch(graph, layer, x, shape)
    y = _in_layout(graph, layer, y)
    if getattr(layer, "activation", None) is None:
        return y
    return graph.add("Relu", y if residual is None else graph.add("Add", y, residual))


def _by_its_batch(graph: Builder, layer: Any, x: str, shape: tuple[int, ...]) -> str:
    """Without running statistics: the mean and the variance are those of the batch, in evaluation too."""
    axes = [axis for axis in range(len(shape)) if axis != 1]
    centred = graph.add("Sub", x, graph.add("ReduceMean", x, axes=axes, keepdims=1))
    var = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=axes, keepdims=1)
    y = graph.add("Div", centred, graph.add("Sqrt", graph.add("Add", var, graph.number(layer.eps))))
    return _affine(graph, layer, y, len(shape) - 2)


def _affine(graph: Builder, layer: Any, y: str, axes: int) -> str:
    """Scale and shift of each channel, before ``axes`` axes of pixels."""
    if layer.weight is not None:
        y = graph.add("Mul", y, graph.constant("weight_column", _numpy(layer.weight).reshape(-1, *[1] * axes)))
    if layer.bias is not None:
        y = graph.add("Add", y, graph.constant("bias_column", _numpy(layer.bias).reshape(-1, *[1] * axes)))
    return y


def _layer_norm(graph: Builder, layer: layers.LayerNorm, x: str, shape: tuple[int, ...]) -> str:
    ones = np.ones(layer.normalized_shape, np.float32)
    weight = graph.constant("weight", ones if layer.weight is None else _numpy(layer.weight))
    axis = -len(layer.normalized_shape)
    return graph.add("LayerNormalization", x, weight, *_bias(graph, layer), axis=axis, epsilon=layer.eps)


def _group_norm(graph: Builder, layer: layers.GroupNorm, x: str, shape: tuple[int, ...]) -> str:
    # GroupNormalization came with opset 18: as PyTorch writes it, groups as the channels of an instance norm
    groups = layer.num_groups
    one, zero = (graph.constant(name, np.full(groups, n, np.float32)) for name, n in (("ones", 1), ("zeros", 0)))
    y = graph.add("Reshape", x, graph.integers("groups", [0, groups, -1]))
    y = graph.add("InstanceNormalization", y, one, zero, epsilon=layer.eps)
    y = graph.add("Reshape", y, graph.add("Shape", x))
    return _affine(graph, layer, y, len(shape) - 2)


def _instance_norm2d(graph: Builder, layer: layers.InstanceNorm2d, x: str, shape: tuple[int, ...]) -> str:
    ones = np.ones(layer.num_features, np.float32)
    weight = graph.constant("weight", ones if layer.weight is None else _numpy(layer.weight))
    bias = graph.constant("bias", 0 * ones if layer.bias is None else _numpy(layer.bias))
    return graph.add("InstanceNormalization", x, weight, bias, epsilon=layer.eps)


# ---- pooling ------------------------------------------------------------------------------------------------


def _reach(w: Window) -> list[int]:
    """ONNX's pads with which the windows just end: a rule for ceil_mode that no runtime reads otherwise."""
    bottom = (w.out_h - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1 - w.height - w.pad_top
    right = (w.out_w - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1 - w.width - w.pad_left
    return [w.pad_top, w.pad_left, max(bottom, 0), max(right, 0)]


def _max_pool2d(graph: Builder, layer: layers.MaxPool2d, x: str, shape: tuple[int, ...]) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    w = pool_window(shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    pads = _reach(w)
    if any(pad >= kernel for pad, kernel in zip(pads, [w.kernel_h, w.kernel_w] * 2, strict=True)):
        # possible with dilation, and refused by onnxruntime
        frame = graph.integers("pads", [0, 0, *pads[:2], 0, 0, *pads[2:]])
        x, pads = graph.add("Pad", x, frame, graph.number(-math.inf), mode="constant"), [0, 0, 0, 0]
    y = graph.add(
        "MaxPool",
        x,
        kernel_shape=[w.kernel_h, w.kernel_w],
        strides=[w.stride_h, w.stride_w],
        pads=pads,
        dilations=[w.dilation_h, w.dilation_w],
    )
    return _in_layout(graph, layer, y)


def _avg_pool2d(graph: Builder, layer: layers.AvgPool2d, x: str, shape: tuple[int, ...]) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    w = pool_window(shape[2:], layer.kernel_size, layer.stride, layer.padding, 1, layer.ceil_mode)
    y = graph.add(
        "AveragePool",
        x,
        kernel_shape=[w.kernel_h, w.kernel_w],
        strides=[w.stride_h, w.stride_w],
        pads=_reach(w),
        count_include_pad=int(layer.count_include_pad),
    )
    if layer.count_include_pad:
        # pixels that a partial window has beyond the frame never count
        rows = _counted(w.height + w.pad_top + w.pad_bottom, w.kernel_h, w.stride_h, w.out_h)
        columns = _counted(w.width + w.pad_left + w.pad_right, w.kernel_w, w.stride_w, w.out_w)
        counted = np.outer(rows, columns)
        if np.any(counted != w.taps):
            y = graph.add("Mul", y, graph.constant("partial", w.taps / counted))
    return _in_layout(graph, layer, y)


def _counted(length: int, kernel: int, stride: int, outputs: int) -> np.ndarray:
    """How many taps of each window lie within ``length`` pixels."""
    return np.minimum(kernel, length - stride * np.arange(outputs))


def _global_avg_pool2d(graph: Builder, layer: layers.GlobalAvgPool2d, x: str, shape: tuple[int, ...]) -> str:
    x, _ = _channels_second(graph, layer, x, shape)
    return graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)


def _adaptive_avg_pool2d(graph: Builder, layer: layers.AdaptiveAvgPool2d, x: str, shape: tuple[int, ...]) -> str:
    x, shape = _channels_second(graph, layer, x, shape)
    size, out = shape[2:], to_pair("output_size", layer.output_size)
    if out == (1, 1):
        y = graph.add("GlobalAveragePool", x)
    elif not (size[0] % out[0] or size[1] % out[1]):
        step = [size[0] // out[0], size[1] // out[1]]
        y = graph.add("AveragePool", x, kernel_shape=step, strides=step)
    else:  # ONNX has no bins of several sizes: a product with the shares of the pixels in each
        y = graph.add("MatMul", graph.constant("row_shares", _shares(size[0], out[0])), x)
        y = graph.add("MatMul", y, graph.constant("column_shares", _shares(size[1], out[1]).T))
    return _in_layout(graph, layer, y)


def _shares(size: int, outputs: int) -> np.ndarray:
    """(outputs, size): the weight of each pixel in the mean of each bin."""
    shares = np.zeros((outputs, size))
    for k in range(outputs):
        low, high = k * size // outputs, -(-(k + 1) * size // outputs)
        shares[k, low:high] = 1 / (high - low)
    return shares


# ---- what has no parameters ---------------------------------------------------------------------------------


def _operator(op: str) -> Emitter:
    return lambda graph, layer, x, shape: graph.add(op, x)


def _leaky_relu(graph: Builder, layer: layers.LeakyReLU, x: str, shape: tuple[int, ...]) -> str:
    return graph.add("LeakyRelu", x, alpha=layer.negative_slope)


def _hardtanh(graph: Builder, layer: layers.Hardtanh, x: str, shape: tuple[int, ...]) -> str:
    low, high = (
        graph.constant(name, np.array(bound)) if math.isfinite(bound) else ""
        for name, bound in (("min", layer.min_val), ("max", layer.max_val))
    )
    return graph.add("Clip", x, low, high)


def _gelu(graph: Builder, layer: Layer, x: str, shape: tuple[int, ...]) -> str:
    # Gelu came with opset 20; onnxruntime knows this pattern
    y = graph.add("Erf", graph.add("Div", x, graph.number(math.sqrt(2))))
    y = graph.add("Mul", x, graph.add("Add", y, graph.number(1)))
    return graph.add("Mul", y, graph.number(0.5))


def _silu(graph: Builder, layer: Layer, x: str, shape: tuple[int, ...]) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _flatten(graph: Builder, layer: Layer, x: str, shape: tuple[int, ...]) -> str:
    return graph.add("Flatten", x, axis=1)


def _nothing(graph: Builder, layer: Layer, x: str, shape: tuple[int, ...]) -> str:
    return x


# ---- the layers of loaded files -----------------------------------------------------------------------------


def _operands(graph: Builder, layer: Any, given: tuple[str, ...]) -> list[str]:
    """The names of both, in order."""
    if layer.value is None:
        return list(given)
    own = layer.value.data if isinstance(layer.value, layers.Parameter) else layer.value
    constant = graph.constant("value", to_numpy(own))
    return [constant, *given] if layer.first else [*given, constant]


def _arithmetic(graph: Builder, layer: more.Arithmetic, x: str, shape: tuple[int, ...], *others: str) -> str:
    return graph.add(layer.operator, *_operands(graph, layer, (x, *others)))


def _matmul(graph: Builder, layer: more.MatMul, x: str, shape: tuple[int, ...], *others: str) -> str:
    return graph.add("MatMul", *_operands(graph, layer, (x, *others)))


def _function(graph: Builder, layer: more.Function, x: str, shape: tuple[int, ...]) -> str:
    options = layer.options
    if layer.operator == "Pow":
        return graph.add("Pow", x, graph.constant("exponent", np.array(options["exponent"])))
    if layer.operator == "GeluTanh":  # 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))
        cube = graph.add("Mul", graph.add("Mul", graph.add("Mul", x, x), x), graph.number(0.044715))
        inner = graph.add("Mul", graph.add("Add", x, cube), graph.number(math.sqrt(2 / math.pi)))
        y = graph.add("Mul", x, graph.add("Add", graph.add("Tanh", inner), graph.number(1)))
        return graph.add("Mul", y, graph.number(0.5))
    return graph.add(layer.operator, x, **options)


def _softmax(graph: Builder, layer: more.Softmax, x: str, shape: tuple[int, ...]) -> str:
    return graph.add("LogSoftmax" if layer.log else "Softmax", x, axis=layer.axis)


def _prelu(graph: Builder, layer: more.PReLU, x: str, shape: tuple[int, ...]) -> str:
    return graph.add("PRelu", x, graph.constant("slope", _numpy(layer.slope)))


def _reshape(graph: Builder, layer: more.Reshape, x: str, shape: tuple[int, ...]) -> str:
    wanted = list(layer.shape or ())
    lengths = layer.allow_zero and 0 in wanted  # zeros that are lengths, beside which none can mean the batch
    if layer.batch is not None and wanted and wanted[0] == layer.batch and not lengths:
        wanted[0] = 0
    return graph.add("Reshape", x, graph.integers("shape", wanted), allowzero=int(lengths))


def _reshaped(graph: Builder, layer: more.Reshaped, x: str, shape: tuple[int, ...]) -> str:
    if layer.operator == "Flatten":
        return graph.add("Flatten", x, axis=(layer.axes or (1,))[0])
    axes = layer.axes if layer.axes is not None else [i for i, length in enumerate(shape) if length == 1]
    return graph.add(layer.operator, x, graph.integers("axes", axes))


def _permuted(graph: Builder, layer: more.Permuted, x: str, shape: tuple[int, ...]) -> str:
    return graph.transpose(x, layer.axes if layer.axes is not None else tuple(range(len(shape)))[::-1])


def _mean(graph: Builder, layer: more.Mean, x: str, shape: tuple[int, ...]) -> str:
    axes = list(range(len(shape)) if layer.axes is None else layer.axes)
    if layer.total:
        return graph.add("ReduceSum", x, graph.integers("axes", axes), keepdims=int(layer.keepdims))
    return graph.add("ReduceMean", x, axes=axes, keepdims=int(layer.keepdims))


def _joined(graph: Builder, layer: more.Joined, x: str, shape: tuple[int, ...], *others: str) -> str:
    return graph.add("Concat", x, *others, axis=layer.axis)


def _part(graph: Builder, layer: more.Part, x: str, shape: tuple[int, ...]) -> str:
    axes, starts, stops = (list(column) for column in zip(*layer.ranges, strict=True))
    bounds = [graph.integers(name, values) for name, values in (("starts", starts), ("ends", stops), ("axes", axes))]
    return graph.add("Slice", x, *bounds)


def _pad(graph: Builder, layer: more.Pad, x: str, shape: tuple[int, ...]) -> str:
    before, behind = zip(*layer.frame(shape), strict=True)
    pads = graph.integers("pads", [*before, *behind])
    return graph.add("Pad", x, pads, graph.constant("frame", np.array(layer.value)), mode="constant")


_EMITTERS: dict[type[Layer], Emitter] = {
    layers.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    layers.AvgPool2d: _avg_pool2d,
    layers.BatchNorm1d: _batch_norm,
    layers.BatchNorm2d: _batch_norm,
    layers.Conv1d: _conv1d,
    layers.Conv2d: _conv2d,
    layers.ConvTranspose2d: _conv_transpose2d,
    layers.Dropout: _nothing,
    layers.Flatten: _flatten,
    layers.GELU: _gelu,
    layers.GlobalAvgPool2d: _global_avg_pool2d,
    layers.GroupNorm: _group_norm,
    layers.Hardtanh: _hardtanh,
    layers.Identity: _nothing,
    layers.InstanceNorm2d: _instance_norm2d,
    layers.LayerNorm: _layer_norm,
    layers.LeakyReLU: _leaky_relu,
    layers.Linear: _linear,
    layers.MaxPool2d: _max_pool2d,
    layers.ReLU: _operator("Relu"),
    layers.ReLU6: _hardtanh,
    layers.SiLU: _silu,
    layers.Sigmoid: _operator("Sigmoid"),
    layers.Tanh: _operator("Tanh"),
    more.Arithmetic: _arithmetic,
    more.Function: _function,
    more.Joined: _joined,
    more.MatMul: _matmul,
    more.Mean: _mean,
    more.PReLU: _prelu,
    more.Pad: _pad,
    more.Part: _part,
    more.Permuted: _permuted,
    more.Reshape: _reshape,
    more.Reshaped: _reshaped,
    more.Softmax: _softmax,
}

# what a subclass may define anew, since it is asked for it
_ASKED = {"filters", "weight_gradient", "extra_repr", "__init__"}
_CALLED = {"__call__", "__getattr__", "__getattribute__", "__new__"}


def does_as(layer: Layer, kind: type) -> bool:
    """Whether ``layer`` does what ``kind`` defines: it is one, and neither its class nor it changes a method."""
    if not isinstance(layer, kind) or any(callable(getattr(kind, name, None)) for name in layer.__dict__):
        return False
    for between in type(layer).__mro__[: type(layer).__mro__.index(kind)]:
        for name in vars(between):
            special = name.startswith("__") and name not in _CALLED
            if hasattr(kind, name) and name not in _ASKED and not special:
                return False
    return True


def find_emitter(layer: Layer) -> Emitter | None:
    """What writes ``layer``, or None."""
    for kind in type(layer).__mro__:
        if kind in _EMITTERS:
            return _EMITTERS[kind] if does_as(layer, kind) else None
    return None
