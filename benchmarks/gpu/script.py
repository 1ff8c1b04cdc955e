"""Sections one after the other, each in a process of its own; the JSON file, and the table."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpconv.backends import BackendUnavailableError, load_backend

from .section import Options, Rows, Skipped

__all__ = ["SECTIONS", "TOTAL_SECONDS", "main"]

SECTIONS = (
    "environment",
    "compilation",
    "ceilings",
    "parity",
    "sanitizer",
    "kernels",
    "convolution",
    "training",
    "curve",
    "cifar",
)
TOTAL_SECONDS = 600
_TINY_SECONDS = 300  # for each section with --tiny: compiling the kernels for the host takes longer than running them
_GRACE = 5  # seconds from the deadline that a section knows to being killed
_SKIPPED = 77  # exit status of a section that cannot run here; what it says is the reason


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=importlib.import_module(__package__).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--backend", default="cupy", metavar="NAME", help="cupy (default), cupy:1, or cuda-host")
    parser.add_argument("--tiny", action="store_true", help="minute sizes: whether it runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), metavar="FILE", help="default: gpu.json")
    parser.add_argument("--data", metavar="FOLDER", help="folder with the files of CIFAR-10 (and Fashion-MNIST)")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)  # in the process of a section
    parser.add_argument("--section-seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser


# ---- in the process of a section ----------------------------------------------------------------------------------


def _run_section(arguments: argparse.Namespace) -> int:
    try:
        with load_backend(arguments.backend).running():  # its device is the current one
            _module(arguments.section).run(Options.of(arguments), Rows(arguments.rows))
    except Skipped as reason:
        print(reason, file=sys.stderr)
        return _SKIPPED
    return 0


# ---- in the process that was started ------------------------------------------------------------------------------


def _kill(process: subprocess.Popen[str]) -> None:
    """The process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(name: str, seconds: float, rows: Path, arguments: argparse.Namespace) -> list[str]:
    """What runs a section."""
    command = [sys.executable, "-m", str(__package__), "--section", name, "--section-seconds", str(seconds)]
    command += ["--rows", str(rows), "--backend", arguments.backend]
    command += ["--tiny"] if arguments.tiny else []
    return command + (["--data", arguments.data] if arguments.data else [])


def _seconds(name: str, tiny: bool) -> float:
    """The budget of a section."""
    return _TINY_SECONDS if tiny else _module(name).SECONDS


def _section(name: str, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Status, rows and error of a section, which is killed when its time is up."""
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder, "rows"), Path(folder, "errors")
        command = _command(name, seconds, path, arguments)
        start = time.monotonic()
        with errors.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
            try:
                status: int | None = process.wait(seconds + _GRACE)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _kill(process)
        said = [line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        found: dict[str, Any] = {
            "seconds": round(time.monotonic() - start, 1),
            "budget": seconds,
            "rows": Rows.read(path),
        }
    if status == _SKIPPED:
        return {"status": "skipped", "reason": said[-1] if said else "", **found}
    wrong = [row for row in found["rows"] if row.get("error")]
    if status == 0 and not wrong:
        return {"status": "ok", **found}
    if status == 0:
        return {"status": "failed", "reason": f"{len(wrong)} cases, the first: {wrong[0]['error']}", **found}
    reason = f"killed after {seconds + _GRACE:.0f} s" if status is None else f"exit status {status}"
    return {"status": "failed", "reason": f"{reason}: {said[-1] if said else 'no message'}", "log": said[-30:], **found}


def _write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all: the file of the sections so far stays if this one cannot be written."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _table(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, section in sections.items():
        reason = f": {section['reason']}" if section.get("reason") else ""
        lines.append(f"{name} ({section['seconds']:.0f} s): {section['status']}{reason}")
        try:
            lines += [f"  {line}" for line in _module(name).lines(section["rows"])]
        except Exception as error:  # rows of a section that has failed half way
            lines.append(f"  rows that cannot be shown: {type(error).__name__}: {error}")
        left = sum("left_out" in row for row in section["rows"])
        lines += [f"  {left} cases left out: no time"] if left else []
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 if a section failed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.section:
        return _run_section(arguments)
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    family = arguments.backend.partition(":")[0]
    if family not in ("cupy", "cuda-host"):
        parser.error(f"--backend: takes cupy, cupy:N or cuda-host, got {arguments.backend}")
    if family == "cuda-host" and not arguments.tiny:
        parser.error("--backend cuda-host: needs --tiny, as the CPU says nothing about the speed of a GPU")
    try:
        load_backend(arguments.backend)
    except BackendUnavailableError as error:
        parser.error(f"{error}; --backend cuda-host --tiny tries the script without a GPU")
    command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)])
    sections: dict[str, dict[str, Any]] = {}
    document = {"command": command, "backend": arguments.backend, "tiny": arguments.tiny, "sections": sections}
    names = arguments.sections or SECTIONS
    end = time.monotonic() + (len(names) * _TINY_SECONDS if arguments.tiny else TOTAL_SECONDS)
    for name in names:
        left = end - time.monotonic() - _GRACE
        seconds = min(_seconds(name, arguments.tiny), left)
        print(f"{name}, at most {seconds:.0f} s ...", file=sys.stderr, flush=True)
        if _module(name).NEEDS_GPU and family != "cupy":
            found = {"status": "skipped", "reason": "needs a GPU", "seconds": 0.0, "rows": []}
        elif left < 1:
            found = {"status": "failed", "reason": "no time left", "seconds": 0.0, "rows": []}
        else:
            found = _section(name, seconds, arguments)
        sections[name] = found
        _write(arguments.out, document)
    if arguments.tiny:
        print("minute sizes: whether the script works; the figures mean nothing\n")
    print(_table(sections))
    print(f"\nwritten: {arguments.out}")
    return 1 if any(section["status"] == "failed" for section in sections.values()) else 0
