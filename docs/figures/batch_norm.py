"""Batch normalisation: the graph of the forward, and what comes back."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, arrow, blank, cell, save

PICTURES = ("batch-norm.svg",)


def draw(folder: Path) -> None:
    """Nodes x, u, v, s, the normalised x and y, with forward arrows and the gradients beside their ways back."""
    figure, axes = blank(7.6, 3.6)
    back = STRONG["red"]
    width, height = 0.92, 0.42
    row, below = 0.75, 2.2

    def node(x: float, y: float, text: str, fill: str) -> None:
        cell(axes, x - width / 2, y - height / 2, (width, height), text, fill, fontsize=9)

    def forward(start: tuple[float, float], end: tuple[float, float]) -> None:
        arrow(axes, start, end, INK)

    def gradient(x: float, y: float, text: str, **style: object) -> None:
        axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 9, "color": back, **style})

    places = {"x": (0.65, row), "u": (2.5, row), "n": (4.9, row), "y": (6.9, row), "v": (2.5, below), "s": (4.9, below)}
    node(*places["x"], "$x$", "blue")
    node(*places["u"], "$u = x - \\mu$", "green")
    node(*places["n"], "$\\hat{x} = u\\,s$", "green")
    node(*places["y"], "$\\gamma\\hat{x} + \\beta$", "violet")
    node(*places["v"], "$v = \\overline{u^2}$", "orange")
    cell(axes, 4.9 - 0.7, below - height / 2, (1.4, height), "$s = (v + \\varepsilon)^{-1/2}$", "orange", fontsize=9)

    half = width / 2
    forward((0.65 + half, row - 0.07), (2.5 - half, row - 0.07))
    forward((2.5 + half, row - 0.07), (4.9 - half, row - 0.07))
    forward((4.9 + half, row - 0.07), (6.9 - half, row - 0.07))
    forward((2.43, row + height / 2), (2.43, below - height / 2))
    forward((2.5 + half, below - 0.07), (4.9 - 0.7, below - 0.07))
    forward((4.83, below - height / 2), (4.83, row + height / 2))

    def back_arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        arrow(axes, start, end, back, linestyle=(0, (3, 2)))

    back_arrow((6.9 - half, row + 0.08), (4.9 + half, row + 0.08))
    gradient(5.9, row + 0.3, "1   $\\gamma\\,g$")
    back_arrow((4.9 - half, row + 0.08), (2.5 + half, row + 0.08))
    gradient(3.7, row + 0.3, "2   $s\\,\\hat{g}$")
    back_arrow((4.97, row + height / 2), (4.97, below - height / 2))
    gradient(5.08, (row + below) / 2, "2   $\\sum \\hat{g}\\,u$", ha="left")
    back_arrow((4.9 - 0.7, below + 0.08), (2.5 + half, below + 0.08))
    gradient(3.58, below + 0.32, "3   $\\times\\ (-s^3/2)$")
    back_arrow((2.57, below - height / 2), (2.57, row + height / 2))
    gradient(2.68, (row + below) / 2, "3   $\\times\\ 2u/m$", ha="left")
    back_arrow((2.5 - half, row + 0.08), (0.65 + half, row + 0.08))
    gradient(1.57, row + 0.3, "4   less its mean")
    gradient(6.9, row + 0.45, "$g = \\partial L/\\partial y$")
    gradient(6.9, row + 0.8, "$\\partial L/\\partial\\beta = \\sum g$")
    gradient(6.9, row + 1.1, "$\\partial L/\\partial\\gamma = \\sum g\\,\\hat{x}$")

    y = 3.2
    arrow(axes, (1.2, y), (1.7, y), INK)
    axes.text(1.8, y, "forward", va="center", fontsize=9, color=INK)
    back_arrow((3.4, y), (2.9, y))
    axes.text(
        3.5, y, "backward, by the number of its step; the ways to $u$ add up", va="center", fontsize=9, color=back
    )
    save(figure, folder / PICTURES[0])
