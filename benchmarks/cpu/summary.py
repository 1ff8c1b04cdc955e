"""The goals of the project, and whether rows reach them; geometric means and the lowest ratio of each section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..peers import BOTH, FORWARD
from ..report import Row, geometric_mean
from . import layers, memory, overhead, training
from .convolution import SHAPES

__all__ = ["GOALS", "Goal", "lines"]


class Goal(NamedTuple):
    """A figure that rows must reach.

    Attributes
    ----------
    what
        What the figure is, for the line.
    wants
        Which rows count.
    figure
        Of those rows, which are of one number of threads.
    limit, below
        What it must reach; or stay under, if ``below``.
    cases
        How many rows there should be, 0 if that does not matter.
    threads
        Only for this number; 0 for any.
    """

    what: str
    wants: Callable[[Row], bool]
    figure: Callable[[Sequence[Row]], float]
    limit: float
    cases: int = 0
    threads: int = 0
    below: bool = False


def _ratios(rows: Iterable[Row]) -> list[float]:
    return [row.ratio.value for row in rows if row.ratio is not None]


def _mean(rows: Sequence[Row]) -> float:
    return geometric_mean(_ratios(rows))


def _lowest(rows: Sequence[Row]) -> float:
    return min(_ratios(rows))


def _microseconds(rows: Sequence[Row]) -> float:
    """Of a call, above its kernel."""
    return max(row.values["xpconv"] - row.values["kernel"] for row in rows) * 1e3


def _is_wide(case: str) -> bool:
    """Whether a convolution is 3 x 3 of stride 1 with 64 channels or more."""
    shape = SHAPES.get(case)
    return bool(shape) and (shape.kernel, shape.stride, shape.groups) == (3, 1, 1) and shape.channels >= 64


def _convolution(operation: str, wide: bool = False) -> Callable[[Row], bool]:
    def wants(row: Row) -> bool:
        return (row.benchmark, row.operation) == ("convolution", operation) and (not wide or _is_wide(row.case))

    return wants


def _layer(row: Row) -> bool:
    return row.benchmark == "layers" and row.operation == BOTH


def _step(name: str) -> Callable[[Row], bool]:
    return lambda row: row.operation == training.STEP and row.case.startswith(f"{name},")


_N, _WIDE = len(SHAPES), sum(map(_is_wide, SHAPES))
GOALS = (
    Goal("convolution, forward + backward, geometric mean", _convolution(BOTH), _mean, 2.2, _N, threads=1),
    Goal("convolution, forward + backward, geometric mean", _convolution(BOTH), _mean, 2.4, _N, threads=2),
    Goal(
        "convolution 3x3 stride 1, 64 channels on, forward + backward, lowest",
        _convolution(BOTH, True),
        _lowest,
        3.2,
        _WIDE,
    ),
    Goal("convolution, forward + backward, lowest", _convolution(BOTH), _lowest, 1.0, _N),
    Goal("convolution, forward, geometric mean", _convolution(FORWARD), _mean, 1.7, _N),
    Goal("convolution, forward, lowest", _convolution(FORWARD), _lowest, 0.95, _N),
    Goal(
        "other layers, forward + backward, lowest",
        _layer,
        _lowest,
        1.3,
        sum(" M " not in case for case in layers.CASES),
    ),
    Goal("Adam, a step", lambda row: row.operation == layers.STEP and row.case.startswith("Adam"), _lowest, 1.2),
    Goal("LeNet, a training step", _step("lenet"), _lowest, 2.0),
    Goal("three-layer ConvNet, a training step", _step("three-layer-convnet"), _lowest, 1.5),
    Goal("ResNet-20, a training step", _step("resnet20"), _lowest, 2.0),
    Goal("ResNet-18, a training step", _step("resnet18"), _lowest, 2.0),
    Goal("ResNet-20, inference of one image", lambda row: row.operation == training.INFERENCE, _lowest, 1.0),
    Goal(
        "microseconds of a small conv2d call above its kernel",
        lambda row: (row.case, row.operation) == (overhead.CALL, FORWARD),
        _microseconds,
        15,
        below=True,
    ),
    Goal(
        "peak memory of ResNet-20's step",
        lambda row: row.benchmark == "memory" and row.case.startswith(memory.RESNET),
        _lowest,
        1.0,
    ),
)


def _goal_line(goal: Goal, rows: Sequence[Row]) -> str:
    figure = goal.figure(rows)
    # as printed, so that no line says 2.20 of 2.2 and not reached
    reached = round(figure, 2) < goal.limit if goal.below else round(figure, 2) >= goal.limit
    sign = "under" if goal.below else "at least"
    lowest = ""
    if goal.figure is _lowest and len(rows) > 1:
        lowest = f" ({min(rows, key=lambda row: row.ratio.value if row.ratio else 0).case})"
    some = f", {len(rows)} of {goal.cases} cases" if goal.cases and len(rows) != goal.cases else ""
    verdict = "reached" if reached else "NOT REACHED"
    return (
        f"{verdict}: {goal.what}, threads {rows[0].threads}, {rows[0].allocator}{some}: {figure:.2f}{lowest}, "
        f"goal {sign} {goal.limit:g}"
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """A line for each goal, number of threads and setting of the allocator that there are rows for.

    The goals are meant for warm buffers, the harder case; what was measured with the allocator's default too is told
    by the means behind each table.
    """
    found = []
    for goal in GOALS:
        wanted = [row for row in rows if goal.wants(row) and (row.ratio is not None or goal.below)]
        for threads in sorted({row.threads for row in wanted}):
            here = [row for row in wanted if row.threads == threads]
            warm = [row for row in here if row.allocator == "warm"]
            if goal.threads in (0, threads):
                found.append(_goal_line(goal, warm or here))
    missing = [goal.what for goal in GOALS if not any(goal.wants(row) for row in rows)]
    if missing:
        found.append(f"not measured: {'; '.join(dict.fromkeys(missing))}")
    return found
