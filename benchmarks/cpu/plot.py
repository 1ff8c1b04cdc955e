"""The table of `benchmarks.cpu` as a picture: ``python -m benchmarks.cpu.plot benchmarks/results/FILE.json``.

How many times as fast as PyTorch: a bar for each case and number of threads from the line at 1, longer to the right
where xpconv is faster; thin lines are the quartiles over rounds. Written as PNG and SVG.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..peers import BOTH, FORWARD
from ..report import Row, geometric_mean
from . import layers, training

__all__ = ["PANELS", "Panel", "draw", "main"]

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
MEAN = "geometric mean"
# Okabe and Ito's colours, which the colour-blind can tell apart, in an order of falling brightness
COLOURS = ("#56B4E9", "#0072B2", "#E69F00", "#D55E00")
INK, GRID = "#222222", "#dddddd"


class Panel(NamedTuple):
    """Some rows under a title.

    Attributes
    ----------
    title
        Above the panel.
    wants
        Which rows.
    label
        Name of a row beside its bars.
    mean
        Whether the geometric mean comes last.
    """

    title: str
    wants: Callable[[Row], bool]
    label: Callable[[Row], str]
    mean: bool


def _network(row: Row) -> str:
    names = {"lenet": "LeNet", "three-layer-convnet": "three-layer ConvNet", "resnet20": "ResNet-20"}
    key = row.case.partition(",")[0]
    name = {**names, "resnet18": "ResNet-18"}.get(key, key)
    return f"{name}, inference of 1 image" if row.operation == training.INFERENCE else name


PANELS = (
    Panel(
        "Convolution, forward and backward",
        lambda row: (row.benchmark, row.operation) == ("convolution", BOTH),
        lambda row: row.case,
        True,
    ),
    Panel(
        "Convolution, forward",
        lambda row: (row.benchmark, row.operation) == ("convolution", FORWARD),
        lambda row: row.case,
        True,
    ),
    Panel(
        "Other layers, forward and backward; optimizers",
        lambda row: row.benchmark == "layers" and row.operation in (BOTH, layers.STEP),
        lambda row: row.case,
        False,
    ),
    Panel("Training steps, batch of 128", lambda row: row.benchmark == "training", _network, False),
)


def _chosen(rows: Sequence[Row], panel: Panel) -> dict[int, dict[str, Row]]:
    """Rows with a ratio by number of threads and label; with warm buffers if there are any, the harder case."""
    wanted = [row for row in rows if row.ratio is not None and panel.wants(row)]
    warm = [row for row in wanted if row.allocator == "warm"]
    found: dict[int, dict[str, Row]] = {}
    for row in warm or wanted:
        found.setdefault(row.threads, {})[panel.label(row)] = row
    return dict(sorted(found.items()))


def _panel(axes: Any, panel: Panel, by_threads: Mapping[int, Mapping[str, Row]], colours: Mapping[int, str]) -> None:
    labels = list(dict.fromkeys(label for rows in by_threads.values() for label in rows))
    height = 0.8 / len(by_threads)
    for k, (threads, rows) in enumerate(by_threads.items()):
        values = {label: row.ratio for label, row in rows.items() if row.ratio is not None}
        for label, (value, low, high) in values.items():
            y = labels.index(label) + (k - (len(by_threads) - 1) / 2) * height
            axes.barh(y, value - 1, height * 0.92, left=1, color=colours[threads], zorder=2)
            axes.plot([low, high], [y, y], color=INK, linewidth=0.8, zorder=3, solid_capstyle="butt")
            # beyond the bar and its quartiles, on the side that it points to
            right = value >= 1
            at = max(value, high) if right else min(value, low)
            axes.annotate(
                f"{value:.2f}", (at, y), xytext=(3 if right else -3, 0), textcoords="offset points", va="center",
                ha="left" if right else "right", fontsize=7, color=INK,
            )  # fmt: skip
        if panel.mean and len(values) > 1:
            mean = geometric_mean([ratio.value for ratio in values.values()])
            y = len(labels) + 0.4 + (k - (len(by_threads) - 1) / 2) * height
            axes.barh(y, mean - 1, height * 0.92, left=1, color=colours[threads], zorder=2)
            axes.annotate(
                f"{mean:.2f}", (max(mean, 1), y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7,
                fontweight="bold", color=INK,
            )  # fmt: skip
    ticks = [float(k) for k in range(len(labels))]
    if panel.mean:
        axes.axhline(len(labels) - 0.3, color=GRID, linewidth=0.8)
        ticks, labels = [*ticks, len(labels) + 0.4], [*labels, MEAN]
    axes.set_yticks(ticks, [label.replace("->", "→") for label in labels])
    axes.set_ylim(ticks[-1] + 0.6, -0.6)
    axes.set_title(panel.title, fontsize=10, loc="left", color=INK)


def _limits(all_rows: Sequence[Mapping[int, Mapping[str, Row]]]) -> tuple[float, float]:
    """Of the axis, the same for all panels."""
    ratios = [row.ratio for by_threads in all_rows for rows in by_threads.values() for row in rows.values()]
    low = min(ratio.low for ratio in ratios if ratio is not None)
    high = max(ratio.high for ratio in ratios if ratio is not None)
    return min(low / 1.35, 0.7), max(high * 1.6, 2.0)


def draw(rows: Sequence[Row], about: Mapping[str, Any], stem: Path) -> tuple[Path, Path]:
    """Write ``stem`` with the endings .png and .svg.

    Raises
    ------
    ValueError
        No row has a ratio to PyTorch.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = [(panel, _chosen(rows, panel)) for panel in PANELS]
    found = [(panel, by_threads) for panel, by_threads in found if by_threads]
    if not found:
        raise ValueError("no row has a ratio to PyTorch")
    counts = sorted({threads for _, by_threads in found for threads in by_threads})
    pairs = {1: (COLOURS[1],), 2: (COLOURS[1], COLOURS[2])}.get(len(counts), COLOURS)
    colours = {threads: pairs[k % len(pairs)] for k, threads in enumerate(counts)}
    low, high = _limits([by_threads for _, by_threads in found])

    def length(panel: Panel, by_threads: Mapping[int, Mapping[str, Row]]) -> float:
        return max(map(len, by_threads.values())) + 1.5 + panel.mean

    # two columns, in both of which a case is as high
    columns = [column for column in (found[:2], found[2:]) if column]
    heights = [[length(*part) for part in column] for column in columns]
    longest = max(map(sum, heights))
    settings = {"svg.hashsalt": "xpconv", "font.size": 8, "svg.fonttype": "path", "axes.edgecolor": GRID}
    with mpl.rc_context(settings):
        figure = plt.figure(
            figsize=(max(5.5 * len(columns), 7.5), 0.3 * longest + 1.4), facecolor="white", layout="constrained"
        )
        figure.get_layout_engine().set(rect=(0.0, 0.02, 1.0, 0.93), h_pad=0.12, w_pad=0.12)
        grid = figure.add_gridspec(1, len(columns))
        for j, column in enumerate(columns):
            rest = max(longest - sum(heights[j]), 1e-3)
            cells = grid[j].subgridspec(len(column) + 1, 1, height_ratios=[*heights[j], rest])
            for i, (panel, by_threads) in enumerate(column):
                axes = figure.add_subplot(cells[i])
                axes.set_xscale("log", base=2)
                axes.set_xlim(low, high)
                axes.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(-5, 8) if low <= 2.0**k <= high]))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
                axes.axvline(1.0, color=INK, linewidth=1.2, zorder=4)
                axes.tick_params(length=0, colors=INK)
                for side in ("top", "right", "left"):
                    axes.spines[side].set_visible(False)
                axes.set_xlabel("time of PyTorch / time of xpconv", fontsize=7, color=INK)
                _panel(axes, panel, by_threads, colours)
        keys = [Patch(color=colour, label=_threads(threads)) for threads, colour in colours.items()]
        figure.legend(handles=keys, loc="upper right", ncols=len(keys), frameon=False, fontsize=9)
        version = str(about["torch"]).partition("+")[0]
        figure.text(
            0.008, 0.985, f"xpconv beside PyTorch {version}: right of the line xpconv is faster", fontsize=13,
            fontweight="bold", va="top", color=INK,
        )  # fmt: skip
        # Settled once, and rounded: the solver's last digits differ from drawing to drawing, and with them the numbers
        # and names in the SVG.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            left, bottom, width, height = (round(float(edge), 4) for edge in axes.get_position().bounds)
            axes.set_position((left, bottom, width, height))
        shown = [row for _, by_threads in found for some in by_threads.values() for row in some.values()]
        buffers = "/".join(sorted({row.allocator for row in shown}))
        figure.text(
            0.008, 0.004, f"{about['cpu']}, {about['cores']} cores, float32, {buffers} buffers; "
            f"{str(about['date'])[:10]}, commit {about['commit']}; thin lines: quartiles over rounds", fontsize=7,
            va="bottom", color="#555555",
        )  # fmt: skip
        stem.parent.mkdir(parents=True, exist_ok=True)
        png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
        plt.close(figure)
    return png, svg


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="what benchmarks.cpu has written")
    parser.add_argument(
        "--out",
        type=Path,
        default=IMAGES / "cpu-benchmarks",
        metavar="STEM",
        help="default: docs/images/cpu-benchmarks",
    )
    arguments = parser.parse_args(argv)
    try:
        document = json.loads(arguments.result.read_text(encoding="utf-8"))
        rows = [Row.from_dict(fields) for fields in document["rows"]]
        paths = draw(rows, document["environment"], arguments.out)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{arguments.result}: {error}")
    for path in paths:
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
