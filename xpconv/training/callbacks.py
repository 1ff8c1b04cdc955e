"""What watches a training run: a base class whose methods the Trainer calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback"]


class Callback:
    """Override what you need; every method gets the `Trainer`, all of them may read it, save it or stop it.

    A method is called between steps, so `Trainer.save` gives a checkpoint that continues bit for bit. An exception
    raised in one ends `Trainer.fit`.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step, once per `Trainer.fit`."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After every step. Reading ``trainer.running()`` here waits for the device."""

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """After every epoch and its validation; ``record`` is the new last entry of ``trainer.history``."""

    def on_interrupt(self, trainer: Trainer) -> None:
        """After the step in which Ctrl-C was pressed, before `Trainer.fit` raises KeyboardInterrupt."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """When `Trainer.fit` returns, not when it raises."""
