"""``xpconv report``."""

from __future__ import annotations

import argparse
import os
import webbrowser
from pathlib import Path
from typing import Any

from .._files import write_atomically
from ..training import RunFolder
from .output import emit, say

__all__ = ["add_command"]

_COMPARISON = "comparison.html"


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "report",
        help="the page of a run, or several runs side by side",
        description="Make the page of a run again, from what its folder holds; or one page that compares several "
        "runs: their curves over each other, their results, and the settings in which they differ. A page is one file "
        "that loads nothing and opens in any browser.",
        epilog="  example: xpconv report runs/small-cnn-fashion-mnist-small-1 --open",
    )
    parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER", help="folder of a run of xpconv train")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"where to write the page (default: report.html in the run folder; of several runs {_COMPARISON} here)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    from ..report import build_page, read_run

    found: dict[str, str] = {}
    for folder in options.folders:
        real = os.path.realpath(folder)
        if real in found:
            also = "" if found[real] == folder else f", also as {found[real]}"
            raise ValueError(f"{folder}: this run is named twice{also}")
        found[real] = folder
    runs = [read_run(folder) for folder in options.folders]
    if options.out is not None:
        out = Path(options.out)
    else:
        out = RunFolder(options.folders[0]).report if len(runs) == 1 else Path(_COMPARISON)
    if out.is_dir():
        raise ValueError(f"--out: expected a file, {out} is a folder")
    write_atomically(out, [build_page(runs).encode(errors="replace")])
    for shown in runs:
        for note in shown.notes:
            say("note", f"{shown.path}: {note}")
    say("report", str(out))
    emit("report", file=out, runs=[shown.path for shown in runs], notes=[list(shown.notes) for shown in runs])
    if options.open:
        try:
            opened = webbrowser.open(out.resolve().as_uri())
        except (OSError, webbrowser.Error):
            opened = False
        if not opened:
            say("", "no browser was found here; open the file in one")
    return 0
