"""Measure the engines of convolution on this machine and fit the table from which one is chosen for each call.

    python tools/fit_conv_costs.py measure SAMPLES.json [--isa avx512 ...] [--seconds 0.05]
    python tools/fit_conv_costs.py fit SAMPLES.json [--write]

The first command times all engines in turn, in one thread, on a set of shapes (a quarter of an hour), each call beside
a small product of matrices that tells how fast the processor's clock is at the moment; the second fits nanoseconds per
count by non-negative least squares on relative errors, prints how good the choices are, and with ``--write`` replaces
``xpconv/_cpu/conv/_costs.py``. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

import xpconv
from xpconv._cpu import _kernels
from xpconv._cpu.conv import choice
from xpconv._geometry import ConvGeometry, conv_geometry

TABLE = Path(choice.__file__).with_name("_costs.py")
DTYPES = ("float32", "float64")
MOST = 4e9  # multiplications of a case

# batch, channels, height and width, filters, kernel, stride, padding, groups
SHAPES = [
    *((n, c, size, f, 3, 1, 1, 1) for n, c, size, f in (
        (128, 3, 32, 64), (128, 64, 32, 64), (128, 128, 16, 128), (128, 256, 8, 256), (32, 64, 56, 64),
        (128, 16, 32, 16), (128, 32, 16, 32), (128, 64, 8, 64), (32, 512, 4, 512), (128, 3, 28, 16), (1, 16, 32, 16),
        (1, 64, 8, 64), (1, 64, 56, 64), (1, 256, 14, 256), (1, 512, 7, 512), (8, 8, 20, 8), (64, 1, 28, 8),
        (4, 32, 64, 16), (16, 96, 13, 64), (8, 64, 7, 32), (2, 4, 100, 4), (64, 24, 10, 40), (128, 3, 32, 16),
        (16, 512, 2, 512), (128, 256, 2, 256), (128, 128, 4, 128), (1, 3, 224, 32), (8, 128, 28, 32), (16, 32, 28, 128),
        (128, 1, 28, 32), (8, 3, 224, 64), (8, 512, 7, 512),
    )),
    *((n, c, size, f, 3, 2, 1, 1) for n, c, size, f in (
        (128, 64, 32, 128), (128, 16, 32, 32), (128, 32, 16, 64), (100, 3, 31, 25), (16, 3, 224, 32),
        (64, 128, 16, 256), (32, 256, 8, 512), (1, 64, 56, 128), (8, 8, 20, 8), (8, 512, 14, 512), (8, 256, 28, 256),
    )),
    *((n, c, size, f, 1, stride, 0, 1) for n, c, size, f, stride in (
        (128, 64, 32, 128, 1), (32, 256, 14, 64, 1), (32, 64, 14, 256, 1), (128, 64, 32, 128, 2), (128, 16, 32, 32, 2),
        (1, 256, 14, 256, 1), (8, 8, 20, 8, 1), (16, 512, 7, 512, 1), (64, 3, 28, 16, 1), (256, 128, 1, 128, 1),
        (8, 1024, 14, 2048, 2),
    )),
    *((n, c, size, f, 5, 1, 2, 1) for n, c, size, f in (
        (128, 1, 28, 32), (128, 6, 14, 16), (64, 32, 14, 64), (128, 3, 32, 32), (8, 64, 28, 64), (1, 16, 28, 16),
        (128, 1, 28, 6), (8, 96, 27, 256),
    )),
    (128, 6, 14, 16, 5, 1, 0, 1), (100, 3, 32, 32, 7, 1, 3, 1), (32, 3, 224, 64, 7, 2, 3, 1),
    (64, 16, 11, 32, 7, 1, 3, 1), (4, 3, 224, 64, 11, 4, 2, 1), (16, 32, 20, 32, 2, 2, 0, 1),
    (1, 3, 224, 64, 7, 2, 3, 1), (8, 16, 16, 16, 4, 2, 1, 1), (128, 512, 1, 512, 3, 1, 1, 1),
    (128, 256, 2, 512, 3, 2, 1, 1), (1, 512, 7, 256, 7, 1, 0, 1),
    (64, 128, 32, 128, 3, 1, 1, 128), (32, 32, 56, 32, 3, 1, 1, 32), (32, 64, 56, 64, 3, 2, 1, 64),
    (16, 256, 14, 256, 3, 1, 1, 256), (16, 96, 28, 96, 5, 1, 2, 96), (32, 64, 16, 64, 3, 1, 1, 4),
    (8, 128, 14, 128, 3, 1, 1, 32),
]  # fmt: skip


def geometries() -> Iterator[ConvGeometry]:
    """The convolutions that are measured."""
    for n, c, size, f, kernel, stride, padding, groups in SHAPES:
        yield conv_geometry(
            (n, c, size, size), (f, c // groups, kernel, kernel), stride=stride, padding=padding, dilation=1,
            groups=groups,
        )  # fmt: skip


def engines() -> list:
    """All of them, each once."""
    return list(dict.fromkeys(itertools.chain.from_iterable(choice._ENGINES.values())))


def name_of(engine) -> str:
    """As in the table."""
    return engine.__name__.rpartition(".")[2]


class Clock:
    """CPU time of calls with the instruction set in use, as if the clock were always what it was at first."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal((64, 64), dtype=np.float32) for _ in range(2))  # the caches stay as calls left them
        y = np.empty_like(x)
        self._product = lambda: _kernels.linear_forward(x, w, None, y, 64, 64, 64)
        self._first = float(np.median([self._unit() for _ in range(200)]))

    def _unit(self) -> float:
        return min(_timed(self._product) for _ in range(5))

    def seconds(self, calls: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
        """Medians for calls that are made in turn, ``budget`` seconds of each, after one that fills the caches."""
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            call()
        spent = 0.0
        for rounds in range(50):
            if rounds >= 3 and spent > budget * len(calls):
                break
            for name, call in calls.items():
                unit = self._unit()
                took = _timed(call)
                samples[name].append(took * self._first / unit)
                spent += took
        return {name: float(np.median(times)) for name, times in samples.items()}


def _timed(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measure(path: Path, isas: list[str], budget: float) -> None:
    """Write a list of samples."""
    xpconv.set_num_threads(1)
    rng = np.random.default_rng(0)
    samples = []
    clocks = {}
    for isa in isas:
        _kernels.use_instruction_set(isa)
        clocks[isa] = Clock()
    for geometry in geometries():
        window = geometry.window
        if (
            geometry.batch
            * geometry.out_channels
            * geometry.in_channels
            // geometry.groups
            * window.taps
            * (window.positions)
            > MOST
        ):
            geometry = geometry._replace(batch=max(1, geometry.batch // 4))
        for dtype in DTYPES:
            shape = (geometry.out_channels, geometry.in_channels // geometry.groups, window.kernel_h, window.kernel_w)
            x = rng.standard_normal((geometry.batch, geometry.in_channels, window.height, window.width)).astype(dtype)
            w = rng.standard_normal(shape).astype(dtype)
            b = np.zeros(geometry.out_channels, dtype)
            dy = rng.standard_normal((geometry.batch, geometry.out_channels, window.out_h, window.out_w)).astype(dtype)
            operations: dict[str, Callable[[ModuleType], object]] = {
                "forward": lambda engine: engine.forward(x, w, b, geometry, False),  # noqa: B023
                "input_gradient": lambda engine: engine.input_gradient(dy, w, geometry),  # noqa: B023
                "weight_gradient": lambda engine: engine.weight_gradient(dy, x, geometry, True),  # noqa: B023
            }
            for isa, (operation, call) in itertools.product(isas, operations.items()):
                _kernels.use_instruction_set(isa)
                calls = {
                    name_of(engine): partial(call, engine)
                    for engine in engines()
                    if engine.possible(operation, dtype, geometry) is None
                }
                for name, seconds in clocks[isa].seconds(calls, budget).items():
                    samples.append([isa, dtype, operation, name, geometry, seconds])
        print(geometry, len(samples), flush=True)
        path.write_text(json.dumps(samples))


def nonnegative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The minimum of |a x - b| over x >= 0, by coordinate descent: a handful of columns only."""
    x = np.zeros(a.shape[1])
    norms = (a * a).sum(axis=0)
    for _ in range(20_000):
        for k in range(len(x)):
            if norms[k]:
                x[k] = max(0.0, x[k] + a[:, k] @ (b - a @ x) / norms[k])
    return x


def fit(path: Path, write: bool) -> None:
    """Print the quality of the choices; write the table."""
    from xpconv._geometry import Window

    by_name = {name_of(engine): engine for engine in engines()}
    groups: dict[tuple[str, ...], list[tuple[list[float], float]]] = defaultdict(list)
    cases: dict[tuple, dict[str, tuple[list[float], float]]] = defaultdict(dict)
    for isa, dtype, operation, name, geometry, seconds in json.loads(path.read_text()):
        geometry = ConvGeometry(Window(*geometry[0]), *geometry[1:])
        lanes = choice._VECTOR_BYTES[isa] // choice._ITEMSIZE[dtype]
        counts = [float(count) for count in by_name[name].features(operation, geometry, lanes)]
        groups[isa, dtype, operation, name].append((counts, seconds))
        cases[isa, dtype, operation, geometry][name] = counts, seconds
    table = {}
    for key, samples in sorted(groups.items()):
        counts = np.array([sample[0] for sample in samples])
        times = np.array([sample[1] for sample in samples])
        scale = np.maximum(counts.max(axis=0), 1e-30)
        found = nonnegative(counts / scale / times[:, None], np.ones(len(times))) / scale
        table[key] = tuple(float(f"{cost * 1e9:.4g}") for cost in found)
        ratio = counts @ found / times
        print(" ".join(key), table[key], f"estimate / time {ratio.min():.2f}-{ratio.max():.2f}")
    lost = defaultdict(list)
    for (isa, dtype, operation, geometry), found in cases.items():
        best = min(seconds for _, seconds in found.values())
        chosen = min(found, key=lambda name: np.dot(table[isa, dtype, operation, name], found[name][0]))
        lost[isa, dtype, operation].append(found[chosen][1] / best)
        if found[chosen][1] > 1.15 * best:
            times = {name: f"{seconds * 1e3:.2f}" for name, (_, seconds) in found.items()}
            print("  not the best:", isa, dtype, operation, geometry, chosen, times)
    for key, ratios in lost.items():
        print(" ".join(key), f"chosen / best: mean {np.mean(ratios):.3f}, worst {np.max(ratios):.2f}")
    if write:
        lines = [f'    ("{isa}", "{dtype}", "{operation}", "{name}"): {costs},' for (isa, dtype, operation, name), costs
                 in table.items()]  # fmt: skip
        first = TABLE.read_text().partition("\n")[0]
        TABLE.write_text(
            f"{first}\n\n"
            "# fmt: off\nCOSTS: dict[tuple[str, str, str, str], tuple[float, ...]] = {\n" + "\n".join(lines) + "\n}\n"
        )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["measure", "fit"])
    parser.add_argument("samples", type=Path)
    # the BLAS behind im2col takes the widest instructions whatever kernels are told: with others nothing is compared
    parser.add_argument("--isa", nargs="+", default=[_kernels.instruction_set()])
    parser.add_argument("--seconds", type=float, default=0.05, help="CPU time for a sample")
    parser.add_argument("--write", action="store_true", help="replace the table")
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.samples, options.isa, options.seconds)
    else:
        fit(options.samples, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
