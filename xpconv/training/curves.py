"""The loss over learning rates as a picture."""

from __future__ import annotations

import io
from typing import Any

from .._extras import require

__all__ = ["draw_learning_rates"]

_LOSS, _SUGGESTION = "#1f5fa8", "#d1622b"


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
    axes.plot(rates, losses, color=_LOSS, alpha=0.25, linewidth=0.8, label="one batch")
    axes.plot(rates, smoothed, color=_LOSS, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=_SUGGESTION, linestyle="--", label=f"suggestion {suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
