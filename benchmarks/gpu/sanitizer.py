"""compute-sanitizer over a small parity run: reads and writes out of bounds (memcheck), races (racecheck).

CuPy's memory pool is off in it: inside a block of the pool an access beyond an array would go unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .section import Options, Row, Rows, Skipped

SECONDS = 60
NEEDS_GPU = True

_TOOLS = ("memcheck", "racecheck")
_CASES = ("3x3, padding 1", "2x2", "images", "a batch", "10 classes", "momentum", "Adam", "p 0.3")
_FOUND = 99  # exit status where the tool has found something


def _program() -> str | None:
    """compute-sanitizer, on the path or where CUDA puts it."""
    places = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [str(Path(place, "bin")) for place in places if place]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def run(options: Options, rows: Rows) -> None:
    """A row for each tool."""
    program = _program()
    if program is None:
        raise Skipped("compute-sanitizer is not installed")
    arguments = ["-m", "benchmarks.gpu.sanitized", "--backend", options.backend, "--only", *_CASES]
    for number, tool in enumerate(_TOOLS):
        seconds = options.seconds_left() / (len(_TOOLS) - number)

        def check(tool=tool, seconds=seconds) -> Row:
            command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), sys.executable, *arguments]
            start = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            output = (done.stdout + done.stderr).splitlines()
            notes = [line for line in output if line.startswith("=========")]
            return {
                "ok": done.returncode == 0,
                "status": done.returncode,
                "seconds": time.monotonic() - start,
                "report": notes[:40] + notes[-2:],
                "output": output[-5:],
            }

        rows.attempt(options, check, tool=tool)
    wrong = [row["tool"] for row in rows.all if not row.get("ok")]
    if wrong:
        raise AssertionError(f"{' and '.join(wrong)}: see the report of the tool")


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = []
    for row in rows:
        if "ok" in row:
            last = row["report"][-1] if row["report"] else " ".join(row["output"])[:150]
            found.append(f"{row['tool']}: {'clean' if row['ok'] else 'NOT CLEAN'} ({last.strip('= ')})")
    return found
