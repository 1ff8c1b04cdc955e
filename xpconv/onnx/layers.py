"""Layers of operators that ONNX graphs have and networks of xpconv do without: arithmetic, shapes, more activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._generic.activation import normal_distribution
from ..backends import Backend, backend_of
from ..backends.protocol import Array
from ..layers import Layer, Operations, Parameter, count_operations
from ._errors import OnnxError
from ._shapes import target_shape

__all__ = [
    "Arithmetic",
    "Function",
    "Joined",
    "MatMul",
    "Mean",
    "PReLU",
    "Pad",
    "Part",
    "Permuted",
    "Reshape",
    "Reshaped",
    "Softmax",
    "Split",
]


def _summed_to(backend: Backend, g: Array, shape: tuple[int, ...]) -> Array:
    """``g`` added up along the axes that broadcasting an array of ``shape`` has made."""
    if tuple(g.shape) == shape:
        return g
    extra = len(g.shape) - len(shape)
    axes = [*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)]
    if axes:
        g = backend.xp.sum(g, axis=tuple(axes), keepdims=True)
    return backend.xp.reshape(g, shape)


class _WithConstant(Layer):
    """An operator of two arrays, one of which may be a constant of the layer: trained, or a buffer.

    Parameters
    ----------
    constant : array or None
        The one that forward is not given.
    first : bool
        Whether it is the first of the two.
    trained : bool
        Whether it is a parameter.
    """

    value: Parameter | Array | None

    def __init__(self, constant: Array | None = None, *, first: bool = False, trained: bool = False) -> None:
        self.first = first
        if constant is not None and trained:
            self.value = Parameter(constant)
        else:
            self.register_buffer("value", constant)

    def _two(self, arrays: Sequence[Array]) -> tuple[Array, Array]:
        if self.value is None:
            a, b = arrays
            return a, b
        constant = self.value.data if isinstance(self.value, Parameter) else self.value
        return (constant, arrays[0]) if self.first else (arrays[0], constant)

    def _back(self, da: Array, db: Array) -> Any:
        """What backward gives for the gradients to both."""
        if self.value is None:
            return da, db
        own, dx = (da, db) if self.first else (db, da)
        if isinstance(self.value, Parameter):
            self.value.accumulate_grad(own)
        return dx


class Arithmetic(_WithConstant):
    """Sum, difference, product or quotient, with broadcasting.

    Parameters
    ----------
    operator : str
        "Add", "Sub", "Mul" or "Div".
    constant, first, trained
        As for the class that it is made from: an operand that belongs to the layer.
    """

    def __init__(
        self, operator: str, constant: Array | None = None, *, first: bool = False, trained: bool = False
    ) -> None:
        super().__init__(constant, first=first, trained=trained)
        self.operator = operator

    def forward(self, *arrays: Array) -> Array:  # type: ignore[override]
        """Of two arrays, or of one where the other is the layer's."""
        a, b = self._two(arrays)
        backend = backend_of(a=a, b=b)
        with backend.running():
            if self.operator == "Add":
                y = a + b
            elif self.operator == "Sub":
                y = a - b
            else:
                y = a * b if self.operator == "Mul" else a / b
        self.push((a, b))
        return y

    def backward(self, dy: Array) -> Any:
        """The gradient to the array given, or a pair of those to both."""
        a, b = self.pop()
        backend = backend_of(dy=dy)
        with backend.running():
            if self.operator == "Add":
                da, db = dy, dy
            elif self.operator == "Sub":
                da, db = dy, -dy
            elif self.operator == "Mul":
                da, db = dy * b, dy * a
            else:
                da = dy / b
                db = -da * a / b
            da, db = (_summed_to(backend, g, tuple(x.shape)) for g, x in ((da, a), (db, b)))
        return self._back(da, db)

    def extra_repr(self) -> str:
        """The operator, and the shape of an operand of its own."""
        return self.operator + ("" if self.value is None else f", constant of shape {tuple(self.value.shape)}")


class MatMul(_WithConstant):
    """Matrix product of the last two axes, the others broadcast."""

    def forward(self, *arrays: Array) -> Array:  # type: ignore[override]
        """Of two arrays, or of one where the other is the layer's."""
        a, b = self._two(arrays)
        backend = backend_of(a=a, b=b)
        if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"x: no matrix product of shapes {tuple(a.shape)} and {tuple(b.shape)}")
        with backend.running():
            y = backend.xp.matmul(a, b)
        self.push((a, b))
        return y

    def backward(self, dy: Array) -> Any:
        """The gradient to the array given, or a pair of those to both."""
        a, b = self.pop()
        backend = backend_of(dy=dy)
        xp = backend.xp
        with backend.running():
            da = _summed_to(backend, xp.matmul(dy, xp.matrix_transpose(b)), tuple(a.shape))
            db = _summed_to(backend, xp.matmul(xp.matrix_transpose(a), dy), tuple(b.shape))
        return self._back(da, db)


# name -> (function of (namespace, x, options), its derivative from (namespace, x, y, options))
_FUNCTIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "Abs": (lambda xp, x, o: xp.abs(x), lambda xp, x, y, o: xp.sign(x)),
    "Elu": (
        lambda xp, x, o: xp.where(x > 0, x, o["alpha"] * xp.expm1(xp.minimum(x, _like(xp, x, 0)))),
        lambda xp, x, y, o: xp.where(x > 0, _like(xp, x, 1), y + o["alpha"]),
    ),
    "Erf": (
        lambda xp, x, o: 2 * _phi(x * math.sqrt(2)) - 1,
        lambda xp, x, y, o: xp.exp(-x * x) * (2 / math.sqrt(math.pi)),
    ),
    "Exp": (lambda xp, x, o: xp.exp(x), lambda xp, x, y, o: y),
    "GeluTanh": (lambda xp, x, o: 0.5 * x * (1 + _inner(xp, x)), lambda xp, x, y, o: _gelu_tanh_slope(xp, x)),
    "HardSigmoid": (
        lambda xp, x, o: _unit(xp, o["alpha"] * x + o["beta"]),
        lambda xp, x, y, o: o["alpha"] * _ones_where(xp, (y > 0) & (y < 1), x),
    ),
    "HardSwish": (
        lambda xp, x, o: x * _unit(xp, x / 6 + 0.5),
        lambda xp, x, y, o: xp.where(x < -3, _like(xp, x, 0), xp.where(x > 3, _like(xp, x, 1), x / 3 + 0.5)),
    ),
    "Log": (lambda xp, x, o: xp.log(x), lambda xp, x, y, o: 1 / x),
    "Neg": (lambda xp, x, o: -x, lambda xp, x, y, o: -xp.ones_like(x)),
    "Pow": (
        lambda xp, x, o: x * x if o["exponent"] == 2 else x ** o["exponent"],
        lambda xp, x, y, o: o["exponent"] * (x if o["exponent"] == 2 else x ** (o["exponent"] - 1)),
    ),
    "Reciprocal": (lambda xp, x, o: 1 / x, lambda xp, x, y, o: -y * y),
    "Softplus": (
        lambda xp, x, o: xp.maximum(x, _like(xp, x, 0)) + xp.log1p(xp.exp(-xp.abs(x))),
        lambda xp, x, y, o: 0.5 * (1 + xp.tanh(x / 2)),
    ),
    "Sqrt": (lambda xp, x, o: xp.sqrt(x), lambda xp, x, y, o: 0.5 / y),
}

_GELU_TANH = (math.sqrt(2 / math.pi), 0.044715)


def _like(xp: Any, x: Array, value: float) -> Array:
    return xp.asarray(value, dtype=x.dtype, device=getattr(x, "device", None))


def _ones_where(xp: Any, mask: Array, x: Array) -> Array:
    return xp.where(mask, _like(xp, x, 1), _like(xp, x, 0))


def _unit(xp: Any, x: Array) -> Array:
    return xp.minimum(xp.maximum(x, _like(xp, x, 0)), _like(xp, x, 1))


def _phi(x: Array) -> Array:
    return normal_distribution(backend_of(x=x), x)[0]


def _inner(xp: Any, x: Array) -> Array:
    scale, cubic = _GELU_TANH
    return xp.tanh(scale * (x + cubic * x * x * x))


def _gelu_tanh_slope(xp: Any, x: Array) -> Array:
    scale, cubic = _GELU_TANH
    t = _inner(xp, x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x)


class Function(Layer):
    """An activation or another function of every number, by ONNX's name and with its attributes as options."""

    def __init__(self, operator: str, **options: float) -> None:
        self.operator, self.options = operator, options

    def forward(self, x: Array) -> Array:
        """The function of every number, in the shape of ``x``; half precision is computed in float32."""
        backend = backend_of(x=x)
        with backend.running():
            wide = backend.astype(x, backend.accumulator(x))
            y = _FUNCTIONS[self.operator][0](backend.xp, wide, self.options)
        self.push((wide, y))
        return backend.astype(y, x.dtype)

    def backward(self, dy: Array) -> Array:
        """``dy`` times the derivative."""
        x, y = self.pop()
        backend = backend_of(dy=dy)
        with backend.running():
            slope = _FUNCTIONS[self.operator][1](backend.xp, x, y, self.options)
            return backend.astype(backend.astype(dy, x.dtype) * slope, dy.dtype)

    def extra_repr(self) -> str:
        """The function and its options."""
        return ", ".join([self.operator, *(f"{name}={value:g}" for name, value in self.options.items())])


class PReLU(Layer):
    """``x`` where it is positive, ``slope * x`` elsewhere, the slope being trained (He et al. 2015, arXiv:1502.01852).

    Parameters
    ----------
    slope : array
        Broadcast to the shape of the input: (C, 1, 1) for one number a channel.
    """

    def __init__(self, slope: Array) -> None:
        self.slope = Parameter(slope)

    def forward(self, x: Array) -> Array:
        """The function of every number, in the shape of ``x``."""
        backend = backend_of(x=x, slope=self.slope.data)
        with backend.running():
            y = backend.xp.where(x > 0, x, self.slope.data * x)
        self.push(x)
        return y

    def backward(self, dy: Array) -> Array:
        """``dy`` times the derivative; adds to the gradient of the slope."""
        x = self.pop()
        backend = backend_of(dy=dy)
        xp = backend.xp
        with backend.running():
            zero = xp.zeros_like(x)
            dslope = _summed_to(backend, xp.where(x > 0, zero, dy * x), self.slope.shape)
            dx = xp.where(x > 0, dy, dy * self.slope.data)
        self.slope.accumulate_grad(dslope)
        return dx


class Softmax(Layer):
    """Exponentials that add up to one along an axis, or their logarithms.

    Parameters
    ----------
    axis : int
    log : bool
        Whether to give the logarithms.
    """

    def __init__(self, axis: int = -1, *, log: bool = False) -> None:
        self.axis, self.log = axis, log

    def forward(self, x: Array) -> Array:
        """In the shape of ``x``."""
        backend = backend_of(x=x)
        xp = backend.xp
        with backend.running():
            wide = backend.astype(x, backend.accumulator(x))
            wide = wide - xp.max(wide, axis=self.axis, keepdims=True)
            e = xp.exp(wide)
            total = xp.sum(e, axis=self.axis, keepdims=True)
            share = e / total
            y = wide - xp.log(total) if self.log else share
        self.push(share)
        return backend.astype(y, x.dtype)

    def backward(self, dy: Array) -> Array:
        """``s * (dy - sum(s * dy))`` with ``s`` the softmax, or ``dy - s * sum(dy)`` for its logarithm."""
        share = self.pop()
        backend = backend_of(dy=dy)
        xp = backend.xp
        with backend.running():
            g = backend.astype(dy, share.dtype)
            if self.log:
                dx = g - share * xp.sum(g, axis=self.axis, keepdims=True)
            else:
                dx = share * (g - xp.sum(share * g, axis=self.axis, keepdims=True))
            return backend.astype(dx, dy.dtype)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}" + (", log=True" if self.log else "")


class Reshape(Layer):
    """An array in another shape.

    Parameters
    ----------
    shape : sequence of int, or None
        0 copies a length, -1 is what is left; None: forward is given it.
    allow_zero : bool
        Whether 0 is a length instead.
    batch : int or None
        The size of the batch that the file was made for, if it is a fixed one: where the shape begins with it, the
        size of any other batch takes its place.
    """

    def __init__(self, shape: Sequence[int] | None, *, allow_zero: bool = False, batch: int | None = None) -> None:
        self.shape = None if shape is None else tuple(int(length) for length in shape)
        self.allow_zero, self.batch = allow_zero, batch

    def forward(self, x: Array, shape: Any = None) -> Array:  # type: ignore[override]
        """``x`` in the shape of the layer, or in that given."""
        old = tuple(x.shape)
        wanted = self.shape if self.shape is not None else tuple(np.asarray(shape).tolist())
        if self.batch is not None and old and wanted and wanted[0] == self.batch != old[0]:
            wanted = (old[0], *wanted[1:])
        backend = backend_of(x=x)
        new = target_shape(old, wanted, allow_zero=self.allow_zero)
        self.push(old)
        with backend.running():
            return backend.xp.reshape(x, new)

    def backward(self, dy: Array) -> Array:
        """``dy`` in the shape of the input."""
        backend = backend_of(dy=dy)
        with backend.running():
            return backend.xp.reshape(dy, self.pop())

    def extra_repr(self) -> str:
        """The shape."""
        return "" if self.shape is None else f"{self.shape}"


class Reshaped(Layer):
    """An array with axes of length one taken out or put in, or with its axes joined to two.

    Parameters
    ----------
    operator : str
        "Squeeze", "Unsqueeze" or "Flatten".
    axes : sequence of int, or None
        To take out (None: all of length one) or to put in, counted in the result; for "Flatten" the one where the
        second begins.
    """

    def __init__(self, operator: str, axes: Sequence[int] | None) -> None:
        self.operator = operator
        self.axes = None if axes is None else tuple(axes)

    def _shape(self, old: tuple[int, ...]) -> tuple[int, ...]:
        if self.operator == "Flatten":
            (axis,) = self.axes or (1,)
            axis = axis + len(old) if axis < 0 else axis
            return math.prod(old[:axis]), math.prod(old[axis:])
        if self.axes is None:
            return tuple(length for length in old if length != 1)
        rank = len(old) + (len(self.axes) if self.operator == "Unsqueeze" else 0)
        axes = {axis + rank if axis < 0 else axis for axis in self.axes}
        if len(axes) < len(self.axes) or not all(0 <= axis < rank for axis in axes):
            raise ValueError(f"x: {self.operator} at {self.axes} of shape {old}")
        if self.operator == "Squeeze":
            if any(old[axis] != 1 for axis in axes):
                raise ValueError(f"x: axes {self.axes} must have length one, got shape {old}")
            return tuple(length for i, length in enumerate(old) if i not in axes)
        left = iter(old)
        return tuple(1 if i in axes else next(left) for i in range(rank))

    def forward(self, x: Array) -> Array:
        """``x`` in the other shape."""
        old, backend = tuple(x.shape), backend_of(x=x)
        new = self._shape(old)
        self.push(old)
        with backend.running():
            return backend.xp.reshape(x, new)

    def backward(self, dy: Array) -> Array:
        """``dy`` in the shape of the input."""
        backend = backend_of(dy=dy)
        with backend.running():
            return backend.xp.reshape(dy, self.pop())

    def extra_repr(self) -> str:
        """The operator and the axes."""
        return f"{self.operator}, axes={self.axes}"


class Permuted(Layer):
    """An array with its axes in another order; reversed if None."""

    def __init__(self, axes: Sequence[int] | None) -> None:
        self.axes = None if axes is None else tuple(axes)

    def forward(self, x: Array) -> Array:
        """A view, where the library has views."""
        axes = self.axes if self.axes is not None else tuple(range(len(x.shape)))[::-1]
        if sorted(axes) != list(range(len(x.shape))):
            raise ValueError(f"x: shape {tuple(x.shape)} cannot take the order of axes {axes}")
        backend = backend_of(x=x)
        self.push(axes)
        with backend.running():
            return backend.xp.permute_dims(x, axes)

    def backward(self, dy: Array) -> Array:
        """``dy`` in the order of the input."""
        axes = self.pop()
        backend = backend_of(dy=dy)
        with backend.running():
            return backend.xp.permute_dims(dy, tuple(axes.index(i) for i in range(len(axes))))

    def extra_repr(self) -> str:
        """The order."""
        return f"{self.axes}"


class Mean(Layer):
    """Mean (or sum) along axes.

    Parameters
    ----------
    axes : sequence of int, or None
        None: all.
    keepdims : bool
        Keep the axes, with length one.
    total : bool
        The sum instead.
    """

    def __init__(self, axes: Sequence[int] | None, *, keepdims: bool = True, total: bool = False) -> None:
        self.axes = None if axes is None else tuple(axes)
        self.keepdims, self.total = keepdims, total

    def forward(self, x: Array) -> Array:
        """Half precision is added up in float32."""
        backend = backend_of(x=x)
        xp = backend.xp
        with backend.running():
            wide = backend.astype(x, backend.accumulator(x))
            y = (xp.sum if self.total else xp.mean)(wide, axis=self.axes, keepdims=self.keepdims)
            y = backend.astype(backend.asarray(y), x.dtype)
        self.push(tuple(x.shape))
        return y

    def backward(self, dy: Array) -> Array:
        """An equal share of ``dy`` for each."""
        shape = self.pop()
        axes = range(len(shape)) if self.axes is None else [axis % len(shape) for axis in self.axes]
        backend = backend_of(dy=dy)
        xp = backend.xp
        with backend.running():
            g = xp.reshape(dy, tuple(1 if i in axes else length for i, length in enumerate(shape)))
            if not self.total:
                g = g / math.prod(shape[axis] for axis in axes)
            return g + xp.zeros(shape, dtype=dy.dtype, device=backend.device)

    def extra_repr(self) -> str:
        """The axes."""
        return f"axes={self.axes}, keepdims={self.keepdims}" + (", total=True" if self.total else "")


class Joined(Layer):
    """Several arrays, one behind the other along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:  # type: ignore[override]
        """The arrays joined."""
        backend = backend_of(**{f"array_{i}": array for i, array in enumerate(arrays)})
        with backend.running():
            y = backend.xp.concat(arrays, axis=self.axis)
        self.push([array.shape[self.axis] for array in arrays])
        return y

    def backward(self, dy: Array) -> Any:
        """The parts of ``dy``; not a tuple if there is one only."""
        lengths, parts, start = self.pop(), [], 0
        for length in lengths:
            parts.append(dy[_along(dy, self.axis, start, start + length)])
            start += length
        return tuple(parts) if len(parts) > 1 else parts[0]

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


def _along(x: Array, axis: int, start: int, stop: int) -> tuple[slice, ...]:
    axis %= len(x.shape)
    return tuple(slice(start, stop) if i == axis else slice(None) for i in range(len(x.shape)))


class Split(Layer):
    """An array cut into parts along an axis.

    Parameters
    ----------
    axis : int
    lengths : sequence of int, or None
        Of the parts; None for equal ones, of which the last may be shorter.
    count : int
        How many.
    """

    def __init__(self, axis: int, lengths: Sequence[int] | None, count: int) -> None:
        self.axis, self.count = axis, count
        self.lengths = None if lengths is None else tuple(lengths)

    def forward(self, x: Array) -> Any:
        """The parts; not a tuple if there is one only."""
        length = x.shape[self.axis]
        lengths = self.lengths
        if lengths is None:
            each = -(-length // self.count)
            lengths = (each,) * (self.count - 1) + (length - each * (self.count - 1),)
        if sum(lengths) != length or any(n < 0 for n in lengths):
            raise ValueError(f"x: axis {self.axis} of shape {tuple(x.shape)} cannot be cut into {lengths}")
        parts, start = [], 0
        for n in lengths:
            parts.append(x[_along(x, self.axis, start, start + n)])
            start += n
        self.push([tuple(part.shape) for part in parts])
        return tuple(parts) if len(parts) > 1 else parts[0]

    def backward(self, dy: Any) -> Array:
        """The gradients to the parts joined; zeros for None."""
        shapes = self.pop()
        given = dy if isinstance(dy, (list, tuple)) else [dy]
        known = next(g for g in given if g is not None)
        backend = backend_of(dy=known)
        xp = backend.xp
        with backend.running():
            parts = [
                xp.zeros(shape, dtype=known.dtype, device=backend.device) if g is None else g
                for shape, g in zip(shapes, given, strict=True)
            ]
            return xp.concat(parts, axis=self.axis)

    def extra_repr(self) -> str:
        """The axis and the lengths."""
        return f"axis={self.axis}, {self.count if self.lengths is None else self.lengths}"


class Part(Layer):
    """A range of indices along each of some axes.

    Parameters
    ----------
    ranges : sequence of (axis, start, stop)
        With Python's meaning of negative and of large numbers.
    """

    def __init__(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        self.ranges = tuple(ranges)

    def forward(self, x: Array) -> Array:
        """A view, where the library has views."""
        bounds = [(0, length) for length in x.shape]
        for axis, start, stop in self.ranges:
            if not -len(bounds) <= axis < len(bounds):
                raise ValueError(f"x: no axis {axis} in shape {tuple(x.shape)}")
            low, high, _ = slice(start, stop).indices(x.shape[axis])
            bounds[axis] = (low, max(low, high))
        self.push([(low, length - high) for (low, high), length in zip(bounds, x.shape, strict=True)])
        return x[tuple(slice(low, high) for low, high in bounds)]

    def backward(self, dy: Array) -> Array:
        """``dy`` among zeros."""
        return _padded(dy, self.pop(), 0.0)

    def extra_repr(self) -> str:
        """The ranges."""
        return f"{self.ranges}"


def _padded(x: Array, pads: Sequence[tuple[int, int]], value: float) -> Array:
    """``x`` in a frame; a negative width cuts instead."""
    backend = backend_of(x=x)
    xp = backend.xp
    with backend.running():
        for axis, (before, behind) in enumerate(pads):
            length = x.shape[axis]
            if before < 0 or behind < 0:
                x = x[_along(x, axis, max(0, -before), max(0, length + min(behind, 0)))]
            parts = [x]
            for width, place in ((before, 0), (behind, len(parts) + 1)):
                if width > 0:
                    shape = tuple(width if i == axis else n for i, n in enumerate(x.shape))
                    parts.insert(place, xp.full(shape, value, dtype=x.dtype, device=backend.device))
            x = xp.concat(parts, axis=axis) if len(parts) > 1 else x
    return x


class Pad(Layer):
    """A frame of one value around an array.

    Parameters
    ----------
    pads : sequence of (before, behind), or None
        For each axis; negative numbers cut. None: what a window needs for "SAME_LOWER".
    value : float
        In the frame.
    window : (extents, strides), optional
        Of the last axes, for "SAME_LOWER": ``ceil(length / stride)`` windows, an odd number of pads begins with one
        more before.
    """

    def __init__(
        self,
        pads: Sequence[tuple[int, int]] | None,
        value: float = 0.0,
        window: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        self.pads = None if pads is None else tuple(pads)
        self.value, self.window = value, window

    def frame(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """The widths for an array of ``shape``: (before, behind) of each axis."""
        if self.pads is not None:
            if len(self.pads) != len(shape):
                raise ValueError(f"x: pads for {len(self.pads)} axes, got shape {shape}")
            return list(self.pads)
        extents, strides = self.window or ((), ())
        frame = [(0, 0)] * (len(shape) - len(extents))
        for length, extent, stride in zip(shape[len(frame) :], extents, strides, strict=True):
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
            frame.append((total - total // 2, total // 2))
        return frame

    def forward(self, x: Array) -> Array:
        """``x`` in its frame."""
        frame = self.frame(tuple(x.shape))
        self.push((tuple(x.shape), frame))
        return _padded(x, frame, self.value)

    def backward(self, dy: Array) -> Array:
        """The part of ``dy`` that belongs to the input."""
        shape, frame = self.pop()
        dx = _padded(dy, [(-before, -behind) for before, behind in frame], 0.0)
        if tuple(dx.shape) != shape:
            raise OnnxError(f"dy: expected a gradient that leaves the shape {shape}, got {tuple(dy.shape)}")
        return dx

    def extra_repr(self) -> str:
        """The frame."""
        return f"{'SAME_LOWER' if self.pads is None else self.pads}, value={self.value:g}"


# ---- what `Layer.summary` counts ----------------------------------------------------------------------------


@count_operations.register(Joined)
@count_operations.register(Pad)
@count_operations.register(Part)
@count_operations.register(Permuted)
@count_operations.register(Reshape)
@count_operations.register(Reshaped)
@count_operations.register(Split)
def _count_nothing(layer: Layer, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Operations:
    return Operations(0)


@count_operations.register(Arithmetic)
@count_operations.register(Function)
@count_operations.register(PReLU)
@count_operations.register(Softmax)
def _count_each(layer: Layer, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Operations:
    return Operations(0, math.prod(output))


@count_operations.register
def _count_read(layer: Mean, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Operations:
    return Operations(0, math.prod(inputs[0]))


@count_operations.register
def _count_products(layer: MatMul, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Operations:
    return Operations(math.prod(output) * inputs[0][-2 if layer.first else -1])
