"""Confusion matrices and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import is_number
from .._extras import require
from ..backends import to_numpy
from ._axes import LONGEST_NAME, class_names_of, figure_of, given_axes, new_figure, plain, set_plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confusion_matrix", "learning_curves"]

_NORMALIZE = {None: None, "true": 1, "pred": 0, "all": (0, 1)}
_MOST_NUMBERS, _MOST_NAMES = 20, 120
_TRAINING, _VALIDATION = "#1f5fa8", "#d1622b"


# ---- confusions -------------------------------------------------------------------------------------------------


def confusion_matrix(
    matrix: Any,
    *,
    class_names: Sequence[str] | None = None,
    normalize: str | None = None,
    cmap: str = "Blues",
    ax: Axes | None = None,
) -> Figure:
    """Draw how often images of each class are taken for each class.

    Parameters
    ----------
    matrix : array (K, K)
        Counts, a row for each true class and a column for each predicted one, as of
        `xpconv.training.confusion_matrix` or scikit-learn's function of that name.
    class_names : sequence of str, optional
        Of the K classes; None is their numbers.
    normalize : str, optional
        Shares in place of counts: ``"true"`` of the images of each class (rows sum to 1), ``"pred"`` of those taken for
        each class (columns sum to 1), ``"all"`` of all. Classes without images have no shares: their cells stay empty.
    cmap : str
        Colour map of matplotlib.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure
        That has the axes; it is not shown. Numbers stand in the cells up to 20 classes, beyond that there is a scale
        of colours.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.
    MissingExtraError
        matplotlib is not installed.
    """
    require("matplotlib", "pictures", extra="plot")
    from matplotlib import colormaps

    if normalize not in _NORMALIZE:
        raise ValueError(f"normalize: expected 'true', 'pred', 'all' or None, got {normalize!r}")
    if not isinstance(cmap, str) or cmap not in colormaps:
        raise ValueError(f"cmap: expected the name of a colour map of matplotlib, such as 'Blues', got {cmap!r:.200}")
    counts = to_numpy(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"matrix: expected a square array (K, K), got shape {counts.shape}")
    if counts.dtype.kind not in "iuf":
        raise TypeError(f"matrix: expected counts, got {counts.dtype}")
    if not (counts >= 0).all() or not np.isfinite(counts).all():
        raise ValueError("matrix: expected counts, finite and not negative")
    classes = len(counts)
    names = class_names_of(class_names, classes)
    values = counts.astype(np.float64)
    if normalize is not None:
        total = values.sum(axis=_NORMALIZE[normalize], keepdims=True)
        values = np.divide(values, total, out=np.full_like(values, np.nan), where=total > 0)
    if ax is None:
        written = 0.08 * min(max(map(len, names)), LONGEST_NAME) * (classes <= _MOST_NAMES)
        size = written + min(1.6 + 0.46 * classes, 12.0)
        figure, (ax,) = new_figure(size + 0.8 * (classes > _MOST_NUMBERS), size)
    else:
        (ax,) = given_axes("ax", ax, 1, "for one matrix")
        figure = figure_of(ax)
    highest = 1.0 if normalize in ("true", "pred") else float(np.nanmax(values, initial=0.0)) or 1.0
    colours = colormaps[cmap].with_extremes(bad="#eeeeee")
    image = ax.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=highest, interpolation="nearest")
    if classes <= _MOST_NUMBERS:
        _write_numbers(ax, values, counts if normalize is None else None, colours, highest)
    else:
        ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    if classes <= _MOST_NAMES:
        size = min(9.0, max(3.0, 540.0 / classes))
        # upright where they would run into each other
        turned = max(map(len, names)) > 3
        set_plain_ticks(ax, "x", names, fontsize=size, rotation=90 if turned else 0)
        set_plain_ticks(ax, "y", names, fontsize=size)
    return figure


def _write_numbers(ax: Axes, values: np.ndarray, counts: np.ndarray | None, colours: Any, highest: float) -> None:
    whole = counts is not None and np.all(counts == np.round(counts))
    for (i, j), value in np.ndenumerate(values):
        if math.isnan(value):
            continue
        text = f"{value:.0f}" if whole else f"{value:.2f}"
        if counts is not None and len(text) > 5:
            text = f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
        red, green, blue, _ = colours(value / highest)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "#202020")


# ---- curves -----------------------------------------------------------------------------------------------------


def learning_curves(
    history: Iterable[Mapping[str, Any]],
    *,
    quantities: Sequence[str] | None = None,
    title: str | None = None,
    axes: Any = None,
) -> Figure:
    """Draw loss, accuracy and other quantities over the epochs, of training and of validation.

    Parameters
    ----------
    history : sequence of mappings
        One for each epoch: `Trainer.history`, or the lines of a log, ``RunFolder.open(path).records()``. Lines of
        single steps in a log give the loss of single batches behind the curves.
    quantities : sequence of str, optional
        A panel for each: ``"loss"`` has the curves of ``loss`` and ``val_loss``, and so on. None is the loss, and the
        accuracy where there is one.
    title : str, optional
        Above the panels of a figure that is made here.
    axes : matplotlib.axes.Axes, or sequence or array of them, optional
        Where to draw, one for each quantity; None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        That has the axes; it is not shown: ``figure.savefig("curves.png")``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, such as a quantity that no record has.
    MissingExtraError
        matplotlib is not installed.

    Notes
    -----
    Curves have gaps where a number is missing, NaN or infinite.
    """
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Iterable):
        raise TypeError(f"history: expected a sequence of mappings, one for each epoch, got {history!r:.200}")
    records = list(history)
    for record in records:
        if not isinstance(record, Mapping):
            raise TypeError(f"history: expected a sequence of mappings, one for each epoch, it has {record!r:.200}")
    epochs = [record for record in records if record.get("kind", "epoch") == "epoch"]
    for record in epochs:
        if not is_number(record.get("epoch")):
            raise ValueError(f"history: every epoch has a number, 'epoch', but not {record!r:.200}")
    panels = _check_quantities(quantities, epochs)
    if axes is None:
        figure, places = new_figure(5.0 * len(panels), 3.8, 1, len(panels))
        if title is not None:
            plain(figure.suptitle(""), title)
    else:
        places = given_axes("axes", axes, len(panels), f"one for each of {', '.join(panels)}")
        figure = figure_of(places[0])
    for ax, quantity in zip(places, panels, strict=True):
        _draw_quantity(ax, quantity, records, epochs)
    return figure


def _check_quantities(quantities: Any, epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    if quantities is None:
        accurate = any(not math.isnan(_number(r.get(key))) for r in epochs for key in ("accuracy", "val_accuracy"))
        return ["loss", "accuracy"] if accurate else ["loss"]
    if isinstance(quantities, str) or not isinstance(quantities, Iterable):
        raise TypeError(f"quantities: expected a sequence of names, such as ['loss'], got {quantities!r:.200}")
    found = list(quantities)
    known = dict.fromkeys(str(key).removeprefix("val_") for record in epochs for key in record)
    for quantity in found:
        if not isinstance(quantity, str):
            raise TypeError(f"quantities: expected a sequence of names, it has {quantity!r:.200}")
        if epochs and quantity not in known:
            names = ", ".join(name for name in known if name not in ("kind", "epoch", "step"))
            raise ValueError(f"quantities: no epoch of the history has {quantity!r}; there are {names}")
    if not found:
        raise ValueError("quantities: expected at least one name, got none")
    return found


def _number(value: object) -> float:
    """``value`` as a float, NaN where there is none that can be drawn."""
    number = float(value) if is_number(value) else math.nan  # type: ignore[arg-type]
    return number if math.isfinite(number) else math.nan


def _draw_quantity(
    ax: Axes, quantity: str, records: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> None:
    from matplotlib.ticker import MaxNLocator

    if quantity == "loss":
        steps = [r for r in records if r.get("kind") == "step"]
        batches = [(_number(r.get("position")), _number(r.get("batch_loss"))) for r in steps]
        if not all(math.isnan(y) for _, y in batches):
            ax.plot(*zip(*batches, strict=True), color=_TRAINING, alpha=0.25, linewidth=0.8, label="one batch")
    for key, label, colour in ((quantity, "training", _TRAINING), (f"val_{quantity}", "validation", _VALIDATION)):
        points = [(_number(r["epoch"]), _number(r.get(key))) for r in epochs]
        if not all(math.isnan(y) for _, y in points):
            ax.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=label)
    ax.set_xlim(0, 1.03 * max([1.0, *(_number(r["epoch"]) for r in epochs)]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    plain(ax.yaxis.label, quantity)
    ax.grid(alpha=0.3)
    if ax.lines:
        ax.legend()
