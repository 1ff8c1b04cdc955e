"""col2im: entries of the columns go back to the pixels that they came from, and add up."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, arrow, blank, grid, save

PICTURES = ("col2im.svg",)

SIZE = 0.36  # of a cell, in inches


def draw(folder: Path) -> None:
    """The columns of a 3 x 3 image and 2 x 2 windows, what the middle pixel collects, and how often each is seen."""
    figure, axes = blank(7.2, 2.75)
    pixels = [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]]
    columns = [[pixels[i + u][j + v] for i in range(2) for j in range(2)] for u in range(2) for v in range(2)]
    top = 0.6

    left = 0.3
    axes.text(left + 2 * SIZE, 0.3, "gradient of the columns", ha="center", fontsize=9, color=INK)
    fills = [["orange" if text == "e" else "white" for text in row] for row in columns]
    grid(axes, left, top, SIZE, [[f"$g_{text}$" for text in row] for row in columns], fills)

    image = 3.35
    axes.text(image + 1.5 * SIZE, 0.3, "gradient of the image", ha="center", fontsize=9, color=INK)
    sums = [["" for _ in range(3)] for _ in range(3)]
    sums[1][1] = "$\\Sigma g_e$"
    fills = [["orange" if (i, j) == (1, 1) else "white" for j in range(3)] for i in range(3)]
    grid(axes, image, top + 0.5 * SIZE, SIZE, sums, fills)
    # each window's entry of the middle pixel
    middle = (image + 1.5 * SIZE, top + 2 * SIZE)
    for k in range(4):
        start = (left + (3 - k + 0.5) * SIZE, top + (k + 0.5) * SIZE)
        bend = (1.5 - k) * -0.16
        arrow(
            axes, start, (middle[0] - 0.17, middle[1] + (k - 1.5) * 0.07), STRONG["red"],
            connectionstyle=f"arc3,rad={bend}", shrinkA=9,
        )  # fmt: skip

    counts = 5.45
    axes.text(counts + 1.5 * SIZE, 0.3, "windows that see each pixel", ha="center", fontsize=9, color=INK)
    fills = [["white", "blue", "white"], ["blue", "orange", "blue"], ["white", "blue", "white"]]
    grid(axes, counts, top + 0.5 * SIZE, SIZE, [[1, 2, 1], [2, 4, 2], [1, 2, 1]], fills)
    text = "the middle pixel e is in all four windows: its gradient is the sum of four entries"
    axes.text(3.6, 2.45, text, ha="center", fontsize=9, color=INK)
    save(figure, folder / PICTURES[0])
