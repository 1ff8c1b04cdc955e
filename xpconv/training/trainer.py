"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import check_integer, check_number, is_number
from ..backends import CaptureError, asarray, backend_of, compute, get_backend, to_numpy, use_backend
from ..backends.protocol import Array, Backend
from ..data import Batches
from ..distributed.communicator import Communicator
from ..distributed.gradients import name_of_non_finite
from ..layers._untrained import ending_early
from .average import WeightAverage
from .callbacks import Callback
from .capture import WARM_UP, CapturedStep, Outcome, form_of
from .checkpoint import write_checkpoint
from .interrupt import Preempted, on_first_interrupt
from .metrics import Metrics, count_hits, takes_probabilities
from .mixed import LossScale, check_half_type
from .pairs import ArrayPairs, batches_of, check_source
from .ranks import Ranks
from .state import contents_of, read_trainer, restore
from .step import clip, gradients
from .sums import StepResult, Sums, TrainingError
from .weighting import class_weights, mean_over_examples, total_weight

if TYPE_CHECKING:
    from ..layers import Layer
    from .lr_finder import LearningRates
    from .profile import Profile

__all__ = ["Trainer"]

Loss = Callable[[Array, Array], tuple[Any, Array]]
Metric = Callable[[np.ndarray, np.ndarray], float]
Data = Any  # Batches, a Dataset or a pair of arrays

_OWN_METRICS = ("loss", "accuracy")
_LEAST_SCALE = 2.0**-24


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
        `xpconv.functional.softmax_cross_entropy`; options, such as class weights, in a `functools.partial`. One of your
        own is a mean over the examples.
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
    ema : float, optional
        Decay of an exponential moving average of the weights, such as 0.999: see `WeightAverage`. `fit` trains the
        weights and validates the average, `evaluate` and `predict` use it, checkpoints have both.
    accumulate : int
        A batch goes through the net in so many parts, one after the other, whose gradients are added up, each weighted
        by its examples: the same step in less memory, if the loss is a mean over the examples, or
        `xpconv.functional.softmax_cross_entropy` with class weights. Batch normalisation sees a part at a time.
    mixed_precision : str, optional
        ``"float16"`` or ``"bfloat16"``, where the backend has it: forward and backward in that type, normalisation, the
        loss, weights and their updates in float32. With float16 the loss is scaled, see `LossScale`: a step whose
        gradients overflow is not taken. Evaluation is in float32.
    metrics : mapping of callables, optional
        By name: ``metric(scores, targets) -> number`` for the NumPy arrays of a whole data set, such as
        `xpconv.training.top_k_accuracy` or, for regression, `xpconv.training.r2`. Measured on validation data.
    capture : bool
        Whether to record a step as a CUDA graph and replay it for every further batch of the same shape, which spares
        the time that Python takes to start each kernel. The first steps of a `fit` and those of other shapes are run
        as always, and all results are the same. What is decided in Python is decided once: after a change inside of a
        layer, end the `fit`. Where a step cannot be recorded there is one warning, with the reason, and every step is
        run as always.
    comm : Communicator, optional
        Of `xpconv.distributed`: this trainer is one of several ranks, each with the whole model, that share the work of
        every batch. ``batch_size`` is that of all ranks together, and gradients, losses and metrics are those of whole
        batches, so that a run does not depend on the number of ranks but for rounding. All ranks call the same methods
        in the same order; only rank 0 writes files. Running statistics of batch normalisation are averaged over the
        ranks after every step.
    sync_batch_norm : bool
        With several ranks, whether batch normalisation takes the statistics of the whole batch, as a single process
        does, instead of those of each rank's share.
    check_ranks : int
        After so many steps the ranks compare hashes of their weights, to find what makes them drift apart; 0: never.

    Attributes
    ----------
    capture_reason : str or None
        Why the steps of the last `fit` could not be recorded, though that was asked for.
    classes : tuple of str or None
        Names of the classes of the data of the last `fit`, where they have names; kept in checkpoints.
    history : list of dict
        One entry per epoch: ``epoch`` (from 1), ``step``, ``loss``, ``accuracy``, ``lr`` (of the last step),
        ``seconds``, with validation data also ``val_loss``, ``val_accuracy`` and ``val_NAME`` for every metric.
    best : dict or None
        ``epoch``, ``val_loss`` and ``val_accuracy`` of the epoch with the best validation accuracy so far; of
        equals, or where there is no accuracy, the one with the lowest loss.
    loss_scale : LossScale or None
        With mixed precision in float16.
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

    Raises
    ------
    TypeError, ValueError
        A setting that is out of range or of the wrong type, a callback that is no `Callback`, a metric that cannot be
        called or has the name of another column, a mixed_precision that the backend lacks. The message names the
        argument.

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
        ema: float | None = None,
        accumulate: int = 1,
        mixed_precision: str | None = None,
        metrics: Mapping[str, Metric] | None = None,
        capture: bool = False,
        comm: Communicator | None = None,
        sync_batch_norm: bool = False,
        check_ranks: int = 0,
    ) -> None:
        seed = check_integer("seed", seed, 0, 2**64 - 1)  # a plain int: checkpoints are JSON
        if clip_norm is not None:
            if isinstance(clip_norm, bool) or not isinstance(clip_norm, (int, float, np.integer, np.floating)):
                raise TypeError(f"clip_norm: expected a positive number or None, got {clip_norm!r}")
            if not clip_norm > 0:
                raise ValueError(f"clip_norm: must be positive, got {clip_norm}")
        if ema is not None and not check_number("ema", ema, 0, 1) < 1:
            raise ValueError(f"ema: must be below 1, got {ema}")
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks: expected instances of Callback, got {callbacks!r:.200}")
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: expected instances of Callback, got {callback!r:.200}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self.clip_norm = clip_norm
        check_half_type(model, mixed_precision)
        self.accumulate = check_integer("accumulate", accumulate, 1)
        self.mixed_precision = mixed_precision
        self.loss_scale = LossScale() if mixed_precision == "float16" else None
        self.metrics = _checked_metrics(metrics)
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
        self._sums = Sums()
        self._seconds = 0.0
        self._stop = False
        self._interrupt = False
        self._preempted = False
        self._wants_stop = self._wants_interrupt = self._wants_preemption = False  # here; see _agree
        self.classes: tuple[str, ...] | None = None
        self._order: dict[str, Any] | None = None  # what the data order of the running epoch depends on
        self._graph: CapturedStep | None = None
        self._warm_up: tuple[Any, int] = (None, 0)  # form of the last batch, and ordinary steps that it has had
        self._average = None if ema is None else WeightAverage(model, float(ema))
        self._frozen: set[int] = set()
        self._note_frozen()
        self.comm = _checked_communicator(comm)
        check_every = check_integer("check_ranks", check_ranks, 0)
        self._ranks: Ranks | None = None
        if self.comm is not None and self.comm.size > 1:
            self._ranks = Ranks(self.comm, self, bool(sync_batch_norm), check_every)

    # ---- training -------------------------------------------------------------------------------------------

    def fit(
        self, data: Data, *, epochs: int, validation: Data | None = None, batch_size: int = 128
    ) -> list[dict[str, Any]]:
        """Train until ``epochs`` epochs are done in all, those before a resume included.

        The model is in training mode then, but layers that were put in evaluation mode on their own, with
        ``layer.eval()``, stay so: they are frozen. (Of a model that is in evaluation mode as a whole, those stay so
        which were when the trainer was made, or at the last `fit`.) Which parameters are trained is said by the
        optimizer; the gradients of layers in front of all of them are not computed.

        The first Ctrl-C lets the running step finish, calls ``on_interrupt`` of the callbacks and raises
        KeyboardInterrupt; the trainer may then be saved, or `fit` be called again to go on. A second one stops at once.
        SIGTERM, with which schedulers announce that a job has to go, does the same and raises `Preempted`, which ends
        the program with exit code 75 unless it is caught; so does SIGUSR1, which mpiexec passes on to its ranks. With
        several ranks it is enough that one of them is told.

        Parameters
        ----------
        data : Batches, Dataset, or pair of arrays (images, labels)
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
        KeyboardInterrupt, Preempted
            Ctrl-C, SIGTERM.
        DistributedError
            The ranks are not about to do the same; the message, the same on all of them, says what differs.
        ValueError
            The trainer has no optimizer; or it stands in the middle of an epoch and these batches are not those of
            that epoch.
        """
        epochs = check_integer("epochs", epochs, 0)
        self._check_optimizer("trains")
        self.epochs = epochs
        self.interrupted = self._interrupt = self._stop = self._preempted = False
        self._wants_interrupt = self._wants_stop = self._wants_preemption = False
        with self._on_model_backend():
            batches = self._batches(data, batch_size, training=True)
            held_out = None if validation is None else self._batches(validation, batch_size, training=False)
            self._check_order(batches)
            if isinstance(batches, Batches) and batches.dataset.class_names is not None:
                self.classes = batches.dataset.class_names
            with on_first_interrupt(self._request_interrupt), self._together(batches, held_out, epochs):
                batches, held_out = self._share_of(batches), self._share_of(held_out)
                self._call("on_fit_start")
                try:
                    self._start_training()
                    self._leave_if_asked()  # an early stop that was there before a resume
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
                self._agree(now=True)
                self._call("on_interrupt" if self._interrupt else "on_fit_end")
                self._agree(now=True)
            if self._interrupt:  # perhaps only while the callbacks ended the run
                self.interrupted = True
                raise Preempted if self._preempted else KeyboardInterrupt
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
        """Ask `fit` to return after the running step; for callbacks. With several ranks one is enough."""
        self._wants_stop = True

    def _request_interrupt(self, number: int) -> None:
        self._wants_interrupt = True
        self._wants_preemption = self._wants_preemption or number != signal.SIGINT

    def _agree(self, now: bool = False) -> None:
        """What was asked for here is done; with several ranks when all of them know."""
        wishes = self._wants_interrupt, self._wants_stop, self._wants_preemption
        known = wishes if self._ranks is None else self._ranks.any(*wishes, now=now)
        self._interrupt, self._stop, self._preempted = known

    def _leave_if_asked(self) -> None:
        self._agree()
        if self._interrupt or self._stop:
            raise _StopTraining

    @contextlib.contextmanager
    def _together(self, batches: Any, held_out: Any, epochs: int) -> Iterator[None]:
        """Inside the block a run goes on, with several ranks on all of them alike."""
        with contextlib.nullcontext() if self._ranks is None else self._ranks.running(batches, held_out, epochs):
            yield

    def _share_of(self, batches: Any) -> Any:
        """With several ranks this one's share of batches."""
        return batches if self._ranks is None or batches is None else self._ranks.split(batches)

    def _call(self, method: str, *arguments: Any) -> None:
        # those that save last: what they save has the state of all
        for callback in sorted(self.callbacks, key=lambda callback: callback.saves):
            try:
                getattr(callback, method)(self, *arguments)
            except Exception as error:
                error.add_note(f"raised in {type(callback).__name__}.{method}")
                raise

    def _run_epoch(self, batches: Batches | ArrayPairs, held_out: Batches | ArrayPairs | None) -> None:
        clock = time.monotonic()
        self.epoch_steps = len(batches)
        try:
            self._call("on_epoch_start")
            for x, targets in batches.epoch(self.epoch, start=self.epoch_step):
                self._train_step(x, targets, batches.step_size(self.epoch_step))
                self._call("on_step_end")
                self._leave_if_asked()
            record = {"epoch": self.epoch + 1, "step": self.step, **self._sums.read()._asdict()}
            record["lr"] = self.optimizer.lr
            if held_out is not None:
                # a Ctrl-C in here leaves an epoch of which only this part is missing
                metrics, more = self._measure(held_out, self._leave_if_asked)
                if len(held_out) and not math.isfinite(metrics.loss):
                    raise TrainingError(
                        f"validation loss became {metrics.loss} in epoch {self.epoch + 1}, after step {self.step}, "
                        f"with learning rate {self.optimizer.lr:g}; try a smaller one, clip_norm, or look for NaN "
                        "and huge values in the validation data"
                    )
                record |= {"val_loss": metrics.loss, "val_accuracy": metrics.accuracy}
                record |= {f"val_{name}": value for name, value in more.items()}
        finally:
            self._seconds += time.monotonic() - clock
        record["seconds"] = round(self._seconds, 3)
        self._finish_epoch(record)

    def _train_step(self, x: Array, targets: Array, images: int | None = None) -> None:
        """A step on a batch of so many images, of which with several ranks these are a share."""
        images = x.shape[0] if images is None else images
        lr = self.optimizer.lr if self.schedule is None else float(self.schedule(self.step))
        self.optimizer.lr = lr
        graph = self._graph_for(x, targets)
        outcome = self._step_on(x, targets, self.step, images) if graph is None else graph.replay(x, targets)
        if self._average is not None:
            self._average.update()
        self.batch_images = images
        step = StepResult(self.step, images, outcome.loss, outcome.hits, lr, outcome.norm)
        self.step += 1
        self.epoch_step += 1
        self._sums.add(step, backend_of(x=x))
        if self._ranks is not None:
            self._ranks.check_weights()

    def _step_on(self, x: Array, targets: Array, step: Any, images: int | None = None) -> Outcome:
        """A step on a batch; ``step`` is its number, in a graph an array on the device."""
        first = 0 if self._ranks is None or images is None else self._ranks.first_example(images)
        self.model.begin_step(step, self.seed, first_example=first)
        with ending_early(self.model, self._trained()):
            for _, layer in self.model.named_layers():
                # one in evaluation mode is frozen, but the way back may lead through it
                layer._keeps = not layer.training and not layer._untrained
            loss, hits = gradients(self, x, targets, images)
        norm, finite = clip(self)
        if self.loss_scale is not None:
            self._update_scale(finite)
        if finite:
            self.optimizer.step()
        return Outcome(loss, hits, norm)

    def _trained(self) -> set[int]:
        """The ``id`` of each parameter that the optimizer has; one without groups has all of the model."""
        groups = getattr(self.optimizer, "param_groups", None)
        found = self.model.parameters() if groups is None else (p for group in groups for p in group["params"])
        return {id(parameter) for parameter in found}

    def _update_scale(self, finite: bool) -> None:
        scale = self.loss_scale
        assert scale is not None
        scale.update(finite)
        if scale.scale < _LEAST_SCALE:
            where = None if self._ranks is None else self._ranks.mean.not_finite
            where = where or f"the gradient of {name_of_non_finite(self.model)} is not finite"
            raise TrainingError(
                f"step {self.step}: gradients overflow {self.mixed_precision} even with a loss scale of "
                f"{scale.scale:g}: {where}; look for NaN and huge values in data or weights, or train in bfloat16 or "
                "float32"
            )

    def _graph_for(self, x: Array, targets: Array) -> CapturedStep | None:
        """The recorded step for this batch, recorded now if it is time; None where it takes an ordinary step."""
        if not self.capture or self.capture_reason is not None:
            return None
        if self._ranks is not None:
            self.capture_reason = "what several ranks send to each other cannot be recorded"
            warnings.warn(f"capture: steps are not recorded: {self.capture_reason}", RuntimeWarning, stacklevel=2)
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
        if math.isfinite(loss):
            best = self.best
            if best is None or _rank(accuracy, loss) > _rank(best["val_accuracy"], best["val_loss"]):
                self.best = {"epoch": record["epoch"], "val_loss": loss, "val_accuracy": accuracy}
        self.epoch += 1
        self.epoch_step = 0
        self._sums = Sums()
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
        """Loss and accuracy on ``data`` (as for `fit`), the net in evaluation mode and the data not augmented.

        Parameters
        ----------
        data
            As for `fit`.
        batch_size
            Of the batches that are made of arrays.

        Returns
        -------
        Metrics
            Means over all examples.

        Raises
        ------
        TypeError, ValueError
            Data or a batch_size that `fit` would not take.
        BackendMismatchError
            Batches of another backend than the model's.
        """
        with self._on_model_backend():
            batches = self._share_of(self._batches(data, batch_size, training=False))
            return self._measure(batches, lambda: None, more=False)[0]

    def report(self, data: Data, *, batch_size: int = 256) -> dict[str, float]:
        """``loss``, ``accuracy`` and every metric of ``metrics`` on ``data``, as in `evaluate`.

        Parameters
        ----------
        data
            As for `fit`.
        batch_size
            Of the batches that are made of arrays.

        Returns
        -------
        dict
            Numbers by name.

        Raises
        ------
        TypeError, ValueError
            As for `evaluate`; also a metric that gives no number.
        """
        with self._on_model_backend():
            metrics, more = self._measure(self._share_of(self._batches(data, batch_size, training=False)), lambda: None)
        return metrics._asdict() | more

    def predict(self, x: Any, *, batch_size: int = 256) -> Array:
        """Scores of ``x``, an array of the model's backend; in evaluation mode.

        With several ranks all have the same ``x``, each does its share, and all get the scores of all.

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
        TypeError, ValueError
            Not an array, or a batch_size that is no positive integer.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        with self._on_model_backend() as backend, self._evaluating():
            check_source("x", x)

            def scores(rows: slice) -> Array:
                parts = []
                for start in range(rows.start, max(rows.stop, rows.start + 1), batch_size):
                    part = x[start : min(start + batch_size, rows.stop)]
                    parts.append(self.model.forward(asarray(part, backend=backend)))
                return parts[0] if len(parts) == 1 else compute(backend, "concat", backend.xp.concat, parts)

            if self._ranks is None:
                return scores(slice(0, x.shape[0]))
            return backend.asarray(self._ranks.scores_of_all(scores, x.shape[0]))

    # ---- before a run ---------------------------------------------------------------------------------------

    def find_lr(
        self, data: Data, *, start: float = 1e-6, end: float = 10.0, steps: int = 100, batch_size: int = 128
    ) -> LearningRates:
        """The loss in steps whose learning rate grows: a range test (Smith 2015, arXiv:1506.01186).

        Everything, the weights and the state of the optimizer included, is afterwards as it was. A rank that calls this
        works for itself, with whole batches.

        Parameters
        ----------
        data, batch_size
            As for `fit`.
        start, end : float
            The first and the last rate; between them it grows by the same factor from step to step.
        steps : int
            At least 10. It ends sooner where the loss is 4 times its smallest, or no longer finite.

        Returns
        -------
        LearningRates
            With a ``suggestion`` and a picture, ``draw(path)``.

        Raises
        ------
        TrainingError
            The loss or the gradients of the first step are not finite.
        TypeError, ValueError
            Naming the argument that is wrong; or the trainer has no optimizer.
        """
        from .lr_finder import find_learning_rate

        return find_learning_rate(self, data, start=start, end=end, steps=steps, batch_size=batch_size)

    def profile(self, data: Data, *, steps: int = 10, batch_size: int = 128) -> Profile:
        """Where the time of a training step goes, layer by layer.

        After two steps to warm up, ``steps`` steps are measured; then everything is as it was, as after `find_lr`. On a
        device every layer is waited for, so that its time is its own: the steps take longer than those of a run. A rank
        that calls this works for itself, with whole batches, and no message is among the times.

        Parameters
        ----------
        data, batch_size
            As for `fit`.
        steps : int
            At least 1.

        Returns
        -------
        Profile
            With a ``table()`` and ``write_trace(path)``, for chrome://tracing.
        """
        from .profile import profile_steps

        return profile_steps(self, data, steps=steps, batch_size=batch_size)

    def _measure(
        self, batches: Batches | ArrayPairs, between: Callable[[], None], *, more: bool = True
    ) -> tuple[Metrics, dict[str, float]]:
        """Loss and accuracy, and if ``more`` the metrics of the user, with a call ``between`` two batches."""
        loss_sum, hit_sum, images, total = 0.0, 0.0, 0.0, 0.0
        pending: list[tuple[int, Array, Array | None, Any]] = []
        kept: list[tuple[Array, Array]] = []
        with self._evaluating():
            for x, targets in batches.epoch(0):
                if not x.shape[0]:  # a rank for which there was nothing left
                    between()
                    continue
                scores = self.model.forward(x)
                weight, divisor = class_weights(self.loss, targets), x.shape[0]
                if weight is None:
                    loss = self.loss(scores, targets)[0]
                else:
                    loss = mean_over_examples(self.loss, scores, targets)[0]
                    divisor = total_weight(weight, targets, scores.dtype)
                pending.append((x.shape[0], loss, self._hits(scores, targets), divisor))
                if more and self.metrics:
                    kept.append((scores, targets))
                between()
        for count, loss, hits, divisor in pending:
            loss_sum += float(to_numpy(loss)) * count
            hit_sum += math.nan if hits is None else int(to_numpy(hits))
            images += count
            total += float(divisor) if isinstance(divisor, (int, float)) else float(to_numpy(divisor))
        if self._ranks is not None:
            loss_sum, hit_sum, images, total = self._ranks.add_up(loss_sum, hit_sum, images, total)
        metrics = Metrics(loss_sum / total if total else math.nan, hit_sum / images if images else math.nan)
        if not images or not more or not self.metrics:
            return metrics, {}
        whole = [np.concatenate([to_numpy(array) for array in arrays]) for arrays in zip(*kept, strict=True)]
        if self._ranks is not None:
            whole = [self._ranks.rows_of_batches(whole[k] if kept else None, batches) for k in range(2)]
        return metrics, {name: _value_of(name, metric(whole[0], whole[1])) for name, metric in self.metrics.items()}

    def _hits(self, scores: Array, targets: Array) -> Array | None:
        return count_hits(scores, targets, probabilities=takes_probabilities(self.loss))

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside the block the model has its averaged weights, where there are some: with ``ema``, after a step."""
        with contextlib.nullcontext() if self._average is None else self._average.applied():
            yield

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(layer, layer.training, layer._keeps) for _, layer in self.model.named_layers()]
        for layer, _, _ in modes:
            layer.training = layer._keeps = False
        try:
            with self.averaged_weights():
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
        parameter = next(iter(self.model.parameters()), None)
        dtype = "float32" if parameter is None else get_backend().dtype_name(parameter.data)
        return batches_of(data, batch_size, training=training, seed=self.seed, dtype=dtype)

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

        With several ranks rank 0 writes it; it can be resumed by any number of them.

        Parameters
        ----------
        path
            The file; its folder must exist. An earlier file is replaced once the new one is complete.

        Raises
        ------
        CheckpointError
            It cannot be written; an earlier file stays whole.
        TrainingError
            The loss is not finite any more, so the weights are worthless.
        ValueError
            The trainer has no optimizer.
        """
        self._check_optimizer("saves a checkpoint")
        self._sums.read()
        if self.comm is None or self.comm.rank == 0:
            write_checkpoint(path, *contents_of(self))

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
        ema: float | None = None,
        accumulate: int = 1,
        mixed_precision: str | None = None,
        metrics: Mapping[str, Metric] | None = None,
        capture: bool = False,
        comm: Communicator | None = None,
        sync_batch_norm: bool = False,
        check_ranks: int = 0,
    ) -> Trainer:
        """A trainer that continues from a checkpoint of `save`, bit for bit on the same backend.

        Parameters
        ----------
        path
            The checkpoint.
        model, loss, optimizer, schedule, callbacks, clip_norm, ema, accumulate, mixed_precision, metrics, capture
            As they were (but for capture, which changes no result); of model, optimizer and callbacks the state is
            overwritten. The state of callbacks is given to those of the same class, in order; one for which there is
            none starts anew.
        comm, sync_batch_norm, check_ranks
            As for `Trainer`; the number of ranks may be another one than before.

        Returns
        -------
        Trainer
            At the step of the checkpoint.

        Raises
        ------
        CheckpointError
            The file cannot be read or does not fit the model or the optimizer; both are then unchanged.
        """
        checkpoint = read_trainer(path)
        trainer = cls(
            model,
            loss,
            optimizer,
            schedule=schedule,
            callbacks=callbacks,
            seed=checkpoint.state["seed"],
            clip_norm=clip_norm,
            ema=ema,
            accumulate=accumulate,
            mixed_precision=mixed_precision,
            metrics=metrics,
            capture=capture,
            comm=comm,
            sync_batch_norm=sync_batch_norm,
            check_ranks=check_ranks,
        )
        trainer._check_optimizer("continues")
        restore(trainer, path, checkpoint)
        return trainer


def _checked_communicator(comm: Communicator | None) -> Communicator | None:
    if comm is not None and not isinstance(comm, Communicator):
        raise TypeError(f"comm: expected a Communicator of xpconv.distributed or None, got {type(comm).__name__}")
    return comm


def _rank(accuracy: float, loss: float) -> tuple[float, float]:
    """The larger the better; without an accuracy by the loss alone."""
    return (-math.inf if math.isnan(accuracy) else accuracy), -loss


def _checked_metrics(metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"metrics: expected functions by name, got {metrics!r:.200}")
    checked = {} if metrics is None else dict(metrics)
    for name, metric in checked.items():
        if not isinstance(name, str) or not callable(metric):
            raise TypeError(f"metrics: expected functions by name, got {name!r}: {metric!r:.100}")
        if name in _OWN_METRICS:
            raise ValueError(f"metrics: {name} is there already; choose another name")
    return checked


def _value_of(name: str, value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"metrics: {name} must give a number, got {value!r:.100}")
    return float(value)
