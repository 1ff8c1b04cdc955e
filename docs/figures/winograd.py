"""Winograd's F(2, 3): two results of three taps by four products."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, blank, cell, save

PICTURES = ("winograd.svg",)

ROW = 0.52  # from one line to the next, in inches
HEIGHT = 0.34
# which inputs make each sum, and with which sign; and which products make each result
SUMS = (((0, 1), (2, -1)), ((1, 1), (2, 1)), ((2, 1), (1, -1)), ((1, 1), (3, -1)))
RESULTS = (((0, 1), (1, 1), (2, 1)), ((1, 1), (2, -1), (3, -1)))


def draw(folder: Path) -> None:
    """From left to right: inputs, their sums, the products with sums of the filter, results."""
    figure, axes = blank(7.4, 3.15)
    top = 0.72
    heads = (
        (0.55, "inputs", "$d$"),
        (2.3, "additions", "$B^T d$"),
        (4.25, "4 products", "$(G g) \\odot (B^T d)$"),
        (6.45, "additions", "$y = A^T[\\ldots]$"),
    )
    for x, head, formula in heads:
        axes.text(x, 0.25, head, ha="center", fontsize=9, color=INK, fontweight="bold")
        axes.text(x, 0.5, formula, ha="center", fontsize=9, color=INK)

    def middle(k: float) -> float:
        return top + k * ROW + HEIGHT / 2

    def line(x0: float, y0: float, x1: float, y1: float, sign: int) -> None:
        colour, style = (STRONG["blue"], "-") if sign > 0 else (STRONG["red"], (0, (3, 2)))
        axes.plot([x0, x1], [y0, y1], color=colour, linestyle=style, linewidth=1.1, zorder=0)

    sums = ("$d_0 - d_2$", "$d_1 + d_2$", "$d_2 - d_1$", "$d_1 - d_3$")
    weights = ("$g_0$", "$(g_0 + g_1 + g_2)/2$", "$(g_0 - g_1 + g_2)/2$", "$g_2$")
    for k in range(4):
        cell(axes, 0.3, top + k * ROW, (0.5, HEIGHT), f"$d_{k}$", "blue")
        for source, sign in SUMS[k]:
            line(0.8, middle(source), 1.85, middle(k), sign)
        cell(axes, 1.85, top + k * ROW, (0.9, HEIGHT), sums[k], "green")
        line(2.75, middle(k), 3.4, middle(k), 1)
        cell(axes, 3.4, top + k * ROW, (1.7, HEIGHT), f"× {weights[k]}  =  $m_{k}$", "orange")
    for k, parts in enumerate(RESULTS):
        y = 0.5 + 2 * k
        for source, sign in parts:
            line(5.1, middle(source), 6.15, middle(y), sign)
        cell(axes, 6.15, top + y * ROW, (0.6, HEIGHT), f"$y_{k}$", "violet")
    y = 2.95
    for x, text, sign in ((2.2, "added", 1), (3.6, "subtracted", -1)):
        line(x, y, x + 0.35, y, sign)
        axes.text(x + 0.42, y, text, va="center", fontsize=8, color=INK)
    save(figure, folder / PICTURES[0])
