"""How long `import xpconv` takes, NumPy included, against `import numpy` alone; the limit is 1.5 times.

Each import happens in a fresh interpreter, the two in turn. What is timed is the import statement, by the interpreter
itself: its own start is not part of it. A first round brings the files into the page cache and is dropped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from .command import Options, main
from .report import Row, row_of_samples
from .timing import ratio

__all__ = ["LIMIT", "import_seconds", "measure"]

LIMIT = 1.5
ROUNDS = {"full": 41, "quick": 15, "tiny": 1}


def import_seconds(module: str) -> float:
    """Time of the statement ``import module`` in a new interpreter."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(options: Options) -> Iterator[Row]:
    """One row."""
    case = "import"
    if not options.wants(case):
        return
    samples: dict[str, list[float]] = {"numpy": [], "xpconv": []}
    order = list(samples)
    for _ in range(ROUNDS[options.size] + 1):
        for name in order:
            samples[name].append(import_seconds(name))
        order.reverse()
    samples = {name: times[1:] for name, times in samples.items()}
    times = ratio(samples["xpconv"], samples["numpy"]).value
    yield row_of_samples(
        "import_time", case, "import", 1, samples, baseline="numpy",
        note=f"{times:.2f} times numpy, limit {LIMIT}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
