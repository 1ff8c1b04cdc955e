"""Layers that exporters take apart, put together again.

::

    Reshape (0, G, -1), InstanceNormalization, Reshape as the input, Mul, Add       GroupNorm
    x / sqrt(2), Erf, + 1, times x, times 0.5                                       GELU
    Sigmoid, times x                                                                SiLU

One layer is faster than its parts, and its parameters have the shapes of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .. import layers as nn
from ..backends import get_backend, to_numpy
from ..layers import Layer, Parameter
from . import layers as more
from ._graph import Graph, Indices, Step

__all__ = ["fuse"]


def fuse(graph: Graph, steps: Sequence[Step | Indices], ranks: Mapping[str, int | None]) -> list[Step | Indices]:
    """The steps, with a layer in place of each of the patterns; parts that are not needed any more leave the graph.

    Parameters
    ----------
    ranks
        Numbers of axes by the names of values, as far as they are known.
    """
    return _Fuser(graph, steps, ranks).fused()


class _Fuser:
    def __init__(self, graph: Graph, steps: Sequence[Step | Indices], ranks: Mapping[str, int | None]) -> None:
        self._graph, self._steps, self._ranks = graph, list(steps), ranks
        self._replaced: dict[int, Step | None] = {}  # by identity: the layer for the last part of each, None for others
        self._makers: dict[str, Step | Indices] = {}
        self._users: dict[str, list[Step | Indices]] = {graph.output_name: [Step([], [], [])]}
        for step in self._steps:
            for name in step.outputs if isinstance(step, Step) else [step.output]:
                self._makers[name] = step
            for given in step.inputs:
                if isinstance(given, str):
                    self._users.setdefault(given, []).append(step)

    def fused(self) -> list[Step | Indices]:
        for step in self._steps:
            if id(step) in self._replaced:
                continue
            layer = self._layer(step)
            if isinstance(layer, nn.GroupNorm):
                self._group_norm(step, layer)
            elif isinstance(layer, more.Function) and layer.operator == "Erf":
                self._gelu(step)
            elif isinstance(layer, nn.Sigmoid):
                self._silu(step)
        found = (self._replaced.get(id(step), step) for step in self._steps)
        return [step for step in found if step is not None]

    # ---- looking around -------------------------------------------------------------------------------------

    def _layer(self, step: Step | Indices | None) -> Layer | None:
        known = isinstance(step, Step) and step.paths and id(step) not in self._replaced
        return self._graph._layer(step.paths[0]) if known and isinstance(step, Step) else None

    def _user(self, step: Step | Indices | None) -> Step | None:
        """The one step that takes the result of ``step``."""
        if not isinstance(step, Step) or len(step.outputs) != 1:
            return None
        users = self._users.get(step.outputs[0], [])
        return users[0] if len(users) == 1 and isinstance(users[0], Step) and users[0].paths else None

    def _constant(self, step: Step | Indices | None, operator: str) -> np.ndarray | None:
        """The constant operand of an `Arithmetic` of this operator, where it is the second or may be."""
        layer = self._layer(step)
        if not isinstance(layer, more.Arithmetic) or layer.operator != operator or layer.value is None:
            return None
        if layer.first and operator in ("Sub", "Div"):
            return None
        return to_numpy(layer.value.data if isinstance(layer.value, Parameter) else layer.value)

    def _is_number(self, step: Step | Indices | None, operator: str, value: float) -> bool:
        constant = self._constant(step, operator)
        return constant is not None and constant.size == 1 and math.isclose(constant.item(), value, rel_tol=1e-6)

    def _is_product(self, step: Step | None, a: str, b: str) -> bool:
        layer = self._layer(step)
        mine = isinstance(layer, more.Arithmetic) and layer.operator == "Mul" and layer.value is None
        return mine and step is not None and sorted(step.inputs) == sorted((a, b))

    def _replace(self, parts: Sequence[Step], layer: Layer) -> None:
        """Put ``layer`` in the place of the last part; it takes what the first takes."""
        new = Step([], [parts[0].inputs[0]], parts[-1].outputs)
        for part in parts:
            self._replaced[id(part)] = new if part is parts[-1] else None
            self._graph._drop(part.paths[0])
        new.paths.append(self._graph._place(layer, parts[0].paths[0]))

    # ---- the patterns ---------------------------------------------------------------------------------------

    def _group_norm(self, norm: Step | Indices, layer: nn.GroupNorm) -> None:
        apart, back = self._makers.get(str(norm.inputs[0])), self._user(norm)
        groups, reshape, again = layer.num_groups, self._layer(apart), self._layer(back)
        if layer.weight is not None or not isinstance(reshape, more.Reshape) or not isinstance(again, more.Reshape):
            return
        assert isinstance(apart, Step)
        assert isinstance(norm, Step)
        assert isinstance(back, Step)
        shape = reshape.shape or ()
        first = shape[:1] == (0,) or (reshape.batch is not None and shape[:1] == (reshape.batch,))
        if not first or shape[1:] != (groups, -1) or reshape.allow_zero or self._user(apart) is not norm:
            return
        whole = self._makers.get(back.inputs[1]) if len(back.inputs) == 2 else None
        if not isinstance(whole, Indices) or whole.kind != "Shape" or whole.attributes:
            return
        scaled = self._user(back)
        shifted = self._user(scaled)
        weight, bias = self._constant(scaled, "Mul"), self._constant(shifted, "Add")
        if weight is None or bias is None or scaled is None or shifted is None or whole.inputs != apart.inputs:
            return
        channels = len(weight) if weight.ndim else 0
        if self._ranks.get(apart.inputs[0]) != weight.ndim + 1:  # or the numbers belong to another axis
            return
        if not channels or weight.size != channels or bias.shape != weight.shape or channels % groups:
            return
        whole_layer = nn.GroupNorm(groups, channels, layer.eps)
        for name, values in (("weight", weight), ("bias", bias)):
            setattr(whole_layer, name, Parameter(get_backend().asarray(np.array(values.reshape(-1)))))
        self._replace([apart, norm, back, scaled, shifted], whole_layer)

    def _gelu(self, erf: Step | Indices) -> None:
        divided = self._makers.get(str(erf.inputs[0]))
        more_one = self._user(erf)
        product = self._user(more_one)
        half = self._user(product)
        if not (self._is_number(divided, "Div", math.sqrt(2)) or self._is_number(divided, "Mul", math.sqrt(0.5))):
            return
        assert isinstance(divided, Step)
        assert isinstance(erf, Step)
        if (
            self._user(divided) is erf
            and self._is_number(more_one, "Add", 1)
            and self._is_number(half, "Mul", 0.5)
            and more_one is not None
            and product is not None
            and half is not None
            and self._is_product(product, divided.inputs[0], more_one.outputs[0])
        ):
            self._replace([divided, erf, more_one, product, half], nn.GELU())

    def _silu(self, sigmoid: Step | Indices) -> None:
        product = self._user(sigmoid)
        assert isinstance(sigmoid, Step)
        if product is not None and self._is_product(product, sigmoid.inputs[0], sigmoid.outputs[0]):
            self._replace([sigmoid, product], nn.SiLU())
