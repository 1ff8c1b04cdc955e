"""Layers made of layers: one after the other, around a shortcut, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, overload

from .. import functional
from .._checks import check_integer
from ..backends import backend_of, compute
from ..backends.protocol import Array
from ..functional.activation import ActivationCache
from ._fusion import is_fusing, runs_as
from .activation import ReLU
from .base import Layer
from .norm import BatchNorm2d

__all__ = ["Concat", "Residual", "Sequential"]


def _check_layer(name: str, layer: object) -> Layer:
    if not isinstance(layer, Layer):
        raise TypeError(f"{name}: expected a Layer, got {layer!r}")
    return layer


class Sequential(Layer):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer, or one mapping
        Named "0", "1", …, or by the keys of the mapping, in its order.

    Raises
    ------
    TypeError
        Not a layer.
    ValueError
        A name that an attribute of Sequential has.
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        named: list[tuple[str, object]]
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = list(layers[0].items())
        else:
            named = [(str(i), layer) for i, layer in enumerate(layers)]
        for name, layer in named:
            if hasattr(self, name):
                raise ValueError(f"layers: the name {name!r} is taken by an attribute of Sequential")
            setattr(self, name, _check_layer(f"layers[{name}]", layer))

    @property
    def _sequence(self) -> list[Layer]:
        return [layer for _, layer in self._own(self._layer_names)]

    def append(self, layer: Layer) -> Sequential:
        """Add ``layer`` at the end, named by its number; returns self.

        Parameters
        ----------
        layer
            Of any kind.

        Returns
        -------
        Sequential
            Itself.

        Raises
        ------
        TypeError
            Not a layer.
        ValueError
            The number is taken, by a name of the mapping that it was made of.
        """
        name = str(len(self))
        if hasattr(self, name):
            raise ValueError(f"layer: the name {name!r} is taken")
        setattr(self, name, _check_layer("layer", layer))
        return self

    def __len__(self) -> int:
        return len(self._sequence)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._sequence)

    @overload
    def __getitem__(self, index: int) -> Layer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | slice) -> Layer:
        """A layer, or for a slice a Sequential of the same layers under the same names."""
        if isinstance(index, slice):
            return Sequential(dict(self._own(self._layer_names)[index]))
        return self._sequence[index]

    def forward(self, x: Array) -> Array:
        """``x`` through every layer."""
        return _through(self._sequence, x)

    def backward(self, dy: Array) -> Array | None:
        """``dy`` back through every layer, the last first.

        Ends early, with None, at a layer that gives no gradient to its input (``need_dx = False``), and in a `Trainer`
        behind the first layers that are not trained.

        Raises
        ------
        RuntimeError
            A layer before that one has parameters, which would get no gradients.
        """
        return self._back(dy, len(self._layer_names))

    def _mark_untrained(self, is_frozen: Callable[[Layer], bool]) -> None:
        if type(self).forward is not Sequential.forward or type(self).backward is not Sequential.backward:
            return
        for layer in self._sequence:
            if not is_frozen(layer):
                layer._mark_untrained(is_frozen)
                return
            layer._untrained = True

    def _back(self, dy: Array, count: int) -> Array | None:
        """`backward` of the first ``count`` layers."""
        layers = self._own(self._layer_names)[:count]
        i = len(layers) - 1
        while i >= 0:
            layer = layers[i][1]
            if layer._untrained:
                for _, earlier in layers[: i + 1]:
                    earlier.clear_cache()
                return None
            if i and type(layer) is ReLU and layer._stack and layers[i - 1][1]._has_relu(layer._stack[-1].kept):
                layer.pop()
                dy = layers[i - 1][1]._backward_relu(dy)
                i -= 2
                continue
            dy = layer.backward(dy)
            if dy is None:
                for name, earlier in layers[:i]:
                    if not earlier._untrained and next(earlier.parameters(), None) is not None:
                        raise RuntimeError(
                            f"Sequential.backward: layer {layers[i][0]!r} gave no gradient to its input (need_dx is "
                            f"False), but layer {name!r} before it has parameters"
                        )
                    earlier.clear_cache()
                break
            i -= 1
        return dy


def _through(layers: Sequence[Layer], x: Array) -> Array:
    """``x`` through the layers, two at a time where there is an operator for both."""
    fusing = is_fusing()
    i = 0
    while i < len(layers):
        if fusing and i + 1 < len(layers) and type(layers[i + 1]) is ReLU and runs_as(layers[i + 1], ReLU):
            y = layers[i]._forward_relu(x)
            if y is not None:
                layers[i + 1].push(ActivationCache(y))
                x = y
                i += 2
                continue
        x = layers[i].forward(x)
        i += 1
    return x


class Residual(Layer):
    """``body(x) + shortcut(x)`` (He et al. 2015, arXiv:1512.03385).

    Parameters
    ----------
    body : Layer
    shortcut : Layer, optional
        Gives ``x`` the shape of the body's result; None is the identity.

    Raises
    ------
    TypeError
        Not layers.
    """

    shortcut: Layer | None

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body = _check_layer("body", body)
        self.shortcut = None if shortcut is None else _check_layer("shortcut", shortcut)

    def forward(self, x: Array) -> Array:
        """The sum; nothing is broadcast.

        Raises
        ------
        ValueError
            Body and shortcut give different shapes.
        TypeError
            They give arrays of two backends.
        """
        y = self.body.forward(x)
        return _sum(y, self._straight(x, y))

    def _straight(self, x: Array, y: Array) -> Array:
        """The shortcut of ``x``, which must have the shape of the body's result ``y``."""
        straight = x if self.shortcut is None else self.shortcut.forward(x)
        if tuple(y.shape) != tuple(straight.shape):
            raise ValueError(
                f"Residual: the body gives shape {tuple(y.shape)} but the shortcut {tuple(straight.shape)}; "
                "a shortcut such as a 1x1 Conv2d can change channels and size"
            )
        return straight

    def backward(self, dy: Array) -> Array:
        """The sum of both ways back.

        Raises
        ------
        RuntimeError
            A layer inside gave no gradient to its input, or no forward in training mode came before.
        """
        # in reverse, for a layer that is in both ways
        straight = dy if self.shortcut is None else self.shortcut.backward(dy)
        return self._joined(self.body.backward(dy), straight)

    def _joined(self, dx: Array | None, straight: Array | None) -> Array:
        if dx is None or straight is None:
            raise RuntimeError("Residual.backward: a layer inside gave no gradient to its input (need_dx is False)")
        backend = backend_of(dx=dx)
        return compute(backend, "Residual.backward", backend.add, dx, straight)

    # ---- with a ReLU behind, see `_fusion` ----

    def _last_norm(self) -> BatchNorm2d | None:
        """The normalisation at the end of the body, if it can add the shortcut."""
        if not (runs_as(self, Residual) and isinstance(self.body, Sequential) and runs_as(self.body, Sequential)):
            return None
        norm = self.body[-1] if len(self.body) else None
        if type(norm) is not BatchNorm2d or not norm._is_plain():
            return None
        # it comes behind the shortcut, which must not use it too: a cache is for the latest use
        inside = () if self.shortcut is None else self.shortcut.named_layers()
        return None if any(layer is norm for _, layer in inside) else norm

    def _forward_relu(self, x: Array) -> Array | None:
        norm = self._last_norm()
        if norm is None:
            return None
        assert isinstance(self.body, Sequential), "`_last_norm` looks at it"
        y = _through(self.body._sequence[:-1], x)
        straight = self._straight(x, y)
        if y.dtype != straight.dtype:  # a sum, but none that the operator makes
            return functional.relu(_sum(norm.forward(y), straight))[0]
        return norm._forward(functional.batch_norm_relu, y, residual=straight)

    def _has_relu(self, y: Array) -> bool:
        norm = self._last_norm()
        return norm is not None and norm._has_relu(y)

    def _backward_relu(self, dy: Array) -> Array:
        norm, body = self._last_norm(), self.body
        assert norm is not None, "`_has_relu` said so"
        assert isinstance(body, Sequential)
        dy, straight = norm._gradients_relu(dy, norm.pop())
        if self.shortcut is not None:
            straight = self.shortcut.backward(straight)
        return self._joined(body._back(dy, len(body) - 1), straight)


def _sum(y: Array, straight: Array) -> Array:
    backend = backend_of(body=y, shortcut=straight)
    return compute(backend, "Residual", backend.add, y, straight)


class _ConcatCache(NamedTuple):
    shape: tuple[int, ...]
    axis: int
    lengths: list[int]


class Concat(Layer):
    """Several branches side by side on the same input, their results concatenated.

    Parameters
    ----------
    *branches : Layer
        Named "0", "1", …
    axis : int
        Along which the results are joined: 1, the channels.

    Raises
    ------
    TypeError
        Not layers, or an axis that is no integer.
    ValueError
        No branches.
    """

    def __init__(self, *branches: Layer, axis: int = 1) -> None:
        if not branches:
            raise ValueError("branches: expected at least one Layer, got none")
        self.axis = check_integer("axis", axis)
        for i, branch in enumerate(branches):
            setattr(self, str(i), _check_layer(f"branches[{i}]", branch))

    def forward(self, x: Array) -> Array:
        """The results of all branches, joined.

        Raises
        ------
        ValueError
            Results whose shapes differ in more than the axis, or have no such axis.
        """
        parts = [branch.forward(x) for _, branch in self._own(self._layer_names)]
        dimensions = len(parts[0].shape)
        if not -dimensions <= self.axis < dimensions:
            raise ValueError(f"axis: {self.axis} is out of range for results of shape {tuple(parts[0].shape)}")
        axis = self.axis % dimensions
        first = tuple(parts[0].shape)
        for i, part in enumerate(parts):
            shape = tuple(part.shape)
            if len(shape) != dimensions or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
                raise ValueError(f"Concat: branch 0 gives shape {first} but branch {i} {shape}, to join along {axis}")
        backend = backend_of(**{f"branch_{i}": part for i, part in enumerate(parts)})
        y = compute(backend, "Concat", backend.xp.concat, parts, axis=axis)
        self.push(_ConcatCache(tuple(y.shape), axis, [part.shape[axis] for part in parts]))
        return y

    def backward(self, dy: Array) -> Array:
        """The sum of the ways back through all branches.

        Raises
        ------
        RuntimeError
            A layer inside gave no gradient to its input, or no forward in training mode came before.
        ValueError
            dy is not of the shape of the result.
        """
        shape, axis, lengths = self.pop()
        if tuple(dy.shape) != shape:
            raise ValueError(f"dy: expected shape {shape}, that of the forward result, got {tuple(dy.shape)}")
        dx, stop = None, shape[axis]
        branches = [branch for _, branch in self._own(self._layer_names)]
        # in reverse, for a layer that is in several branches
        for branch, length in zip(branches[::-1], lengths[::-1], strict=True):
            part = branch.backward(dy[(slice(None),) * axis + (slice(stop - length, stop), ...)])
            if part is None:
                raise RuntimeError("Concat.backward: a layer inside gave no gradient to its input (need_dx is False)")
            backend = backend_of(dx=part)
            dx = part if dx is None else compute(backend, "Concat.backward", backend.add, dx, part)
            stop -= length
        return dx
