"""xpconv's speed against PyTorch's on the CPU, from a committed result of the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

PICTURES = ("cpu-benchmarks.png", "cpu-benchmarks.svg")
SLOW = True  # some four seconds; benchmarks.cpu.plot has tests of its own

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "2026-11-23-intel-xeon-processor-cpu.json"


def draw(folder: Path) -> None:
    """The picture that ``python -m benchmarks.cpu.plot`` makes."""
    sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed package
    try:
        from benchmarks.cpu import plot
    finally:
        sys.path.remove(str(ROOT))
    plot.main([str(RESULT), "--out", str(folder / "cpu-benchmarks")])
