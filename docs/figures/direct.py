"""Direct convolution: the product of im2col, of whose columns only a block exists."""

from __future__ import annotations

from pathlib import Path

from _style import FILLS, INK, ON_FILL, STRONG, arrow, blank, save
from matplotlib.patches import Rectangle

PICTURES = ("direct.svg",)


def draw(folder: Path) -> None:
    """The image, the columns with one block of them, the filters with one strip, and the results with one tile."""
    figure, axes = blank(7.4, 3.75)

    def box(x: float, y: float, width: float, height: float, fill: str = "", dashed: bool = False) -> None:
        axes.add_patch(
            Rectangle(
                (x, y), width, height, facecolor=FILLS[fill] if fill else "none", edgecolor=INK,
                linestyle=(0, (4, 3)) if dashed else "-", linewidth=0.9,
            )
        )  # fmt: skip

    def text(x: float, y: float, words: str, **style: object) -> None:
        axes.text(x, y, words, **{"ha": "center", "va": "center", "fontsize": 9, "color": INK, **style})

    # the image, and the rows of it that one block reads
    text(1.1, 0.25, "image, in memory")
    box(0.4, 0.45, 1.4, 1.2, "white")
    box(0.4, 0.8, 1.4, 0.32, "blue")
    text(1.1, 0.96, "some rows", fontsize=8, color=ON_FILL)

    # the columns, which are not there but for a block
    text(5.35, 0.25, "columns: never made, but for one block")
    box(3.9, 0.45, 2.9, 1.5, dashed=True)
    box(4.75, 0.8, 0.7, 0.6, "orange")
    text(5.1, 1.1, "$X$", fontsize=11, color=ON_FILL)
    text(7.0, 1.2, "taps $K$", rotation=270)
    text(6.15, 1.1, "in the cache", fontsize=8, color=STRONG["orange"])
    arrow(axes, (1.85, 0.96), (4.7, 1.1), STRONG["blue"])
    text(2.85, 0.82, "gathered", fontsize=8, color=STRONG["blue"])

    # filters and results
    box(2.0, 2.25, 1.5, 1.0, "white")
    box(2.35, 2.25, 0.6, 1.0, "green")
    text(2.65, 2.75, "$w$", fontsize=11, color=ON_FILL)
    text(2.75, 3.5, "filters: a chunk of taps", fontsize=9)
    text(1.83, 2.75, "$F$")
    box(3.9, 2.25, 2.9, 1.0, "white")
    box(4.75, 2.25, 0.7, 1.0, "violet")
    box(4.75, 2.5, 0.7, 0.3, "red")
    text(5.1, 2.65, "tile", fontsize=8, color=ON_FILL)
    text(6.15, 2.65, "in registers", fontsize=8, color=STRONG["red"])
    arrow(axes, (5.78, 2.65), (5.48, 2.65), STRONG["red"])
    arrow(axes, (5.78, 1.1), (5.48, 1.1), STRONG["orange"])
    text(5.35, 3.5, "results: a block of pixels after the other")
    axes.plot([2.65, 2.65, 4.7], [2.2, 1.12, 1.12], color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
    axes.plot([5.1, 5.1], [1.45, 2.2], color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
    save(figure, folder / PICTURES[0])
