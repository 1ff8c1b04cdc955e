"""Sections one after the other, each in processes of its own; the table, the goals, and the files of both."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..command import Options, add_options
from ..report import Row, environment_line, markdown, plain
from ..timing import ALLOCATORS, allocator_environment, environment
from . import ceilings, summary

__all__ = ["SECTIONS", "Section", "Variant", "environment_of", "main", "run_section", "save", "variants"]

RESULTS = Path(__file__).parents[1] / "results"
_GRACE = 60  # seconds from the deadline that a section knows to being killed: the case that it is at may end
_TINY_SECONDS = 300


class Section(NamedTuple):
    """A module with a function ``measure(options)``, and how to run it.

    Attributes
    ----------
    module
        Relative to this package.
    allocators
        The settings that a full run measures it with; a quick one takes the first.
    each_thread
        Whether every number of threads has a process of its own.
    full, quick
        Seconds that each process may take.
    """

    module: str
    allocators: tuple[str, ...]
    each_thread: bool
    full: float
    quick: float


_BOTH, _WARM, _DEFAULT = ("warm", "default"), ("warm",), ("default",)
SECTIONS: Mapping[str, Section] = {
    "ceilings": Section(".ceilings", _WARM, True, 30, 20),
    "convolution": Section(".convolution", _BOTH, True, 260, 60),
    "layers": Section(".layers", _BOTH, True, 120, 40),
    "training": Section(".training", _BOTH, True, 90, 40),
    "overhead": Section(".overhead", _WARM, False, 60, 30),
    "memory": Section(".memory", _DEFAULT, False, 120, 40),
    "accuracy": Section(".accuracy", _WARM, False, 120, 40),
    "naive_loops": Section("..naive_loops", _WARM, True, 40, 25),
    "course_convolution": Section("..course_convolution", _WARM, True, 40, 25),
}


class Variant(NamedTuple):
    """What one process of a section is told."""

    section: str
    threads: tuple[int, ...]
    allocator: str
    seconds: float


def _module(name: str) -> Any:
    return importlib.import_module(SECTIONS[name].module, __package__)


def variants(name: str, size: str, threads: Sequence[int], allocators: Sequence[str] | None = None) -> list[Variant]:
    """The processes of a section."""
    section = SECTIONS[name]
    settings = section.allocators if size == "full" else section.allocators[:1]
    settings = tuple(setting for setting in settings if allocators is None or setting in allocators)
    seconds = {"full": section.full, "quick": section.quick, "tiny": _TINY_SECONDS}[size]
    groups = [(count,) for count in threads] if section.each_thread else [tuple(threads)]
    return [Variant(name, group, setting, seconds) for setting in settings for group in groups]


def environment_of(variant: Variant) -> dict[str, str]:
    """Environment of its process: the allocator, and the threads of JAX, which reads them at its start."""
    environ = allocator_environment(variant.allocator)
    count = max(variant.threads)
    environ["JAX_PLATFORMS"] = "cpu"
    environ["NPROC"] = str(count)
    if count == 1:
        environ["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    return environ


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=importlib.import_module(str(__package__)).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    add_options(parser)
    parser.add_argument("--allocator", choices=ALLOCATORS, action="append", help="only with this one (default: both)")
    parser.add_argument(
        "--no-save", dest="save", action="store_false", help="write no files to benchmarks/results; --tiny never does"
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="xpconv alone, where that makes sense")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)  # in the process of a section
    parser.add_argument("--section-seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser


# ---- in the process of a section ----------------------------------------------------------------------------------


def _measure(arguments: argparse.Namespace) -> int:
    """Write the rows to a file of one JSON object a line, each as soon as it is there."""
    options = Options(
        arguments.size, tuple(arguments.threads), tuple(arguments.only), arguments.peers,
        time.monotonic() + arguments.section_seconds,
    )  # fmt: skip
    with arguments.rows.open("a", encoding="utf-8") as file:
        for row in _module(arguments.section).measure(options):
            file.write(json.dumps(row.as_dict()) + "\n")
            file.flush()
    return 0


# ---- in the process that was started ------------------------------------------------------------------------------


def _command(variant: Variant, arguments: argparse.Namespace, rows: Path) -> list[str]:
    """What runs a section."""
    command = [sys.executable, "-m", str(__package__), "--section", variant.section, "--rows", str(rows)]
    command += ["--section-seconds", str(variant.seconds), "--threads", *map(str, variant.threads)]
    command += [] if arguments.size == "full" else [f"--{arguments.size}"]
    command += [] if arguments.peers else ["--no-peers"]
    return command + (["--only", *arguments.only] if arguments.only else [])


def _read(path: Path) -> list[Row]:
    """The rows of a file that may not be there; a line that a killed process has left half written is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(Row.from_dict(json.loads(line)))
        except ValueError:
            break
    return rows


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_section(
    variant: Variant,
    arguments: argparse.Namespace,
    *,
    folder: Path | None = None,
    environ: dict[str, str] | None = None,
) -> tuple[list[Row], str | None]:
    """Rows of one process, and what went wrong or None.

    Parameters
    ----------
    folder
        Where to run; the present one if None.
    environ
        Instead of `environment_of`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path, errors = Path(temporary, "rows"), Path(temporary, "errors")
        command = _command(variant, arguments, path)
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
                env=environment_of(variant) if environ is None else environ,
            )  # fmt: skip
            try:
                status: int | None = process.wait(variant.seconds + _GRACE)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _kill(process)
        said = [line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        rows = _read(path)
    if status == 0:
        return rows, None
    what = f"killed after {variant.seconds + _GRACE:.0f} s" if status is None else f"exit status {status}"
    where = f"{variant.section}, threads {' '.join(map(str, variant.threads))}, {variant.allocator}"
    return rows, f"{where}: {what}: {said[-1] if said else 'no message'}"


def _with_shares(rows: Iterable[Row]) -> list[Row]:
    """Rows with their rates as parts of what this run has found the machine can do, at the same number of threads."""
    rows, best = list(rows), dict[tuple[str, int], float]()
    for row in rows:
        if row.benchmark == "ceilings":
            best[row.case, row.threads] = max(row.values.values())

    def share(row: Row) -> float | None:
        ceiling = best.get((ceilings.MULTIPLY_ADDS if row.flops else ceilings.COPY, row.threads))
        return None if row.rate is None or ceiling is None else row.rate / ceiling

    return [dataclasses.replace(row, share=share(row)) for row in rows]


def _stem(about: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """Name of the files: date, processor, and what the run has left out."""
    cpu = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)", "", str(about["cpu"]).lower())).strip("-")
    names = [name for name in SECTIONS if name in arguments.sections]
    parts = [str(about["date"])[:10], cpu, "cpu", *names, *arguments.only, *(arguments.allocator or [])]
    parts += [] if arguments.size == "full" else [arguments.size]
    parts += [] if arguments.peers else ["no-peers"]
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)


def save(
    stem: Path, rows: Sequence[Row], about: Mapping[str, Any], command: str, failed: Sequence[str]
) -> tuple[Path, Path]:
    """Write table and numbers; a run of the same name is replaced."""
    stem.parent.mkdir(exist_ok=True)
    text, numbers = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.json")
    parts = [f"# {stem.name}", environment_line(about), f"Command: `{command}`", "## Goals"]
    parts += ["\n".join(f"- {line}" for line in [*summary.lines(rows), *(f"FAILED: {line}" for line in failed)])]
    text.write_text("\n\n".join([*parts, markdown(rows)]) + "\n", encoding="utf-8")
    document = {"environment": about, "command": command, "failed": failed, "rows": [row.as_dict() for row in rows]}
    numbers.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return text, numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 if a section failed."""
    parser = _parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(argv)
    if min(arguments.threads) < 1:
        parser.error("--threads: takes whole numbers from 1 on")
    if arguments.section:
        return _measure(arguments)
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    try:
        allocator_environment((arguments.allocator or ["default"])[0])
    except RuntimeError as error:
        parser.error(f"--allocator: {error}")
    about = environment(arguments.size)
    rows, failed = list[Row](), list[str]()
    # the ceilings come along always: without them there are no shares
    names = dict.fromkeys(["ceilings", *(arguments.sections or SECTIONS)]) if arguments.peers else arguments.sections
    todo = [v for name in names for v in variants(name, arguments.size, arguments.threads, arguments.allocator)]
    start = time.monotonic()
    for k, variant in enumerate(todo):
        count = " ".join(map(str, variant.threads))
        text = f"{variant.section}, threads {count}, {variant.allocator}"
        print(f"[{k + 1}/{len(todo)}, {time.monotonic() - start:.0f} s] {text} ...", file=sys.stderr, flush=True)
        found, wrong = run_section(variant, arguments)
        rows += found
        failed += [] if wrong is None else [wrong]
    rows = _with_shares(rows)
    if arguments.json:
        document = {"environment": about, "failed": failed, "rows": [row.as_dict() for row in rows]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(environment_line(about), end="\n\n")
    print(markdown(rows) if arguments.markdown else plain(rows))
    if arguments.size == "tiny":
        print("\nminute sizes: whether it runs; the figures mean nothing")
    else:
        print("\n" + "\n".join(summary.lines(rows)))
    if arguments.save and arguments.size != "tiny" and rows:
        command = " ".join(["python -m benchmarks.cpu", *argv])
        for path in save(RESULTS / _stem(about, arguments), rows, about, command, failed):
            print(f"written: {path}")
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed else 0
