"""Max pooling: the largest number of each window, and the way of the gradient."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, arrow, blank, grid, save

PICTURES = ("pooling.svg",)

SIZE = 0.36  # of a cell, in inches
IMAGE = ((1, 5, 2, 0), (9, 3, 1, 4), (7, 7, 6, 8), (0, 2, 5, 8))
COLOURS = (("blue", "orange"), ("green", "violet"))


def draw(folder: Path) -> None:
    """Image, result, gradient of the result, gradient of the image."""
    figure, axes = blank(7.4, 2.3)
    top = 0.55
    windows = [[COLOURS[i // 2][j // 2] for j in range(4)] for i in range(4)]
    result, winners = [[0, 0], [0, 0]], {}
    for p in range(2):
        for q in range(2):
            taps = [(IMAGE[2 * p + i][2 * q + j], (2 * p + i, 2 * q + j)) for i in range(2) for j in range(2)]
            result[p][q], winners[p, q] = max(taps, key=lambda tap: tap[0])  # the first of equal ones

    def title(x: float, cells: int, text: str) -> None:
        axes.text(x + cells * SIZE / 2, 0.3, text, ha="center", fontsize=9, color=INK)

    title(0.3, 4, "image")
    grid(axes, 0.3, top, SIZE, IMAGE, windows)
    arrow(axes, (1.9, top + 2 * SIZE), (2.4, top + 2 * SIZE))
    axes.text(2.15, top + 2 * SIZE - 0.13, "max", ha="center", fontsize=9, color=INK)
    title(2.55, 2, "result")
    grid(axes, 2.55, top + SIZE, SIZE, result, COLOURS)

    names = [["p", "q"], ["r", "s"]]
    title(4.15, 2, "its gradient")
    grid(axes, 4.15, top + SIZE, SIZE, names, COLOURS)
    arrow(axes, (5.0, top + 2 * SIZE), (5.5, top + 2 * SIZE), STRONG["red"])
    title(5.65, 4, "gradient of the image")
    back = [[names[i // 2][j // 2] if winners[i // 2, j // 2] == (i, j) else "0" for j in range(4)] for i in range(4)]
    fills = [[windows[i][j] if back[i][j] != "0" else "white" for j in range(4)] for i in range(4)]
    grid(axes, 5.65, top, SIZE, back, fills)
    text = "of the two sevens and the two eights the first one counts"
    axes.text(3.7, 2.2, text, ha="center", fontsize=9, color=INK)
    save(figure, folder / PICTURES[0])
