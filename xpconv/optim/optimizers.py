"""Optimizers, with PyTorch's meaning of every argument.

The state of an optimizer is plain data: arrays that safetensors can store and settings that JSON can store, see
`Optimizer.state_dict`. A run that is saved and resumed on the same backend continues bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._checks import is_number
from ..backends import Backend, BackendMismatchError, asarray, backend_of, run, serving, to_numpy
from ..backends.protocol import Array
from ..layers import Parameter

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "RecordedStep"]


class _Kind(NamedTuple):
    """What a setting must be: a test, and its words for the message."""

    test: Callable[[Any], bool]
    words: str


def _is_fraction(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


_NUMBER = _Kind(lambda v: is_number(v) and math.isfinite(v), "a finite number")
_AT_LEAST_ZERO = _Kind(lambda v: is_number(v) and 0 <= v < math.inf, "a finite number of at least 0")
_FRACTION = _Kind(_is_fraction, "a number of at least 0 and below 1")
_FLAG = _Kind(lambda v: isinstance(v, bool), "True or False")
_BETAS = _Kind(
    lambda v: isinstance(v, (list, tuple)) and len(v) == 2 and all(map(_is_fraction, v)),
    "two numbers of at least 0 and below 1",
)


def _plain(value: Any) -> Any:
    """A setting in types of Python alone: a NumPy float64 would turn float32 arrays into float64 ones."""
    if isinstance(value, bool):
        return value
    return tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else float(value)


def _entry(tree: object, name: str) -> Any:
    if not isinstance(tree, Mapping) or name not in tree:
        raise ValueError(f"state: has no {name!r}; expected what state_dict() gives")
    return tree[name]


def _moved(array: Array, dtype: str, backend: str | Backend) -> Array:
    """``array`` on ``backend``; where it changes a copy, which may be updated in place and shares no memory."""
    moved = asarray(array, dtype, backend=backend)
    if moved is array:
        return moved
    target = backend_of(array=moved)
    with target.running():
        return target.xp.asarray(moved, copy=True)


def _zeros(backend: Backend, like: Sequence[Array]) -> list[Array]:
    return [backend.zeros(array.shape, array.dtype) for array in like]


class _Bucket(NamedTuple):
    """Parameters that take a step in one call: of one group, backend and dtype, after steps that left them alike.

    Attributes
    ----------
    group
        The number of their group.
    settings
        Of the group, checked.
    backend, dtype
        Of all their arrays.
    kept
        The names of the arrays kept for each of them.
    steps
        Steps that each has taken.
    indexes
        Their numbers.
    """

    group: int
    settings: dict[str, Any]
    backend: Backend
    dtype: str
    kept: tuple[str, ...]
    steps: int
    indexes: list[int]

    def but_lr(self) -> _Bucket:
        """The same without a learning rate."""
        return self._replace(settings={**self.settings, "lr": None})


class Optimizer:
    """Base of the optimizers.

    A subclass says in `_kinds` which settings it has and what they must be, in `_always` and `_sometimes` which arrays
    it keeps for a parameter that has taken a step, in `_operator` what computes a step, and defines `_update`.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        Each dict is a group: ``{"params": parameters, **settings}`` whose settings take the place of the defaults.
    defaults : dict
        Settings of groups that do not give their own.

    Attributes
    ----------
    param_groups : list of dict
        Each has ``"params"`` and every setting; settings may be changed between steps.

    Raises
    ------
    TypeError, ValueError
        No parameters, something else than parameters, a parameter that comes twice, a setting that is unknown or out of
        range.
    """

    _kinds: ClassVar[Mapping[str, _Kind]]
    _operator: ClassVar[str]
    _always: tuple[str, ...] = ()
    _sometimes: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Parameter] | Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        if isinstance(params, (Parameter, Mapping, str)) or not isinstance(params, Iterable):
            raise TypeError(f"params: expected an iterable of Parameters or of dicts, got {type(params).__name__}")
        given: list[Any] = list(params)
        if not given:
            raise ValueError("params: expected at least one Parameter, got none")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = []
        seen: set[int] = set()
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group:
                raise TypeError("params: expected either Parameters, or dicts that have a key 'params'; not both")
            mine = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
            for parameter in mine:
                if not isinstance(parameter, Parameter):
                    raise TypeError(f"params: expected Parameters, got {type(parameter).__name__}")
                if id(parameter) in seen:
                    raise ValueError(f"params: {parameter!r} comes twice; it would be updated twice in a step")
                seen.add(id(parameter))
            self.param_groups.append({"params": mine, **self._settings({**defaults, **group})})
        # for each parameter, by its number: steps taken, and the arrays kept
        self._steps: dict[int, int] = {}
        self._arrays: dict[int, dict[str, Array]] = {}
        self._last: list[int] = []  # the parameters of the last step
        self._recording: RecordedStep | None = None

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a group, checked, in types of Python."""
        settings = {name: value for name, value in group.items() if name != "params"}
        for name, value in settings.items():
            if name not in self._kinds:
                raise TypeError(f"{name}: {type(self).__name__} has no such setting; it has {', '.join(self._kinds)}")
            if not self._kinds[name].test(value):
                kind = ValueError if is_number(value) or isinstance(value, (list, tuple)) else TypeError
                raise kind(f"{name}: expected {self._kinds[name].words}, got {value!r}")
        missing = [name for name in self._kinds if name not in settings]
        if missing:
            raise ValueError(f"params: a group lacks the settings {', '.join(missing)}")
        self._check_together(settings)
        return {name: _plain(value) for name, value in settings.items()}

    def _check_together(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError for settings that exclude each other."""

    def _parameters(self) -> list[Parameter]:
        """All parameters; their places in this list are their numbers."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def lr(self) -> float:
        """Learning rate of the first group; assigning sets that of all groups, as a schedule does in every step."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        checked = [self._settings({**group, "lr": value})["lr"] for group in self.param_groups]
        for group, lr in zip(self.param_groups, checked, strict=True):
            group["lr"] = lr

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self._parameters():
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient. Everything is checked before anything is changed.

        Raises
        ------
        BackendMismatchError
            The model was moved after the first step: `to` moves the optimizer too.
        TypeError, ValueError
            A gradient has another dtype or shape than its parameter, or a setting was changed to a value out of range.
        """
        buckets = self._buckets([i for i, p in enumerate(self._parameters()) if p.grad is not None])
        if self._recording is not None:
            self._recording._take(buckets)
            return
        parameters = self._parameters()
        for bucket in buckets:
            data, kept = self._run(bucket, bucket.settings["lr"], bucket.steps + 1)
            for place, index in enumerate(bucket.indexes):
                parameter, mine = parameters[index], self._arrays.setdefault(index, {})
                self._steps[index] = bucket.steps + 1
                # what was updated in place stays; asarray, since NumPy makes scalars of arrays without axes
                if data[place] is not parameter.data:
                    parameter.data = bucket.backend.asarray(data[place])
                for name, arrays in kept.items():
                    if arrays is not None and arrays[place] is not mine.get(name):
                        mine[name] = bucket.backend.asarray(arrays[place])
        self._last = [index for bucket in buckets for index in bucket.indexes]

    def _buckets(self, indexes: Sequence[int], *, graded: bool = True) -> list[_Bucket]:
        """The parameters of these numbers in buckets; everything is checked, the gradients if ``graded``."""
        wanted, buckets = set(indexes), {}
        groups = [(group["params"], self._settings(group)) for group in self.param_groups]
        index = 0
        for number, (parameters, settings) in enumerate(groups):
            for parameter in parameters:
                if index in wanted:
                    backend = self._checked_backend(index, parameter, graded)
                    dtype, kept = backend.dtype_name(parameter.data), tuple(self._arrays.get(index, ()))
                    steps = self._steps.get(index, 0)
                    key = (number, backend.name, dtype, kept, steps)
                    if key not in buckets:
                        buckets[key] = _Bucket(number, settings, backend, dtype, kept, steps, [])
                    buckets[key].indexes.append(index)
                index += 1
        return list(buckets.values())

    def _checked_backend(self, index: int, parameter: Parameter, graded: bool) -> Backend:
        backend, data = backend_of(parameter=parameter.data), parameter.data
        if isinstance(data, np.ndarray) and not data.flags.writeable:
            raise ValueError(
                f"parameter {index} of shape {parameter.shape} is read-only, and a step updates it in place; assign a "
                "copy to its data"
            )
        arrays = dict(self._arrays.get(index, {}))
        if graded:
            arrays = {"the gradient": parameter.grad, **arrays}
        for name, array in arrays.items():
            other = backend_of(array=array)
            if other is not backend or array.dtype != data.dtype:
                kind = TypeError if other is backend else BackendMismatchError
                raise kind(
                    f"{name} of parameter {index} is {other.dtype_name(array)} on {other.name}, the parameter itself "
                    f"{backend.dtype_name(data)} on {backend.name}; after model.to(...) call optimizer.to()"
                )
            if tuple(array.shape) != parameter.shape:
                raise ValueError(
                    f"{name} of parameter {index} has shape {tuple(array.shape)}, the parameter {parameter.shape}"
                )
        return backend

    def _run(self, bucket: _Bucket, lr: Any, step: Any) -> tuple[list[Array], dict[str, list[Array] | None]]:
        """`_update` of a bucket, whose learning rate and step may be arrays on the device."""
        parameters = self._parameters()
        return self._update(
            bucket.backend,
            [parameters[index].data for index in bucket.indexes],
            [parameters[index].grad for index in bucket.indexes],
            {**bucket.settings, "lr": lr},
            {name: [self._arrays[index][name] for index in bucket.indexes] for name in bucket.kept},
            step,
        )

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        """Step number ``step`` (from 1): new values of ``params``, and the arrays to keep for the next step.

        What comes in may be updated in place and given back.
        """
        raise NotImplementedError

    @contextmanager
    def recording(self) -> Iterator[RecordedStep]:
        """For a graph of the device that records a step and replays it, see `xpconv.backends.Backend.capture`.

        The block holds one capture and one `step` in it, which reads learning rates and step counts on the device and
        changes nothing on the host. To be entered before the capture begins, and after an ordinary step for the same
        parameters.

        Returns
        -------
        context manager of RecordedStep
            What has to be asked and told about each replay.

        Raises
        ------
        RuntimeError
            There was no ordinary step, or the kernels of the backend cannot read these numbers on the device; in the
            block, from `step`, for other parameters than in the last ordinary step.
        """
        recorded = RecordedStep(self)
        self._recording = recorded
        try:
            yield recorded
        finally:
            self._recording = None

    def to(self, backend: str | Backend | None = None) -> None:
        """Move the state to where the parameters are; to be called after ``model.to(...)``.

        Parameters
        ----------
        backend
            None, the state of each parameter follows its parameter, also in dtype; or a backend, for all of it.
        """
        moved = {}
        for index, parameter in enumerate(self._parameters()):
            home = backend_of(parameter=parameter.data)
            name = home.dtype_name(parameter.data)
            moved[index] = {
                key: _moved(array, name, home if backend is None else backend)
                for key, array in self._arrays.get(index, {}).items()
            }
        self._arrays = moved

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on besides parameters and gradients.

        Returns
        -------
        dict
            ``"arrays"``: host arrays by ``"<parameter number>.<name>"``, copies, as safetensors can store them.
            ``"settings"``: a tree that `json` can store: ``"kind"``, the class; ``"groups"``, the settings of each
            group and how many parameters it has (``"count"``); ``"parameters"``, for each the steps it has taken
            (``"step"``) and the names of its arrays (``"arrays"``). Parameters are numbered through the groups, in
            their order.
        """
        groups, parameters, arrays = [], [], {}
        for group in self.param_groups:
            settings = {k: list(v) if isinstance(v, tuple) else v for k, v in self._settings(group).items()}
            groups.append({"count": len(group["params"]), **settings})
        for index, _ in enumerate(self._parameters()):
            mine = self._arrays.get(index, {})
            parameters.append({"step": self._steps.get(index, 0), "arrays": list(mine)})
            arrays.update({f"{index}.{name}": np.array(to_numpy(array)) for name, array in mine.items()})
        return {
            "arrays": arrays,
            "settings": {"kind": type(self).__name__, "groups": groups, "parameters": parameters},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` has given, settings included. If anything is wrong, nothing is changed.

        Arrays go to the backends of their parameters; a float32 array is taken for a bfloat16 parameter.

        Raises
        ------
        ValueError
            The state is of another optimizer, for other parameters, or not complete: the message says which.
        """
        arrays, settings = _entry(state, "arrays"), _entry(state, "settings")
        kind, groups, entries = (_entry(settings, name) for name in ("kind", "groups", "parameters"))
        if kind != type(self).__name__:
            raise ValueError(f"state: is that of {kind!r}, this is {type(self).__name__}")
        have = [_entry(group, "count") for group in groups]
        want = [len(group["params"]) for group in self.param_groups]
        if have != want or len(entries) != sum(want):
            raise ValueError(
                f"state: has groups of {have} parameters and entries for {len(entries)}, "
                f"this optimizer has groups of {want}"
            )
        new_groups = [
            {"params": old["params"], **self._settings({k: v for k, v in group.items() if k != "count"})}
            for old, group in zip(self.param_groups, groups, strict=True)
        ]
        new_arrays: dict[int, dict[str, Array]] = {}
        new_steps: dict[int, int] = {}
        left = set(arrays)
        for index, (parameter, entry) in enumerate(zip(self._parameters(), entries, strict=True)):
            step, names = _entry(entry, "step"), _entry(entry, "arrays")
            required = set(self._always if step else ())
            allowed = set(self._always + self._sometimes if step else ())
            if not isinstance(step, int) or step < 0 or not required <= set(names) <= allowed:
                raise ValueError(f"state: cannot be what parameter {index} has kept: {entry!r}")
            new_steps[index] = step
            new_arrays[index] = {}
            for name in names:
                key = f"{index}.{name}"
                if key not in left:
                    raise ValueError(f"state: has no array {key!r}")
                left.remove(key)
                new_arrays[index][name] = _loaded(key, arrays[key], parameter)
        if left:
            raise ValueError(f"state: has arrays of no parameter: {', '.join(sorted(left))}")
        self.param_groups, self._arrays, self._steps = new_groups, new_arrays, new_steps

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            settings = ", ".join(f"{name}={value}" for name, value in group.items() if name != "params")
            lines.append(f"\n  group {i}: {len(group['params'])} parameters, {settings}")
        return f"{type(self).__name__}({''.join(lines)}\n)"


class RecordedStep:
    """A step that a graph of the device has recorded and replays; made by `Optimizer.recording`.

    The graph reads learning rates and step counts from arrays that live as long as this object.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not optimizer._last:
            raise RuntimeError("optimizer: a step can be recorded only after an ordinary one, which makes its state")
        self._optimizer = optimizer
        self._buckets = optimizer._buckets(optimizer._last, graded=False)
        self._on_device: list[tuple[Array, Array]] = []
        self._written: list[tuple[float, int]] = []  # what stands in them
        self._arrays: list[Array] | None = None  # those whose addresses the graph knows
        for bucket in self._buckets:
            backend, steps, lr = bucket.backend, bucket.steps, bucket.settings["lr"]
            if serving(backend, optimizer._operator, bucket.dtype).name == "generic":
                raise RuntimeError(
                    f"optimizer: the kernels of {backend.name} for {bucket.dtype} that serve {optimizer._operator} "
                    "cannot read its numbers on the device"
                )
            wide = "float64" if bucket.dtype == "float64" else "float32"
            self._on_device.append((backend.full((1,), lr, wide), backend.full((1,), steps, "int64")))
            self._written.append((lr, steps))
            self._warm_up(bucket, wide)

    def _warm_up(self, bucket: _Bucket, wide: str) -> None:
        """A step of scratch values: what only a recorded step launches is compiled and loaded before the capture."""
        backend = bucket.backend
        with backend.running():
            p, g, lr = (backend.zeros((1,), dtype) for dtype in (bucket.dtype, bucket.dtype, wide))
            state = {name: [backend.zeros((1,), bucket.dtype)] for name in bucket.kept}
            step = backend.zeros((1,), "int64")
            self._optimizer._update(backend, [p], [g], {**bucket.settings, "lr": lr}, state, step)

    def _take(self, buckets: list[_Bucket]) -> None:
        """Record the step."""
        optimizer = self._optimizer
        if self._arrays is not None:
            raise RuntimeError("optimizer: this recording has its step already")
        if [bucket.but_lr() for bucket in buckets] != [bucket.but_lr() for bucket in self._buckets]:
            raise RuntimeError("optimizer: the step to record has other parameters than the last one, or new settings")
        for bucket, (lr, step) in zip(buckets, self._on_device, strict=True):
            _, kept = optimizer._run(bucket, lr, step)
            if {name for name, arrays in kept.items() if arrays is not None} != set(bucket.kept):
                raise RuntimeError("optimizer: the step to record makes new state; take an ordinary one before")
        self._arrays = self._used()

    def _used(self) -> list[Array]:
        """All arrays that the step works on in place."""
        optimizer, used = self._optimizer, []
        parameters = optimizer._parameters()
        for bucket in self._buckets:
            for index in bucket.indexes:
                mine = optimizer._arrays.get(index, {})
                used += [parameters[index].data, *(mine.get(name) for name in bucket.kept)]
        return used

    def is_current(self) -> bool:
        """Whether a replay still does what an ordinary step for these parameters would.

        False after parameters or state were replaced (by ``to`` or ``load_state_dict``), after a setting other than the
        learning rate was changed, and while the parameters have taken unequal numbers of steps.
        """
        optimizer = self._optimizer
        if self._arrays is None or any(a is not b for a, b in zip(self._arrays, self._used(), strict=True)):
            return False
        for bucket in self._buckets:
            settings = optimizer._settings(optimizer.param_groups[bucket.group])
            if bucket._replace(settings=settings).but_lr() != bucket.but_lr():
                return False
            if len({optimizer._steps.get(index) for index in bucket.indexes}) > 1:
                return False
        return True

    def prepare_replay(self, *, checked: bool = False) -> None:
        """Bring the numbers on the device up to date and count the step; to be called right before each replay.

        It waits for nothing: what has changed is written on the current stream, which must be that of the replay.

        Parameters
        ----------
        checked
            Whether `is_current` has just been asked: it goes through all arrays, which takes the time of some launches.

        Raises
        ------
        RuntimeError
            The recording is not current, see `is_current`.
        """
        if not (checked or self.is_current()):
            raise RuntimeError("optimizer: its arrays or settings have changed since the step was recorded")
        optimizer = self._optimizer
        for number, bucket in enumerate(self._buckets):
            lr, steps = optimizer.param_groups[bucket.group]["lr"], optimizer._steps[bucket.indexes[0]]
            with bucket.backend.running():
                for array, new, old in zip(self._on_device[number], (lr, steps), self._written[number], strict=True):
                    if new != old:
                        array[...] = new
            self._written[number] = (lr, steps + 1)
            for index in bucket.indexes:
                optimizer._steps[index] = steps + 1


def _loaded(key: str, value: Any, parameter: Parameter) -> Array:
    """A copy of ``value`` on the backend of ``parameter``, like which it must be."""
    backend = backend_of(parameter=parameter.data)
    array, dtype = np.array(to_numpy(value)), backend.dtype_name(parameter.data)
    if array.shape != parameter.shape:
        raise ValueError(f"state: {key} has shape {array.shape}, its parameter {parameter.shape}")
    if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype.name == "float32"):
        raise ValueError(f"state: {key} is {array.dtype.name}, its parameter {dtype}")
    return backend.asarray(array, dtype)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    ``v = momentum * v + (1 - dampening) * g`` (v = g in the first step) and ``p = p - lr * v``; with nesterov
    ``p = p - lr * (g + momentum * v)``. Here g is the gradient plus ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    momentum : float
        At least 0; 0 keeps no state.
    dampening : float
        0 with nesterov.
    weight_decay : float
        L2 penalty, at least 0.
    nesterov : bool
        Needs momentum.
    """

    _kinds: ClassVar[Mapping[str, _Kind]] = {
        "lr": _AT_LEAST_ZERO,
        "momentum": _AT_LEAST_ZERO,
        "dampening": _NUMBER,
        "weight_decay": _AT_LEAST_ZERO,
        "nesterov": _FLAG,
    }
    _operator = "sgd_steps"
    _sometimes = ("velocity",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "nesterov": nesterov})

    def _check_together(self, settings: Mapping[str, Any]) -> None:
        if settings["nesterov"] and (settings["momentum"] == 0 or settings["dampening"] != 0):
            raise ValueError(
                "nesterov: needs a momentum above 0 and no dampening, "
                f"got momentum {settings['momentum']} and dampening {settings['dampening']}"
            )

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, velocities = run(
            backend,
            self._operator,
            params,
            grads,
            arrays.get("velocity"),
            settings["lr"],
            settings["momentum"],
            settings["dampening"],
            settings["nesterov"],
            settings["weight_decay"],
        )
        return params, {"velocity": velocities}


class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient (Hinton, Coursera lecture 6e, 2012).

    ``s = alpha * s + (1 - alpha) * g**2`` and ``p = p - lr * g / (sqrt(s) + eps)``; with momentum
    ``b = momentum * b + g / (sqrt(s) + eps)`` and ``p = p - lr * b``. Here g is the gradient plus ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    alpha : float
        Weight of the past in the mean, at least 0 and below 1.
    eps : float
        Added to the root, at least 0.
    weight_decay : float
        L2 penalty, at least 0.
    momentum : float
        At least 0.
    """

    _kinds: ClassVar[Mapping[str, _Kind]] = {
        "lr": _AT_LEAST_ZERO,
        "alpha": _FRACTION,
        "eps": _AT_LEAST_ZERO,
        "weight_decay": _AT_LEAST_ZERO,
        "momentum": _AT_LEAST_ZERO,
    }
    _operator = "rmsprop_steps"
    _always = ("square_avg",)
    _sometimes = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, square_avgs, buffers = run(
            backend,
            self._operator,
            params,
            grads,
            arrays["square_avg"] if arrays else _zeros(backend, params),
            arrays.get("momentum_buffer"),
            settings["lr"],
            settings["alpha"],
            settings["eps"],
            settings["momentum"],
            settings["weight_decay"],
        )
        return params, {"square_avg": square_avgs, "momentum_buffer": buffers}


class Adam(Optimizer):
    """Adam (Kingma, Ba 2015, arXiv:1412.6980).

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2`` and, t being the number of the step,
    ``p = p - lr * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)``. Here g is the gradient plus
    ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    betas : pair of float
        Weights of the past in the means, each at least 0 and below 1.
    eps : float
        Added to the root, at least 0.
    weight_decay : float
        L2 penalty, at least 0.
    """

    _kinds: ClassVar[Mapping[str, _Kind]] = {
        "lr": _AT_LEAST_ZERO,
        "betas": _BETAS,
        "eps": _AT_LEAST_ZERO,
        "weight_decay": _AT_LEAST_ZERO,
    }
    _operator = "adam_steps"
    _always = ("m", "v")
    _decoupled = False

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, ms, vs = run(
            backend,
            self._operator,
            params,
            grads,
            arrays["m"] if arrays else _zeros(backend, params),
            arrays["v"] if arrays else _zeros(backend, params),
            step,
            settings["lr"],
            *settings["betas"],
            settings["eps"],
            settings["weight_decay"],
            self._decoupled,
        )
        return params, {"m": ms, "v": vs}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019, arXiv:1711.05101).

    As `Adam`, but the gradient stays as it is and ``p`` is first multiplied by ``1 - lr * weight_decay``.

    Parameters
    ----------
    params, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Decay of the parameters, at least 0.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
