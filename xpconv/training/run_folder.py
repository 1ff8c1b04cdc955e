"""The folder of a training run: its configuration, log, checkpoints and report.

========================  =============================================================================================
``config.json``           what was asked for, and all that is needed to build the same net and data again
``log.jsonl``             a JSON object a line, of ``"kind"`` ``"step"`` (now and then), ``"epoch"`` or ``"test"``
``last.safetensors``      the newest checkpoint: a resumed run continues from it
``best.safetensors``      the checkpoint of the epoch with the best validation accuracy
``report.html``           all of it as a page, see `xpconv.report`
``report.json``           what was measured for the page, and where the run was; only of ``xpconv train``
``skipped.csv``           files that the data set was made without, and why; only if there are any
========================  =============================================================================================
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import check_integer
from .._files import remove_leftovers, write_atomically
from .callbacks import Callback

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["RunFolder", "RunFolderError", "RunRecorder"]

CONFIG_VERSION = 1

_SECONDS_BETWEEN_PAGES = 30


class RunFolderError(RuntimeError):
    """A folder that is no run, or one that a new run must not touch."""


def _json_line(record: Mapping[str, Any]) -> str:
    """One line; NaN and infinities, which JSON has not, become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder. Nothing is made or read.

    Attributes
    ----------
    path : Path
        The folder; the files are ``config``, ``log``, ``last``, ``best``, ``report``, ``measured`` and ``skipped``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.log = self.path / "log.jsonl"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.report = self.path / "report.html"
        self.measured = self.path / "report.json"
        self.skipped = self.path / "skipped.csv"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """A new run at ``path``, which must be missing or empty.

        Parameters
        ----------
        path
            The folder; those above it are made too.
        config
            Anything that JSON can hold.

        Returns
        -------
        RunFolder
            With its configuration written.

        Raises
        ------
        RunFolderError
            There is something already.
        OSError
            It cannot be made or written.
        """
        cls.check_free(path)
        folder = cls(path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(config)
        return folder

    @staticmethod
    def check_free(path: str | os.PathLike[str]) -> None:
        """Raise RunFolderError unless ``path`` is missing or an empty folder.

        Parameters
        ----------
        path
            The folder.

        Raises
        ------
        RunFolderError
            There is something already.
        """
        where = Path(path)
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise RunFolderError(
                f"{where}: exists and is not an empty folder; name another one, or continue a run there with --resume "
                f"{shlex.quote(str(where))}"
            )

    @classmethod
    def create_numbered(cls, parent: str | os.PathLike[str], stem: str, config: Mapping[str, Any]) -> RunFolder:
        """A new run at ``parent/stem-N`` with the first number that is free.

        Parameters
        ----------
        parent
            The folder of runs, made if it is missing.
        stem
            What the name begins with.
        config
            Anything that JSON can hold.

        Returns
        -------
        RunFolder
            With its configuration written.

        Raises
        ------
        OSError
            It cannot be made or written.
        """
        Path(parent).mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = cls(Path(parent) / f"{stem}-{number}")
            try:
                folder.path.mkdir()  # fails if another run has just taken the number
            except FileExistsError:
                number += 1
                continue
            folder.write_config(config)
            return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The run at ``path``; RunFolderError if there is none.

        Parameters
        ----------
        path
            The folder.

        Returns
        -------
        RunFolder
            Its configuration exists and has not been read yet.

        Raises
        ------
        RunFolderError
            No such folder, or one that is not of a run.
        """
        folder = cls(path)
        if not folder.config.is_file():
            reason = (
                "no such folder" if not folder.path.exists() else f"not a run folder: it has no {folder.config.name}"
            )
            raise RunFolderError(f"{folder.path}: {reason}")
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write (or replace) the configuration.

        Parameters
        ----------
        config
            Anything that JSON can hold.

        Raises
        ------
        OSError
            It cannot be written; an earlier one stays whole.
        """
        text = json.dumps({"version": CONFIG_VERSION, **config}, indent=2) + "\n"
        write_atomically(self.config, [text.encode()])

    def read_config(self) -> dict[str, Any]:
        """What `create` was given; RunFolderError if the file is damaged.

        Raises
        ------
        RunFolderError
            The file is damaged, or of another version.
        OSError
            It cannot be read.
        """
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.config}: damaged: {error}") from error
        if not isinstance(config, dict) or "version" not in config:
            raise RunFolderError(f"{self.config}: damaged: it has no version")
        version = config.pop("version")
        if version != CONFIG_VERSION:
            raise RunFolderError(
                f"{self.config}: format {version!r}, this xpconv reads {CONFIG_VERSION}; update xpconv"
            )
        return config

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to the log; OSError names it.

        Parameters
        ----------
        record
            Anything that JSON can hold.

        Raises
        ------
        OSError
            It cannot be written.
        """
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(_json_line(record))
        except OSError as error:
            error.filename = str(self.log)  # a full disk shows only at the end, where Python has forgotten the name
            raise

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log; a last line that was cut off by a crash is left out."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    def rewind(self, step: int, epochs: int) -> None:
        """Drop from the log what lies beyond a checkpoint of that many steps and finished epochs.

        A run that was killed has logged more than its last checkpoint knows; it is about to do that part again.

        Parameters
        ----------
        step
            Steps that the checkpoint has.
        epochs
            Finished epochs that it has.

        Raises
        ------
        OSError
            The log cannot be read or written.
        """
        kept = [
            record
            for record in self.records()
            if (record.get("kind") == "step" and record.get("step", 0) <= step)
            or (record.get("kind") == "epoch" and record.get("epoch", 0) <= epochs)
        ]
        write_atomically(self.log, [_json_line(record).encode() for record in kept])

    def remove_leftovers(self) -> None:
        """Delete what a killed run left of files that it was writing; no other run may be at work in the folder."""
        for path in (self.config, self.log, self.last, self.best, self.report, self.measured):
            remove_leftovers(path)


class RunRecorder(Callback):
    """Keeps a `RunFolder`: the log, the checkpoints and the report.

    Parameters
    ----------
    folder
        Where to.
    log_every
        Steps between two lines of the log.
    save_every
        Steps between two checkpoints within an epoch; None saves at the end of every epoch only. A run that is killed
        loses the steps since the last one.

    Raises
    ------
    TypeError, ValueError
        Steps that are no positive integers.
    """

    saves = True

    def __init__(self, folder: RunFolder, *, log_every: int = 20, save_every: int | None = None) -> None:
        self.folder = folder
        self.log_every = check_integer("log_every", log_every, 1)
        self.save_every = None if save_every is None else check_integer("save_every", save_every, 1)
        self._clock = time.monotonic()
        self._images = 0
        self._reported = time.monotonic()
        self._warned = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Cut the log to what the trainer knows, and clean up after a run that was killed."""
        self.folder.remove_leftovers()
        self.folder.rewind(trainer.step, trainer.epoch)
        self._clock = time.monotonic()

    def on_step_end(self, trainer: Trainer) -> None:
        """A line of the log every `log_every` steps, a checkpoint every `save_every`."""
        self._images += trainer.batch_images
        if trainer.step % self.log_every == 0:
            self._append(trainer)
        within = trainer.epoch_step < trainer.epoch_steps  # the end of the epoch saves too
        if within and self.save_every is not None and trainer.step % self.save_every == 0:
            trainer.save(self.folder.last)

    def _append(self, trainer: Trainer) -> None:
        running = trainer.running()
        now = time.monotonic()
        self.folder.append(
            {
                "kind": "step",
                "step": trainer.step,
                "epoch": trainer.epoch + 1,
                "position": round(trainer.epoch + trainer.epoch_step / trainer.epoch_steps, 4),  # in epochs
                "batch_loss": trainer.losses[-1],
                "loss": running.loss,
                "accuracy": running.accuracy,
                "lr": trainer.optimizer.lr,
                "images_per_second": round(self._images / max(now - self._clock, 1e-9), 1),
            }
        )
        self._clock, self._images = now, 0

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A line of the log, the checkpoints, and the report where the last one is old."""
        self.folder.append({"kind": "epoch", **record})
        if trainer.best is not None and trainer.best["epoch"] == record["epoch"]:
            trainer.save(self.folder.best)
        trainer.save(self.folder.last)
        if time.monotonic() - self._reported > _SECONDS_BETWEEN_PAGES:
            self._report()
        self._clock, self._images = time.monotonic(), 0  # validation and writing are not training speed

    def on_interrupt(self, trainer: Trainer) -> None:
        """Save the step that was just finished."""
        trainer.save(self.folder.last)
        self._report()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Save, and write the report."""
        trainer.save(self.folder.last)
        self._report()

    def _report(self) -> None:
        from ..report import write_report

        try:
            write_report(self.folder)
        except Exception as error:  # whatever it is, no page is worth a run
            if not self._warned:
                self._warned = True
                warnings.warn(f"{self.folder.report}: cannot be written: {error}", RuntimeWarning, stacklevel=2)
        self._reported = time.monotonic()
