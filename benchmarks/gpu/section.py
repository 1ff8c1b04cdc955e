"""What a section is told, and how it tells its rows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Options", "Rows", "Skipped"]

Row = dict[str, Any]


class Skipped(Exception):
    """The section cannot run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a section.

    Attributes
    ----------
    backend
        ``"cupy"``, ``"cupy:1"`` or ``"cuda-host"``.
    tiny
        Minute sizes and one round.
    deadline
        On the clock of `time.monotonic`: no new row is begun after it.
    data
        Folder with CIFAR-10 and Fashion-MNIST, or None.
    """

    backend: str = "cuda-host"
    tiny: bool = False
    deadline: float = float("inf")
    data: str | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether the backend is a real device."""
        return self.backend.partition(":")[0] == "cupy"

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    @staticmethod
    def of(arguments: argparse.Namespace) -> Options:
        """From the command line of a section's process."""
        return Options(arguments.backend, arguments.tiny, time.monotonic() + arguments.section_seconds, arguments.data)


class Rows:
    """Where a section puts what it has measured: a file of one JSON object a line, written through at once.

    Parameters
    ----------
    path
        The file; None keeps the rows in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.all = path, list[Row]()

    def add(self, **row: Any) -> Row:
        """Keep a row; its values must be what JSON can store."""
        self.all.append(row)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row

    def attempt(self, options: Options, measure: Callable[[], Row], **case: Any) -> Row | None:
        """Add ``case`` with what ``measure`` finds, or with the error it raises: one case must not stop the others.

        Nothing is measured, and the row says so, once the time of the section is up.
        """
        if options.seconds_left() <= 0:
            return self.add(**case, left_out="the time of the section was up")
        try:
            found = measure()
        except (KeyboardInterrupt, Skipped):
            raise
        except Exception as error:
            return self.add(**case, error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return self.add(**case, **found)

    @staticmethod
    def read(path: Path) -> list[Row]:
        """The rows of a file that may not be there; a line that a killed process has left half written is dropped."""
        rows = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows
