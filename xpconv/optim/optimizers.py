"""What all optimizers have in common: parameters in groups, checked settings, state that can be saved.

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
from ..backends import Backend, BackendMismatchError, asarray, backend_of, to_numpy
from ..backends.protocol import Array
from ..layers import Parameter
from .recorded import RecordedStep

__all__ = ["AT_LEAST_ZERO", "BETAS", "FLAG", "FRACTION", "NUMBER", "Bucket", "Kind", "Optimizer"]


class Kind(NamedTuple):
    """What a setting must be: a test, and its words for the message."""

    test: Callable[[Any], bool]
    words: str


def _is_fraction(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


NUMBER = Kind(lambda v: is_number(v) and math.isfinite(v), "a finite number")
AT_LEAST_ZERO = Kind(lambda v: is_number(v) and 0 <= v < math.inf, "a finite number of at least 0")
FRACTION = Kind(_is_fraction, "a number of at least 0 and below 1")
FLAG = Kind(lambda v: isinstance(v, bool), "True or False")
BETAS = Kind(
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


class Bucket(NamedTuple):
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

    def but_lr(self) -> Bucket:
        """The same without a learning rate."""
        return self._replace(settings={**self.settings, "lr": None})


class _Seen(NamedTuple):
    """What a step has found, by which the next one sees that all is as it was.

    Attributes
    ----------
    groups
        Copies of the groups.
    checked
        The parameters that took the step, and their arrays.
    idle
        Those that had no gradient.
    buckets
        What came of it.
    """

    groups: list[dict[str, Any]]
    checked: list[tuple[Parameter, Array]]
    idle: list[Parameter]
    buckets: list[Bucket]


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

    _kinds: ClassVar[Mapping[str, Kind]]
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
        self._seen: _Seen | None = None
        self._recording: RecordedStep | None = None

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a group, checked, in types of Python."""
        settings = {name: value for name, value in group.items() if name != "params"}
        for name, value in settings.items():
            if name not in self._kinds:
                raise TypeError(f"{name}: {type(self).__name__} has no such setting; it has {', '.join(self._kinds)}")
            if not self._kinds[name].test(value):
                raise self._wrong(name, value)
        missing = [name for name in self._kinds if name not in settings]
        if missing:
            raise ValueError(f"params: a group lacks the settings {', '.join(missing)}")
        self._check_together(settings)
        return {name: _plain(value) for name, value in settings.items()}

    def _wrong(self, name: str, value: Any) -> Exception:
        kind = ValueError if is_number(value) or isinstance(value, (list, tuple)) else TypeError
        return kind(f"{name}: expected {self._kinds[name].words}, got {value!r}")

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
        if not self._kinds["lr"].test(value):
            raise self._wrong("lr", value)
        for group in self.param_groups:
            group["lr"] = _plain(value)

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
        parameters = self._parameters()
        buckets = self._buckets_again()
        if buckets is None:
            buckets = self._buckets([i for i, p in enumerate(parameters) if p.grad is not None])
        if self._recording is not None:
            self._recording._take(buckets)
            return
        self._seen = None
        for bucket in buckets:
            data, kept = self._run(bucket, bucket.settings["lr"], bucket.steps + 1)
            # what was updated in place stays; asarray, since NumPy makes scalars of arrays without axes
            for index, new in zip(bucket.indexes, data, strict=True):
                if new is not parameters[index].data:
                    parameters[index].data = bucket.backend.asarray(new)
                self._steps[index] = bucket.steps + 1
            for name, arrays in kept.items():
                for index, new in zip(bucket.indexes, arrays or (), strict=arrays is not None):
                    mine = self._arrays.setdefault(index, {})
                    if new is not mine.get(name):
                        mine[name] = bucket.backend.asarray(new)
        self._last = [index for bucket in buckets for index in bucket.indexes]
        self._look(buckets)

    def _look(self, buckets: list[Bucket]) -> None:
        """Remember what `_buckets` of the next step depends on, where that is quick to compare: for NumPy arrays."""
        parameters = self._parameters()
        arrays = [parameters[index].data for index in self._last]
        if all(type(array) is np.ndarray for array in arrays) and all(
            bucket.kept == tuple(self._arrays.get(index, ())) for bucket in buckets for index in bucket.indexes
        ):
            taken = set(self._last)
            self._seen = _Seen(
                groups=[{**group, "params": list(group["params"])} for group in self.param_groups],
                checked=[(parameters[index], array) for index, array in zip(self._last, arrays, strict=True)],
                idle=[parameter for index, parameter in enumerate(parameters) if index not in taken],
                buckets=buckets,
            )

    def _buckets_again(self) -> list[Bucket] | None:
        """The buckets of the last step, ready for the next, if nothing has changed since but learning rates."""
        seen = self._seen
        if seen is None or len(seen.groups) != len(self.param_groups):
            return None
        for group, before in zip(self.param_groups, seen.groups, strict=True):
            if group.keys() != before.keys() or group["params"] != before["params"]:
                return None
            if any(group[name] is not value for name, value in before.items() if name not in ("params", "lr")):
                return None
            if not self._kinds["lr"].test(group["lr"]):
                return None
        for parameter, data in seen.checked:
            grad = parameter.grad
            if (
                parameter.data is not data
                or type(grad) is not np.ndarray
                or grad.dtype is not data.dtype
                or grad.shape != data.shape
                or not data.flags.writeable
            ):
                return None
        if any(parameter.grad is not None for parameter in seen.idle):
            return None
        return [
            bucket._replace(
                steps=bucket.steps + 1, settings={**bucket.settings, "lr": float(self.param_groups[bucket.group]["lr"])}
            )
            for bucket in seen.buckets
        ]

    def _buckets(self, indexes: Sequence[int], *, graded: bool = True) -> list[Bucket]:
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
                        buckets[key] = Bucket(number, settings, backend, dtype, kept, steps, [])
                    buckets[key].indexes.append(index)
                index += 1
        return list(buckets.values())

    def _checked_backend(self, index: int, parameter: Parameter, graded: bool) -> Backend:
        data, kept = parameter.data, self._arrays.get(index, {})
        backend = backend_of(parameter=data)
        if type(data) is np.ndarray and data.flags.writeable:  # there it takes next to no time to see that all is well
            dtype, shape = data.dtype, data.shape
            for array in (parameter.grad, *kept.values()) if graded else kept.values():
                if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                    break
            else:
                return backend
        if isinstance(data, np.ndarray) and not data.flags.writeable:
            raise ValueError(
                f"parameter {index} of shape {parameter.shape} is read-only, and a step updates it in place; assign a "
                "copy to its data"
            )
        arrays = {"the gradient": parameter.grad, **kept} if graded else kept
        for name, array in arrays.items():
            other = backend_of(array=array)
            if other is not backend or array.dtype != data.dtype:
                kind = TypeError if other is backend else BackendMismatchError
                raise kind(
                    f"{name} of parameter {index} is {other.dtype_name(array)} on {other.name}, the parameter itself "
                    f"{backend.dtype_name(data)} on {backend.name}; after model.to(...) call optimizer.to()"
                )
            if array.shape != data.shape:
                raise ValueError(
                    f"{name} of parameter {index} has shape {tuple(array.shape)}, the parameter {parameter.shape}"
                )
        return backend

    def _run(self, bucket: Bucket, lr: Any, step: Any) -> tuple[list[Array], dict[str, list[Array] | None]]:
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
        self._arrays, self._seen = moved, None

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

        Raises
        ------
        TypeError, ValueError
            A setting in `param_groups` was changed to what it must not be.
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

        Parameters
        ----------
        state
            What `state_dict` has given.

        Raises
        ------
        ValueError
            The state is of another optimizer, for other parameters, or not complete: the message says which.
        TypeError
            A setting in it is of the wrong type.
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
        self._seen = None

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            settings = ", ".join(f"{name}={value}" for name, value in group.items() if name != "params")
            lines.append(f"\n  group {i}: {len(group['params'])} parameters, {settings}")
        return f"{type(self).__name__}({''.join(lines)}\n)"


def _loaded(key: str, value: Any, parameter: Parameter) -> Array:
    """A copy of ``value`` on the backend of ``parameter``, like which it must be."""
    backend = backend_of(parameter=parameter.data)
    array, dtype = np.array(to_numpy(value)), backend.dtype_name(parameter.data)
    if array.shape != parameter.shape:
        raise ValueError(f"state: {key} has shape {array.shape}, its parameter {parameter.shape}")
    if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype.name == "float32"):
        raise ValueError(f"state: {key} is {array.dtype.name}, its parameter {dtype}")
    return backend.asarray(array, dtype)
