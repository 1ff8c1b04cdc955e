"""From the operators of a file to layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import layers as nn
from ..backends import get_backend
from ..layers import Layer, Parameter
from . import layers as more
from ._errors import OnnxError
from ._fuse import fuse
from ._graph import Graph, Indices, Step
from ._read import File, Operator
from ._shapes import SHAPE_OPERATORS, compute_shape

__all__ = ["convert"]

_MOST_PADDING = 2**16  # also of strides, sizes and dilations of windows: no network has more, and more is an attack

_SIMPLE: dict[str, Callable[[], Layer]] = {
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "Abs": lambda: more.Function("Abs"),
    "Erf": lambda: more.Function("Erf"),
    "Exp": lambda: more.Function("Exp"),
    "HardSwish": lambda: more.Function("HardSwish"),
    "Log": lambda: more.Function("Log"),
    "Neg": lambda: more.Function("Neg"),
    "Reciprocal": lambda: more.Function("Reciprocal"),
    "Softplus": lambda: more.Function("Softplus"),
    "Sqrt": lambda: more.Function("Sqrt"),
}


class _Lacking(Exception):
    """An operator, or a form of it, that xpconv has no layer for."""


def convert(file: File, output: str | None) -> Graph:
    """The graph as layers, on the default backend.

    Raises
    ------
    OnnxError
        Operators that xpconv lacks, all of them at once; or a graph that makes no sense.
    """
    return _Converter(file, output).graph()


class _Converter:
    def __init__(self, file: File, output: str | None) -> None:
        self._file = file
        if len(file.inputs) != 1:
            named = ", ".join(map(repr, file.inputs)) or "none"
            raise OnnxError(f"xpconv takes graphs of one input, this has {len(file.inputs)}: {named}")
        known = {*file.inputs, *(name for operator in file.operators for name in operator.outputs)}
        if output is None and len(file.outputs) != 1:
            raise OnnxError(
                f"it has {len(file.outputs)} results; choose one with output=: {', '.join(map(repr, file.outputs))}"
            )
        if output is not None and (not isinstance(output, str) or output not in known):
            raise OnnxError(f"output: the file has no value {output!r}; its results: {', '.join(file.outputs)}")
        self._input = next(iter(file.inputs))
        self._output = file.outputs[0] if output is None else output
        self._graph = Graph(self._input, self._output)
        shape = file.inputs[self._input]
        self._batch = shape[0] if shape and shape[0] and shape[0] > 0 else None
        self._graph.input_shape, self._graph.metadata = shape, file.metadata
        self._constants = dict(file.constants)
        self._made: set[str] = set()  # constants that nodes give, which are not trained
        self._indices: set[str] = set()  # values on the host
        self._lengths: dict[str, int | None] = {}  # of those that are the whole shape of something: its axes
        self._ranks: dict[str, int | None] = {self._input: None if shape is None else len(shape)}
        self._unknown: set[str] = set()  # results of what is lacking
        self._steps: list[Step | Indices] = []
        self._shared: dict[str, Parameter] = {}
        self._extra = 0

    def graph(self) -> Graph:
        needed, operators = {self._output}, []
        for operator in reversed(self._file.operators):
            if needed.intersection(operator.outputs):
                operators.append(operator)
                needed.update(operator.inputs)
        operators.reverse()
        self._uses = Counter(name for operator in operators for name in operator.inputs)
        self._uses[self._output] += 1
        self._users = {name: operator for operator in reversed(operators) for name in operator.inputs}
        lacking: Counter[str] = Counter()
        self._taken: set[int] = set()  # operators that an earlier one has taken in
        for operator in operators:
            if id(operator) in self._taken:
                continue
            try:
                self._add(operator)
            except _Lacking as error:
                lacking[str(error)] += 1
                self._unknown.update(operator.outputs)
        if lacking:
            listed = "; ".join(what + (f" ({n} nodes)" if n > 1 else "") for what, n in sorted(lacking.items()))
            raise OnnxError(f"operators that xpconv lacks: {listed}")
        if self._output in self._constants or self._output in self._indices:
            raise OnnxError("the result does not depend on the input as numbers do")
        self._graph._wire(fuse(self._graph, self._steps, self._ranks))
        for path in self._graph._unused():
            self._graph._drop(path)
        return self._graph

    # ---- one node -------------------------------------------------------------------------------------------

    def _add(self, operator: Operator) -> None:
        given = [name for name in operator.inputs if name]
        handler = getattr(self, f"_op_{operator.kind}", None) if operator.kind.isidentifier() else None
        on_host = all(name in self._constants or name in self._indices for name in given)
        foldable = operator.kind in SHAPE_OPERATORS and on_host and given
        if operator.subgraph or not (handler or operator.kind in _SIMPLE or foldable or operator.kind == "Shape"):
            inside = " with a graph inside" if operator.subgraph else ""
            raise _Lacking(operator.kind + inside)
        if operator.kind != "Constant" and not (operator.inputs and operator.inputs[0]):
            raise OnnxError(f"damaged: {operator} has no input")
        if self._unknown.intersection(given):
            self._unknown.update(operator.outputs)
            return
        if foldable or operator.kind == "Shape":
            self._compute(operator)
            return
        if given and given[0] in self._indices:
            raise _Lacking(f"{operator.kind} of shapes")
        attributes = dict(operator.attributes)
        try:
            if handler is not None:
                handler(operator, attributes)
            else:
                self._layer(operator, _SIMPLE[operator.kind]())
        except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
            raise OnnxError(f"{operator}: {error}") from error
        attributes.pop("consumed_inputs", None)  # of the oldest files, and without a meaning
        if attributes:
            raise _Lacking(f"{operator.kind} with the attribute {', '.join(sorted(attributes))}")

    def _compute(self, operator: Operator) -> None:
        """A node on shapes and constants: done here if all is known, else in each forward."""
        result = operator.outputs[0]
        if all(name in self._constants for name in operator.inputs if name):
            values = [self._constants[name] if name else None for name in operator.inputs]
            self._constants[result] = compute_shape(operator.kind, values, operator.attributes)
            # a weight that is only turned or renamed stays one to train
            turned = operator.kind in ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
            if not turned or operator.inputs[0] in self._made:
                self._made.add(result)
            return
        inputs: list[str | np.ndarray] = [self._constants.get(name, name) for name in operator.inputs]
        self._steps.append(Indices(operator.kind, inputs, result, dict(operator.attributes)))
        self._indices.add(result)
        if operator.kind == "Shape" and not operator.attributes:
            self._lengths[result] = self._ranks.get(operator.inputs[0])

    def _layer(
        self,
        operator: Operator,
        layer: Layer,
        inputs: Sequence[str] | None = None,
        *,
        path: str = "",
        rank: int | None = -1,
        output: str | None = None,
    ) -> None:
        """Add a layer that takes ``inputs`` (the node's first) and gives the node's results."""
        inputs = [operator.inputs[0]] if inputs is None else list(inputs)
        outputs = [name for name in operator.outputs if name] if output is None else [output]
        if len(outputs) != 1 and not isinstance(layer, more.Split):
            raise _Lacking(f"{operator.kind} with {len(outputs)} results")
        for name in inputs:
            if not name:
                raise OnnxError("lacks an input")
            if name in self._constants:
                raise _Lacking(f"{operator.kind} of a constant")
        place = self._graph._place(layer, path or _path_of(operator))
        self._steps.append(Step([place], inputs, outputs))
        for name in outputs:
            self._ranks[name] = self._ranks.get(inputs[0]) if rank == -1 else rank

    def _between(self) -> str:
        """The name of a value that the file does not have."""
        self._extra += 1
        return f"\0{self._extra}"

    def _rank(self, operator: Operator) -> int:
        rank = self._ranks.get(operator.inputs[0])
        if rank is None:
            raise _Lacking(f"{operator.kind} of an array whose number of axes is not known")
        return rank

    def _constant(self, operator: Operator, i: int, what: str) -> np.ndarray | None:
        """Input ``i``, which must be known now; None where it is left out."""
        if i >= len(operator.inputs) or not operator.inputs[i]:
            return None
        values = self._constants.get(operator.inputs[i])
        if values is None:
            raise _Lacking(f"{operator.kind} whose {what} is computed")
        return values

    def _weight(self, operator: Operator, i: int, what: str, rank: int | None = None) -> np.ndarray:
        values = self._constant(operator, i, what)
        if values is None or values.dtype.kind != "f":
            raise OnnxError(f"its {what} is missing or not floating-point")
        if rank is not None and values.ndim != rank:
            raise OnnxError(f"its {what} has shape {values.shape}, expected {rank} axes")
        if not values.size:
            raise OnnxError(f"its {what} is empty, shape {values.shape}")
        return values

    def _vector(self, operator: Operator, i: int, what: str, length: int) -> np.ndarray:
        values = self._weight(operator, i, what)
        if values.shape != (length,):
            raise OnnxError(f"its {what} has shape {values.shape}, expected ({length},)")
        return values

    def _parameter(self, name: str, values: np.ndarray, dtype: Any, form: str = "") -> Parameter:
        """A parameter; the same for nodes that use one constant in one ``form``: transposed or scaled it is another."""
        key = f"{name}\0{values.shape}\0{form}"
        if key not in self._shared:
            self._shared[key] = Parameter(get_backend().asarray(np.array(values, dtype)))
        return self._shared[key]

    # ---- products -------------------------------------------------------------------------------------------

    def _op_Conv(self, operator: Operator, attributes: dict[str, Any]) -> None:
        weight = self._weight(operator, 1, "weight")
        axes = weight.ndim - 2
        if axes not in (1, 2):
            raise _Lacking(f"Conv of {axes} dimensions")
        w = _window(attributes, axes, weight.shape[2:])
        groups = _integer(attributes, "group", 1)
        if groups < 1:
            raise OnnxError(f"group: must be at least 1, got {groups}")
        bias = self._bias(operator, weight.shape[0])
        layer: Any
        x = self._padded(operator, w, 0.0)
        channels = weight.shape[1] * groups
        if axes == 2:
            layer = nn.Conv2d(
                channels, weight.shape[0], w.kernel, w.stride, w.padding, w.dilation, groups, bias is not None, rng=0
            )
        else:
            one = w.padding if isinstance(w.padding, str) else w.padding[0]
            layer = nn.Conv1d(
                channels, weight.shape[0], w.kernel[0], w.stride[0], one, w.dilation[0], groups, bias is not None, rng=0
            )
        self._fill(layer, operator, weight, bias)
        self._layer(operator, layer, [x], path=self._path(operator), rank=weight.ndim)

    def _bias(self, operator: Operator, length: int) -> np.ndarray | None:
        if len(operator.inputs) < 3 or not operator.inputs[2]:
            return None
        return self._vector(operator, 2, "bias", length)

    def _fill(
        self, layer: Any, operator: Operator, weight: np.ndarray, bias: np.ndarray | None, form: str = ""
    ) -> None:
        layer.weight = self._parameter(operator.inputs[1], weight, weight.dtype, form)
        if bias is not None:
            layer.bias = Parameter(get_backend().asarray(np.array(bias, weight.dtype)))

    def _path(self, operator: Operator) -> str:
        """The path of the parameters, if the name of the first tells one."""
        name = operator.inputs[1]
        return name.removesuffix(".weight") if name.endswith(".weight") else _path_of(operator)

    def _padded(self, operator: Operator, w: _Window, value: float) -> str:
        """The node's input, in a frame if its padding is none that layers have."""
        x = operator.inputs[0]
        if not w.lower:
            return x
        framed = self._between()
        extents = [(k - 1) * d + 1 for k, d in zip(w.kernel, w.dilation, strict=True)]
        self._layer(operator, more.Pad(None, value, (extents, w.stride)), path="pad", output=framed)
        return framed

    def _op_ConvTranspose(self, operator: Operator, attributes: dict[str, Any]) -> None:
        weight = self._weight(operator, 1, "weight")
        if weight.ndim != 4:
            raise _Lacking(f"ConvTranspose of {weight.ndim - 2} dimensions")
        if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise _Lacking(f"ConvTranspose with auto_pad {attributes['auto_pad']}")
        w = _window(attributes, 2, weight.shape[2:])
        extra = _bounded(attributes.pop("output_padding", [0, 0]), "output_padding", 2, 0)
        groups = _integer(attributes, "group", 1)
        bias = self._bias(operator, weight.shape[1] * groups)
        layer = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1] * groups,
            w.kernel,
            w.stride,
            w.padding,
            tuple(extra),
            groups,
            bias is not None,
            w.dilation,
            rng=0,
        )
        self._fill(layer, operator, weight, bias)
        self._layer(operator, layer, path=self._path(operator), rank=4)

    def _op_Gemm(self, operator: Operator, attributes: dict[str, Any]) -> None:
        alpha, beta = (_number(attributes, name, 1.0) for name in ("alpha", "beta"))
        turned = _integer(attributes, "transB", 0)
        if _integer(attributes, "transA", 0):
            raise _Lacking("Gemm with transA")
        weight = self._weight(operator, 1, "second matrix", 2)
        weight = weight if turned else weight.T
        bias = self._constant(operator, 2, "third matrix")
        if bias is not None:
            if bias.size not in (1, weight.shape[0]) or bias.size != math.prod(bias.shape[-1:]):
                raise _Lacking(f"Gemm with a third matrix of shape {bias.shape}")
            bias = np.broadcast_to(bias.reshape(-1), weight.shape[0]) * np.asarray(beta, weight.dtype)
        weight = weight * np.asarray(alpha, weight.dtype) if alpha != 1 else weight
        self._linear(operator, weight, bias, rank=2, form=f"{'' if turned else 'transposed'} times {alpha}")

    def _linear(
        self,
        operator: Operator,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        rank: int | None,
        form: str = "transposed times 1.0",
    ) -> None:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, rng=0)
        self._fill(layer, operator, weight, bias, form)
        name = operator.inputs[1].removesuffix("_transposed")
        path = name.removesuffix(".weight") if name.endswith(".weight") else _path_of(operator)
        self._layer(operator, layer, path=path, rank=rank)

    def _op_MatMul(self, operator: Operator, attributes: dict[str, Any]) -> None:
        a, b = operator.inputs
        if b in self._constants and self._constants[b].ndim == 2 and a not in self._constants:
            weight = self._weight(operator, 1, "second matrix").T
            bias = None
            # with a bias added right behind it is one layer
            user = self._users.get(operator.outputs[0])
            if user is not None and user.kind == "Add" and self._uses[operator.outputs[0]] == 1:
                other = next((name for name in user.inputs if name != operator.outputs[0]), "")
                bias = self._constants.get(other)
                if bias is not None and bias.dtype.kind == "f" and bias.shape == (weight.shape[0],):
                    self._taken.add(id(user))
                    operator = Operator("MatMul", operator.name, operator.inputs, user.outputs)
                else:
                    bias = None
            self._linear(operator, weight, bias, rank=self._ranks.get(a))
            return
        ranks = [self._any_rank(name) for name in (a, b)]
        if 1 in ranks:
            raise _Lacking("MatMul of a vector")
        rank = max(rank or 0 for rank in ranks) or None
        self._with_constant(operator, lambda **options: more.MatMul(**options), rank)

    def _any_rank(self, name: str) -> int | None:
        return self._constants[name].ndim if name in self._constants else self._ranks.get(name)

    def _with_constant(self, operator: Operator, make: Callable[..., Layer], rank: int | None) -> None:
        """A layer of two operands; a constant of several numbers that the file keeps with its weights is trained."""
        a, b = operator.inputs
        if a not in self._constants and b not in self._constants:
            if a in self._indices or b in self._indices:
                raise _Lacking(f"{operator.kind} of numbers and shapes")
            self._layer(operator, make(), [a, b], rank=rank)
            return
        first = a in self._constants
        name, other = (a, b) if first else (b, a)
        values = self._constants[name]
        if values.dtype.kind != "f":
            raise _Lacking(f"{operator.kind} with a constant that is not floating-point")
        trained = values.size > 1 and name not in self._made
        self._layer(operator, make(constant=_array(values), first=first, trained=trained), [other], rank=rank)

    # ---- arithmetic -----------------------------------------------------------------------------------------

    def _arithmetic(self, operator: Operator, attributes: dict[str, Any]) -> None:
        if _integer(attributes, "broadcast", 0):
            raise _Lacking(f"{operator.kind} of the oldest kind, with an axis")
        if len(operator.inputs) != 2:
            raise OnnxError(f"takes 2 inputs, got {len(operator.inputs)}")
        ranks = [self._any_rank(name) for name in operator.inputs]
        rank = None if None in ranks else max(rank for rank in ranks if rank is not None)
        self._with_constant(operator, lambda **options: more.Arithmetic(operator.kind, **options), rank)

    _op_Add = _op_Sub = _op_Mul = _op_Div = _arithmetic

    def _op_Sum(self, operator: Operator, attributes: dict[str, Any]) -> None:
        names = list(operator.inputs)
        if len(names) == 1:
            self._layer(operator, nn.Identity())
            return
        total = names[0]
        for i, name in enumerate(names[1:], 1):
            result = operator.outputs[0] if i == len(names) - 1 else self._between()
            self._arithmetic(Operator("Add", operator.name, [total, name], [result]), {})
            total = result

    def _op_Pow(self, operator: Operator, attributes: dict[str, Any]) -> None:
        exponent = self._constant(operator, 1, "exponent")
        if exponent is None or exponent.size != 1:
            raise _Lacking("Pow with several exponents")
        self._layer(operator, more.Function("Pow", exponent=float(exponent.reshape(())[()])))

    # ---- normalisation --------------------------------------------------------------------------------------

    def _op_BatchNormalization(self, operator: Operator, attributes: dict[str, Any]) -> None:
        if _integer(attributes, "training_mode", 0) or not _integer(attributes, "spatial", 1):
            raise _Lacking("BatchNormalization in training mode")
        eps, momentum = _number(attributes, "epsilon", 1e-5), _number(attributes, "momentum", 0.9)
        weight = self._weight(operator, 1, "scale", 1)
        parts = [weight, *(self._vector(operator, i, "statistics", len(weight)) for i in (2, 3, 4))]
        rank = self._rank(operator)
        kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d if rank in (2, 3) else None
        if kind is None:
            raise _Lacking(f"BatchNormalization of {rank} axes")
        layer = kind(len(weight), eps, min(max(1 - momentum, 0.0), 1.0))
        _set(layer, weight=parts[0], bias=parts[1])
        layer.running_mean, layer.running_var = _array(parts[2], weight.dtype), _array(parts[3], weight.dtype)
        trimmed = Operator(operator.kind, operator.name, operator.inputs, operator.outputs[:1])
        if any(name and self._uses[name] for name in operator.outputs[1:]):
            raise _Lacking("BatchNormalization in training mode")
        self._layer(trimmed, layer, path=self._path(operator))

    def _op_InstanceNormalization(self, operator: Operator, attributes: dict[str, Any]) -> None:
        eps, weight = _number(attributes, "epsilon", 1e-5), self._weight(operator, 1, "scale", 1)
        bias = self._vector(operator, 2, "bias", len(weight))
        plain = bool(np.all(weight == 1) and np.all(bias == 0))
        layer: Any
        if self._ranks.get(operator.inputs[0]) == 4:
            layer = nn.InstanceNorm2d(len(weight), eps, affine=True)
        else:  # a group for each channel; mostly one without weights, a part of a group normalisation
            layer = nn.GroupNorm(len(weight), len(weight), eps, affine=not plain)
        if layer.weight is not None:
            _set(layer, weight=weight, bias=bias)
        self._layer(operator, layer, path=self._path(operator))

    def _op_LayerNormalization(self, operator: Operator, attributes: dict[str, Any]) -> None:
        eps, axis = _number(attributes, "epsilon", 1e-5), _integer(attributes, "axis", -1)
        attributes.pop("stash_type", None)
        weight = self._weight(operator, 1, "scale")
        rank = self._ranks.get(operator.inputs[0])
        bias = self._constant(operator, 2, "bias")
        if bias is not None and bias.shape != weight.shape:  # one may be broadcast to the other
            try:
                weight, bias = (np.array(values) for values in np.broadcast_arrays(weight, bias))
            except ValueError:
                raise OnnxError(f"its bias has shape {bias.shape}, its scale {weight.shape}") from None
        if weight.ndim != (-axis if axis < 0 else (rank or 0) - axis):
            raise _Lacking(f"LayerNormalization from axis {axis} with a scale of {weight.ndim} axes")
        layer = nn.LayerNorm(weight.shape, eps, bias=bias is not None)
        _set(layer, weight=weight, **({} if bias is None else {"bias": bias}))
        self._layer(operator, layer, path=self._path(operator))

    def _op_GroupNormalization(self, operator: Operator, attributes: dict[str, Any]) -> None:
        eps, groups = _number(attributes, "epsilon", 1e-5), _integer(attributes, "num_groups", 0)
        attributes.pop("stash_type", None)
        if self._file.opset < 21:
            raise _Lacking("GroupNormalization before version 21 of the operator set")
        weight = self._weight(operator, 1, "scale", 1)
        layer = nn.GroupNorm(groups, len(weight), eps)
        _set(layer, weight=weight, bias=self._vector(operator, 2, "bias", len(weight)))
        self._layer(operator, layer, path=self._path(operator))

    # ---- pooling --------------------------------------------------------------------------------------------

    def _op_MaxPool(self, operator: Operator, attributes: dict[str, Any]) -> None:
        kernel = attributes.get("kernel_shape", [])
        w = _window(attributes, len(kernel), kernel)
        if _integer(attributes, "storage_order", 0) or any(operator.outputs[1:]):
            raise _Lacking("MaxPool with indices")
        ceil = bool(_integer(attributes, "ceil_mode", 0))
        x = self._padded(operator, w, -math.inf)
        self._pool(operator, x, w, lambda *window: nn.MaxPool2d(*window, ceil_mode=ceil), flexible=True)

    def _op_AveragePool(self, operator: Operator, attributes: dict[str, Any]) -> None:
        kernel = attributes.get("kernel_shape", [])
        w = _window(attributes, len(kernel), kernel)
        if w.lower:
            raise _Lacking("AveragePool with auto_pad SAME_LOWER")
        counted = bool(_integer(attributes, "count_include_pad", 0))
        ceil = bool(_integer(attributes, "ceil_mode", 0))
        if any(d != 1 for d in w.dilation):
            raise _Lacking("AveragePool with dilations")
        self._pool(
            operator,
            operator.inputs[0],
            w,
            lambda kernel, stride, padding, _: nn.AvgPool2d(
                kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted
            ),
        )

    def _pool(
        self, operator: Operator, x: str, w: _Window, make: Callable[..., Layer], *, flexible: bool = False
    ) -> None:
        if len(w.kernel) == 2:
            layer = make(w.kernel, w.stride, w.padding, w.dilation)
            self._layer(operator, layer, [x], rank=4)
        elif len(w.kernel) == 1:  # as images of height one
            padding = w.padding if isinstance(w.padding, str) else ((0, 0), w.padding[0])
            layer = make((1, w.kernel[0]), (1, w.stride[0]), padding, (1, w.dilation[0]))
            path, image, pooled = _path_of(operator), self._between(), self._between()
            self._layer(operator, more.Reshaped("Unsqueeze", [2]), [x], path="unsqueeze", rank=4, output=image)
            self._layer(operator, layer, [image], path=path, rank=4, output=pooled)
            self._layer(operator, more.Reshaped("Squeeze", [2]), [pooled], path="squeeze", rank=3)
        else:
            raise _Lacking(f"{operator.kind} of {len(w.kernel)} dimensions")

    def _op_GlobalAveragePool(self, operator: Operator, attributes: dict[str, Any]) -> None:
        rank = self._rank(operator)
        layer = nn.AdaptiveAvgPool2d(1) if rank == 4 else more.Mean(range(2, rank))
        self._layer(operator, layer)

    def _reduce(self, operator: Operator, attributes: dict[str, Any]) -> None:
        total, keepdims = operator.kind == "ReduceSum", bool(_integer(attributes, "keepdims", 1))
        nothing = _integer(attributes, "noop_with_empty_axes", 0)
        given = self._constant(operator, 1, "axes")
        axes = _integers(attributes, "axes", given)
        rank = self._ranks.get(operator.inputs[0])
        if not axes:
            axes = None
            if nothing:
                self._layer(operator, nn.Identity())
                return
        images = rank == 4 and axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]
        if images and not total:
            self._layer(
                operator, nn.AdaptiveAvgPool2d(1) if keepdims else nn.GlobalAvgPool2d(), rank=4 if keepdims else 2
            )
            return
        left = rank if keepdims or rank is None else 0 if axes is None else rank - len(axes)
        self._layer(operator, more.Mean(axes, keepdims=keepdims, total=total), rank=left)

    _op_ReduceMean = _op_ReduceSum = _reduce

    # ---- activations ----------------------------------------------------------------------------------------

    def _op_LeakyRelu(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, nn.LeakyReLU(_number(attributes, "alpha", 0.01)))

    def _op_PRelu(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, more.PReLU(_array(self._weight(operator, 1, "slope"))))

    def _op_Elu(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, more.Function("Elu", alpha=_number(attributes, "alpha", 1.0)))

    def _op_HardSigmoid(self, operator: Operator, attributes: dict[str, Any]) -> None:
        options = {"alpha": _number(attributes, "alpha", 0.2), "beta": _number(attributes, "beta", 0.5)}
        self._layer(operator, more.Function("HardSigmoid", **options))

    def _op_Gelu(self, operator: Operator, attributes: dict[str, Any]) -> None:
        how = attributes.pop("approximate", "none")
        if how not in ("none", "tanh"):
            raise OnnxError(f"approximate: expected none or tanh, got {how!r}")
        self._layer(operator, nn.GELU() if how == "none" else more.Function("GeluTanh"))

    def _op_Clip(self, operator: Operator, attributes: dict[str, Any]) -> None:
        bounds = []
        for i, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
            given = self._constant(operator, i, name)
            bound = _number(attributes, name, default) if given is None else given.reshape(()).item()
            bounds.append(default if abs(bound) > 3e38 else float(bound))
        low, high = bounds
        usual: dict[tuple[float, float], Callable[[], Layer]] = {(0.0, math.inf): nn.ReLU, (0.0, 6.0): nn.ReLU6}
        self._layer(operator, usual[low, high]() if (low, high) in usual else nn.Hardtanh(low, high))

    def _softmax(self, operator: Operator, attributes: dict[str, Any]) -> None:
        late = self._file.opset >= 13
        axis = _integer(attributes, "axis", -1 if late else 1)
        rank = self._ranks.get(operator.inputs[0])
        if not late and rank != axis + 1 and axis != -1:  # of all axes from there on, together
            raise _Lacking(f"{operator.kind} from axis {axis} on, of {rank or 'any number of'} axes")
        self._layer(operator, more.Softmax(axis, log=operator.kind == "LogSoftmax"))

    _op_Softmax = _op_LogSoftmax = _softmax

    def _op_Dropout(self, operator: Operator, attributes: dict[str, Any]) -> None:
        given = self._constant(operator, 1, "ratio")
        ratio = _number(attributes, "ratio", 0.5) if given is None else float(given.reshape(())[()])
        attributes.pop("seed", None)
        attributes.pop("is_test", None)
        if any(name and self._uses[name] for name in operator.outputs[1:]):
            raise _Lacking("Dropout whose mask is used")
        trimmed = Operator(operator.kind, operator.name, operator.inputs, operator.outputs[:1])
        self._layer(trimmed, nn.Dropout(ratio))

    # ---- shapes ---------------------------------------------------------------------------------------------

    def _op_Constant(self, operator: Operator, attributes: dict[str, Any]) -> None:
        if len(attributes) != 1:
            raise OnnxError("needs one value")
        name, value = attributes.popitem()
        kinds = {"value": None, "value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
        if name not in kinds:
            raise _Lacking(f"Constant with the attribute {name}")
        self._constants[operator.outputs[0]] = value if name == "value" else np.array(value, kinds[name])
        if not isinstance(self._constants[operator.outputs[0]], np.ndarray):
            raise OnnxError(f"its {name} is not a tensor")
        self._made.add(operator.outputs[0])

    def _op_Identity(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, nn.Identity())

    def _op_Cast(self, operator: Operator, attributes: dict[str, Any]) -> None:
        if _integer(attributes, "to", 0) not in (1, 10, 11):
            raise _Lacking("Cast to integers")
        attributes.pop("saturate", None)
        self._layer(operator, nn.Identity())  # a model computes in one dtype, that of its parameters

    def _op_Flatten(self, operator: Operator, attributes: dict[str, Any]) -> None:
        axis = _integer(attributes, "axis", 1)
        self._layer(operator, nn.Flatten() if axis == 1 else more.Reshaped("Flatten", [axis]), rank=2)

    def _op_Reshape(self, operator: Operator, attributes: dict[str, Any]) -> None:
        allow_zero = bool(_integer(attributes, "allowzero", 0))
        x, shape = operator.inputs
        if shape in self._indices:
            rank = self._lengths.get(shape)
            self._layer(operator, more.Reshape(None, allow_zero=allow_zero), [x, shape], rank=rank)
            return
        wanted = self._constant(operator, 1, "shape")
        if wanted is None or wanted.ndim != 1 or wanted.dtype.kind != "i":
            raise OnnxError("its shape is no row of integers")
        layer = more.Reshape(wanted.tolist(), allow_zero=allow_zero, batch=self._batch)
        self._layer(operator, layer, rank=len(wanted))

    def _axes(self, operator: Operator, attributes: dict[str, Any]) -> list[int] | None:
        given = self._constant(operator, 1, "axes")
        return _integers(attributes, "axes", given)

    def _op_Squeeze(self, operator: Operator, attributes: dict[str, Any]) -> None:
        axes, rank = self._axes(operator, attributes), self._ranks.get(operator.inputs[0])
        left = None if axes is None or rank is None else rank - len(axes)
        self._layer(operator, more.Reshaped("Squeeze", axes), rank=left)

    def _op_Unsqueeze(self, operator: Operator, attributes: dict[str, Any]) -> None:
        axes, rank = self._axes(operator, attributes) or [], self._ranks.get(operator.inputs[0])
        self._layer(operator, more.Reshaped("Unsqueeze", axes), rank=None if rank is None else rank + len(axes))

    def _op_Transpose(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, more.Permuted(_integers(attributes, "perm")))

    def _op_Concat(self, operator: Operator, attributes: dict[str, Any]) -> None:
        self._layer(operator, more.Joined(_integer(attributes, "axis", 1)), operator.inputs)

    def _op_Split(self, operator: Operator, attributes: dict[str, Any]) -> None:
        given = self._constant(operator, 1, "lengths")
        lengths = _integers(attributes, "split", given)
        axis = _integer(attributes, "axis", 0)
        attributes.pop("num_outputs", None)
        if not all(operator.outputs) or (lengths is not None and len(lengths) != len(operator.outputs)):
            raise OnnxError(f"gives {len(operator.outputs)} parts, of lengths {lengths}")
        if lengths is None:
            self._layer(operator, more.Split(axis, None, len(operator.outputs)))
            return
        start = 0
        for name, length in zip(operator.outputs, lengths, strict=True):
            if self._uses[name]:
                self._layer(operator, more.Part([(axis, start, start + length)]), output=name)
            start += length

    def _op_Slice(self, operator: Operator, attributes: dict[str, Any]) -> None:
        names = ("starts", "ends", "axes", "steps")
        parts = []
        for i, name in enumerate(names, 1):
            given = self._constant(operator, i, name)
            parts.append(_integers(attributes, name, given))
        starts, ends, axes, steps = parts
        if steps is not None and any(step != 1 for step in steps):
            raise _Lacking("Slice with steps")
        if starts is None or ends is None:
            raise OnnxError("has no starts or no ends")
        self._layer(operator, more.Part(list(zip(axes or range(len(starts)), starts, ends, strict=True))))

    def _op_Pad(self, operator: Operator, attributes: dict[str, Any]) -> None:
        mode = attributes.pop("mode", "constant")
        if mode != "constant":
            raise _Lacking(f"Pad with mode {mode}")
        given, filling = self._constant(operator, 1, "pads"), self._constant(operator, 2, "value")
        axes = self._constant(operator, 3, "axes")
        pads = _integers(attributes, "pads", given)
        value = _number(attributes, "value", 0.0) if filling is None else filling.reshape(()).item()
        if pads is None or len(pads) % 2 or any(abs(pad) > _MOST_PADDING for pad in pads):
            raise OnnxError(f"pads: expected pairs of at most {_MOST_PADDING}, got {pads!r:.200}")
        pairs = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
        if axes is not None:
            full = [(0, 0)] * self._rank(operator)
            for axis, pair in zip(axes.reshape(-1).tolist(), pairs, strict=True):
                full[axis] = pair
            pairs = full
        self._layer(operator, more.Pad(pairs, float(value)))


class _Window:
    """Attributes of a convolution or a pooling."""

    def __init__(self, kernel: Any, stride: Any, padding: Any, dilation: Any, lower: bool) -> None:
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.lower = lower  # an odd number of pads has one more before: a frame of its own


def _window(attributes: dict[str, Any], axes: int, kernel: Sequence[int]) -> _Window:
    """Take the attributes of the window out of ``attributes``; for one axis tuples have one element."""
    if not axes:
        raise OnnxError("has no kernel_shape")
    said = _bounded(attributes.pop("kernel_shape", list(kernel)), "kernel_shape", axes, 1)
    if said != list(kernel):
        raise OnnxError(f"kernel_shape: {said} does not fit the weight's {list(kernel)}")
    stride = _bounded(attributes.pop("strides", [1] * axes), "strides", axes, 1)
    dilation = _bounded(attributes.pop("dilations", [1] * axes), "dilations", axes, 1)
    pads = _bounded(attributes.pop("pads", [0] * 2 * axes), "pads", 2 * axes, 0)
    auto = attributes.pop("auto_pad", "NOTSET")
    padding: Any = tuple(zip(pads[:axes], pads[axes:], strict=True))
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise OnnxError(f"auto_pad: {auto!r} is not known")
    if auto != "NOTSET":
        padding = "same" if auto == "SAME_UPPER" else "valid"
    return _Window(tuple(said), tuple(stride), padding, tuple(dilation), auto == "SAME_LOWER")


def _bounded(values: Any, name: str, count: int, low: int) -> list[int]:
    if not isinstance(values, list) or len(values) != count or any(not isinstance(v, int) for v in values):
        raise OnnxError(f"{name}: expected {count} integers, got {values!r:.200}")
    if any(not low <= value <= _MOST_PADDING for value in values):
        raise OnnxError(f"{name}: expected {low} to {_MOST_PADDING}, got {values!r:.200}")
    return values


def _integer(attributes: dict[str, Any], name: str, default: int) -> int:
    value = attributes.pop(name, default)
    if not isinstance(value, int):
        raise OnnxError(f"{name}: expected an integer, got {value!r:.200}")
    return value


def _number(attributes: dict[str, Any], name: str, default: float) -> float:
    value = attributes.pop(name, default)
    if not isinstance(value, (int, float)):
        raise OnnxError(f"{name}: expected a number, got {value!r:.200}")
    return float(value)


def _integers(attributes: dict[str, Any], name: str, given: np.ndarray | None = None) -> list[int] | None:
    """A list of integers: of an input, or of the attribute that older versions have for it; None where it is left out.

    Two of one value are an error for axes.
    """
    values = attributes.pop(name, None) if given is None else given.reshape(-1).tolist()
    if values is None:
        return None
    if not isinstance(values, list) or any(not isinstance(value, int) for value in values):
        raise OnnxError(f"{name}: expected integers, got {values!r:.200}")
    if name in ("axes", "perm") and len(set(values)) < len(values):
        raise OnnxError(f"{name}: expected different integers, got {values!r:.200}")
    return values


def _array(values: np.ndarray, dtype: Any = None) -> Any:
    return get_backend().asarray(np.array(values, dtype))


def _set(layer: Any, **values: np.ndarray) -> None:
    """Make these the layer's parameters."""
    for name, array in values.items():
        setattr(layer, name, Parameter(_array(array)))


def _path_of(operator: Operator) -> str:
    """The path of the layer that a node was, which exporters keep in its name: "/layer1/layer1.0/conv1/Conv"."""
    parts = [part for part in operator.name.split("/") if part]
    path = ""
    for part in parts[:-1] or parts:
        path = part if not path or part.startswith(path + ".") else f"{path}.{part}"
    return path or operator.kind.lower()
