"""One training step as a graph of the device, recorded once and replayed for each batch.

::

    before a replay     batch -> static inputs, learning rate and steps -> their places on the device
    the graph           forward, loss, backward, clipping, step of the optimizer; loss, hits and norm -> one row
    after it            row -> slot of a ring, from where it is read some steps later

The graph works on the memory that it was recorded with. Parameters and the optimizer's state stay where they are.
Buffers (running statistics) are new arrays after every step of a layer: inside the graph they are copied back to where
the graph reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._precision import get_matmul_precision
from .._workspace import get_workspace_mb
from ..backends import Backend, CaptureError, backend_of, get_kernels, run
from ..backends.protocol import Array

if TYPE_CHECKING:
    from ..layers import Layer
    from .trainer import Trainer

__all__ = ["SLOTS", "WARM_UP", "CapturedStep", "Outcome", "form_of"]

WARM_UP = 2  # ordinary steps before the recording: they compile kernels and make the state of the optimizer
SLOTS = 64  # more than steps are ever left unread


class Outcome(NamedTuple):
    """What a step tells, each on the device: the mean loss, how many were right, the norm of the gradients."""

    loss: Any
    hits: Any | None
    norm: Any | None


def form_of(x: Array, targets: Array) -> tuple[Any, ...]:
    """What two batches must have in common to go through one graph."""
    return tuple(x.shape), x.dtype, tuple(targets.shape), targets.dtype


class _Buffers:
    """The buffers of a model, in the arrays that a graph works on."""

    def __init__(self, backend: Backend, model: Layer) -> None:
        self._backend = backend
        layers = [layer for _, layer in model.named_layers()]
        self._places = [(layer, name) for layer in layers for name, _ in layer._own(layer._buffer_names)]
        self._arrays = [getattr(layer, name) for layer, name in self._places]

    def fit(self) -> bool:
        """Whether what the model has now can take the place of what it had."""
        return all(
            new is old or (self._backend.owns(new) and (new.shape, new.dtype) == (old.shape, old.dtype))
            for new, old in zip([getattr(*place) for place in self._places], self._arrays, strict=True)
        )

    def prepare(self) -> None:
        """Launch what `bring_back` launches, changing nothing: before a capture kernels must be compiled and loaded."""
        for array in {array.dtype: array for array in self._arrays}.values():
            run(self._backend, "copy_tensors", [array], [array])

    def bring_back(self) -> None:
        """Copy what the model has now into the arrays of the graph, and give it those again."""
        moved: dict[Any, tuple[list[Array], list[Array]]] = {}  # by dtype: one kernel copies many small arrays
        for place, array in zip(self._places, self._arrays, strict=True):
            new = getattr(*place)
            if new is not array:
                targets, sources = moved.setdefault(array.dtype, ([], []))
                targets.append(array)
                sources.append(new)
        for targets, sources in moved.values():
            run(self._backend, "copy_tensors", targets, sources)
        self.give_back()

    def give_back(self) -> None:
        """Give the model the arrays of the graph, whatever it has now."""
        for place, array in zip(self._places, self._arrays, strict=True):
            setattr(*place, array)


class CapturedStep:
    """A step of a `Trainer`, recorded.

    Recording does nothing: the first replay is the first step.

    Parameters
    ----------
    trainer
        After `WARM_UP` ordinary steps.
    x, targets
        A batch; all later ones must have its form.

    Raises
    ------
    CaptureError
        The step cannot be recorded; the message says why. Model, optimizer and trainer are as they were.
    """

    def __init__(self, trainer: Trainer, x: Array, targets: Array) -> None:
        backend = backend_of(x=x, targets=targets)
        if type(backend).capture is Backend.capture:  # not overridden
            raise CaptureError(f"the backend {backend.name} records no graphs")
        if not hasattr(trainer.optimizer, "recording"):
            raise CaptureError(f"the optimizer {type(trainer.optimizer).__name__} has no `recording`")
        if trainer.loss_scale is not None:
            raise CaptureError("with mixed precision in float16 the host decides whether a step is taken")
        self._trainer, self._backend = trainer, backend
        self._form = form_of(x, targets)
        self._layers = [layer for _, layer in trainer.model.named_layers()]
        self._settings = self._current_settings()
        self._buffers = _Buffers(backend, trainer.model)
        with backend.running():
            self._x, self._targets = backend.xp.zeros_like(x), backend.xp.zeros_like(targets)
            self._step = backend.zeros((1,), "uint32")
            self._row = backend.zeros((3,), "float64")
            self._ring = backend.zeros((SLOTS, 3), "float64")
            for dtype in (x.dtype, "float32", "int64"):  # kernels of the library that ordinary steps have not compiled
                self._row[0] = backend.astype(backend.zeros((), dtype), "float64")
        self._buffers.prepare()
        self._has_hits = self._has_norm = False
        gradients = [(parameter, parameter.grad) for parameter in trainer.model.parameters()]
        try:
            with trainer.optimizer.recording() as self._recorded:
                graph = backend.capture(self._run)
            if graph is None:
                raise CaptureError(f"the backend {backend.name} records no graphs here")
        except BaseException as error:
            self._buffers.give_back()
            trainer.model.clear_cache()
            for parameter, gradient in gradients:
                parameter.grad = gradient
            if isinstance(error, RuntimeError) and not isinstance(error, CaptureError):  # of the optimizer
                raise CaptureError(str(error)) from error
            raise
        self._graph = graph
        self._gradients = [(parameter, parameter.grad) for parameter, _ in gradients]

    def _run(self) -> None:
        """The work of a step, on the static inputs."""
        trainer, backend, row = self._trainer, self._backend, self._row
        outcome = trainer._step_on(self._x, self._targets, self._step)
        for name, value in (("loss", outcome.loss), ("norm", outcome.norm)):
            if value is not None and not backend.owns(value):
                raise CaptureError(f"the {name} is no array of {backend.name} but {type(value).__name__}")
        self._has_hits, self._has_norm = outcome.hits is not None, outcome.norm is not None
        for place, value in enumerate(outcome):
            if value is not None:
                row[place] = backend.astype(value, "float64")  # which holds floats and counts exactly
        if not self._buffers.fit():
            raise CaptureError("a buffer of the model changes its shape or dtype in a step")
        self._buffers.bring_back()

    def _current_settings(self) -> tuple[Any, ...]:
        """What the recording depends on, besides arrays and the optimizer."""
        trainer = self._trainer
        modes = [layer.training for layer in self._layers]
        choices = (get_kernels(), get_matmul_precision(), get_workspace_mb())
        options = (trainer.clip_norm, trainer.seed, trainer.accumulate, trainer.mixed_precision)
        return trainer.model, trainer.loss, trainer.optimizer, options, modes, choices

    def is_current(self) -> bool:
        """Whether a replay still does what an ordinary step would.

        False after arrays of model or optimizer were replaced by others, after a layer was frozen or trained again, or
        when a setting has changed. Changes inside of layers are not seen.
        """
        return self._settings == self._current_settings() and self._recorded.is_current() and self._buffers.fit()

    def takes(self, x: Array, targets: Array) -> bool:
        """Whether the batch has the form of the recorded one."""
        return form_of(x, targets) == self._form

    def replay(self, x: Array, targets: Array) -> Outcome:
        """Do the step with this batch, after `is_current`; its outcome is there until `SLOTS` more steps were done."""
        trainer = self._trainer
        with self._backend.running():
            self._x[...], self._targets[...] = x, targets
            self._step[...] = trainer.step
            self._buffers.bring_back()  # of an ordinary step in between
            self._recorded.prepare_replay(checked=True)
            self._graph.replay()
            slot = self._ring[trainer.step % SLOTS]
            slot[...] = self._row
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return Outcome(slot[0], slot[1] if self._has_hits else None, slot[2] if self._has_norm else None)
