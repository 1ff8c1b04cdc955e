"""The layers of the package, and the seven steps of one call from a layer down to a kernel."""

from __future__ import annotations

from pathlib import Path

from _style import INK, STRONG, arrow, blank, cell, save

PICTURES = ("architecture.svg",)

TOP, BOX, GAP = 0.55, 0.46, 0.24  # inches


def draw(folder: Path) -> None:
    """Boxes from what uses networks at the top to kernels at the bottom; arrows say who calls whom."""
    figure, axes = blank(7.2, 5.3)
    left, width = 0.35, 6.5
    axes.text(left, 0.25, "A call goes down; arrays and caches come back.", fontsize=9, color=INK, va="center")

    def row(level: int, names: list[str], fill: str, number: str = "", width: float = width) -> float:
        y = TOP + level * (BOX + GAP)
        each = (width - 0.12 * (len(names) - 1)) / len(names)
        for k, name in enumerate(names):
            cell(axes, left + k * (each + 0.12), y, (each, BOX), name, fill, fontsize=8.5)
        if number:
            axes.text(left - 0.17, y + BOX / 2, number, fontsize=10, color=STRONG["red"], ha="center", va="center")
        return y

    row(0, ["training", "cli", "sklearn", "onnx", "models"], "grey")
    row(1, ["layers:  parameters, state, a stack of caches", "optim, data"], "green", "1")
    row(2, ["functional:  arguments checked, geometry worked out, forward and backward"], "blue", "2", width - 0.5)
    y = row(3, ["backends:  whose array is it?  which kernel supports the call?"], "blue", "3")
    for level in range(3):
        below = TOP + (level + 1) * (BOX + GAP)
        arrow(axes, (left + width / 4, below - GAP), (left + width / 4, below))
    # optimizers and data sets need no operators
    arrow(axes, (left + width - 0.25, TOP + 2 * BOX + GAP), (left + width - 0.25, y))

    # the three kinds of kernels, from specific to general
    columns = (
        ("orange", "NumPy", "_cpu:  the engine that suits", "kernels/cpu:  Cython, then C", "4, 5", "6, 7"),
        ("orange", "CuPy", "_gpu:  launches, cuBLAS", "kernels/cuda:  CUDA C++", "", ""),
        ("violet", "torch, JAX, all others", "_generic:  the array API", "the library itself", "", ""),
    )
    each = (width - 0.24) / 3
    top = y + BOX + 0.55
    for k, (fill, arrays, package, kernels, first, second) in enumerate(columns):
        x = left + k * (each + 0.12)
        arrow(axes, (x + each / 2, y + BOX), (x + each / 2, top))
        axes.text(x + each / 2 + 0.09, y + BOX + 0.27, arrays, fontsize=8.5, color=INK, ha="left", va="center")
        cell(axes, x, top, (each, BOX), package, fill, fontsize=8.5)
        arrow(axes, (x + each / 2, top + BOX), (x + each / 2, top + BOX + GAP))
        cell(axes, x, top + BOX + GAP, (each, BOX), kernels, fill, fontsize=8.5)
        for number, level in ((first, top), (second, top + BOX + GAP)):
            axes.text(x - 0.2, level + BOX / 2, number, fontsize=10, color=STRONG["red"], ha="center", va="center")
    text = "Red numbers: the steps of one convolution of NumPy arrays, as the page lists them."
    axes.text(left, 5.05, text, fontsize=8.5, color=STRONG["red"], va="center")
    save(figure, folder / PICTURES[0])
