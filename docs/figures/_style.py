"""What the figures share: colours that read on light and dark pages, and files that are the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

__all__ = ["FILLS", "INK", "ON_FILL", "STRONG", "arrow", "blank", "cell", "grid", "save"]

# Text and lines on the page itself: about 4.4 to 1 against white, and against the dark page of furo (#131416).
INK = "#7b7b7b"
# Okabe and Ito's colours, which the colour-blind can tell apart: for lines, frames and arrows.
STRONG = {"blue": "#3b8fc9", "orange": "#d98a00", "green": "#009e73", "red": "#d55e00", "violet": "#b878a3"}
# Pale ones for cells, which carry dark text on any page.
FILLS = {
    "blue": "#bcdcf2",
    "orange": "#f8dca6",
    "green": "#b3e2d3",
    "red": "#f4c6a8",
    "violet": "#e7cfe0",
    "grey": "#e3e3e3",
    "white": "#fafafa",
}
ON_FILL = "#1d1d1d"


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, and one axes over all of it, in inches from the upper left, without a frame."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


def cell(
    axes: Axes,
    x: float,
    y: float,
    size: float | tuple[float, float],
    text: object = "",
    fill: str = "white",
    **style: Any,
) -> None:
    """A cell with its upper left corner at (x, y), filled with ``FILLS[fill]``, and text in the middle."""
    width, height = size if isinstance(size, tuple) else (size, size)
    axes.add_patch(Rectangle((x, y), width, height, facecolor=FILLS[fill], edgecolor=INK, linewidth=0.6))
    if text != "":
        style = {"fontsize": 8, "color": ON_FILL, **style}
        axes.text(x + width / 2, y + height / 2, str(text), ha="center", va="center_baseline", **style)


def grid(
    axes: Axes,
    x: float,
    y: float,
    size: float,
    texts: Sequence[Sequence[object]],
    fills: Sequence[Sequence[str]] | str = "white",
    **style: Any,
) -> None:
    """Rows of cells; ``fills`` names one colour for all, or one for each."""
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            fill = fills if isinstance(fills, str) else fills[i][j]
            cell(axes, x + j * size, y + i * size, size, text, fill, **style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, **style: Any) -> None:
    """An arrow from ``start`` to ``end``."""
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0, **style}
    axes.add_patch(FancyArrowPatch(start, end, color=color, **style))


def save(figure: Figure, path: Path, **options: Any) -> None:
    """Write ``figure`` to ``path``, transparent if it is an SVG; without a date, so that the bytes do not change."""
    if path.suffix == ".svg":
        options = {"transparent": True, "metadata": {"Date": None, "Creator": None}, **options}
    else:
        options = {"metadata": {"Software": None}, **options}
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "path"}):
        figure.savefig(path, **options)
