"""`Graph`: the layers of an ONNX file, wired as the file says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import backend_of, compute
from ..backends.protocol import Array
from ..layers import Layer, Sequential
from ._shapes import compute_shape

__all__ = ["Graph", "Indices", "Step"]

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,99}", re.ASCII)


class Scope(Layer):
    """Holds layers under a common name: the ``layer1`` of ``layer1.conv1``."""


@dataclass
class Step:
    """Layers to run one after the other: the first takes the inputs, the last gives the outputs."""

    paths: list[str]
    inputs: list[str]
    outputs: list[str]


@dataclass
class Indices:
    """Arithmetic with shapes and indices, on the host: an operator of `_shapes`; constants are among the inputs."""

    kind: str
    inputs: list[str | np.ndarray]
    output: str
    attributes: dict[str, Any]


class Graph(Layer):
    """Layers wired in any way that has no cycle; `load` makes it.

    Each layer has a name, that of its parameters in the file where it tells one: ``model.layer1.conv1`` is a layer, and
    may be replaced by another, such as a last layer for other classes: ``model.fc = Linear(512, 3)``.

    Parameters
    ----------
    input_name, output_name : str
        Of the value that forward takes, and of the one that it gives.

    Attributes
    ----------
    metadata : dict of str to str
        What the file says besides.
    input_shape : list of int or None, or None
        What the file says of the shape of the input, with the batch; None where it is free.
    """

    def __init__(self, input_name: str, output_name: str) -> None:
        self.input_name, self.output_name = input_name, output_name
        self.metadata: dict[str, str] = {}
        self.input_shape: list[int | None] | None = None
        self._program: list[Step | Indices] = []
        self._last_use: list[list[str]] = []

    # ---- making it ------------------------------------------------------------------------------------------

    def _place(self, layer: Layer, wanted: str) -> str:
        """Make ``layer`` a part, named ``wanted`` or like it; returns its path."""
        if not self._is_free(wanted):
            stem = re.sub(r"[^A-Za-z0-9_]+", "_", wanted.rpartition(".")[2])[:80].strip("_") or "layer"
            scope = wanted.rpartition(".")[0]
            kind = getattr(layer, "operator", type(layer).__name__).lower()
            candidates = [f"{scope}.{stem}_{kind}" if scope else f"{stem}_{kind}", stem]
            wanted = next((path for path in candidates if path and self._is_free(path)), "")
            number = 1
            while not wanted or not self._is_free(wanted):
                number += 1
                wanted = f"{stem}_{number}" if _COMPONENT.fullmatch(stem) else f"layer_{number}"
        parent: Layer = self
        *scopes, last = wanted.split(".")
        for name in scopes:
            if name not in parent._layer_names:
                setattr(parent, name, Scope())
            parent = getattr(parent, name)
        setattr(parent, last, layer)
        return wanted

    def _is_free(self, path: str) -> bool:
        """Whether a layer can have this path: no attribute of a layer is in the way, and no layer that is no scope."""
        names = path.split(".")
        if len(names) > 20 or not all(_COMPONENT.fullmatch(name) for name in names):
            return False
        parent: Layer = self
        for i, name in enumerate(names):
            if name in parent._layer_names and i + 1 < len(names):
                parent = getattr(parent, name)
                if type(parent) is not Scope:
                    return False
            elif hasattr(parent, name):
                return False
            else:
                empty = Scope()
                return not any(hasattr(empty, later) for later in names[i + 1 :])
        return False

    def _wire(self, program: Sequence[Step | Indices]) -> None:
        """Take over the steps: only those that the result needs, single files of layers joined to one step."""
        needed, kept = {self.output_name}, []
        for step in reversed(program):
            made = step.outputs if isinstance(step, Step) else [step.output]
            if needed.intersection(made):
                kept.append(step)
                needed.update(name for name in step.inputs if isinstance(name, str))
        kept.reverse()
        uses = Counter(name for step in kept for name in step.inputs if isinstance(name, str))
        uses[self.output_name] += 1
        joined: dict[int, Step | Indices] = {}
        makers: dict[str, Step] = {}
        for step in kept:
            before = makers.get(step.inputs[0]) if len(step.inputs) == 1 and isinstance(step.inputs[0], str) else None
            single = before is not None and len(before.outputs) == 1 == len(before.inputs)
            if isinstance(step, Step) and single and before is not None and uses[before.outputs[0]] == 1:
                before.paths += step.paths
                before.outputs = step.outputs
                del joined[id(before)]  # nothing else takes what is inside, so all of it may come as late as its end
                step = before
            joined[id(step)] = step
            if isinstance(step, Step):
                makers.update(dict.fromkeys(step.outputs, step))
        self._program = list(joined.values())
        seen = {self.output_name}
        self._last_use = []
        for step in reversed(self._program):
            names = {name for name in step.inputs if isinstance(name, str)}
            self._last_use.insert(0, sorted(names - seen))
            seen |= names

    def _unused(self) -> list[str]:
        """Paths of layers that no step runs."""
        used = {path for step in self._program if isinstance(step, Step) for path in step.paths}
        return [p for p, layer in self.named_layers() if p and type(layer) is not Scope and p not in used]

    def _drop(self, path: str) -> None:
        """Forget a part, and the scopes that it leaves empty."""
        while path:
            scope, _, name = path.rpartition(".")
            parent = self._layer(scope) if scope else self
            delattr(parent, name)
            if parent._layer_names or not scope:
                return
            path = scope

    # ---- running it -----------------------------------------------------------------------------------------

    def _layer(self, path: str) -> Layer:
        layer: Layer = self
        for name in path.split("."):
            layer = getattr(layer, name)
        return layer

    def _runner(self, step: Step) -> Layer:
        """What runs ``step``, looked up anew each time since parts may be replaced."""
        found = [self._layer(path) for path in step.paths]
        if len(found) == 1:
            return found[0]
        # A Sequential runs some layers as one operator. Caches are in the layers, so it may be made for the moment;
        # without its checks, which take longer than a small layer.
        chain = Sequential()
        for i, layer in enumerate(found):
            chain.__dict__[str(i)] = layer
            chain._layer_names[str(i)] = None
        return chain

    def forward(self, x: Array) -> Array:
        """The result of the graph for ``x``."""
        values: dict[str, Any] = {self.input_name: x}
        for step, finished in zip(self._program, self._last_use, strict=True):
            if isinstance(step, Indices):
                arguments = [values[i] if isinstance(i, str) else i for i in step.inputs]
                values[step.output] = compute_shape(step.kind, arguments, step.attributes)
            else:
                y = self._runner(step).forward(*(values[name] for name in step.inputs))
                values.update(zip(step.outputs, y if len(step.outputs) > 1 else (y,), strict=True))
            for name in finished:
                del values[name]
        return values[self.output_name]

    def _mark_untrained(self, is_frozen: Callable[[Layer], bool]) -> None:
        steps = [step for step in self._program if isinstance(step, Step)]
        uses = Counter(path for step in steps for path in step.paths)
        trained: set[str] = set()  # values that hang on a trained layer
        for step in steps:
            before = not trained.intersection(name for name in step.inputs if isinstance(name, str))
            for path in step.paths:
                layer = self._layer(path)
                if before and not (uses[path] == 1 and is_frozen(layer)):
                    layer._mark_untrained(is_frozen)
                    before = False
                layer._untrained = before
            if not before:
                trained.update(step.outputs)

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input; gradients that meet at a value of several uses are added.

        None where a layer gives no gradient to its input (``need_dx = False``) and nothing before it has parameters,
        and in a `Trainer` where nothing before a layer is trained.

        Raises
        ------
        RuntimeError
            Something before such a layer has parameters, which would get no gradients.
        """
        gradients: dict[str, Array] = {self.output_name: dy}
        stopped: set[str] = set()  # values whose gradient a layer has left out
        for step in reversed(self._program):
            if isinstance(step, Indices):
                continue
            runner = self._runner(step)
            if self._layer(step.paths[-1])._untrained:  # so are the others of the step, and all that lead to it
                runner.clear_cache()
                for name in step.outputs:
                    gradients.pop(name, None)
                stopped.update(step.inputs)
                continue
            given = [gradients.pop(name, None) for name in step.outputs]
            if stopped.intersection(step.outputs):  # what other users have given would be a part of the gradient
                if next(runner.parameters(), None) is not None:
                    raise RuntimeError(
                        f"Graph.backward: a layer behind {step.paths[-1]!r} gave no gradient to its input (need_dx is "
                        "False), but that has parameters"
                    )
                stopped.update(step.inputs)
            if stopped.intersection(step.outputs) or all(g is None for g in given):  # or only its shape was used
                runner.clear_cache()
                continue
            dx = runner.backward(given if len(given) > 1 else given[0])
            for name, g in zip(step.inputs, dx if isinstance(dx, tuple) else (dx,), strict=False):
                if g is None:
                    stopped.add(name)
                elif name in gradients:
                    backend = backend_of(dx=g)
                    gradients[name] = compute(backend, "Graph.backward", backend.add, gradients[name], g)
                else:
                    gradients[name] = g
        return None if self.input_name in stopped else gradients.get(self.input_name)
