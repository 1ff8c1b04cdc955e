"""Calls of every operator that has CUDA kernels, small but larger than one grid where that is affordable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpconv._geometry import conv_geometry, conv_transpose_geometry, conv_window, pool_window


class Call(NamedTuple):
    """Arguments of an operator behind the backend; NumPy arrays are to become arrays of the backend."""

    operator: str
    arguments: tuple[Any, ...]


def _conv(rng, x_shape, w_shape, **options):
    geometry = conv_geometry(x_shape, w_shape, **{"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options})
    window = geometry.window
    x, w, b = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=w_shape[0])
    dy = rng.normal(size=(x_shape[0], w_shape[0], window.out_h, window.out_w))
    return [
        Call("conv2d", (x, w, b, geometry)),
        Call("conv2d_relu", (x, w, b, geometry)),
        Call("conv2d", (x, w, None, geometry)),
        Call("conv2d_backward", (dy, x, w, True, True, geometry)),
        Call("conv2d_backward", (dy, x, w, False, False, geometry)),
    ]


def conv2d(rng):
    yield from _conv(rng, (2, 3, 9, 11), (4, 3, 3, 3), padding=1)
    yield from _conv(rng, (3, 4, 8, 7), (6, 2, 3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=2, groups=2)
    yield from _conv(rng, (2, 5, 6, 6), (3, 5, 1, 1))
    yield from _conv(rng, (2, 5, 6, 6), (3, 5, 1, 1), stride=2)
    yield from _conv(rng, (0, 2, 5, 5), (3, 2, 3, 3))


def _transposed(rng, x_shape, w_shape, **options):
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
    geometry = conv_transpose_geometry(x_shape, w_shape, **{**defaults, **options})
    window, filters = geometry.window, geometry.in_channels
    x, w, b = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=filters)
    dy = rng.normal(size=(x_shape[0], filters, window.height, window.width))
    yield Call("conv_transpose2d", (x, w, b, geometry))
    yield Call("conv_transpose2d", (x, w, None, geometry))
    yield Call("conv_transpose2d_backward", (dy, x, w, True, True, geometry))
    yield Call("conv_transpose2d_backward", (dy, x, w, False, False, geometry))


def conv_transpose2d(rng):
    yield from _transposed(rng, (2, 3, 5, 6), (3, 4, 3, 3), stride=2, padding=1, output_padding=1)
    yield from _transposed(
        rng, (3, 4, 4, 5), (4, 3, 3, 2), stride=(1, 2), padding=((1, 0), (2, 1)), dilation=2, groups=2
    )
    yield from _transposed(rng, (2, 5, 6, 6), (5, 3, 1, 1))
    yield from _transposed(rng, (2, 2, 3, 4), (2, 3, 1, 1), dilation=2, output_padding=(1, 0))
    yield from _transposed(rng, (0, 2, 5, 5), (2, 3, 3, 3))


def crop_flip_normalize(rng):
    for shape, count in [((5, 3, 9, 7), 6), ((4, 2, 30, 40), 8), ((3, 1, 4, 8), 0)]:  # threads of one pixel and of four
        images = rng.integers(0, 256, size=shape, dtype=np.uint8)
        most = np.array([shape[0], 3, 3, 2])
        choices = rng.integers(-most * (0, 1, 1, 0), most, size=(count, 4), dtype=np.int32)
        scale, shift = rng.random(size=(2, shape[1])) / 255
        yield Call("crop_flip_normalize", (np.zeros(0), images, choices, scale, shift))


def columns(rng):
    for shape, kernel, stride, padding, dilation in [
        ((2, 3, 30, 40), (3, 3), 1, 1, 1),  # more elements than threads
        ((1, 2, 9, 8), (5, 5), 2, ((2, 1), (0, 3)), 1),
        ((2, 1, 9, 8), (1, 1), 3, 0, 1),
        ((1, 1, 12, 14), (7, 7), 1, 3, 1),
        ((5, 2, 6, 8), (3, 3), 1, 1, 1),  # these and the first: whole vectors of 16 bytes, through shared memory
        ((2, 1, 6, 8), (5, 5), 1, ((1, 2), (0, 4)), 1),
        ((1, 1, 7, 8), (7, 7), 1, 3, 1),
        ((2, 2, 12, 9), (2, 4), (1, 3), 2, (3, 2)),
        ((0, 2, 5, 5), (3, 3), 1, 0, 1),
    ]:
        window = conv_window(shape[2:], kernel, stride, padding, dilation)
        x = rng.normal(size=shape)
        yield Call("im2col", (x, window))
        yield Call("col2im", (rng.normal(size=(shape[0], shape[1] * window.taps, window.positions)), window))


def _pool_windows(dilation=1):
    for shape, kernel, stride, padding, ceil_mode in [
        ((2, 3, 40, 42), 2, 2, 0, False),
        ((2, 3, 11, 10), 3, 2, 1, True),
        ((1, 2, 9, 13), (2, 3), (3, 1), ((1, 0), (0, 1)), False),
        ((0, 2, 6, 6), 2, 2, 0, False),
    ]:
        yield shape, pool_window(shape[2:], kernel, stride, padding, dilation, ceil_mode)


def max_pool2d(rng):
    for dilation in (1, 2):
        for shape, window in _pool_windows(dilation):
            x = rng.integers(-3, 3, size=shape).astype(float)  # ties: the first of equal maxima
            yield Call("max_pool2d", (x, window))
            y_shape = (*shape[:2], window.out_h, window.out_w)
            argmax = rng.integers(0, window.taps, size=y_shape).astype(np.uint8)
            yield Call("max_pool2d_backward", (rng.normal(size=y_shape), argmax, window))
    x = np.where(rng.random(size=(1, 2, 9, 9)) < 0.2, np.nan, rng.normal(size=(1, 2, 9, 9)))
    yield Call("max_pool2d", (x, pool_window((9, 9), 3, 2, 0, 1, False)))
    large = pool_window((20, 21), 17, 1, 2, 1, False)  # 289 taps do not fit into uint8
    yield Call("max_pool2d", (rng.normal(size=(1, 2, 20, 21)), large))
    shape = (1, 2, large.out_h, large.out_w)
    argmax = rng.integers(0, large.taps, size=shape).astype(np.int32)
    yield Call("max_pool2d_backward", (rng.normal(size=shape), argmax, large))
    for size, kernel, dtype in [((6, 9), 3, np.uint8), ((17, 34), 17, np.int32)]:  # windows that tile the image
        window = pool_window(size, kernel, kernel, 0, 1, False)
        argmax = rng.integers(0, window.taps, size=(2, 2, window.out_h, window.out_w)).astype(dtype)
        yield Call("max_pool2d_backward", (rng.normal(size=argmax.shape), argmax, window))
    yield Call("max_pool2d", (np.full((1, 1, 4, 4), -np.inf), pool_window((4, 4), 3, 2, 1, 1, False)))


def avg_pool2d(rng):
    for include in (True, False):
        for shape, window in _pool_windows():
            yield Call("avg_pool2d", (rng.normal(size=shape), include, window))
            y_shape = (*shape[:2], window.out_h, window.out_w)
            yield Call("avg_pool2d_backward", (rng.normal(size=y_shape), include, window))


def adaptive_avg_pool2d(rng):
    for shape, size in [
        ((3, 5, 9, 11), (1, 1)),
        ((2, 3, 9, 11), (4, 3)),
        ((1, 2, 3, 4), (5, 7)),
        ((0, 2, 4, 4), (1, 1)),
    ]:
        yield Call("adaptive_avg_pool2d", (rng.normal(size=shape), size))
        yield Call("adaptive_avg_pool2d_backward", (rng.normal(size=(*shape[:2], *size)), shape[2:]))


def activations(rng):
    x = np.concatenate([rng.normal(size=6000) * 3, [0.0, 1.0, -1.0, 30.0, -30.0, 1e4, -1e4]]).reshape(1, -1)
    dy = rng.normal(size=x.shape)
    for name in ("relu", "gelu", "silu", "sigmoid", "tanh"):
        yield Call(name, (x,))
        kept = np.tanh(x) if name in ("sigmoid", "tanh") else x
        yield Call(f"{name}_backward", (dy, kept))
    yield Call("leaky_relu", (x, 0.2))
    yield Call("leaky_relu_backward", (dy, x, 0.2))
    yield Call("relu", (np.asarray([np.nan, -0.5, 0.5]),))
    yield Call("relu", (np.zeros((0, 3)),))
    yield Call("relu", (np.asarray(1.5),))


def batch_norm(rng):
    for shape, offset in [((3, 5, 700), 0.0), ((4, 7, 1), 100.0), ((2, 3, 12), 1e4)]:
        c = shape[1]
        x, dy = rng.normal(size=shape) + offset, rng.normal(size=shape)
        weight, bias = rng.normal(size=c), rng.normal(size=c)
        mean, variance = x.mean(axis=(0, 2)), x.var(axis=(0, 2))
        running = rng.normal(size=c), rng.random(size=c)
        yield Call("batch_norm", (x, weight, bias, *running, 0.3, 1e-5))
        yield Call("batch_norm", (x, None, None, None, running[1], 1.0, 1e-3))
        yield Call("batch_norm_inference", (x, weight, bias, mean, variance, 1e-5))
        yield Call("batch_norm_inference", (x, None, None, mean, variance, 1e-5))
        small = x - offset
        mean = mean - offset
        for training in (True, False):
            yield Call("batch_norm_backward", (dy, small, weight, mean, 1 / np.sqrt(variance), training))
            yield Call("batch_norm_backward", (dy, small, None, mean, 1 / np.sqrt(variance), training))


def batch_norm_relu(rng):
    # planes that are no multiple of 16 bytes, and planes that are
    for shape in [(3, 5, 49), (2, 3, 64), (0, 2, 8)]:
        c = shape[1]
        x, residual, dy, y = rng.normal(size=(4, *shape))
        y = np.maximum(y, 0)
        dy[y == 0] = np.nan  # what ReLU cuts off is lost, whatever it is
        weight, bias = rng.normal(size=c), rng.normal(size=c)
        mean, variance = rng.normal(size=c), rng.random(size=c) + 1
        for w, b, beside in [(weight, bias, residual), (weight, bias, None), (None, None, residual)]:
            if x.size:
                running = (None, None) if beside is None else (mean, variance)
                yield Call("batch_norm_relu", (x, w, b, beside, *running, 0.1, 1e-5))
            yield Call("batch_norm_relu_inference", (x, w, b, beside, mean, variance, 1e-5))
        for training, need_dresidual in [(True, True), (True, False), (False, True)] if x.size else [(False, True)]:
            moments = (mean, 1 / np.sqrt(variance))
            yield Call("batch_norm_relu_backward", (dy, y, x, weight, *moments, training, need_dresidual))
        yield Call("batch_norm_relu_backward", (dy, y, x, None, mean, 1 / np.sqrt(variance), False, False))
    x, dy = rng.normal(size=(2, 2, 3, 8))
    x[1, 1, 3], x[0, 0, 0] = np.nan, np.inf
    dy[1, 0, 2], dy[0, 1, 1] = np.inf, np.nan
    yield Call("batch_norm_relu_inference", (x, None, None, None, np.zeros(3), np.ones(3), 0.0))
    yield Call("batch_norm_relu_backward", (dy, x, x, None, np.zeros(3), np.ones(3), False, True))


def row_norms(rng):
    for rows, length in [(5, 700), (130, 3), (1, 1)]:
        x, dy = rng.normal(size=(rows, length)) + 3, rng.normal(size=(rows, length))
        weight, bias = rng.normal(size=length), rng.normal(size=length)
        mean, inv_std = x.mean(axis=1, keepdims=True), 1 / np.sqrt(x.var(axis=1, keepdims=True) + 1)
        yield Call("layer_norm", (x, weight, bias, 1e-5))
        yield Call("layer_norm", (x, None, None, 1e-5))
        yield Call("layer_norm_backward", (dy, x, weight, mean, inv_std))
        yield Call("layer_norm_backward", (dy, x, None, mean, inv_std))
    for shape, groups in [((3, 6, 50), 3), ((2, 4, 1), 2), ((20, 4, 7), 4), ((2, 3, 400), 1)]:
        x, dy = rng.normal(size=shape) + 3, rng.normal(size=shape)
        weight, bias = rng.normal(size=shape[1]), rng.normal(size=shape[1])
        rows = x.reshape(shape[0] * groups, -1)
        mean, inv_std = rows.mean(axis=1, keepdims=True), 1 / np.sqrt(rows.var(axis=1, keepdims=True) + 1)
        yield Call("group_norm", (x, weight, bias, groups, 1e-5))
        yield Call("group_norm", (x, None, None, groups, 1e-5))
        yield Call("group_norm_backward", (dy, x, weight, mean, inv_std, groups))
        yield Call("group_norm_backward", (dy, x, None, mean, inv_std, groups))


def multiclass_hinge(rng):
    for count, classes in [(37, 10), (3, 100), (200, 3), (1, 1)]:
        scores, labels = rng.normal(size=(count, classes)), rng.integers(0, classes, size=count)
        for margin in (1.0, -0.5):
            yield Call("multiclass_hinge", (scores, labels, margin))
    scores, labels = rng.normal(size=(6, 5)), np.array([0, 5, -1, 4, 1, 2])  # two labels out of range
    yield Call("multiclass_hinge", (scores, labels, 1.0))
    scores[0, 3], scores[3, 4], scores[4, 2], scores[5, 2] = np.nan, np.nan, np.inf, -np.inf
    yield Call("multiclass_hinge", (scores, labels, 1.0))


def mse(rng):
    for shape in [(37, 10), (6001,), (2, 3, 4, 5), ()]:
        yield Call("mse", (np.asarray(rng.normal(size=shape)), np.asarray(rng.normal(size=shape))))


def linear(rng):
    for n, inputs, outputs in [(5, 7, 3), (70, 4, 16), (1, 3, 8), (0, 3, 4)]:
        x, w, b = rng.normal(size=(n, inputs)), rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)
        dy = rng.normal(size=(n, outputs))
        yield Call("linear", (x, w, b))
        yield Call("linear", (x, w, None))
        yield Call("linear_backward", (dy, x, w, True, True))
        yield Call("linear_backward", (dy, x, w, False, False))


def softmax_cross_entropy(rng):
    for count, classes, scale in [(37, 10, 1.0), (3, 100, 100.0), (200, 3, 1.0), (1, 1, 1.0)]:
        scores, labels = rng.normal(size=(count, classes)) * scale, rng.integers(0, classes, size=count)
        for smoothing in (0.0, 0.1):
            yield Call("softmax_cross_entropy", (scores, labels, smoothing))
            yield Call("softmax_cross_entropy", (scores, labels.astype(np.uint8), smoothing))
    scores, labels = rng.normal(size=(4, 5)), np.array([0, 5, -1, 4])  # two labels out of range
    yield Call("softmax_cross_entropy", (scores, labels, 0.0))
    scores[:, 2] = -np.inf
    yield Call("softmax_cross_entropy", (scores, np.array([0, 1, 3, 4]), 0.0))


def dropout_mask(rng):
    for shape in [(5, 7, 4), (6001,), (3,), (0, 2), ()]:
        yield Call("dropout_mask", (np.zeros(shape), 0.3, (2**63 + 12345, 2**32 - 1, 7, 0)))
    yield Call("dropout_mask", (np.zeros(9), 1.0, (1, 2, 3, 0)))


def optimizers(rng):
    # the parameters first: they are updated in place, like the state behind the gradients
    shapes = [(60, 70), (0, 3), (1,), (), (13, 3), (2, 0), (257,)]
    p, g, m = ([np.asarray(rng.normal(size=shape)) for shape in shapes] for _ in range(3))
    v = [np.asarray(a * a) for a in m]
    for momentum, dampening, nesterov, decay in [(0.0, 0.0, False, 0.1), (0.9, 0.5, False, 0.0), (0.9, 0.0, True, 0.1)]:
        for velocity in (None, m) if momentum else (None,):
            yield Call("sgd_steps", (p, g, velocity, 0.1, momentum, dampening, nesterov, decay))
    for buffer, momentum in [(None, 0.0), (None, 0.9), (m, 0.9)]:
        yield Call("rmsprop_steps", (p, g, v, buffer, 0.01, 0.99, 1e-8, momentum, 0.1))
    for step, decoupled in [(1, False), (1000, True), (np.array([999]), True)]:
        yield Call("adam_steps", (p, g, m, v, step, 0.01, 0.9, 0.999, 1e-8, 0.1, decoupled))
    yield Call("adam_steps", (p, g, m, v, 3, 0.01, 0.0, 0.5, 1e-8, 0.0, False))
    few = [np.asarray(0.1 * a) for a in g]  # the squares are far below the largest half
    square = np.asarray(sum(np.sum(a * a) for a in few))
    yield Call("squared_norm", (few,))
    yield Call("squared_norm", ([np.zeros((0, 2))],))
    for norm in (0.7, 1e4):
        yield Call("clip_gradients", (few, square, norm))
    yield Call("clip_gradients", (few, np.asarray(np.inf), 1.0))  # stay as they are
    yield Call("clip_gradients", ([np.zeros(0)], np.asarray(4.0), 1.0))
    yield Call("copy_tensors", (p, g))
    numbers = [rng.integers(-(2**63), 2**63, shape) for shape in ((), (5,), (0,))]  # as float32 some are no numbers
    for dtype in (np.int64, np.int32, np.uint8):
        some = [a.astype(dtype) for a in numbers]
        yield Call("copy_tensors", ([np.zeros_like(a) for a in some], some))


GROUPS: dict[str, Callable[[np.random.Generator], Any]] = {
    function.__name__: function
    for function in (
        activations,
        adaptive_avg_pool2d,
        avg_pool2d,
        batch_norm,
        batch_norm_relu,
        columns,
        conv2d,
        conv_transpose2d,
        crop_flip_normalize,
        dropout_mask,
        linear,
        max_pool2d,
        mse,
        multiclass_hinge,
        optimizers,
        row_norms,
        softmax_cross_entropy,
    )
}
