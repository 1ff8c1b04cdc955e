"""The command line that all benchmarks share, and what it decides: how large, how long, how many threads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .report import Row, environment_line, markdown, plain
from .timing import ALLOCATORS, Budget, allocator, available_threads, environment, use_allocator

__all__ = ["NO_CASE", "Options", "add_options", "main"]

NO_CASE = 3  # exit status where --only left nothing to run


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a benchmark.

    Attributes
    ----------
    size
        ``"full"``: every case. ``"quick"``: some cases, fewer rounds. ``"tiny"``: minute arrays, one round: says that
        the benchmark runs, nothing about speed.
    threads
        Numbers of threads to measure with.
    only
        Cases whose name contains one of these; all if empty.
    peers
        Whether to run anybody else than xpconv, where a section can do without.
    deadline
        On the clock of `time.monotonic`: no new case is begun after it, where a section can tell its cases apart.
    """

    size: str = "full"
    threads: tuple[int, ...] = (1, 2)
    only: tuple[str, ...] = ()
    peers: bool = True
    deadline: float = float("inf")

    @property
    def budget(self) -> Budget:
        """How long to measure one group of contenders."""
        return {"full": Budget(7, 1.5), "quick": Budget(3, 0.4), "tiny": Budget(1, 0.0, sample=0.0)}[self.size]

    @property
    def all_peers(self) -> bool:
        """Whether to run those too of which a number is wanted and no ratio: once, in a full run with warm buffers."""
        return self.peers and self.size == "full" and allocator() == "warm"

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def wants(self, case: str) -> bool:
        """Whether to run that case."""
        return not self.only or any(part.lower() in case.lower() for part in self.only)


Measure = Callable[[Options], Iterable[Row]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that single benchmarks and `benchmarks.cpu` share."""
    cores = available_threads()
    parser.add_argument(
        "--quick", dest="size", action="store_const", const="quick", default="full", help="some cases, fewer rounds"
    )
    parser.add_argument(
        "--tiny", dest="size", action="store_const", const="tiny", help="minute arrays: whether it runs, not how fast"
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[n for n in (1, 2) if n <= cores],
        metavar="N",
        help="numbers of threads to measure with (default: 1 and 2)",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="cases whose name contains the text")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a JSON file")


def show(rows: Sequence[Row], about: dict[str, object], arguments: argparse.Namespace) -> None:
    """Print the table, and write the JSON file if one was asked for."""
    if arguments.json:
        document = {"environment": about, "rows": [row.as_dict() for row in rows]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(environment_line(about), end="\n\n")
    print(markdown(rows) if arguments.markdown else plain(rows))


def _progress(text: str) -> None:
    """One line that is overwritten by the next; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main(measure: Measure, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Run one benchmark from the command line.

    Parameters
    ----------
    measure
        The benchmark: yields its rows.
    description
        For ``--help``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--allocator", choices=ALLOCATORS, default="default", help="warm: the C library keeps freed memory"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.threads) < 1:
        parser.error("--threads: takes whole numbers from 1 on")
    use_allocator(arguments.allocator)
    about = environment(arguments.size)
    rows = []
    for row in measure(Options(arguments.size, tuple(arguments.threads), tuple(arguments.only))):
        rows.append(row)
        _progress(f"{row.benchmark}: {row.case}, {row.operation}, threads {row.threads}")
    _progress("")
    if not rows:
        print(f"no case contains {' or '.join(arguments.only)}", file=sys.stderr)
        return NO_CASE
    show(rows, about, arguments)
    return 0
