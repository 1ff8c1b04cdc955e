"""Where the time of a training step goes, layer by layer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .._checks import check_integer
from .._files import write_atomically
from ..backends import Backend
from .rehearsal import rehearsal

if TYPE_CHECKING:
    from ..layers import Layer
    from .trainer import Trainer

__all__ = ["LayerTime", "Profile", "profile_steps"]

_WARM_UP = 2
_OTHER = ("data", "loss", "optimizer", "rest")
_METHODS = {"forward": "forward", "_forward_relu": "forward", "backward": "backward", "_backward_relu": "backward"}


class LayerTime(NamedTuple):
    """Time of one layer, without that of the layers inside of it; seconds a step.

    Attributes
    ----------
    name
        Path of the layer in the model; empty for the model itself. Or ``data``, ``loss``, ``optimizer``, ``rest``.
    kind
        Its class.
    calls
        Forwards in a step; 0 for a layer that runs as part of another, as a ReLU behind a convolution does.
    forward, backward
        Seconds.
    """

    name: str
    kind: str
    calls: float
    forward: float
    backward: float


class Profile(NamedTuple):
    """What `Trainer.profile` has measured.

    Attributes
    ----------
    steps
        How many were measured.
    seconds
        Of a step, the data included; times of all ``layers`` add up to it.
    layers : list of LayerTime
        Every layer, in the order of the model, and then ``data``, ``loss``, ``optimizer`` and ``rest``: what comes
        between them, such as clipping.
    events : list of dict
        Of the trace.
    """

    steps: int
    seconds: float
    layers: list[LayerTime]
    events: list[dict[str, Any]]

    def table(self) -> str:
        """A line for each layer: calls, milliseconds forward and backward, and the share of the step."""
        rows = [("layer", "kind", "calls", "forward ms", "backward ms", "share")]
        for layer in self.layers:
            time_of = 1e3 * layer.forward, 1e3 * layer.backward
            share = (layer.forward + layer.backward) / self.seconds
            numbers = (f"{layer.calls:g}", f"{time_of[0]:.3f}", f"{time_of[1]:.3f}", f"{share:.1%}")
            if layer.kind and not layer.calls:
                numbers = ("with another", "", "", "")
            rows.append((layer.name or "(model)", layer.kind, *numbers))
        rows.append(("step", "", "", f"{1e3 * self.seconds:.3f}", "", "100.0%"))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = []
        for row in rows:
            left = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
            right = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(left + right).rstrip())
        return "\n".join(lines)

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the steps as a JSON file that chrome://tracing and https://ui.perfetto.dev open.

        Parameters
        ----------
        path
            The file; an earlier one is replaced.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        text = json.dumps({"traceEvents": self.events, "displayTimeUnit": "ms"})
        write_atomically(path, [text.encode()])


class _Call:
    """A call that runs, and how much of its time was spent in calls inside of it."""

    def __init__(self, key: tuple[str, str], start: float) -> None:
        self.key, self.start, self.inside = key, start, 0.0


class _Clock:
    """Collects the times of nested calls; on a device it waits for what was started before."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._running: list[_Call] = []
        self._origin = time.perf_counter()
        self.own: dict[tuple[str, str], float] = {}
        self.calls: dict[tuple[str, str], int] = {}
        self.events: list[dict[str, Any]] = []

    def now(self) -> float:
        if not self._backend.on_host:
            self._backend.synchronize()
        return time.perf_counter()

    def restart(self) -> None:
        """Forget what was measured so far."""
        self._origin = self.now()
        self.own.clear()
        self.calls.clear()
        self.events.clear()

    def call(self, name: str, direction: str, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of the function, whose time is noted, unless it gives None, having done nothing."""
        key = name, direction
        if self._running and self._running[-1].key == key:  # one method of the layer calls another
            return function(*arguments)
        call = _Call(key, self.now())
        self._running.append(call)
        try:
            result = function(*arguments)
        finally:
            self._running.pop()
        if result is None and direction == "forward":
            return None
        end = self.now()
        duration = end - call.start
        if self._running:
            self._running[-1].inside += duration
        self.own[key] = self.own.get(key, 0.0) + duration - call.inside
        self.calls[key] = self.calls.get(key, 0) + 1
        self.events.append(
            {
                "name": name or "(model)",
                "cat": direction,
                "ph": "X",
                "ts": 1e6 * (call.start - self._origin),
                "dur": 1e6 * duration,
                "pid": 0,
                "tid": 0,
                "args": {"kind": kind},
            }
        )
        return result


class _Timed:
    """A method of a layer with its time noted.

    It has the ``__func__`` of the method, by which a `Sequential` sees that it may run the layer together with the ReLU
    behind it: so the profile is that of the steps as they are without it.
    """

    def __init__(self, clock: _Clock, name: str, direction: str, kind: str, method: Any) -> None:
        self._clock, self._what, self._method = clock, (name, direction, kind), method
        if hasattr(method, "__func__"):
            self.__func__ = method.__func__

    def __call__(self, *arguments: Any) -> Any:
        return self._clock.call(*self._what, self._method, *arguments)


class _TimedLoss(partial):
    """A loss with its time noted; a `partial`, through which a `Trainer` sees which loss it is."""

    clock: _Clock

    def __call__(self, *arguments: Any) -> Any:
        return self.clock.call("loss", "forward", "", self.func, *arguments)


@contextmanager
def _timed(trainer: Trainer, clock: _Clock) -> Iterator[None]:
    """Inside the block all layers, the loss and the optimizer note their times."""
    replaced: list[tuple[Layer, str, Any]] = []
    loss, optimizer = trainer.loss, trainer.optimizer
    try:
        for name, layer in trainer.model.named_layers():
            for method, direction in _METHODS.items():
                replaced.append((layer, method, layer.__dict__.get(method)))
                layer.__dict__[method] = _Timed(clock, name, direction, type(layer).__name__, getattr(layer, method))
        timed = _TimedLoss(loss)
        timed.clock = clock
        trainer.loss = timed
        trainer.optimizer = _TimedOptimizer(clock, optimizer)
        yield
    finally:
        trainer.loss, trainer.optimizer = loss, optimizer
        for layer, method, before in reversed(replaced):
            if before is None:
                del layer.__dict__[method]
            else:
                layer.__dict__[method] = before


class _TimedOptimizer:
    """An optimizer whose step notes its time."""

    def __init__(self, clock: _Clock, optimizer: Any) -> None:
        self._clock, self._optimizer = clock, optimizer
        self.lr = optimizer.lr
        if hasattr(optimizer, "param_groups"):  # what is not in them is not trained
            self.param_groups = optimizer.param_groups

    def step(self) -> None:
        self._clock.call("optimizer", "backward", "", self._optimizer.step)


def profile_steps(trainer: Trainer, data: Any, *, steps: int, batch_size: int) -> Profile:
    """See `Trainer.profile`."""
    steps = check_integer("steps", steps, 1)
    with rehearsal(trainer, data, batch_size) as (backend, batches):
        clock = _Clock(backend)
        with _timed(trainer, clock):
            for number in range(_WARM_UP + steps):
                if number == _WARM_UP:
                    clock.restart()
                x, targets = clock.call("data", "forward", "", next, batches)
                clock.call("rest", "forward", "", trainer._step_on, x, targets, number)
            seconds = (clock.now() - clock._origin) / steps
    kinds = {name: type(layer).__name__ for name, layer in trainer.model.named_layers()}
    layers = []
    for name, kind in [*kinds.items(), *((name, "") for name in _OTHER)]:
        times = [clock.own.get((name, direction), 0.0) / steps for direction in ("forward", "backward")]
        calls = max(clock.calls.get((name, direction), 0) for direction in ("forward", "backward")) / steps
        layers.append(LayerTime(name, kind, calls, *times))
    return Profile(steps, seconds, layers, clock.events)
