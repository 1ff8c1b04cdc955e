"""Figures, axes and texts for all pictures, without pyplot: nothing global is changed, no window is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = [
    "LONGEST_NAME",
    "class_names_of",
    "figure_of",
    "given_axes",
    "new_figure",
    "plain",
    "set_plain_ticks",
    "show_picture",
]

LONGEST_NAME = 32  # of a class beside an axis


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches that pyplot does not know of, and its axes, row by row."""
    require("matplotlib", "pictures", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def figure_of(axes: Axes) -> Figure:
    """The figure that the axes are in, be it in a part of it."""
    figure: Any = axes.figure
    while figure.figure is not figure:
        figure = figure.figure
    return figure


def given_axes(name: str, axes: Any, count: int, what: str) -> list[Axes]:
    """``axes``, one or an array of them, as a list of ``count``.

    Raises
    ------
    TypeError, ValueError
        Not axes of matplotlib, or of another number.
    """
    require("matplotlib", "pictures", extra="plot")
    from matplotlib.axes import Axes

    if isinstance(axes, Axes):
        found = [axes]
    else:
        found = list(
            axes.ravel() if isinstance(axes, np.ndarray) else axes if isinstance(axes, (list, tuple)) else [axes]
        )
    for each in found:
        if not isinstance(each, Axes):
            raise TypeError(f"{name}: expected Axes of matplotlib, got {each!r:.200}")
    if len(found) != count:
        raise ValueError(f"{name}: expected {count}, {what}, got {len(found)}")
    return found


# ---- texts ------------------------------------------------------------------------------------------------------


def plain(text: Text, value: object, longest: int | None = None) -> None:
    """Let ``text`` show exactly ``value``: a dollar is a dollar, and what the font lacks becomes a box.

    Of more than ``longest`` characters the rest is cut off.
    """
    text.set_parse_math(False)
    text.set_usetex(False)
    text.set_text(_printable(str(value), text, longest))


def _printable(value: str, text: Text, longest: int | None) -> str:
    # control characters and halves of surrogate pairs have no glyph in any font
    value = "".join(c if c.isprintable() else "?" for c in value)
    if longest is not None and len(value) > longest:
        value = value[: longest - 1] + "…"
    if value.isascii():
        return value
    maps = _character_maps(text)
    box = next((box for box in "□?" if any(ord(box) in known for known in maps)), "?")
    return "".join(c if c.isascii() or any(ord(c) in known for known in maps) else box for c in value)


def _character_maps(text: Text) -> list[Mapping[int, Any]]:
    """Which characters the fonts have that matplotlib takes for the text; drawing others is a warning."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    properties = text.get_fontproperties()
    maps: list[Mapping[int, Any]] = []
    for family in properties.get_family():
        single = FontProperties(family=[family], style=properties.get_style(), weight=properties.get_weight())
        try:
            path = findfont(single, fallback_to_default=False)
        except ValueError:  # not installed
            continue
        maps.append(get_font(path).get_charmap())
    return maps


def set_plain_ticks(axes: Axes, which: str, names: Sequence[object], **style: Any) -> None:
    """A tick at 0, 1, ... for each name, on the axis ``which``, "x" or "y"."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    shown = [_printable(str(name), axis.label, LONGEST_NAME) for name in names]
    axis.set_ticks(range(len(names)), labels=shown, parse_math=False, usetex=False, **style)


def class_names_of(names: Any, count: int) -> list[str]:
    """Names of ``count`` classes as strings; their numbers if None.

    Raises
    ------
    TypeError, ValueError
        No sequence, or of another length.
    """
    if names is None:
        return [str(k) for k in range(count)]
    if isinstance(names, str) or not hasattr(names, "__len__"):
        raise TypeError(f"class_names: expected a sequence of names, got {names!r:.200}")
    if len(names) != count:
        raise ValueError(f"class_names: expected {count}, one for each class, got {len(names)}")
    return [str(name) for name in names]


# ---- pictures ---------------------------------------------------------------------------------------------------


def show_picture(axes: Axes, picture: np.ndarray, title: object = None) -> None:
    """An image (H, W, 3) of numbers from 0 to 1, without ticks."""
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    if title is not None:
        plain(axes.set_title("", fontsize=9), title, 18)  # an inch and a third
