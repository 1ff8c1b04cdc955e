"""Loss and accuracy of a run, and the loss over learning rates, as pictures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from .._extras import require

__all__ = ["draw_curves", "draw_learning_rates"]

_TRAINING, _VALIDATION = "#1f5fa8", "#d1622b"


def draw_curves(records: Iterable[Mapping[str, Any]], title: str) -> bytes:
    """A PNG with two panels, loss and accuracy over the epochs.

    Parameters
    ----------
    records
        Lines of the log of a run: those of kind ``"epoch"`` give the curves, those of kind ``"step"`` the loss of
        single batches behind them.
    title
        Above the panels.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    require("matplotlib", "curves")
    # the object interface: pyplot would start a window system and keep every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = list(records)
    epochs = [record for record in records if record["kind"] == "epoch"]
    figure = Figure(figsize=(10, 4.2), dpi=120)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.12, top=0.9, wspace=0.2)
    FigureCanvasAgg(figure)
    figure.suptitle(_printable(title)).set_parse_math(False)  # a dollar is a dollar
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        if quantity == "loss":
            batches = [(r["position"], r["batch_loss"]) for r in records if r["kind"] == "step" and r["batch_loss"]]
            if batches:
                axes.plot(*zip(*batches, strict=True), color=_TRAINING, alpha=0.25, linewidth=0.8, label="one batch")
        for key, label, colour in (
            (quantity, "training", _TRAINING),
            (f"val_{quantity}", "validation", _VALIDATION),
        ):
            points = [(r["epoch"], r[key]) for r in epochs if r.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=label)
        axes.set_xlim(0, 1.03 * max([1, *(r["epoch"] for r in epochs)]))
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a character that the font lacks becomes a box
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_learning_rates(rates: Any, losses: Any, smoothed: Any, suggestion: float | None) -> bytes:
    """A PNG with the loss over the learning rate, see `LearningRates`.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    require("matplotlib", "curves")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), dpi=120, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(rates, losses, color=_TRAINING, alpha=0.25, linewidth=0.8, label="one batch")
    axes.plot(rates, smoothed, color=_TRAINING, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=_VALIDATION, linestyle="--", label=f"suggestion {suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _printable(text: str) -> str:
    """Bytes of a file name that are no text, and control characters, as question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)
