"""Operators on shapes, indices and constants, computed on the host with NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._errors import OnnxError

__all__ = ["SHAPE_OPERATORS", "compute_shape", "target_shape"]

_MOST = 2**24  # numbers in a constant that a node makes out of nothing

_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


def target_shape(shape: Sequence[int], wanted: Sequence[int], *, allow_zero: bool = False) -> tuple[int, ...]:
    """The shape that Reshape gives an array of ``shape``: 0 copies a length (not with allow_zero), -1 is what is left.

    Raises
    ------
    OnnxError
        It does not have as many numbers.
    """
    new = [int(length) for length in wanted]
    if not allow_zero:
        new = [shape[i] if length == 0 and i < len(shape) else length for i, length in enumerate(new)]
    size, rest = math.prod(shape), math.prod(length for length in new if length != -1)
    if new.count(-1) == 1 and rest > 0 and size % rest == 0:
        new[new.index(-1)] = size // rest
    if any(length < 0 for length in new) or math.prod(new) != size:
        raise OnnxError(f"x: of shape {tuple(shape)} cannot take the shape {tuple(int(n) for n in wanted)}")
    return tuple(new)


def _axes(values: Sequence[Any], attributes: dict[str, Any]) -> list[int] | None:
    if len(values) > 1 and values[1] is not None:
        return [int(axis) for axis in np.asarray(values[1]).reshape(-1)]
    return attributes.get("axes")


def _shape(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    return np.array(tuple(values[0].shape)[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _unsqueeze(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    return np.expand_dims(values[0], tuple(_axes(values, attributes) or ()))


def _squeeze(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    axes = _axes(values, attributes)
    return np.squeeze(values[0], None if axes is None else tuple(axes))


def _slice(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    given = [attributes.get(name) for name in ("starts", "ends", "axes")] if len(values) == 1 else list(values[1:])
    starts, ends, axes, steps = (None if v is None else np.asarray(v).tolist() for v in [*given, None, None][:4])
    if starts is None or ends is None:
        raise OnnxError("Slice has no starts or no ends")
    index: list[slice] = [slice(None)] * values[0].ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        index[axis] = slice(starts[i], ends[i], 1 if steps is None else steps[i])
    return values[0][tuple(index)]


def _cast(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    return values[0].astype(_DTYPES[attributes["to"]])


def _divide(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    a, b = values
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.abs(b)  # ONNX rounds towards zero
    return (np.sign(a) * np.sign(b) * quotient).astype(a.dtype)


def _constant_of_shape(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    shape = [int(length) for length in values[0]]
    _check_size(math.prod(shape))
    value = attributes.get("value", np.zeros(1, np.float32))
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _expand(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    shape = np.broadcast_shapes(values[0].shape, tuple(int(length) for length in values[1]))
    _check_size(math.prod(shape))
    return np.array(np.broadcast_to(values[0], shape))


def _range(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    start, stop, step = (v.reshape(()).item() for v in values)
    _check_size((stop - start) / step)
    return np.arange(start, stop, step, dtype=values[0].dtype)


def _check_size(count: float) -> None:
    if not count <= _MOST:
        raise OnnxError(f"a constant of {count} numbers is larger than xpconv makes one, {_MOST}")


def _pairwise(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def run(values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
        size = math.prod(np.broadcast_shapes(*(v.shape for v in values)))
        if size > max(v.size for v in values):
            _check_size(size)
        return np.asarray(function(values, attributes))

    return run


SHAPE_OPERATORS: dict[str, Callable[[Sequence[Any], dict[str, Any]], Any]] = {
    "Add": _pairwise(lambda v, a: v[0] + v[1]),
    "Cast": _cast,
    "Concat": lambda v, a: np.concatenate(v, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _pairwise(_divide),
    "Equal": _pairwise(lambda v, a: v[0] == v[1]),
    "Expand": _expand,
    "Gather": lambda v, a: np.take(v[0], v[1], a.get("axis", 0)),
    "Identity": lambda v, a: v[0],
    "Mul": _pairwise(lambda v, a: v[0] * v[1]),
    "Range": _range,
    "Reshape": lambda v, a: v[0].reshape(target_shape(v[0].shape, v[1], allow_zero=bool(a.get("allowzero", 0)))),
    "Shape": _shape,
    "Slice": _slice,
    "Sqrt": lambda v, a: np.sqrt(v[0]),
    "Squeeze": _squeeze,
    "Sub": _pairwise(lambda v, a: v[0] - v[1]),
    "Transpose": lambda v, a: np.transpose(v[0], a.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _pairwise(lambda v, a: np.where(v[0], v[1], v[2])),
}


def compute_shape(kind: str, values: Sequence[Any], attributes: dict[str, Any]) -> np.ndarray:
    """The result of the operator ``kind``.

    Raises
    ------
    OnnxError
        It cannot be computed from these values.
    """
    try:
        with np.errstate(all="ignore"):
            return np.asarray(SHAPE_OPERATORS[kind](values, attributes))
    except OnnxError:
        raise
    except (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
        raise OnnxError(f"{kind} of shapes or constants cannot be computed: {error or type(error).__name__}") from error
