"""All benchmarks, or the named ones, in one table.

Each runs in a process of its own, once for each allocator setting: ``default``, and ``warm``, where the C library keeps
freed memory so that no contender pays for page faults.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .command import NO_CASE, add_options, show
from .report import Row, environment_line, markdown
from .timing import ALLOCATORS, environment

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = (
    "naive_loops",
    "course_convolution",
    "convolution",
    "pooling_and_layers",
    "training_step",
    "memory",
    "import_time",
)
RESULTS = Path(__file__).parent / "results"


def _run(name: str, allocator: str, arguments: argparse.Namespace) -> list[Row]:
    """Rows of one benchmark under one allocator setting; its progress goes to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--allocator", allocator, "--json", str(result)]
        if arguments.size != "full":
            command.append(f"--{arguments.size}")
        command += ["--threads", *map(str, arguments.threads)]
        if arguments.only:
            command += ["--only", *arguments.only]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ.copy())
        if done.returncode == NO_CASE:
            return []
        if done.returncode:
            raise RuntimeError(f"benchmarks.{name} ended with status {done.returncode}")
        return [Row.from_dict(row) for row in json.loads(result.read_text(encoding="utf-8"))["rows"]]


def _save(rows: Sequence[Row], about: dict[str, object], command: str) -> list[Path]:
    """Write table and numbers to the folder of results; a run of the same day and processor is replaced."""
    cpu = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)", "", str(about["cpu"]).lower())).strip("-")
    stem = RESULTS / f"{str(about['date'])[:10]}-{cpu}"
    RESULTS.mkdir(exist_ok=True)
    paths = [stem.with_suffix(".md"), stem.with_suffix(".json")]
    head = f"# {stem.name}\n\n{environment_line(about)}\n\nCommand: `{command}`\n\n"
    paths[0].write_text(head + markdown(rows) + "\n", encoding="utf-8")
    document = {"environment": about, "command": command, "rows": [row.as_dict() for row in rows]}
    paths[1].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    add_options(parser)
    parser.add_argument(
        "--allocator", choices=ALLOCATORS, action="append", help="default: both, with --quick and --tiny only 'default'"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/<date>-<cpu>.md and .json")
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    if arguments.save and arguments.size == "tiny":
        parser.error("--save: the numbers of --tiny say nothing about speed")
    allocators = arguments.allocator or (ALLOCATORS if arguments.size == "full" else ALLOCATORS[:1])
    about = environment(arguments.size)
    rows, failed = [], []
    for name in arguments.names or BENCHMARKS:
        for allocator in allocators:
            try:
                rows += _run(name, allocator, arguments)
            except RuntimeError as error:
                failed.append(str(error))
    show(rows, about, arguments)
    if arguments.save and rows:
        for path in _save(rows, about, " ".join(["python -m benchmarks.run", *argv])):
            print(f"\nwritten: {path}")
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
