"""How a run is shown: live on a terminal, in plain lines elsewhere, as JSON lines to machines, or not at all."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, TextIO

from .._extras import MissingExtraError, require
from .._text import columns_of
from ..training import Callback, Trainer
from .output import emit, fill, is_live, mode, width_of

__all__ = ["JsonProgress", "LiveProgress", "PlainProgress", "progress_for"]

_SECONDS_BETWEEN_LINES = 10
_SECONDS_BETWEEN_EVENTS = 1
_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_OF_SPEED = 20  # a step that long ago weighs a third of one now
_BAR = 20  # columns; it comes where there is room beside the numbers


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Progress(Callback):
    """Keeps the times that every kind of progress shows."""

    def __init__(self) -> None:
        self._images = 0
        self._epoch_clock = self._step_clock = time.monotonic()
        # sums over the latest steps, in which a step weighs less the longer ago it was
        self._recent_seconds = self._recent_steps = 0.0
        self._pause = 0.0  # between two epochs, for the validation and what is written

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Start the clocks."""
        now = time.monotonic()
        if self._recent_steps:
            self._pause = now - self._step_clock
        self._images = 0
        self._epoch_clock = self._step_clock = now

    def on_step_end(self, trainer: Trainer) -> None:
        """Count the images and the time."""
        if trainer.epoch_step >= trainer.epoch_steps:
            trainer.running()  # waits for the device: the time of the epoch is that of work done
        now = time.monotonic()
        seconds, self._step_clock = now - self._step_clock, now
        fade = math.exp(-seconds / _SECONDS_OF_SPEED)
        self._recent_seconds = fade * self._recent_seconds + seconds
        self._recent_steps = fade * self._recent_steps + 1
        self._images += trainer.batch_images

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Note how long the validation took."""
        self._pause = time.monotonic() - self._step_clock

    def close(self) -> None:
        """Leave the terminal as it was."""

    def _rate(self) -> float:
        """Images per second in the steps of this epoch."""
        return self._images / max(self._step_clock - self._epoch_clock, 1e-9)

    def _left(self, trainer: Trainer) -> float:
        """Seconds to the end at the speed of the latest steps, validations included once one has been seen."""
        if not self._recent_steps:
            return 0.0
        epochs = max(trainer.epochs - trainer.epoch, 0)
        steps = max(epochs * trainer.epoch_steps - trainer.epoch_step, 0)
        return self._recent_seconds / self._recent_steps * steps + self._pause * epochs

    def _epoch_parts(self, trainer: Trainer, record: dict[str, Any]) -> list[str]:
        """Of an epoch that has ended; without the time left they fit into 80 columns."""
        parts = [f"epoch {record['epoch']}/{trainer.epochs}"]
        parts += [f"loss {record['loss']:.4f}", f"acc {record['accuracy']:.4f}"]
        if "val_accuracy" in record:
            parts += [f"val loss {record['val_loss']:.4f}", f"val acc {record['val_accuracy']:.4f}"]
        return [*parts, f"{self._rate():.0f}/s"]

    def _step_parts(self, trainer: Trainer) -> list[str]:
        running = trainer.running()
        return [
            f"epoch {trainer.epoch + 1}/{trainer.epochs}",
            f"step {trainer.epoch_step}/{trainer.epoch_steps}",
            f"loss {running.loss:.4f}",
            f"accuracy {running.accuracy:.4f}",
            f"{self._rate():.0f} images/s",
            self._left_part(trainer),
        ]

    def _left_part(self, trainer: Trainer) -> str:
        return f"{_clock(self._left(trainer))} left"


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
        if time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._print(self._step_parts(trainer))

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A line."""
        super().on_epoch_end(trainer, record)
        self._print([*self._epoch_parts(trainer, record), self._left_part(trainer)])

    def _print(self, parts: list[str]) -> None:
        print(fill(parts, width_of(self._stream)), file=self._stream, flush=True)
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
        self._rich = {
            name: require(f"rich.{name}", "live progress displays")
            for name in ("console", "live", "progress_bar", "table")
        }
        self._stream = stream
        self._console = self._rich["console"].Console(file=stream, highlight=False, width=width_of(stream))
        self._live = self._rich["live"].Live(console=self._console, transient=True, auto_refresh=False)
        self._updated = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Show the bar."""
        super().on_fit_start(trainer)
        self._live.start()

    def on_step_end(self, trainer: Trainer) -> None:
        """Move the bar, ten times a second at most."""
        super().on_step_end(trainer)
        if time.monotonic() - self._updated < _SECONDS_BETWEEN_UPDATES and trainer.epoch_step < trainer.epoch_steps:
            return
        self._console.width = width_of(self._stream) or 80  # the window may have another size by now
        self._live.update(self._line(trainer), refresh=True)
        self._updated = time.monotonic()

    def _line(self, trainer: Trainer) -> Any:
        """As much as the width has room for; the numbers come first, and the bar goes first."""
        parts, width = self._step_parts(trainer), self._console.width - 1
        epoch, text = parts[0], "  ".join(parts[1:])
        bar = self._rich["progress_bar"].ProgressBar(trainer.epoch_steps, trainer.epoch_step, width=_BAR)
        line = self._rich["table"].Table.grid(padding=(0, 1, 0, 0))
        if columns_of(epoch) + columns_of(text) + _BAR + 4 <= width:
            line.add_row(epoch, bar, text)
        else:
            line.add_column(no_wrap=True, overflow="crop")
            line.add_row(_shortened(parts, width))
        return line

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Leave a line above the bar, which tells the time left."""
        super().on_epoch_end(trainer, record)
        line = fill(self._epoch_parts(trainer, record), width_of(self._stream))
        self._console.print(line, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Remove the bar."""
        self._live.stop()


def _shortened(parts: list[str], width: int) -> str:
    """The parts of a step, less important ones left out until they fit."""
    epoch, step, loss, accuracy, _, left = parts
    short = epoch.removeprefix("epoch "), step.removeprefix("step "), left.removesuffix(" left")
    for shown in (
        parts,
        (epoch, step, loss, accuracy, left),
        (epoch, step, loss, left),
        (*short[:2], loss, short[2]),
        short,
    ):
        line = "  ".join(shown)
        if columns_of(line) <= width:
            return line
    return " ".join(short)


class JsonProgress(_Progress):
    """Events ``step``, one a second at most, and ``epoch``."""

    def __init__(self) -> None:
        super().__init__()
        self._emitted = 0.0

    def on_step_end(self, trainer: Trainer) -> None:
        """An event, if the last one is old."""
        super().on_step_end(trainer)
        if time.monotonic() - self._emitted < _SECONDS_BETWEEN_EVENTS:
            return
        running = trainer.running()
        emit(
            "step",
            step=trainer.step,
            epoch=trainer.epoch + 1,
            epochs=trainer.epochs,
            epoch_step=trainer.epoch_step,
            epoch_steps=trainer.epoch_steps,
            loss=running.loss,
            accuracy=running.accuracy,
            **self._speed(trainer),
        )
        self._emitted = time.monotonic()

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """An event."""
        super().on_epoch_end(trainer, record)
        emit("epoch", **record, epochs=trainer.epochs, **self._speed(trainer))

    def _speed(self, trainer: Trainer) -> dict[str, float]:
        return {"images_per_second": round(self._rate(), 1), "seconds_left": round(self._left(trainer), 1)}


def progress_for(stream: TextIO | None = None) -> _Progress:
    """What suits the mode of the output and the stream; ``stream`` None is the standard output."""
    if mode() == "json":
        return JsonProgress()
    if mode() == "quiet":
        return _Progress()
    stream = sys.stdout if stream is None else stream
    if is_live(stream):
        try:
            return LiveProgress(stream)
        except MissingExtraError:  # plain lines do without rich
            pass
    return PlainProgress(stream)
