"""How a run is shown: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from .._extras import require
from ..training import Callback, Trainer

__all__ = ["LiveProgress", "PlainProgress", "progress_for"]

_SECONDS_BETWEEN_LINES = 10
_SECONDS_BETWEEN_UPDATES = 0.1
_BAR_NEEDS = 110  # columns of the terminal; the numbers come first


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Progress(Callback):
    """Keeps the times that both kinds of progress show."""

    def __init__(self) -> None:
        self._images = 0
        self._images_clock = self._start_clock = time.monotonic()
        self._first_step = 0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start the clocks."""
        self._first_step = trainer.step
        self._start_clock = time.monotonic()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._images, self._images_clock = 0, time.monotonic()

    def on_step_end(self, trainer: Trainer) -> None:
        """Count the images."""
        self._images += trainer.batch_images

    def _rate(self) -> float:
        """Images per second in this epoch."""
        return self._images / max(time.monotonic() - self._images_clock, 1e-9)

    def _left(self, trainer: Trainer) -> float:
        """Seconds to the end, if all goes on as since the start, validation included."""
        done = trainer.step - self._first_step
        todo = (trainer.epochs - trainer.epoch) * trainer.epoch_steps - trainer.epoch_step
        return (time.monotonic() - self._start_clock) / done * max(todo, 0) if done else 0.0

    def _epoch_line(self, trainer: Trainer, record: dict[str, Any]) -> str:
        # short words: the line fits into 80 columns
        line = f"epoch {record['epoch']}/{trainer.epochs}  loss {record['loss']:.4f}  acc {record['accuracy']:.4f}"
        if "val_accuracy" in record:
            line += f"  val {record['val_loss']:.4f}  acc {record['val_accuracy']:.4f}"
        return f"{line}  {self._rate():.0f}/s  {_clock(self._left(trainer))} left"


class PlainProgress(_Progress):
    """A line after every epoch, and every ten seconds in between.

    Parameters
    ----------
    stream
        Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._printed = time.monotonic()

    def on_step_end(self, trainer: Trainer) -> None:
        """A line, if the last one is old."""
        super().on_step_end(trainer)
        if time.monotonic() - self._printed < _SECONDS_BETWEEN_LINES:
            return
        running = trainer.running()
        self._print(
            f"epoch {trainer.epoch + 1}/{trainer.epochs}  step {trainer.epoch_step}/{trainer.epoch_steps}  "
            f"loss {running.loss:.4f}  accuracy {running.accuracy:.4f}  {self._rate():.0f} images/s  "
            f"{_clock(self._left(trainer))} left"
        )

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A line."""
        self._print(self._epoch_line(trainer, record))
        self._start_epoch()

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
        self._printed = time.monotonic()


class LiveProgress(_Progress):
    """A bar that moves, below a line for every finished epoch.

    Parameters
    ----------
    stream
        A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        console = require("rich.console", "live progress displays")
        progress = require("rich.progress", "live progress displays")
        self._console = console.Console(file=stream, highlight=False)
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            *([progress.BarColumn(bar_width=20)] if self._console.width >= _BAR_NEEDS else []),
            progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[text]}"),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1, epoch="", text="")
        self._updated = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Show the bar."""
        super().on_fit_start(trainer)
        self._bar.start()

    def on_step_end(self, trainer: Trainer) -> None:
        """Move the bar, ten times a second at most."""
        super().on_step_end(trainer)
        if time.monotonic() - self._updated < _SECONDS_BETWEEN_UPDATES and trainer.epoch_step < trainer.epoch_steps:
            return
        running = trainer.running()
        self._bar.update(
            self._task,
            completed=trainer.epoch_step,
            total=trainer.epoch_steps,
            epoch=f"{trainer.epoch + 1}/{trainer.epochs}",
            text=f"loss {running.loss:.4f}  accuracy {running.accuracy:.4f}  {self._rate():.0f} images/s  "
            f"{_clock(self._left(trainer))} left",
            refresh=True,
        )
        self._updated = time.monotonic()

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Leave a line above the bar."""
        self._bar.console.print(self._epoch_line(trainer, record), soft_wrap=True)
        self._start_epoch()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def progress_for(stream: TextIO | None = None) -> PlainProgress | LiveProgress:
    """Live on a terminal, plain lines elsewhere; ``stream`` None is the standard output."""
    stream = sys.stdout if stream is None else stream
    return LiveProgress(stream) if stream.isatty() else PlainProgress(stream)
