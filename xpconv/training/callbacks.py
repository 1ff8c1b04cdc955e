"""What watches a training run: a base class whose methods the Trainer calls, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._checks import check_integer, check_number, is_number

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback", "EarlyStopping"]


class Callback:
    """Override what you need; every method gets the `Trainer`, all of them may read it, save it or stop it.

    The order of a `Trainer.fit` that ends by itself, by `Trainer.stop` (asked for after any step or epoch), or by
    Ctrl-C::

        on_fit_start(trainer)
        for every epoch:
            on_epoch_start(trainer)
            for every step: on_step_end(trainer)
            validation
            on_epoch_end(trainer, record)
        on_fit_end(trainer)                  after a Ctrl-C on_interrupt(trainer) in its place

    Where there are several callbacks, a method of all is called in the order of the list, but those with ``saves`` come
    last.

    A method is called between steps, so `Trainer.save` gives a checkpoint that continues bit for bit. An exception
    raised in one ends `Trainer.fit` there and then: no other method of any callback is called, the exception carries a
    note that names the method, and the trainer stands where it stood before the call, to be saved or to go on with
    another `fit`.

    Attributes
    ----------
    saves : bool
        True for a callback that saves checkpoints in its methods: it is called after all others, so that what it saves
        has their state.
    """

    saves: bool = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step, once per `Trainer.fit`.

        Parameters
        ----------
        trainer
            The one that runs.
        """

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first step of every epoch; also where a `Trainer.fit` goes on in the middle of one.

        Parameters
        ----------
        trainer
            The one that runs.
        """

    def on_step_end(self, trainer: Trainer) -> None:
        """After every step. Reading ``trainer.running()`` here waits for the device.

        Parameters
        ----------
        trainer
            The one that runs.
        """

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """After every epoch and its validation; ``record`` is the new last entry of ``trainer.history``.

        Parameters
        ----------
        trainer
            The one that runs.
        record
            As in `Trainer.history`; what is added to it is kept there.
        """

    def on_interrupt(self, trainer: Trainer) -> None:
        """After the step in which Ctrl-C was pressed, before `Trainer.fit` raises KeyboardInterrupt.

        Parameters
        ----------
        trainer
            The one that runs.
        """

    def on_fit_end(self, trainer: Trainer) -> None:
        """When `Trainer.fit` returns, not when it raises.

        Parameters
        ----------
        trainer
            The one that ran.
        """

    def state_dict(self) -> dict[str, Any]:
        """What must be there again after `Trainer.resume`: anything that JSON can hold; empty if there is nothing.

        `Trainer.save` puts it into the checkpoint, under the name of the class.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` has given; called by `Trainer.resume`.

        Parameters
        ----------
        state
            What `state_dict` has given, after its way through JSON.

        Raises
        ------
        ValueError, TypeError, KeyError
            The state cannot be that of this callback; `Trainer.resume` then raises CheckpointError.
        """


class EarlyStopping(Callback):
    """Stops training when validation has not become better for some epochs.

    Parameters
    ----------
    patience : int
        It stops at the end of the epoch that is this number of epochs behind the best one.
    monitor : str
        An entry of the record of an epoch, such as ``"val_loss"``, ``"val_accuracy"`` or that of a metric.
    min_delta : float
        By less than this, or by nothing, nothing becomes better.
    higher_is_better : bool, optional
        None: True for accuracies, False for losses; for others it must be said.

    Attributes
    ----------
    best : float or None
        The best value so far.
    waited : int
        Epochs since then.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong. From `Trainer.fit`: KeyError, where the record has no such entry, as without
        validation data.
    """

    def __init__(
        self,
        patience: int = 10,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        higher_is_better: bool | None = None,
    ) -> None:
        self.patience = check_integer("patience", patience, 1)
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected the name of an entry of the record of an epoch, got {monitor!r}")
        if higher_is_better is None:
            if not monitor.endswith(("loss", "accuracy")):
                raise ValueError(f"higher_is_better: must be True or False for {monitor!r}")
            higher_is_better = monitor.endswith("accuracy")
        self.monitor = monitor
        self.min_delta = check_number("min_delta", min_delta, 0)
        self.higher_is_better = bool(higher_is_better)
        self.best: float | None = None
        self.waited = 0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Stop at once where a resumed run had been stopped."""
        if self.waited >= self.patience:
            trainer.stop()

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Compare and count.

        Raises
        ------
        KeyError
            The record has nothing of the name that is monitored.
        """
        if self.monitor not in record:
            raise KeyError(f"monitor: the record of an epoch has no {self.monitor!r}; it has {', '.join(record)}")
        value = record[self.monitor]
        sign = 1 if self.higher_is_better else -1
        better = not math.isnan(value) and (self.best is None or sign * (value - self.best) > self.min_delta)
        if better:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop()

    def state_dict(self) -> dict[str, Any]:
        """The best value and the epochs since."""
        return {"monitor": self.monitor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting; ValueError for a state of another ``monitor``, or one that cannot be."""
        if state["monitor"] != self.monitor:
            raise ValueError(f"EarlyStopping: the state is of {state['monitor']!r}, this watches {self.monitor!r}")
        best, waited = state["best"], state["waited"]
        if (best is not None and not is_number(best)) or type(waited) is not int or waited < 0:
            raise ValueError(f"EarlyStopping: cannot be a state: {dict(state)!r:.200}")
        self.best, self.waited = best, waited
