"""From a model to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer
from .._extras import require
from .._files import write_atomically
from ..backends import backend_of, compute, get_backend
from ..backends.protocol import Array
from ..layers import Concat, Layer, Residual, Sequential
from ..models import InvertedResidual
from ._builder import Builder
from ._emit import does_as, find_emitter
from ._errors import OnnxError
from ._shapes import target_shape
from .layers import Reshape

__all__ = ["export"]

_DTYPES = ("float16", "float32", "float64")


class _Value(NamedTuple):
    """What a layer takes or gives: its name in the graph, and how it looks for a batch of two."""

    name: str
    array: Array


def export(
    model: Layer,
    path: str | os.PathLike[str],
    input_shape: Sequence[int],
    *,
    fold_batch_norm: bool = False,
    dtype: str | None = None,
    input_name: str = "input",
    output_name: str = "output",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``model``, as it is in evaluation mode, as an ONNX file of opset 17 and IR version 8.

    The batch may have any size, the rest of the input has the shape given here. Parameters keep their names of the
    state_dict. The model stays as it is, its mode and caches too. A layer that is not of xpconv is written if its
    forward does nothing but call layers of its own.

    Parameters
    ----------
    model : Layer
        On any backend.
    path : path
        Written as a whole or not at all; an earlier file is replaced.
    input_shape : sequence of int
        Of one example: (C, H, W), without the batch.
    fold_batch_norm : bool
        Put the normalisation behind a convolution or a linear layer into its weights: a faster network, whose results
        differ by rounding and which is no longer one to train.
    dtype : str, optional
        "float32", "float64" or "float16", of the file; that of the model if None.
    input_name, output_name : str
        In the file.
    metadata : mapping of str to str, optional
        Kept in the file, such as the names of classes.

    Raises
    ------
    OnnxError
        A layer that cannot be written, or cannot take what comes to it: the message has its path.
    TypeError, ValueError
        A wrong argument.
    OSError
        The file cannot be written; an earlier one is untouched.
    MissingExtraError
        The package onnx is not installed.
    """
    require("onnx", "ONNX files", extra="onnx")
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    if isinstance(input_shape, str) or not isinstance(input_shape, Sequence):
        raise TypeError(f"input_shape: expected a sequence of integers such as (3, 32, 32), got {input_shape!r}")
    shape = tuple(check_integer("input_shape", length, 1) for length in input_shape)
    for argument, name in (("input_name", input_name), ("output_name", output_name)):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{argument}: expected a name, got {name!r}")
    if input_name == output_name:
        raise ValueError(f"output_name: must differ from input_name, got {output_name!r} for both")
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata: expected a mapping of str to str, got {key!r}: {text!r}")
    write_atomically(path, [_bytes(model, shape, fold_batch_norm, dtype, input_name, output_name, metadata or {})])


def _bytes(
    model: Layer,
    shape: tuple[int, ...],
    fold_batch_norm: bool,
    dtype: str | None,
    input_name: str,
    output_name: str,
    metadata: Mapping[str, str],
) -> bytes:
    first = next(model.parameters(), None)
    backend = get_backend() if first is None else backend_of(parameter=first.data)
    own = "float32" if first is None else backend.dtype_name(first.data)
    if (dtype or own) not in _DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(_DTYPES)}, got {dtype or own!r}")
    graph = Builder(dtype or own, input_name)
    with backend.running():
        # two examples: a normalisation by the batch alone would refuse one
        sample = _Value(input_name, compute(backend, "export", backend.zeros, (2, *shape), own))
        result = _Walk(graph).run(_for_evaluation(model, {}), "", sample)
    name = result.name
    if not len(result.array.shape) or result.array.shape[0] != 2:
        raise OnnxError(f"model: results need a batch axis, for 2 examples got shape {tuple(result.array.shape)}")
    if fold_batch_norm:
        name = graph.fold_batch_norm(name)
    graph.prune(name)
    if name == input_name:
        name = graph.add("Identity", name)
    taken = {input_name, *graph.constants, *(node.output for node in graph.nodes)} - {name}
    if output_name in taken:
        raise ValueError(f"output_name: {output_name!r} is the name of something else in the graph")
    return graph.serialize(name, output_name, shape, tuple(result.array.shape[1:]), metadata)


def _for_evaluation(layer: Layer, made: dict[int, Layer]) -> Layer:
    """A copy of the tree of layers in evaluation mode, with caches of its own, around the same arrays."""
    if id(layer) not in made:
        copy = made[id(layer)] = type(layer).__new__(type(layer))
        copy.__dict__.update(layer.__dict__, training=False, _keeps=False, _stack=[])
        for name, child in layer._own(layer._layer_names):
            copy.__dict__[name] = _for_evaluation(child, made)
    return made[id(layer)]


class _Walk:
    """Goes through a network in the order of its forward and writes every layer."""

    def __init__(self, graph: Builder) -> None:
        self._graph = graph

    def run(self, layer: Layer, path: str, x: _Value, *more: _Value) -> _Value:
        """Write ``layer``; returns what it gives."""
        emitter = find_emitter(layer)
        if emitter is not None:
            try:
                y = layer.forward(*(value.array for value in (x, *more)))
            except (TypeError, ValueError) as error:
                raise OnnxError(f"{_title(layer, path)} does not take what comes to it: {error}") from error
            self._graph.path = path
            return _Value(emitter(self._graph, layer, x.name, tuple(x.array.shape), *(v.name for v in more)), y)
        if does_as(layer, Sequential):
            for name, child in layer._own(layer._layer_names):
                x = self.run(child, _join(path, name), x)
            return x
        if does_as(layer, InvertedResidual):
            return self._inverted(layer, path, x)
        if does_as(layer, Residual):
            return self._residual(layer, path, x)
        if does_as(layer, Concat):
            return self._concat(layer, path, x)
        return self._trace(layer, path, x, *more)

    def _residual(self, layer: Any, path: str, x: _Value) -> _Value:
        y = self.run(layer.body, _join(path, "body"), x)
        straight = x if layer.shortcut is None else self.run(layer.shortcut, _join(path, "shortcut"), x)
        if tuple(y.array.shape) != tuple(straight.array.shape):
            raise OnnxError(
                f"{_title(layer, path)}: the body gives shape {tuple(y.array.shape)} but the shortcut "
                f"{tuple(straight.array.shape)}"
            )
        self._graph.path = path
        return _Value(self._graph.add("Add", y.name, straight.name), y.array + straight.array)

    def _inverted(self, layer: Any, path: str, x: _Value) -> _Value:
        y = self.run(layer.conv, _join(path, "conv"), x)
        if not layer.use_res_connect:
            return y
        self._graph.path = path
        return _Value(self._graph.add("Add", x.name, y.name), x.array + y.array)

    def _concat(self, layer: Any, path: str, x: _Value) -> _Value:
        parts = [self.run(branch, _join(path, name), x) for name, branch in layer._own(layer._layer_names)]
        xp = backend_of(x=x.array).xp
        try:
            y = xp.concat([part.array for part in parts], axis=layer.axis)
        except Exception as error:  # each library has its own for shapes that do not fit
            raise OnnxError(f"{_title(layer, path)}: its branches cannot be joined: {error}") from error
        self._graph.path = path
        return _Value(self._graph.add("Concat", *(part.name for part in parts), axis=layer.axis), y)

    def _trace(self, layer: Layer, path: str, *given: _Value) -> _Value:
        """Write the layers that the forward of ``layer`` calls, in a copy whose parts tell what they are called with.

        The arrays that they give are known again by their identity; one that is not known was made by code that is not
        a layer.
        """
        given = tuple(map(_read_only, given))
        known = {id(value.array): value for value in given}  # which keeps them alive, and so their identities their own

        def recorded(part: Layer, where: str) -> Layer:
            copy = type(part).__new__(type(part))
            copy.__dict__.update(part.__dict__)
            for name, child in part._own(part._layer_names):
                copy.__dict__[name] = recorded(child, _join(where, name))

            def forward(*arrays: Array) -> Array:
                if type(part) is Reshape and len(arrays) == 2:
                    return call(_fixed(part, *arrays, where), arrays[0])
                return call(part, *arrays)

            def call(part: Layer, *arrays: Array) -> Array:
                values = [known.get(id(array)) for array in arrays if array is not None]
                if None in values:
                    raise OnnxError(
                        f"{_title(layer, path)} cannot be written: it computes the input of its layer {where!r} "
                        "itself, and only what layers compute is known to ONNX"
                    )
                y = _read_only(self.run(part, where, *values))  # type: ignore[arg-type]
                known[id(y.array)] = y
                return y.array

            copy.__dict__["forward"] = forward
            return copy

        traced = type(layer).__new__(type(layer))
        traced.__dict__.update(layer.__dict__)
        for name, child in layer._own(layer._layer_names):
            traced.__dict__[name] = recorded(child, _join(path, name))
        try:
            y = traced.forward(*(value.array for value in given))
        except OnnxError:
            raise
        except (TypeError, ValueError) as error:
            raise OnnxError(f"{_title(layer, path)} does not take what comes to it: {error}") from error
        if isinstance(y, (tuple, list)):
            raise OnnxError(
                f"{_title(layer, path)} cannot be written: it gives {len(y)} arrays, and only layers of one can be"
            )
        if id(y) not in known:
            raise OnnxError(
                f"{_title(layer, path)} cannot be written: its forward is not made of layers alone, or gives another "
                "array than they do"
            )
        return known[id(y)]


def _read_only(value: _Value) -> _Value:
    """The same, where NumPy can refuse it to be written to: a forward that does so would go unnoticed."""
    if type(value.array) is not np.ndarray:
        return value
    view = value.array.view()
    view.flags.writeable = False
    return value._replace(array=view)


def _fixed(layer: Reshape, x: Array, shape: Any, path: str) -> Reshape:
    """A layer for a shape that was computed in the forward, from that of a batch of two."""
    old, new = tuple(x.shape), target_shape(tuple(x.shape), shape, allow_zero=layer.allow_zero)
    if not new or not old or new[0] != old[0]:
        raise OnnxError(
            f"{_title(layer, path)} cannot be written: its shape is computed, and gives {old} the shape {new}, "
            "which does not begin with the batch"
        )
    return Reshape([0, *new[1:]])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _title(layer: Layer, path: str) -> str:
    return f"layer {path!r} ({type(layer).__name__})" if path else f"the model ({type(layer).__name__})"
