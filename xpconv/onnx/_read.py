"""What an ONNX file says, checked: plain Python and NumPy, from bytes that nobody vouches for.

Nothing here follows a path of the file unless it was asked to, and nothing is made larger than the file has bytes for.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import require
from ._errors import OnnxError

__all__ = ["OPSETS", "File", "Operator", "read"]

OPSETS = (7, 25)  # first and last version of the operator set whose operators are known here
_IR_VERSIONS = (3, 13)
_MOST_BYTES = 2**31  # of a protocol buffer

# number in TensorProto.DataType -> dtype, field of values that are not raw
_TYPES = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
    16: ("bfloat16", "int32_data"),
}


@dataclass
class Operator:
    """A node of the graph."""

    kind: str  # with the domain, where it is not ONNX's own
    name: str
    inputs: list[str]  # "" for one that is left out
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    subgraph: bool = False

    def __str__(self) -> str:
        return f"{self.kind} node {self.name!r}" if self.name else f"{self.kind} node that gives {self.outputs[0]!r}"


@dataclass
class File:
    """A graph, its nodes in an order in which they can be computed."""

    opset: int
    inputs: dict[str, list[int | None] | None]  # the shape, as far as it is known
    outputs: list[str]
    constants: dict[str, np.ndarray]
    operators: list[Operator]
    metadata: dict[str, str]


def read(path: str | os.PathLike[str], *, external_data: bool = False) -> File:
    """The graph of an ONNX file.

    Raises
    ------
    OnnxError
        It is damaged, no ONNX file, of an unknown version, or refers to other files in a way that is not allowed.
    OSError
        It cannot be read.
    """
    name = os.fspath(path)
    try:
        return _Reader(Path(path).resolve().parent if external_data else None).file(_contents(path))
    except OnnxError as error:
        raise OnnxError(f"{name!s}: {error}") from error.__cause__


def _contents(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OnnxError("is not an ordinary file")
        if status.st_size > _MOST_BYTES:
            raise OnnxError(f"has {status.st_size} bytes, an ONNX file holds less than 2 GiB")
        return file.read(_MOST_BYTES)


class _Reader:
    """Reads one file; ``folder`` is where external data may lie, None if they are refused."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._onnx = require("onnx", "ONNX files", extra="onnx")

    def file(self, contents: bytes) -> File:
        decode_error = require("google.protobuf.message", "ONNX files", extra="onnx").DecodeError
        model = self._onnx.ModelProto()
        try:
            model.ParseFromString(contents)
        except (decode_error, RuntimeError, ValueError) as error:
            raise OnnxError(f"not an ONNX file, truncated or damaged ({error})") from None
        if not model.HasField("graph") or not model.graph.node:
            raise OnnxError("not an ONNX file, truncated or damaged (it has no graph)")
        low, high = _IR_VERSIONS
        if not low <= model.ir_version <= high:
            raise OnnxError(f"IR version {model.ir_version}, this xpconv reads {low} to {high}")
        versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
        low, high = OPSETS
        if len(versions) != 1 or not low <= versions[0] <= high:
            said = ", ".join(map(str, versions)) or "none"
            raise OnnxError(f"version of the operator set: this xpconv reads {low} to {high}, the file has {said}")
        return self._graph(model, versions[0])

    def _graph(self, model: Any, opset: int) -> File:
        graph = model.graph
        if len(graph.sparse_initializer):
            raise OnnxError("it has sparse tensors, which xpconv does not read")
        constants: dict[str, np.ndarray] = {}
        for tensor in graph.initializer:
            if not _text(tensor.name) or tensor.name in constants:
                raise OnnxError(f"damaged: two constants, or none, have the name {tensor.name!r}")
            constants[tensor.name] = self._tensor(tensor, f"constant {tensor.name!r}")
        inputs: dict[str, list[int | None] | None] = {}
        for value in graph.input:
            if _text(value.name) in constants:
                continue  # older files list constants among the inputs too
            if not value.name or value.name in inputs:
                raise OnnxError(f"damaged: two inputs, or none, have the name {value.name!r}")
            inputs[value.name] = _shape(value)
        outputs = [_text(value.name) for value in graph.output]
        operators = [self._operator(node) for node in graph.node]
        ordered = _ordered(operators, {*constants, *inputs})
        known = {*constants, *inputs, *(name for operator in operators for name in operator.outputs)}
        missing = [name for name in outputs if name not in known]
        if missing or not outputs:
            raise OnnxError(f"damaged: nothing gives the result {', '.join(map(repr, missing)) or '(none is named)'}")
        metadata = {_text(entry.key): _text(entry.value) for entry in model.metadata_props}
        return File(opset, inputs, outputs, constants, ordered, metadata)

    def _operator(self, node: Any) -> Operator:
        kind, domain = _text(node.op_type), _text(node.domain)
        kind = kind if domain in ("", "ai.onnx") else f"{domain}.{kind}"
        operator = Operator(kind, _text(node.name), [*map(_text, node.input)], [*map(_text, node.output)])
        if not node.op_type or not any(operator.outputs):
            raise OnnxError(f"damaged: node {node.name!r} has no operator or no result")
        for attribute in node.attribute:
            if not _text(attribute.name) or attribute.name in operator.attributes:
                raise OnnxError(f"damaged: {operator} has two attributes, or none, of the name {attribute.name!r}")
            operator.attributes[attribute.name] = self._attribute(operator, attribute)
        return operator

    def _attribute(self, operator: Operator, attribute: Any) -> Any:
        kinds = self._onnx.AttributeProto
        if attribute.type == kinds.FLOAT:
            return _float(attribute.f)
        if attribute.type == kinds.INT:
            return int(attribute.i)
        if attribute.type == kinds.STRING:
            return attribute.s.decode("utf-8", "replace")
        if attribute.type == kinds.TENSOR:
            return self._tensor(attribute.t, f"the value of {operator}")
        if attribute.type == kinds.FLOATS:
            return [_float(value) for value in attribute.floats]
        if attribute.type == kinds.INTS:
            return [int(value) for value in attribute.ints]
        operator.subgraph = True  # or of a type that no operator known here has
        return None

    # ---- tensors --------------------------------------------------------------------------------------------

    def _tensor(self, tensor: Any, what: str) -> np.ndarray:
        if tensor.data_type not in _TYPES:
            raise OnnxError(f"{what}: tensors of type {tensor.data_type} are not read (text, or less than a byte)")
        dtype, typed = _TYPES[tensor.data_type]
        shape = tuple(int(length) for length in tensor.dims)
        if any(length < 0 for length in shape) or len(shape) > 16 or tensor.HasField("segment"):
            raise OnnxError(f"damaged: {what} has the shape {shape}")
        count = math.prod(shape)
        stored = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            raw: bytes | None = self._external(tensor, what, count * stored.itemsize)
        else:
            raw = tensor.raw_data if tensor.HasField("raw_data") else None
        if raw is not None:
            if len(raw) != count * stored.itemsize:
                raise OnnxError(f"damaged: {what} of shape {shape} in {dtype} has {len(raw)} bytes")
            values = np.frombuffer(raw, stored.newbyteorder("<")).astype(stored)
        else:
            numbers = getattr(tensor, typed)
            if len(numbers) != count:
                raise OnnxError(f"damaged: {what} of shape {shape} has {len(numbers)} numbers")
            values = _from_numbers(numbers, dtype, stored, what)
        if dtype == "bfloat16":  # which NumPy has not: the upper half of float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        try:
            return values.reshape(shape)
        except ValueError:  # no numbers at all, along axes whose product NumPy cannot hold
            raise OnnxError(f"damaged: {what} has the shape {shape}") from None

    def _external(self, tensor: Any, what: str, size: int) -> bytes:
        """``size`` bytes of another file, which must lie in the folder of this one or below."""
        said = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        location = said.get("location", "")
        if self._folder is None:
            raise OnnxError(
                f"{what} lies in another file, {location!r}; external_data=True reads such files from the folder of "
                "the ONNX file"
            )
        inside = location and not os.path.isabs(location) and "\0" not in location and "\\" not in location
        target = Path(os.path.realpath(self._folder / location)) if inside else self._folder
        if not inside or not target.is_relative_to(self._folder) or ".." in Path(location).parts:
            raise OnnxError(f"{what}: refers to {location!r}, which is not inside of the folder of the ONNX file")
        try:
            offset, length = (int(said.get(key, default)) for key, default in (("offset", 0), ("length", size)))
        except ValueError:
            raise OnnxError(f"damaged: {what} has an offset or a length that is no number") from None
        if length != size or offset < 0:
            raise OnnxError(f"damaged: {what} has {length} bytes from {offset} on, its shape needs {size}")
        try:
            with open(target, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or offset + length > status.st_size:
                    raise OnnxError(f"{what}: the file {location!r} does not have {length} bytes from {offset} on")
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise OnnxError(f"{what}: cannot read {location!r}: {error.strerror or error}") from error


def _text(value: str | bytes) -> str:
    """A string of the file, of which the package gives bytes where they are no UTF-8."""
    if isinstance(value, bytes):
        raise OnnxError(f"damaged: the name {value!r:.200} is no text")
    return value


def _float(value: float) -> float:
    """The number that was meant: a file has 1e-5 as a float32, which is another number in float64."""
    return float(str(np.float32(value)))


def _from_numbers(numbers: Any, dtype: str, stored: np.dtype, what: str) -> np.ndarray:
    if dtype in ("float16", "bfloat16"):  # as patterns of bits
        bits = np.array(numbers, np.int64)
        if np.any((bits < 0) | (bits > 0xFFFF)):
            raise OnnxError(f"damaged: {what} has numbers beyond its type {dtype}")
        patterns = bits.astype(np.uint16)
        return patterns.view(np.float16) if dtype == "float16" else patterns
    if stored.kind == "f":
        return np.array(numbers, stored)
    wide = np.array(numbers, np.uint64 if dtype == "uint64" else np.int64)
    values = wide.astype(stored)
    if np.any(values.astype(wide.dtype) != wide):
        raise OnnxError(f"damaged: {what} has numbers beyond its type {dtype}")
    return values


def _shape(value: Any) -> list[int | None] | None:
    """Of an input; None for a length that is free."""
    if value.type.WhichOneof("value") != "tensor_type":
        raise OnnxError(f"input {value.name!r} is not a tensor")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in tensor.shape.dim]


def _ordered(operators: list[Operator], given: set[str]) -> list[Operator]:
    """The nodes, each behind those whose results it takes; they stay in the file's order where that will do."""
    makers: dict[str, int] = {}
    for number, operator in enumerate(operators):
        for name in operator.outputs:
            if name in makers or name in given:
                raise OnnxError(f"damaged: {name!r} is given by {operator} and by something else too")
            if name:
                makers[name] = number
    undefined = [
        f"{name!r} ({operator})" for operator in operators for name in operator.inputs
        if name and name not in makers and name not in given
    ]  # fmt: skip
    if undefined:
        raise OnnxError(f"damaged: nothing gives what nodes take: {', '.join(undefined[:20])}")
    before = [{makers[name] for name in operator.inputs if name in makers} for operator in operators]
    ordered: list[Operator] = []
    done = [False] * len(operators)
    for start in range(len(operators)):
        for number in _depth_first(start, before, done):
            ordered.append(operators[number])
    return ordered


def _depth_first(start: int, before: list[set[int]], done: list[bool]) -> Iterator[int]:
    """``start`` behind all that it needs; without recursion, which a long chain would exhaust."""
    if done[start]:
        return
    path, pending = [start], [iter(sorted(before[start]))]
    on_path = {start}
    while path:
        needed = next((number for number in pending[-1] if not done[number]), None)
        if needed is None:
            number = path.pop()
            pending.pop()
            on_path.discard(number)
            done[number] = True
            yield number
        elif needed in on_path:
            raise OnnxError("damaged: its nodes form a cycle, so none of them can be computed first")
        else:
            path.append(needed)
            pending.append(iter(sorted(before[needed])))
            on_path.add(needed)
