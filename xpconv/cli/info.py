"""``xpconv info``."""

from __future__ import annotations

import argparse
from typing import Any

import xpconv

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "info",
        help="backends, devices, threads, and which kernel serves each operator",
        description="Print the backends with their devices, the instruction sets, the threads, and which kernel serves "
        "each operator.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print it; returns the exit status."""
    xpconv.show_config()
    return 0
