"""A graph in the making: nodes and constants, and the file they become."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import __version__
from .._extras import require
from ._errors import OnnxError

__all__ = ["IR_VERSION", "OPSET", "Builder", "Node"]

OPSET = 17  # what every onnxruntime since 1.12 (2022) takes; the newest of the package onnx runs ahead of it
IR_VERSION = 8

_MOST_BYTES = 2**31 - 2**20  # of a protocol buffer, less room for the nodes


@dataclass
class Node:
    """One operator."""

    op: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Builder:
    """Nodes and constants of one graph.

    Parameters
    ----------
    dtype
        Of all numbers that are not indices: "float16", "float32" or "float64".
    input_name
        Of the graph's one input.
    """

    def __init__(self, dtype: str, input_name: str) -> None:
        self.dtype = np.dtype(dtype)
        self.input_name = input_name
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.path = ""  # of the layer whose nodes are being added
        self._uses: Counter[str] = Counter()

    # ---- what layers add ------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, "" for inputs that are left out; returns the name of its result."""
        stem = f"{self.path}/{op}" if self.path else op
        self._uses[stem] += 1
        name = stem if self._uses[stem] == 1 else f"{stem}_{self._uses[stem]}"
        given = list(inputs)
        while not given[-1]:  # left out
            given.pop()
        self.nodes.append(Node(op, name, given, f"{name}:0", attributes))
        return f"{name}:0"

    def constant(self, name: str, values: np.ndarray) -> str:
        """Name of a constant, ``name`` in the layer at hand; floating-point values are cast to the graph's dtype."""
        if values.dtype.kind == "f" or values.dtype.name == "bfloat16":
            values = values.astype(self.dtype)
        values = np.array(values, order="C")  # the file takes memory as it lies; and the model may go on training
        full = f"{self.path}.{name}" if self.path else name
        unique, number = full, 1
        while unique in self.constants or unique == self.input_name:
            known = self.constants.get(unique)
            if known is not None and known.dtype == values.dtype and np.array_equal(known, values):
                return unique  # of a layer that is used twice
            number += 1
            unique = f"{full}_{number}"
        self.constants[unique] = values
        return unique

    def number(self, value: float) -> str:
        """A floating-point constant without axes."""
        return self.constant("number", np.array(value, np.float64))

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant of indices or lengths."""
        return self.constant(name, np.array(values, np.int64))

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        """``x`` with its axes in another order; nothing where that undoes the node that made ``x``."""
        for node in reversed(self.nodes):
            if node.output == x:
                before = node.attributes["perm"] if node.op == "Transpose" else None
                if before is not None and [before[axis] for axis in axes] == list(range(len(axes))):
                    return node.inputs[0]
                break
        return self.add("Transpose", x, perm=list(axes))

    # ---- what is done to the whole --------------------------------------------------------------------------

    def prune(self, output: str) -> None:
        """Drop what does not lead to ``output``."""
        needed, kept = {output}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: values for name, values in self.constants.items() if name in needed}

    def fold_batch_norm(self, output: str) -> str:
        """Put each normalisation into the convolution or linear layer whose result goes to it alone.

        With its scale s = weight / sqrt(var + eps): filters times s, bias (b - mean) * s + bias.

        Returns
        -------
        str
            The name of the graph's result, which may be another now.
        """
        uses = Counter(name for node in self.nodes for name in node.inputs)
        uses[output] += 1
        producers = {node.output: node for node in self.nodes}
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            node.inputs = [renamed.get(name, name) for name in node.inputs]
            before = producers.get(node.inputs[0]) if node.inputs else None
            foldable = (
                node.op == "BatchNormalization"
                and before is not None
                and before.op in ("Conv", "ConvTranspose", "Gemm")
                and uses[before.output] == 1
                and uses[before.inputs[1]] == 1  # the filters are not another layer's too
            )
            if foldable and before is not None:
                self._fold(before, node)
                renamed[node.output] = before.output
                uses[before.output] = uses[node.output]
            else:
                kept.append(node)
        self.nodes = kept
        return renamed.get(output, output)

    def _fold(self, product: Node, norm: Node) -> None:
        scale, shift, mean, var = (self.constants[name].astype(np.float64) for name in norm.inputs[1:])
        scale = scale / np.sqrt(var + norm.attributes["epsilon"])
        weight = self.constants[product.inputs[1]]
        wide = weight.astype(np.float64)
        if product.op == "ConvTranspose":  # (C, F / groups, kh, kw): the filters of group g are in the rows of g
            groups = product.attributes["group"]
            factors = np.repeat(scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
            wide = wide * factors.reshape(*factors.shape, *[1] * (weight.ndim - 2))
        else:
            wide = wide * scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = self.constants[product.inputs[2]].astype(np.float64) if len(product.inputs) > 2 else 0.0
        self.constants[product.inputs[1]] = wide.astype(weight.dtype)
        self.path = product.inputs[1].rpartition(".")[0]
        # under a name of its own: what another layer may share keeps its values
        name = self.constant("bias" if len(product.inputs) < 3 else "folded_bias", (bias - mean) * scale + shift)
        product.inputs[2:] = [name]

    # ---- the file -------------------------------------------------------------------------------------------

    def serialize(
        self,
        output: str,
        output_name: str,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        metadata: Mapping[str, str],
    ) -> bytes:
        """The file, after the full check of the package onnx.

        Parameters
        ----------
        input_shape, output_shape
            Without the batch.

        Raises
        ------
        OnnxError
            It is larger than a protocol buffer can be, or does not pass the check.
        """
        onnx = require("onnx", "ONNX files", extra="onnx")
        helper, to_tensor = onnx.helper, require("onnx.numpy_helper", "ONNX files", extra="onnx").from_array
        size = sum(values.nbytes for values in self.constants.values())
        if size > _MOST_BYTES:
            raise OnnxError(f"model: has {size / 2**30:.1f} GiB of constants, an ONNX file holds less than 2 GiB")
        nodes = [
            helper.make_node(
                node.op,
                node.inputs,
                [output_name if node.output == output else node.output],
                name=node.name,
                **node.attributes,
            )
            for node in self.nodes
        ]
        for node in nodes:
            node.input[:] = [output_name if name == output else name for name in node.input]
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            nodes,
            "xpconv",
            [helper.make_tensor_value_info(self.input_name, element, ["batch", *input_shape])],
            [helper.make_tensor_value_info(output_name, element, ["batch", *output_shape])],
            [to_tensor(values, name) for name, values in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="xpconv",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(metadata))
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # of several classes, which have no base in common
            raise OnnxError(f"model: the ONNX graph made of it does not pass the check: {error}") from error
        return model.SerializeToString()

    def count_numbers(self) -> int:
        """How many numbers the constants hold."""
        return sum(math.prod(values.shape) for values in self.constants.values())
