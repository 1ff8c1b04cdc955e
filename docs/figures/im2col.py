"""im2col: the windows of an image become the columns of a matrix, and a convolution a product."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, arrow, blank, cell, grid, save
from matplotlib.patches import Rectangle

PICTURES = ("im2col.svg",)

SIZE = 0.36  # of a cell, in inches
WINDOWS = ("blue", "orange", "green", "violet")


def draw(folder: Path) -> None:
    """An image of 3 x 3, windows of 2 x 2, their columns, and below them the product with a filter."""
    figure, axes = blank(6.4, 3.3)
    pixels = [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]]

    # the image, with a frame for each window
    left, top = 0.6, 0.75
    axes.text(left + 1.5 * SIZE, 0.3, "image, 3 × 3", ha="center", fontsize=9, color=INK)
    grid(axes, left, top, SIZE, pixels)
    for k, colour in enumerate(WINDOWS):
        i, j = divmod(k, 2)
        inset = 0.03 + 0.025 * k
        x, y, side = left + j * SIZE + inset, top + i * SIZE + inset, 2 * SIZE - 2 * inset
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=STRONG[colour], linewidth=1.6))

    # a column for each window, a row for each place in it
    columns = [[pixels[i + u][j + v] for i in range(2) for j in range(2)] for u in range(2) for v in range(2)]
    left_columns, top_columns = 3.6, 0.5
    arrow(axes, (left + 3 * SIZE + 0.25, top + 1.5 * SIZE), (left_columns - 0.85, top + 1.5 * SIZE))
    axes.text(2.35, top + 1.5 * SIZE - 0.12, "im2col", ha="center", fontsize=9, color=INK)
    axes.text(left_columns + 2 * SIZE, 0.3, "columns: one for each window", ha="center", fontsize=9, color=INK)
    grid(axes, left_columns, top_columns, SIZE, columns, [list(WINDOWS)] * 4)
    for k in range(4):
        u, v = divmod(k, 2)
        text = f"row {u}, column {v}" if k == 0 else f"{u}, {v}"
        y = top_columns + (k + 0.5) * SIZE
        axes.text(left_columns + 4 * SIZE + 0.12, y, text, va="center", fontsize=8, color=INK)

    # the product, each factor beside its side of the result
    row = top_columns + 4 * SIZE + 0.2
    left_filter = left_columns - 4 * SIZE - 0.2
    grid(axes, left_filter, row, SIZE, [["p", "q", "r", "s"]], "grey")
    axes.text(left_filter - 0.12, row + SIZE / 2, "filter as a row", ha="right", va="center", fontsize=9, color=INK)
    for k, colour in enumerate(WINDOWS):
        cell(axes, left_columns + k * SIZE, row, SIZE, f"$y_{k}$", colour)
    axes.text(left_columns + 4 * SIZE + 0.12, row + SIZE / 2, "result", va="center", fontsize=9, color=INK)
    text = "$y_0 = p\\,a + q\\,b + r\\,d + s\\,e$, and the four results are an image of 2 × 2"
    axes.text(3.2, 3.1, text, ha="center", va="center", fontsize=9, color=INK)
    save(figure, folder / PICTURES[0])
