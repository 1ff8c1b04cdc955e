"""`Parameter` and `Layer`: what a network is made of, its names, its state and its way forward and back.

A layer of one's own is a subclass with two methods::

    class Scale(Layer):
        def __init__(self, features):
            self.scale = Parameter(xpconv.asarray(np.ones(features, np.float32)))

        def forward(self, x):
            self.push(x)
            return x * self.scale.data

        def backward(self, dy):
            x = self.pop()
            self.scale.accumulate_grad(backend_of(dy=dy).xp.sum(dy * x, axis=0))
            return dy * self.scale.data

On a device that is not the thread's current one (``cupy:1``) only the functions of xpconv find their way by themselves;
`xpconv.Trainer` makes the model's device the current one, and so does ``with backend_of(x=x).running():``.

Parameters, buffers and child layers are found by the attributes they are assigned to, in that order, as in
`torch.nn.Module`; their names in a state_dict are the paths of attributes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from .._checks import check_integer
from .._random import as_generator, is_step_on_device
from ..backends import Backend, BackendMismatchError, asarray, backend_of, compute, load_backend
from ..backends.protocol import Array

if TYPE_CHECKING:
    from .summary import Summary

__all__ = ["Layer", "LoadResult", "Parameter", "RandomLayer"]

_MAX_WORD = 1 << 16  # the layer word of a key holds the layer's index and its uses, 16 bits each


class SupportsWrite(Protocol):
    """What `print` prints to."""

    def write(self, text: str, /) -> object:
        """Take ``text``."""


def _copy(array: Array) -> Array:
    """A copy on the same device, cut off from any autograd of the library."""
    backend = backend_of(array=array)
    return compute(backend, "copy", backend.xp.asarray, backend.asarray(array), copy=True)


def _moved(array: Array, target: Backend | None, dtype: str | None) -> Array:
    """``array`` on ``target``, in ``dtype`` if it is floating-point; None leaves it as it is.

    A copy where it changes: libraries on the host may share memory, which parameters must not, or forbid writing to it.
    """
    source = backend_of(array=array)
    moved = asarray(array, dtype if source.is_floating(array) else None, backend=target or source)
    return moved if moved is array else _copy(moved)


def _check_floating(data: Array) -> Backend:
    backend = backend_of(data=data)
    if not backend.is_floating(data):
        raise TypeError(f"data: a parameter must be floating-point, got {backend.dtype_name(data)}")
    return backend


class Parameter:
    """An array that is trained, and its gradient.

    Parameters
    ----------
    data : array
        Of any shape, floating-point, of any backend. Copied: optimizers update the parameter in place.

    Attributes
    ----------
    data : array
        The values. An array that is assigned is not copied, but cut off from any autograd of the library.
    grad : array or None
        Like data. None until the first backward; further gradients are added until ``zero_grad``, of the layer or of
        the optimizer, makes it None again.

    Raises
    ------
    TypeError
        Not an array, or not floating-point.
    """

    __slots__ = ("_data", "_on_gradient", "grad")

    def __init__(self, data: Array) -> None:
        _check_floating(data)
        self._data: Array = _copy(data)
        self._on_gradient: Callable[[Parameter], None] | None = None  # called when a gradient was added
        self.grad: Array | None = None

    @property
    def data(self) -> Array:
        """The values: an array of the shape that it was made with, or of one assigned since."""
        return self._data

    @data.setter
    def data(self, values: Array) -> None:
        if isinstance(values, np.generic):  # what NumPy makes of an array without axes
            values = np.asarray(values)
        self._data = _check_floating(values).prepare(values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return tuple(self.data.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        count = 1
        for length in self.data.shape:
            count *= length
        return count

    def accumulate_grad(self, g: Array) -> None:
        """Add ``g`` to `grad`. The arrays that were there are not modified.

        Parameters
        ----------
        g : array like data
            What is added.

        Raises
        ------
        TypeError
            ``g`` is of another backend (`BackendMismatchError`) or dtype than data.
        ValueError
            Of another shape; it is never broadcast.
        """
        if isinstance(g, np.generic):  # what NumPy makes of an array without axes, such as a sum
            g = np.asarray(g)
        data = self._data
        backend = backend_of(data=data, g=g)
        if g.dtype != data.dtype:
            raise TypeError(f"g: expected {backend.dtype_name(data)} like data, got {backend.dtype_name(g)}")
        if tuple(g.shape) != tuple(data.shape):
            raise ValueError(f"g: expected shape {self.shape} like data, got {tuple(g.shape)}")
        if self.grad is not None:
            g = backend.asarray(compute(backend, "accumulate_grad", operator.add, self.grad, g))
        self.grad = g
        if self._on_gradient is not None:
            self._on_gradient(self)

    def __repr__(self) -> str:
        backend = backend_of(data=self.data)
        return f"Parameter({backend.dtype_name(self.data)}, shape={self.shape}, backend={backend.name!r})"


class LoadResult(NamedTuple):
    """Names that `Layer.load_state_dict` did not find on one side; both empty when it was strict.

    Attributes
    ----------
    missing
        Names of the layer that the state did not have.
    unexpected
        Names of the state that the layer does not have.
    """

    missing: list[str]
    unexpected: list[str]


class Layer:
    """Base of all layers and networks: a map from arrays to arrays with its own way back.

    A subclass defines `forward` and `backward`. What backward needs is pushed in forward and popped in backward; that
    is a stack, so a layer may be used several times in a network, the last use being gone back through first. Nothing
    is kept in evaluation mode.

    Attributes
    ----------
    training : bool
        True at first; see `train` and `eval`.
    """

    training: bool
    # ordered sets: which attributes are parts, and of which kind
    _parameter_names: dict[str, None]
    _buffer_names: dict[str, None]
    _layer_names: dict[str, None]
    _stack: list[Any]
    _keeps: bool = False  # in evaluation mode too, as a frozen layer within a network that is trained
    _untrained: bool = False  # neither it nor a layer before it is trained, so that the way back ends behind it

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the empty layer here, so that a subclass may assign parts without calling ``super().__init__()``."""
        layer = super().__new__(cls)
        layer.__dict__.update(training=True, _parameter_names={}, _buffer_names={}, _layer_names={}, _stack=[])
        return layer

    # ---- forward and backward -------------------------------------------------------------------------------

    def forward(self, x: Array) -> Array:
        """The result for ``x``; pushes what `backward` needs.

        Parameters
        ----------
        x : array
            Of the shape that the layer takes, on the backend and in the dtype of its parameters.

        Returns
        -------
        y : array
            Of the shape that the layer makes of it.

        Raises
        ------
        TypeError, ValueError
            x does not fit the layer: not an array, of another backend, dtype or shape. The message names the argument.
        NotImplementedError
            The subclass defines no forward.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, dy: Array) -> Array:
        """Gradient to the input of the latest forward not yet gone back through, from the gradient to its result.

        Gradients to parameters are added to their ``grad``.

        Parameters
        ----------
        dy : array
            Gradient of the loss to the result of that forward, in its shape and dtype.

        Returns
        -------
        dx : array
            Of the shape of the input; None from layers and containers that were told not to compute it (``need_dx =
            False``).

        Raises
        ------
        RuntimeError
            No forward in training mode came before.
        TypeError, ValueError
            dy has another shape, dtype or backend than the result.
        NotImplementedError
            The subclass defines no backward.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def __call__(self, x: Array) -> Array:
        """``forward(x)``."""
        return self.forward(x)

    def _forward_relu(self, x: Array) -> Array | None:
        """``max(forward(x), 0)`` as one operator, see `_fusion`; None where there is none, and then nothing is done."""
        return None

    def _has_relu(self, y: Array) -> bool:
        """Whether the latest forward was `_forward_relu`, with the result ``y``, and goes back by `_backward_relu`."""
        return False

    def _backward_relu(self, dy: Array) -> Array:
        """Gradient to the input, from that to the result of `_forward_relu`."""
        raise NotImplementedError(f"{type(self).__name__} has no ReLU of its own")

    def push(self, cache: Any) -> None:
        """Keep ``cache`` for `backward`; nothing is kept in evaluation mode, unless a `Trainer` trains the rest.

        Parameters
        ----------
        cache
            What the backward pass will need: an array, or anything that holds arrays.
        """
        if self.training or self._keeps:
            self._stack.append(cache)

    def pop(self) -> Any:
        """The cache that was pushed last, which is then forgotten.

        Raises
        ------
        RuntimeError
            There is none: no forward in training mode came before.
        """
        if not self._stack:
            raise RuntimeError(
                f"{type(self).__name__}.backward: no forward to go back through; each backward needs a forward "
                "of its own in training mode (after train(), not after eval())"
            )
        return self._stack.pop()

    def clear_cache(self) -> None:
        """Forget what forwards without a backward have left, here and in all child layers."""
        for _, layer in self.named_layers():
            layer._stack.clear()

    def _mark_untrained(self, is_frozen: Callable[[Layer], bool]) -> None:
        """Set `_untrained` in the layers inside that come before all trained ones; containers that know which do so."""

    def begin_step(self, step: int | Array, seed: int | None = None, *, first_example: int = 0) -> None:
        """Make what is random in the network a function of ``(seed, step)`` alone; call it on the whole network.

        Left-over caches are dropped.

        Parameters
        ----------
        step
            Number of the training step, from 0 to 2**32 - 1; or an array of shape (1,) of uint32 on the device of the
            network, whose value counts when the random numbers are drawn.
        seed
            0 to 2**64 - 1. None leaves each layer the seed that it drew when it was made.
        first_example
            Where the next forward has a share of a batch: the place in the batch of its first example. So shares are
            treated as they would be in the whole.

        Raises
        ------
        TypeError, ValueError
            Not integers, or out of range.
        """
        if not is_step_on_device(step):
            step = check_integer("step", step, 0, 2**32 - 1)
        seed = None if seed is None else check_integer("seed", seed, 0, 2**64 - 1)
        first_example = check_integer("first_example", first_example, 0)
        index = 0
        for _, layer in self.named_layers():
            layer._stack.clear()
            if isinstance(layer, RandomLayer):
                layer._key = (layer._seed if seed is None else seed, index, step)
                layer._uses = 0
                layer.first_example = first_example
                index += 1

    # ---- mode -----------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Training mode (or evaluation mode, if not ``mode``) for this layer and its children; returns self.

        Parameters
        ----------
        mode
            False is what `eval` does.

        Returns
        -------
        Layer
            Itself.
        """
        for _, layer in self.named_layers():
            layer.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode: running statistics, no dropout, nothing kept for backward; returns self."""
        return self.train(False)

    # ---- parts ----------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._buffer_names and type(value) is type(self.__dict__.get(name)):  # in each step of a BatchNorm
            super().__setattr__(name, value)
            return
        kinds = (self._parameter_names, self._buffer_names, self._layer_names)
        if isinstance(value, Parameter):
            mine: dict[str, None] | None = self._parameter_names
        elif isinstance(value, Layer):
            mine = self._layer_names
        else:
            mine = None
            if value is not None and name in self._parameter_names:
                raise TypeError(
                    f"{type(self).__name__}.{name}: expected a Parameter or None, got {type(value).__name__}; "
                    f"to change its values assign to {name}.data"
                )
            if value is not None and name in self._layer_names:
                raise TypeError(f"{type(self).__name__}.{name}: expected a Layer or None, got {type(value).__name__}")
            _refuse_hidden(self, name, value)
        if mine is not None:
            if not name or "." in name:
                raise ValueError(f"name: must be non-empty and without '.', got {name!r}")
            for kind in kinds:
                if kind is not mine:
                    kind.pop(name, None)
            mine.setdefault(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        for kind in (self._parameter_names, self._buffer_names, self._layer_names):
            kind.pop(name, None)

    def register_buffer(self, name: str, array: Array | None) -> None:
        """Make ``array`` the attribute ``name`` and part of the state, though it is not trained.

        None only reserves the name. Later assignments to the attribute replace the buffer.

        Parameters
        ----------
        name
            Of the attribute, which must be new.
        array : array of any shape, or None
            The first value; it is not copied.

        Raises
        ------
        TypeError
            Not an array of a known library.
        ValueError
            A name that is taken, empty, or has a dot.
        """
        if not name or "." in name or name in self.__dict__:
            raise ValueError(f"name: must be a new attribute, non-empty and without '.', got {name!r}")
        if array is not None:
            backend_of(array=array)
        self._buffer_names[name] = None
        setattr(self, name, array)

    def _own(self, names: Mapping[str, None]) -> list[tuple[str, Any]]:
        """The attributes of these names that are not None."""
        mine = self.__dict__
        return [(name, mine[name]) for name in names if mine[name] is not None]

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """The layers directly inside, with their attribute names; each once."""
        seen: set[int] = set()
        for name, layer in self._own(self._layer_names):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield name, layer

    def children(self) -> Iterator[Layer]:
        """The layers directly inside; each once."""
        for _, layer in self.named_children():
            yield layer

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """The layer itself, under the name ``prefix``, and all layers inside, parents first; each once.

        Parameters
        ----------
        prefix
            In front of every name.

        Yields
        ------
        name, layer
            The path of attributes, and the layer.
        """
        yield from self._walk(prefix, set())

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Layer]]:
        """Depth-first; ``seen`` None gives a layer as often as it has names."""
        if seen is not None:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, self
        for name, layer in self._own(self._layer_names):
            yield from layer._walk(f"{prefix}.{name}" if prefix else name, seen)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their paths, in the order of PyTorch; a shared one comes once, by its first name."""
        seen: set[int] = set()
        for prefix, layer in self.named_layers():
            for name, parameter in layer._own(layer._parameter_names):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{prefix}.{name}" if prefix else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """All parameters; each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """All buffers with their paths.

        Yields
        ------
        name, array
            The path of attributes, and the array of any shape itself, not a copy.
        """
        for prefix, layer in self.named_layers():
            for name, array in layer._own(layer._buffer_names):
                yield f"{prefix}.{name}" if prefix else name, array

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    # ---- state ----------------------------------------------------------------------------------------------

    def _state(self) -> Iterator[tuple[str, Array, Callable[[Array], None]]]:
        """Name, array and setter of everything in the state_dict; what is shared comes under each of its names."""
        for prefix, layer in self._walk("", None):
            dot = f"{prefix}." if prefix else ""
            for name, parameter in layer._own(layer._parameter_names):
                yield dot + name, parameter.data, partial(setattr, parameter, "data")
            for name, array in layer._own(layer._buffer_names):
                yield dot + name, array, partial(setattr, layer, name)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers by their paths, with the names, shapes and order of PyTorch.

        The arrays stay on their backend; `xpconv.to_numpy` brings one to the host. Later training does not change them.

        Returns
        -------
        dict
            Arrays of the shapes of the parameters and buffers, by path.
        """
        return {name: _copy(array) for name, array, _ in self._state()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> LoadResult:
        """Copy the arrays of ``state`` into the parameters and buffers. If anything is wrong, nothing is changed.

        Parameters
        ----------
        state
            Arrays by path: of NumPy, or of the backend that the parameter is on. Shapes and floating-point dtypes must
            be those of the layer (float32 of NumPy, which lacks bfloat16, is taken for it); integer buffers take any
            integer dtype.
        strict
            Whether missing and unexpected names are an error; if not, they are returned.

        Returns
        -------
        LoadResult
            Missing and unexpected names.

        Raises
        ------
        ValueError
            Listing every missing or unexpected name and every wrong shape or dtype.
        BackendMismatchError
            An array of a third backend, which is never transferred silently.
        """
        slots = list(self._state())
        known = {name for name, _, _ in slots}
        missing = [name for name, _, _ in slots if name not in state]
        unexpected = [name for name in state if name not in known]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        assignments = []
        for name, current, assign in slots:
            if name in state:
                value, problem = _loadable(name, state[name], current)
                problems.extend([problem] if problem else [])
                assignments.append((assign, value))
        if problems:
            raise ValueError(f"state: does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for assign, value in assignments:
            assign(value)
        return LoadResult(missing, unexpected)

    def to(self, backend: str | Backend | None = None, dtype: str | None = None) -> Self:
        """Move parameters, their gradients and buffers, in place; caches are dropped. If it fails, nothing is changed.

        Parameters
        ----------
        backend
            A name such as ``"cupy"``; None leaves every array where it is.
        dtype
            ``"float32"`` and so on, for all that is floating-point; None leaves it.

        Returns
        -------
        Layer
            Itself. An optimizer that has taken a step already must be told: see its ``to``.

        Raises
        ------
        TypeError, ValueError
            An unknown backend, or a dtype that is not floating-point or that the backend does not have.
        BackendUnavailableError
            The backend cannot start here.
        DeviceMemoryError
            The device does not hold it all.
        """
        target = None if backend is None else load_backend(backend)
        if dtype not in (None, "float16", "bfloat16", "float32", "float64"):
            raise TypeError(f"dtype: expected the name of a floating-point dtype, such as 'float32', got {dtype!r}")
        moved = []
        for parameter in self.parameters():
            grad = None if parameter.grad is None else _moved(parameter.grad, target, dtype)
            moved.append((parameter, _moved(parameter.data, target, dtype), grad))
        buffers = [
            (layer, name, _moved(array, target, dtype))
            for _, layer in self.named_layers()
            for name, array in layer._own(layer._buffer_names)
        ]
        for parameter, data, grad in moved:
            parameter.data, parameter.grad = data, grad
        for layer, name, array in buffers:
            setattr(layer, name, array)
        self.clear_cache()
        return self

    # ---- text -----------------------------------------------------------------------------------------------

    def summary(
        self,
        input_shape: Sequence[int],
        *,
        batch_size: int = 1,
        depth: int | None = None,
        file: SupportsWrite | None = None,
    ) -> Summary:
        """Print a table of all layers: shapes of results, parameters, operations and memory; and return what it says.

        One image of ones goes through the network in evaluation mode (a forward, no backward), whatever the batch
        size; the network is as before afterwards.

        Parameters
        ----------
        input_shape
            Of one image or sample, without the batch: ``(3, 224, 224)``.
        batch_size
            Images that the memory of activations is for.
        depth
            How far to go into layers that are made of layers; None is all the way.
        file
            Where to print, standard output if None.

        Returns
        -------
        Summary
            The rows and sums as numbers.

        Raises
        ------
        TypeError, ValueError
            A shape that is none, or that the network does not take.
        """
        from .summary import summarize

        depth = None if depth is None else check_integer("depth", depth, 0)
        result = summarize(self, input_shape, batch_size=batch_size)
        print(result.table(depth), file=file)
        return result

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {layer!r}".replace("\n", "\n  ") for name, layer in self._own(self._layer_names)]
        if not lines:
            return f"{type(self).__name__}({extra})"
        head = [extra] if extra else []
        return f"{type(self).__name__}(\n  " + "\n  ".join(head + lines) + "\n)"


class RandomLayer(Layer):
    """A layer that draws random numbers in training, from a counter-based generator: the same bits on every backend.

    After `Layer.begin_step` on the network its numbers depend on the step, its place among the random layers and its
    uses within the step; otherwise on a seed drawn when it was made and on how many forwards it has seen.

    Parameters
    ----------
    rng
        Where the seed is drawn from: a generator, an integer, or None for the process-wide generator.

    Attributes
    ----------
    first_example : int
        Place of the first example of a forward in its batch: not 0 where several ranks share a batch. Random numbers
        are to depend on the place in the batch, see `functional.dropout`.

    Raises
    ------
    TypeError, ValueError
        rng is neither a generator nor an integer that can be a seed.
    """

    def __init__(self, rng: np.random.Generator | int | None = None) -> None:
        self._seed = int(as_generator(rng).integers(1 << 63))
        self._key: tuple[int, int, int | Array] | None = None
        self._uses = 0
        self.first_example = 0

    def next_key(self) -> tuple[int, int, int | Array]:
        """Key ``(seed, layer, step)`` of the next draw; to be called once a forward, in training mode only.

        The step is what `Layer.begin_step` was given, in a recorded step an array on the device.

        Returns
        -------
        seed, layer, step
            Numbers, the step perhaps as an array without axes.

        Raises
        ------
        RuntimeError
            More than 2**16 uses in one step: `begin_step` was called once and then no more.
        """
        uses = self._uses
        self._uses += 1
        if self._key is None:
            return self._seed, 0, uses
        seed, index, step = self._key
        if uses >= _MAX_WORD or index >= _MAX_WORD:
            raise RuntimeError(
                f"{type(self).__name__}: {uses} uses in step {step} (layer {index}); call begin_step before every step"
            )
        return seed, index + (uses << 16), step


def _refuse_hidden(layer: Layer, name: str, value: Any) -> None:
    """Parts inside a list or dict would never be trained, saved or moved: say so instead."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    if any(isinstance(v, (Layer, Parameter)) for v in values):
        raise TypeError(
            f"{type(layer).__name__}.{name}: parts in a {type(value).__name__} are not found by parameters() or "
            "state_dict(); use a Sequential, or setattr with a name for each"
        )


def _loadable(name: str, value: Any, current: Array) -> tuple[Array | None, str]:
    """A copy of ``value`` that can take the place of ``current``, or what is wrong with it."""
    backend = backend_of(current=current)
    host = isinstance(value, (np.ndarray, np.generic))
    if host:
        value = np.array(value)
    else:
        try:
            source = backend_of(value=value)
        except TypeError:
            return None, f"{name}: expected an array, got {type(value).__name__}"
        if source is not backend:
            raise BackendMismatchError(
                f"state: {name} is an array of {source.name}, the layer is on {backend.name}; "
                "xpconv.to_numpy makes host arrays, which every backend takes"
            )
    if tuple(value.shape) != tuple(current.shape):
        return None, f"{name}: expected shape {tuple(current.shape)}, got {tuple(value.shape)}"
    want = backend.dtype_name(current)
    got = value.dtype.name if host else backend.dtype_name(value)
    integers = "int" in want and "int" in got
    if got != want and not integers and not (host and want == "bfloat16" and got == "float32"):
        return None, f"{name}: expected {want}, got {got}"
    return (backend.asarray(value, want) if host else _copy(backend.astype(value, want))), ""
