"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._checks import check_integer
from ..backends import CaptureError, asarray, backend_of, compute, get_backend, to_numpy, use_backend
from ..backends.protocol import Array, Backend
from ..data import ArrayDataset, Batches
from ..optim.clip import check_norm, clip_grad_norm
from .callbacks import Callback
from .capture import SLOTS, WARM_UP, CapturedStep, Outcome, form_of
from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from .interrupt import on_first_interrupt
from .pairs import ArrayPairs, check_source

if TYPE_CHECKING:
    from ..layers import Layer

__all__ = ["Metrics", "Trainer", "TrainingError", "load_weights"]

Loss = Callable[[Array, Array], tuple[Any, Array]]
Data = Any  # Batches, ArrayDataset or a pair of arrays

# So many steps are left unread at most, which bounds how late a loss that is not finite is noticed. The newest ones are
# left unread then: waiting for them would let the device run out of work.
_UNREAD = 50
_NEWEST = 8
assert _UNREAD < SLOTS


def _is_count(value: object, limit: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_sums(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"loss", "hits", "images"}:
        return False
    hits = value["hits"]
    return _is_real(value["loss"]) and _is_count(value["images"]) and (hits is None or _is_count(hits))


def _is_best(value: Any) -> bool:
    names = ("epoch", "val_loss", "val_accuracy")
    return value is None or (isinstance(value, dict) and all(_is_real(value.get(name)) for name in names))


_COUNT = (_is_count, "an integer of at least 0")

# What the state of a checkpoint must have; see `Trainer.save`.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: _is_count(v, 2**64), "an integer from 0 to 2**64 - 1"),
    "step": _COUNT,
    "epoch": _COUNT,
    "epoch_step": _COUNT,
    "order": (lambda v: v is None or isinstance(v, dict), "a mapping or null"),
    "sums": (_are_sums, "a mapping of loss, hits and images"),
    "seconds": (_is_real, "a number"),
    "history": (lambda v: isinstance(v, list) and all(isinstance(r, dict) for r in v), "a list of mappings"),
    "best": (_is_best, "a mapping of epoch, val_loss and val_accuracy, or null"),
    "optimizer": (lambda v: isinstance(v, dict), "a mapping"),
}


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is no longer a finite number."""


class Metrics(NamedTuple):
    """Means over images.

    Attributes
    ----------
    loss
        Mean loss.
    accuracy
        Share of images whose largest score is that of their label; NaN where there are no class labels.
    """

    loss: float
    accuracy: float


class _Step(NamedTuple):
    """A step whose loss may still be on the device."""

    number: int
    images: int
    loss: Any
    hits: Any | None
    lr: float
    norm: Any | None = None  # of the gradients, where they are clipped


class _Sums:
    """Loss and hits over an epoch.

    Steps are collected as they are and added up, in order and in double precision, when somebody asks: so no step waits
    for the device, and the sums do not depend on when they are read.
    """

    def __init__(self, loss: float = 0.0, hits: int | None = 0, images: int = 0) -> None:
        self.loss, self.hits, self.images = loss, hits, images
        self.pending: deque[_Step] = deque()
        self.losses: list[float] = []
        self._read_older: Callable[[Any], np.ndarray] = to_numpy

    def add(self, step: _Step, backend: Backend) -> None:
        """Collect a step of a backend; where there are many, the older ones are read."""
        self.pending.append(step)
        if len(self.pending) == _UNREAD - _NEWEST:
            read = backend.mark()
            self._read_older = lambda value: read(value) if backend.owns(value) else to_numpy(value)
        elif len(self.pending) >= _UNREAD:
            self._read(_UNREAD - _NEWEST, self._read_older)

    def read(self) -> Metrics:
        """Add up what is pending; TrainingError if a loss or a norm is not finite, then and ever after."""
        self._read(len(self.pending), to_numpy)
        if not self.images:
            return Metrics(math.nan, math.nan)
        return Metrics(self.loss / self.images, math.nan if self.hits is None else self.hits / self.images)

    def _read(self, count: int, bring: Callable[[Any], np.ndarray]) -> None:
        for _ in range(count):
            step = self.pending[0]
            loss = float(bring(step.loss))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss became {loss} at step {step.number}, with learning rate {step.lr:g}; try a smaller one, "
                    "clip_norm, or look for NaN and huge values in the data"
                )
            if step.norm is not None:
                try:
                    check_norm(float(bring(step.norm)))
                except FloatingPointError as error:
                    raise TrainingError(f"step {step.number}, with learning rate {step.lr:g}: {error}") from error
            self.losses.append(loss)
            self.loss += loss * step.images
            self.images += step.images
            self.hits = None if step.hits is None or self.hits is None else self.hits + int(bring(step.hits))
            self.pending.popleft()


class _StopTraining(Exception):
    """Leaves the loop from wherever it is."""


class Trainer:
    """Trains a net on batches, and can stop and continue as if nothing had happened.

    Parameters
    ----------
    model : Layer
        With ``forward``, ``backward`` and parameters.
    loss : callable
        ``loss(scores, targets) -> (mean loss, gradient to the scores)``, such as
        `xpconv.functional.softmax_cross_entropy`.
    optimizer : Optimizer or None
        One of `xpconv.optim`, made with the model's parameters. None for a trainer that only evaluates and predicts.
    schedule : callable, optional
        ``schedule(step) -> learning rate`` for step 0, 1, ...; without it the optimizer's own rate stays.
    callbacks : sequence of Callback
        Called in this order.
    seed : int
        Of the order of the data (where `fit` makes the batches) and of dropout. The initial weights are the model's.
    clip_norm : float, optional
        Gradients are scaled down together to at most this norm.
    capture : bool
        Whether to record a step as a CUDA graph and replay it for every further batch of the same shape, which spares
        the time that Python takes to start each kernel. The first steps of a `fit` and those of other shapes are run
        as always, and all results are the same. What is decided in Python is decided once: after a change inside of a
        layer, end the `fit`. Where a step cannot be recorded there is one warning, with the reason, and every step is
        run as always.

    Attributes
    ----------
    capture_reason : str or None
        Why the steps of the last `fit` could not be recorded, though that was asked for.
    history : list of dict
        One entry per epoch: ``epoch`` (from 1), ``step``, ``loss``, ``accuracy``, ``lr`` (of the last step),
        ``seconds``, with validation data also ``val_loss`` and ``val_accuracy``.
    best : dict or None
        ``epoch``, ``val_loss`` and ``val_accuracy`` of the epoch with the best validation accuracy so far; of
        equals the one with the lowest loss.
    step : int
        Steps done since the start of the first run.
    epoch : int
        Epochs finished.
    epoch_step, epoch_steps : int
        Steps done in the epoch that runs, and steps it has (0 before it is known).
    epochs : int
        Epochs that `fit` was asked for.
    batch_images : int
        Images in the last batch.
    interrupted : bool
        Whether the last `fit` ended by Ctrl-C, with a finished step.

    Examples
    --------
    >>> trainer = xpconv.Trainer(model, softmax_cross_entropy, xpconv.optim.AdamW(model.parameters(), lr=2e-3))
    >>> trainer.fit((x, labels), epochs=5, validation=(x_val, labels_val))
    >>> trainer.save("net.safetensors")
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Any,
        *,
        schedule: Callable[[int], float] | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        clip_norm: float | None = None,
        capture: bool = False,
    ) -> None:
        seed = check_integer("seed", seed, 0, 2**64 - 1)  # a plain int: checkpoints are JSON
        if clip_norm is not None:
            if isinstance(clip_norm, bool) or not isinstance(clip_norm, (int, float, np.integer, np.floating)):
                raise TypeError(f"clip_norm: expected a positive number or None, got {clip_norm!r}")
            if not clip_norm > 0:
                raise ValueError(f"clip_norm: must be positive, got {clip_norm}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.callbacks = list(callbacks)
        self.seed = seed
        self.clip_norm = clip_norm
        self.capture = bool(capture)
        self.capture_reason: str | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.step = 0
        self.epoch = 0
        self.epoch_step = 0
        self.epoch_steps = 0
        self.epochs = 0
        self.batch_images = 0
        self.interrupted = False
        self._sums = _Sums()
        self._seconds = 0.0
        self._stop = False
        self._interrupt = False
        self._order: dict[str, Any] | None = None  # what the data order of the running epoch depends on
        self._graph: CapturedStep | None = None
        self._warm_up: tuple[Any, int] = (None, 0)  # form of the last batch, and ordinary steps that it has had
        self._frozen: set[int] = set()
        self._note_frozen()

    # ---- training -------------------------------------------------------------------------------------------

    def fit(
        self, data: Data, *, epochs: int, validation: Data | None = None, batch_size: int = 128
    ) -> list[dict[str, Any]]:
        """Train until ``epochs`` epochs are done in all, those before a resume included.

        The model is in training mode then, but layers that were put in evaluation mode on their own, with
        ``layer.eval()``, stay so: they are frozen. (Of a model that is in evaluation mode as a whole, those stay so
        which were when the trainer was made, or at the last `fit`.)

        The first Ctrl-C lets the running step finish, calls ``on_interrupt`` of the callbacks and raises
        KeyboardInterrupt; the trainer may then be saved, or `fit` be called again to go on. A second one stops at once.

        Parameters
        ----------
        data : Batches, ArrayDataset, or pair of arrays (images, labels)
            A pair may be NumPy arrays or arrays of the model's backend. Batches are made on the model's backend.
        epochs : int
            Total number of epochs.
        validation : like data, optional
            Evaluated after every epoch.
        batch_size : int
            Where ``data`` is not batches already.

        Returns
        -------
        history : list of dict

        Raises
        ------
        TrainingError
            The loss of a batch, or that on the validation data, is not finite. The former is noticed 50 steps later at
            the latest, and no later than the epoch ends.
        KeyboardInterrupt
            Ctrl-C.
        ValueError
            The trainer has no optimizer; or it stands in the middle of an epoch and these batches are not those of
            that epoch.
        """
        epochs = check_integer("epochs", epochs, 0)
        self._check_optimizer("trains")
        self.epochs = epochs
        self.interrupted = self._interrupt = self._stop = False
        with self._on_model_backend():
            batches = self._batches(data, batch_size, training=True)
            held_out = None if validation is None else self._batches(validation, batch_size, training=False)
            self._check_order(batches)
            with on_first_interrupt(self._request_interrupt):
                self._call("on_fit_start")
                try:
                    self._start_training()
                    while self.epoch < epochs:
                        self._run_epoch(batches, held_out)
                        self._leave_if_asked()
                except _StopTraining:
                    pass
                except BaseException:
                    self.model.clear_cache()  # of a step that did not come to its end
                    raise
                finally:
                    self._graph = None  # its memory is not needed any more
                    for _, layer in self.model.named_layers():
                        layer._keeps = False
                self._call("on_interrupt" if self._interrupt else "on_fit_end")
            if self._interrupt:  # perhaps only while the callbacks ended the run
                self.interrupted = True
                raise KeyboardInterrupt
        return self.history

    def _note_frozen(self) -> None:
        """Remember which layers are in evaluation mode on their own."""
        if self.model.training:
            self._frozen = {id(layer) for _, layer in self.model.named_layers() if not layer.training}

    def _start_training(self) -> None:
        """Training mode, but for frozen layers."""
        self._note_frozen()
        for _, layer in self.model.named_layers():
            layer.training = id(layer) not in self._frozen
        self._graph, self._warm_up, self.capture_reason = None, (None, 0), None

    def stop(self) -> None:
        """Ask `fit` to return after the running step; for callbacks."""
        self._stop = True

    def _request_interrupt(self) -> None:
        self._interrupt = True

    def _leave_if_asked(self) -> None:
        if self._interrupt or self._stop:
            raise _StopTraining

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, method)(self, *arguments)

    def _run_epoch(self, batches: Batches | ArrayPairs, held_out: Batches | ArrayPairs | None) -> None:
        clock = time.monotonic()
        self.epoch_steps = len(batches)
        try:
            for x, targets in batches.epoch(self.epoch, start=self.epoch_step):
                self._train_step(x, targets)
                self._call("on_step_end")
                self._leave_if_asked()
            record = {"epoch": self.epoch + 1, "step": self.step, **self._sums.read()._asdict()}
            record["lr"] = self.optimizer.lr
            if held_out is not None:
                # a Ctrl-C in here leaves an epoch of which only this part is missing
                metrics = self._measure(held_out, self._leave_if_asked)
                if len(held_out) and not math.isfinite(metrics.loss):
                    raise TrainingError(
                        f"validation loss became {metrics.loss} in epoch {self.epoch + 1}, after step {self.step}, "
                        f"with learning rate {self.optimizer.lr:g}; try a smaller one, clip_norm, or look for NaN "
                        "and huge values in the validation data"
                    )
                record |= {"val_loss": metrics.loss, "val_accuracy": metrics.accuracy}
        finally:
            self._seconds += time.monotonic() - clock
        record["seconds"] = round(self._seconds, 3)
        self._finish_epoch(record)

    def _train_step(self, x: Array, targets: Array) -> None:
        lr = self.optimizer.lr if self.schedule is None else float(self.schedule(self.step))
        self.optimizer.lr = lr
        graph = self._graph_for(x, targets)
        outcome = self._step_on(x, targets, self.step) if graph is None else graph.replay(x, targets)
        self.batch_images = x.shape[0]
        step = _Step(self.step, x.shape[0], outcome.loss, outcome.hits, lr, outcome.norm)
        self.step += 1
        self.epoch_step += 1
        self._sums.add(step, backend_of(x=x))

    def _step_on(self, x: Array, targets: Array, step: Any) -> Outcome:
        """A step on a batch; ``step`` is its number, in a graph an array on the device."""
        self.model.begin_step(step, self.seed)
        for _, layer in self.model.named_layers():
            layer._keeps = not layer.training  # it is frozen, and the way back leads through it
        self.model.zero_grad()
        scores = self.model.forward(x)
        loss, dscores = self.loss(scores, targets)
        self.model.backward(dscores)
        norm = None
        if self.clip_norm is not None:
            try:
                norm = clip_grad_norm(self.model.parameters(), self.clip_norm)
            except FloatingPointError as error:
                raise TrainingError(f"step {self.step}, with learning rate {self.optimizer.lr:g}: {error}") from error
        self.optimizer.step()
        return Outcome(loss, _hits(scores, targets), norm)

    def _graph_for(self, x: Array, targets: Array) -> CapturedStep | None:
        """The recorded step for this batch, recorded now if it is time; None where it takes an ordinary step."""
        if not self.capture or self.capture_reason is not None:
            return None
        if self._graph is not None and not self._graph.is_current():
            self._graph, self._warm_up = None, (None, 0)
        if self._graph is not None:
            return self._graph if self._graph.takes(x, targets) else None
        form = form_of(x, targets)
        steps = self._warm_up[1] if self._warm_up[0] == form else 0
        self._warm_up = (form, steps + 1)
        if steps < WARM_UP:
            return None
        try:
            self._graph = CapturedStep(self, x, targets)
        except CaptureError as error:
            self.capture_reason = str(error)
            warnings.warn(f"capture: steps are not recorded: {error}", RuntimeWarning, stacklevel=2)
        return self._graph

    def _finish_epoch(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        accuracy, loss = record.get("val_accuracy", math.nan), record.get("val_loss", math.nan)
        if not math.isnan(accuracy) and math.isfinite(loss):
            best = self.best
            if best is None or (accuracy, -loss) > (best["val_accuracy"], -best["val_loss"]):
                self.best = {"epoch": record["epoch"], "val_loss": loss, "val_accuracy": accuracy}
        self.epoch += 1
        self.epoch_step = 0
        self._sums = _Sums()
        self._seconds = 0.0
        self._call("on_epoch_end", record)

    def running(self) -> Metrics:
        """Loss and accuracy of the epoch so far, while the weights were changing; waits for the device."""
        return self._sums.read()

    @property
    def losses(self) -> list[float]:
        """Loss of every step of this epoch that was run here; waits for the device."""
        self._sums.read()
        return list(self._sums.losses)

    # ---- evaluation -----------------------------------------------------------------------------------------

    def evaluate(self, data: Data, *, batch_size: int = 256) -> Metrics:
        """Loss and accuracy on ``data`` (as for `fit`), the net in evaluation mode and the data not augmented."""
        with self._on_model_backend():
            return self._measure(self._batches(data, batch_size, training=False), lambda: None)

    def predict(self, x: Any, *, batch_size: int = 256) -> Array:
        """Scores of ``x``, an array of the model's backend; in evaluation mode.

        Parameters
        ----------
        x : array (N, ...)
            Of NumPy or of the model's backend, in the model's dtype, normalised as in training.
        batch_size : int
            How many go through the net at a time.

        Returns
        -------
        scores : array (N, classes)

        Raises
        ------
        BackendMismatchError
            An array of a third backend.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        with self._on_model_backend() as backend, self._evaluating():
            check_source("x", x)
            parts = []
            for start in range(0, max(x.shape[0], 1), batch_size):
                parts.append(self.model.forward(asarray(x[start : start + batch_size], backend=backend)))
            return parts[0] if len(parts) == 1 else compute(backend, "concat", backend.xp.concat, parts)

    def _measure(self, batches: Batches | ArrayPairs, between: Callable[[], None]) -> Metrics:
        loss_sum, hit_sum, images = 0.0, 0.0, 0
        pending: list[_Step] = []
        with self._evaluating():
            for x, targets in batches.epoch(0):
                scores = self.model.forward(x)
                pending.append(_Step(0, x.shape[0], self.loss(scores, targets)[0], _hits(scores, targets), 0.0))
                between()
        for part in pending:
            loss_sum += float(to_numpy(part.loss)) * part.images
            hit_sum += math.nan if part.hits is None else int(to_numpy(part.hits))
            images += part.images
        return Metrics(loss_sum / images, hit_sum / images) if images else Metrics(math.nan, math.nan)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(layer, layer.training, layer._keeps) for _, layer in self.model.named_layers()]
        for layer, _, _ in modes:
            layer.training = layer._keeps = False
        try:
            yield
        finally:
            for layer, training, keeps in modes:  # each its own: some may be frozen
                layer.training, layer._keeps = training, keeps

    # ---- data -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _on_model_backend(self) -> Iterator[Backend]:
        parameters: Iterable[Any] = self.model.parameters()
        first = next(iter(parameters), None)
        backend = get_backend() if first is None else backend_of(parameter=first.data)
        # both: where layers of a user's own compute, and where new arrays are born
        with use_backend(backend.name), backend.running():
            yield backend

    def _batches(self, data: Data, batch_size: int, *, training: bool) -> Batches | ArrayPairs:
        """The batches of ``data``: shuffled and augmented in training, in order and as they are otherwise."""
        if isinstance(data, Batches):
            if training:
                return data
            return Batches(
                data.dataset,
                data.batch_size,
                shuffle=False,
                transform=data.transform,
                dtype=data.dtype,
                backend=data.backend,
                training=False,
                placement=data.placement,
            )
        parameter = next(iter(self.model.parameters()), None)
        dtype = "float32" if parameter is None else get_backend().dtype_name(parameter.data)
        if not isinstance(data, ArrayDataset):
            try:
                images, targets = data
            except (TypeError, ValueError):
                raise TypeError(
                    f"data: expected Batches, an ArrayDataset or a pair (images, labels), got {type(data).__name__}"
                ) from None
            if not _is_labelled_images(images, targets):
                return ArrayPairs(images, targets, batch_size, shuffle=training, seed=self.seed, dtype=dtype)
            data = ArrayDataset(images, targets)
        return Batches(data, batch_size, shuffle=training, seed=self.seed, dtype=dtype)

    def _check_optimizer(self, does: str) -> None:
        if self.optimizer is None:
            raise ValueError(f"optimizer: a trainer that {does} needs one, got None")

    def _check_order(self, batches: Batches | ArrayPairs) -> None:
        """A started epoch can only go on with the batches that it was started with."""
        order = {"batches": len(batches), "batch_size": batches.batch_size, "seed": batches.seed}
        if self.epoch_step and order != self._order:
            raise ValueError(
                f"data: epoch {self.epoch + 1} was left after {self.epoch_step} steps of {self._order} and cannot go "
                f"on with {order}"
            )
        self._order = order

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint to ``path``, atomically: weights, optimizer, and where in which epoch the run stands.

        Raises
        ------
        CheckpointError
            It cannot be written; an earlier file stays whole.
        TrainingError
            The loss is not finite any more, so the weights are worthless.
        """
        self._check_optimizer("saves a checkpoint")
        self._sums.read()
        optimizer = self.optimizer.state_dict()
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": array for name, array in optimizer["arrays"].items()}
        state = {
            "kind": "trainer",
            "seed": self.seed,
            "step": self.step,
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "order": self._order,
            "sums": {"loss": self._sums.loss, "hits": self._sums.hits, "images": self._sums.images},
            "seconds": self._seconds,
            "history": self.history,
            "best": self.best,
            "optimizer": optimizer["settings"],
        }
        write_checkpoint(path, arrays, state)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        model: Layer,
        loss: Loss,
        optimizer: Any,
        *,
        schedule: Callable[[int], float] | None = None,
        callbacks: Sequence[Callback] = (),
        clip_norm: float | None = None,
        capture: bool = False,
    ) -> Trainer:
        """A trainer that continues from a checkpoint of `save`, bit for bit on the same backend.

        Parameters
        ----------
        path
            The checkpoint.
        model, loss, optimizer, schedule, callbacks, clip_norm, capture
            As they were (but for capture, which changes no result); of model and optimizer the state is overwritten.

        Raises
        ------
        CheckpointError
            The file cannot be read or does not fit the model or the optimizer; both are then unchanged.
        """
        checkpoint = _read_trainer(path)
        state = checkpoint.state
        trainer = cls(
            model,
            loss,
            optimizer,
            schedule=schedule,
            callbacks=callbacks,
            seed=state["seed"],
            clip_norm=clip_norm,
            capture=capture,
        )
        trainer._check_optimizer("continues")
        before = model.state_dict()
        _load_model(path, model, checkpoint.arrays)
        try:
            optimizer.load_state_dict(
                {"arrays": _below("optimizer.", checkpoint.arrays), "settings": state["optimizer"]}
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            model.load_state_dict(before)
            raise CheckpointError(f"{os.fspath(path)}: does not fit the optimizer: {error}") from error
        for name in ("step", "epoch", "epoch_step", "history", "best"):
            setattr(trainer, name, state[name])
        trainer._order = state["order"]
        trainer._sums = _Sums(**state["sums"])
        trainer._seconds = state["seconds"]
        return trainer


def load_weights(path: str | os.PathLike[str], model: Layer) -> dict[str, Any]:
    """Load the weights of a checkpoint of `Trainer.save` into ``model``; returns its ``step``, ``epoch`` and ``best``.

    Raises
    ------
    CheckpointError
        The file cannot be read or does not fit the model, which is then unchanged.
    """
    checkpoint = _read_trainer(path)
    _load_model(path, model, checkpoint.arrays)
    return {name: checkpoint.state[name] for name in ("step", "epoch", "best")}


def _read_trainer(path: str | os.PathLike[str]) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint.state.get("kind") != "trainer":
        raise CheckpointError(f"{os.fspath(path)}: not a checkpoint of a Trainer")
    for name in _CHECKS:
        if name not in checkpoint.state:
            raise CheckpointError(f"{os.fspath(path)}: its training state has no {name!r}")
    for name, (test, words) in _CHECKS.items():
        value = checkpoint.state[name]
        if not test(value):
            raise CheckpointError(
                f"{os.fspath(path)}: {name!r} of its training state: expected {words}, got {value!r:.60}"
            )
    return checkpoint


def _below(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _load_model(path: str | os.PathLike[str], model: Layer, arrays: dict[str, Any]) -> None:
    try:
        model.load_state_dict(_below("model.", arrays))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{os.fspath(path)}: does not fit the model: {error}") from error


def _hits(scores: Array, targets: Array) -> Array | None:
    """How many of the largest scores (N, K) are those of the labels (N,); None where targets are no labels."""
    if len(scores.shape) != 2 or len(targets.shape) != 1:
        return None
    backend = backend_of(scores=scores, targets=targets)
    if backend.is_floating(targets):
        return None
    with backend.running():
        guess = backend.xp.argmax(scores, axis=1)
        return backend.xp.sum(backend.xp.astype(guess == backend.astype(targets, guess.dtype), guess.dtype))


def _is_labelled_images(images: Any, targets: Any) -> bool:
    """Whether these are host arrays for `ArrayDataset`, which checks them more closely than `ArrayPairs` can."""
    return (
        isinstance(images, np.ndarray)
        and type(images).__module__.startswith("numpy")  # not a subclass that another backend owns
        and images.ndim == 4
        and (not isinstance(targets, np.ndarray) or (targets.ndim == 1 and targets.dtype.kind in "iu"))
    )
