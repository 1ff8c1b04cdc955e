"""The page: HTML with its style, script, data and pictures inside, which asks for nothing on any network."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from .. import __version__
from .._files import write_atomically
from ..training import RunFolder
from .collect import Filters, LayerTimes, Predictions, Run, read_run

__all__ = ["Chart", "Series", "build_page", "charts_of", "parts_of", "payload", "write_report"]

_NONE, _TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"

_POINTS = 600  # of a curve; more are thinned
_COLOURS = 8  # of runs; see page.css
_STYLES = ("solid", "dashed", "dotted")  # of their curves
_MATRIX = 25  # classes of a whole confusion matrix
_MATRIX_PART = 15  # classes of a part of one
_ROWS = 30  # of tables that are shown without being asked for
_CONFUSIONS = 10
_SLOWEST = 12
_HEAT = 6  # levels of colour above none; see page.css


def write_report(run: RunFolder | str | os.PathLike[str]) -> str:
    """Write ``report.html`` into a run folder, in place of one that is there.

    Parameters
    ----------
    run : RunFolder, str or path-like

    Returns
    -------
    str
        Path of the page.

    Raises
    ------
    RunFolderError
        See `read_run`.
    OSError
        It cannot be read or written.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    write_atomically(folder.report, [build_page([read_run(folder.path)]).encode(errors="replace")])
    return str(folder.report)


def build_page(runs: Sequence[Run], *, live: bool = False) -> str:
    """The page of a run, or the comparison of several.

    Parameters
    ----------
    runs : sequence of Run
        At least one.
    live : bool
        Whether the page is served while the run goes on, and asks for news.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ValueError
        No run, or several for a live page.
    """
    if not runs or (live and len(runs) > 1):
        raise ValueError(f"runs: expected {'one run' if live else 'at least one run'}, got {len(runs)}")
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    body = _run_body(runs[0], live) if len(runs) == 1 else _comparison_body(runs)
    charts = charts_of(runs[0]) if len(runs) == 1 else _comparison_charts(runs)
    data = {"charts": [chart.as_json() for chart in charts], "live": live}
    scripts = [_static("uPlot.iife.min.js.gz"), _static("page.js")]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}"
    if live:
        policy += "; connect-src 'self'"
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escape(title)} | xpconv report</title>
<style>{_static("uPlot.min.css")}
{_static("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
{body}
<footer>Made by xpconv {escape(__version__)}. This page is complete: it loads nothing.</footer>
<p id="readout" class="hidden" aria-live="polite"></p>
<script type="application/json" id="data">{_script_json(data)}</script>
{code}
</body>
</html>
"""


def payload(run: Run) -> dict[str, Any]:
    """What changes on a live page: its parts as HTML, and its charts."""
    return {"parts": parts_of(run), "charts": [chart.as_json() for chart in charts_of(run)]}


@functools.cache
def _static(name: str) -> str:
    file = resources.files(__package__).joinpath("static", name)
    if name.endswith(".gz"):
        return gzip.decompress(file.read_bytes()).decode().strip()
    return file.read_text(encoding="utf-8").strip()


@functools.cache
def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: Any) -> str:
    """JSON that is safe inside of a script element, whatever the texts in it are."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ---- words ------------------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"


def _rate(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def _value(value: Any) -> str:
    """A value of the configuration."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _option(name: str) -> str:
    return name.replace("_", "-")


# ---- pieces of HTML ---------------------------------------------------------------------------------------------


def _table(caption: str, head: Sequence[str], rows: Sequence[str], *, kind: str) -> str:
    """A table in a box that scrolls; ``head`` are texts, ``rows`` the insides of rows as HTML."""
    columns = "".join(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head)
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f'<caption class="hidden">{escape(caption)}</caption><thead><tr>{columns}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _row(name: str, *cells: str) -> str:
    """A row: its name, then cells that are texts."""
    return f'<th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _details(summary: str, inside: str, name: str) -> str:
    return f'<details data-name="{name}"><summary>{escape(summary)}</summary>{inside}</details>'


def _section(name: str, title: str, inside: str) -> str:
    return f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{escape(title)}</h2>{inside}</section>'


def _part(name: str, inside: str) -> str:
    return f'<div data-part="{name}">{inside}</div>'


def _nothing(run: Run, what: str) -> str:
    when = "comes when the run ends" if run.status == "running" else "is not in this run folder"
    return f'<p class="empty">{escape(what)} {when}.</p>'


def _figure(chart: Chart) -> str:
    shown = "" if chart.has_points else " hidden"
    return (
        f'<figure class="chart" id="c-{chart.name}"{shown}><figcaption><h3>{escape(chart.title)}</h3>'
        f'<p class="summary">{escape(chart.summary)}</p></figcaption>'
        f'<div class="legend" role="group" aria-label="Curves of {escape(chart.title.lower())}"></div>'
        f'<div class="plot" tabindex="0" role="img" aria-label="{escape(chart.label)}"></div></figure>'
    )


def _header(title: str, line: str, badge: str) -> str:
    return (
        f'<header><div><p class="brand">xpconv run report</p><h1>{escape(title)} {badge}</h1>{line}</div>'
        '<button id="theme" type="button" aria-pressed="false">Dark colours</button></header>'
    )


def _nav(sections: Sequence[tuple[str, str]]) -> str:
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in sections)
    return f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>'


# ---- charts -----------------------------------------------------------------------------------------------------


class Series(NamedTuple):
    """A curve.

    Attributes
    ----------
    label
        Its name.
    points
        Pairs (x, y).
    colour
        Name of a CSS variable, without its dashes.
    style
        ``"solid"``, ``"dashed"``, ``"dotted"`` or ``"faint"``.
    """

    label: str
    points: list[tuple[float, float]]
    colour: str
    style: str = "solid"


class Chart(NamedTuple):
    """Curves over the epochs.

    Attributes
    ----------
    name
        Part of ids.
    title
        Above it.
    summary
        What it shows, in a sentence.
    series
        The curves.
    kind
        ``"loss"``, ``"share"`` (from 0 to 1) or ``"rate"``: how the axis is numbered.
    """

    name: str
    title: str
    summary: str
    series: list[Series]
    kind: str

    @property
    def has_points(self) -> bool:
        """Whether there is anything to draw."""
        return any(series.points for series in self.series)

    @property
    def label(self) -> str:
        """The chart in words."""
        parts = [
            f"{s.label} from {_rate(s.points[0][1])} to {_rate(s.points[-1][1])}"
            for s in self.series
            if s.points and s.style != "faint"
        ]
        return f"{self.title}: {'; '.join(parts)}. The numbers are in a table of this page."

    def as_json(self) -> dict[str, Any]:
        """For the script: one axis of x for all curves, None where a curve has no point."""
        found = [dict(series.points) for series in self.series]
        xs = sorted({x for points in found for x in points})
        return {
            "name": self.name,
            "summary": self.summary,
            "label": self.label,
            "kind": self.kind,
            "x": xs,
            "series": [
                {
                    "label": series.label,
                    "colour": series.colour,
                    "style": series.style,
                    "y": [points.get(x) for x in xs],
                }
                for series, points in zip(self.series, found, strict=True)
            ],
        }


def _curve(records: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    points = [(record[x], record[y]) for record in records if record.get(y) is not None]
    if len(points) <= _POINTS:
        return points
    size = -(-len(points) // _POINTS)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    middles = [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
    return [(round(px, 4), py) for px, py in middles]


def _rates(run: Run) -> list[tuple[float, float]]:
    """Learning rates by position; steps and ends of epochs."""
    rates = {record["position"]: record["lr"] for record in run.steps if record["lr"] is not None}
    for record in run.epochs:
        if record["lr"] is not None:
            rates.setdefault(float(record["epoch"]), record["lr"])
    return _curve([{"x": x, "y": rates[x]} for x in sorted(rates)], "x", "y")


def charts_of(run: Run) -> list[Chart]:
    """The curves of a run; those that have no points yet too."""
    loss = [
        Series("one batch", _curve(run.steps, "position", "batch_loss"), "s1", "faint"),
        Series("training", _curve(run.epochs, "epoch", "loss"), "s1"),
        Series("validation", _curve(run.epochs, "epoch", "val_loss"), "s2", "dashed"),
    ]
    accuracy = [
        Series("training", _curve(run.epochs, "epoch", "accuracy"), "s1"),
        Series("validation", _curve(run.epochs, "epoch", "val_accuracy"), "s2", "dashed"),
    ]
    rates = _rates(run)
    return [
        Chart("loss", "Loss", _extreme(run, "loss", min, "lowest"), loss, "loss"),
        Chart("accuracy", "Accuracy", _extreme(run, "accuracy", max, "highest"), accuracy, "share"),
        Chart(
            "lr",
            "Learning rate",
            f"Highest {_rate(max(y for _, y in rates))}, last {_rate(rates[-1][1])}" if rates else "",
            [Series("learning rate", rates, "s1")],
            "rate",
        ),
    ]


def _extreme(run: Run, quantity: str, choose: Callable[..., Any], word: str) -> str:
    for key, of in ((f"val_{quantity}", "Validation"), (quantity, "Training")):
        points = [(record[key], record["epoch"]) for record in run.epochs if record[key] is not None]
        if points:
            value, epoch = choose(points, key=lambda point: point[0])
            if run.best is not None and run.best[key] == value:  # of equals the one that counts
                epoch = run.best["epoch"]
            return f"{of}: {word} {_number(value)}, epoch {epoch}"
    return "More after the first epoch" if run.steps else ""


# ---- a run ------------------------------------------------------------------------------------------------------

_SECTIONS = (
    ("result", "Result"),
    ("curves", "Learning curves"),
    ("classes", "Classes and mistakes"),
    ("network", "First layer"),
    ("time", "Time by layer"),
    ("config", "Configuration"),
    ("environment", "Environment"),
)


def _run_body(run: Run, live: bool) -> str:
    parts = {name: _part(name, inside) for name, inside in parts_of(run).items()}
    figures = "".join(map(_figure, charts_of(run)))
    script = '<noscript><p class="empty">The curves are drawn by a script; the table has their numbers.</p></noscript>'
    insides = {
        "result": parts["notes"] + parts["result"],
        "curves": script + f'<div class="charts">{figures}</div>' + parts["numbers"],
        "classes": parts["classes"],
        "network": parts["network"],
        "time": parts["time"],
        "config": parts["config"],
        "environment": parts["environment"],
    }
    connection = '<p id="connection" class="note" role="status"></p>' if live else ""
    sections = "\n".join(_section(name, title, insides[name]) for name, title in _SECTIONS)
    head = _header(run.name, parts["subtitle"], f'<span data-part="status">{_badge(run)}</span>')
    return f'{head}\n{_nav(_SECTIONS)}\n<main id="main" tabindex="-1">{connection}\n{sections}\n</main>'


def _badge(run: Run) -> str:
    return f'<span class="badge {run.status}">{run.status}</span>' if run.status else ""


def parts_of(run: Run) -> dict[str, str]:
    """What a page says of a run, besides the charts: HTML by name."""
    return {
        "status": _badge(run),
        "subtitle": f'<p class="subtitle">{escape(_subtitle(run))}</p>',
        "notes": "".join(f'<p class="note">{escape(note)}</p>' for note in _notes(run)),
        "result": _result(run),
        "numbers": _numbers(run),
        "classes": _nothing(run, "What the network says to held-out images")
        if run.predictions is None
        else _classes(run, run.predictions),
        "network": _nothing(run, "A picture of the first layer") if run.filters is None else _first_layer(run.filters),
        "time": _nothing(run, "The time of each layer") if run.layers is None else _times(run.layers),
        "config": _settings("Options of xpconv train", {_option(k): _value(v) for k, v in run.config.items()}),
        "environment": _settings("What the run was made with", _environment(run))
        if _environment(run)
        else _nothing(run, "What the run was made with"),
    }


def _subtitle(run: Run) -> str:
    words = []
    model, data = run.config.get("model"), run.config.get("data")
    if model and data:
        words.append(f"{model} on {data if not os.path.isabs(str(data)) else os.path.basename(str(data))}")
    if run.image_shape:
        channels, *size = run.image_shape
        words.append(f"images of {_TIMES.join(map(str, size))}, {_count(channels, 'channel')}")
    if run.started:
        words.append(f"started {run.started.replace('T', ' ')}")
    return " · ".join(words)


def _notes(run: Run) -> list[str]:
    notes = list(run.notes)
    if run.status == "failed":
        notes.insert(0, f"The run failed: {run.message}")
    elif run.status == "interrupted":
        command = shlex.join(["xpconv", "train", "--resume", str(run.path)])
        notes.insert(0, f"The run was interrupted. To go on: {command}")
    if not run.epochs:
        notes.append("No epoch is finished yet.")
    return notes


def _result(run: Run) -> str:
    tiles: list[tuple[str, str, str]] = []
    best = run.best
    if run.test is not None:
        after = "" if run.test["epoch"] is None else f"weights of epoch {run.test['epoch']:g}"
        if run.test["accuracy"] is not None:
            tiles.append(("Test accuracy", _number(run.test["accuracy"]), after))
        tiles.append(("Test loss", _number(run.test["loss"]), after if run.test["accuracy"] is None else ""))
    if best is not None:
        key, word = ("val_loss", "loss") if best["val_accuracy"] is None else ("val_accuracy", "accuracy")
        tiles.append((f"Validation {word}", _number(best[key]), f"best, epoch {best['epoch']}"))
    asked = run.config.get("epochs")
    done = run.epochs[-1]["epoch"] if run.epochs else 0
    tiles.append(("Epochs", f"{done:,}", f"of {asked:,}" if type(asked) is int and asked != done else ""))
    each = f"{_duration(run.seconds / len(run.epochs))} an epoch" if run.epochs else ""
    tiles.append(("Time", _duration(run.seconds), each))
    if run.parameters is not None:
        tiles.append(("Parameters", f"{run.parameters:,}", ""))
    if len(run.images) == 3:
        train, held_out, test = run.images
        tiles.append(("Images", f"{train:,}", f"{held_out:,} for validation, {test:,} for the test"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{f'<small>{escape(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


_COLUMNS = (
    ("loss", "training loss"),
    ("accuracy", "training accuracy"),
    ("val_loss", "validation loss"),
    ("val_accuracy", "validation accuracy"),
    ("lr", "learning rate"),
    ("seconds", "seconds"),
)


def _numbers(run: Run, title: str = "Numbers of every epoch", name: str = "numbers") -> str:
    known = {key for key, _ in _COLUMNS}
    more = dict.fromkeys(key for r in run.epochs for key in r if key.startswith("val_") and key not in known)
    columns = [*_COLUMNS, *((key, f"validation {key.removeprefix('val_')}") for key in more)]
    columns = [(key, title) for key, title in columns if any(r.get(key) is not None for r in run.epochs)]
    show = {"lr": _rate, "seconds": lambda value: _NONE if value is None else f"{value:.1f}"}
    rows = [_row(str(r["epoch"]), *(show.get(key, _number)(r.get(key)) for key, _ in columns)) for r in run.epochs]
    table = _table(title, ["epoch", *(title for _, title in columns)], rows, kind="numbers")
    return _details(title, table, name) if rows else ""


# ---- classes ----------------------------------------------------------------------------------------------------


class _ClassNumbers(NamedTuple):
    """Of a class: images, those found, how often it was chosen, and the three shares."""

    number: int
    images: int
    hits: int
    chosen: int

    @property
    def precision(self) -> float:
        return self.hits / self.chosen if self.chosen else 0.0

    @property
    def recall(self) -> float:
        return self.hits / self.images if self.images else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.hits / (self.images + self.chosen) if self.hits else 0.0


def _class_numbers(run: Run, found: Predictions) -> list[_ClassNumbers]:
    images: dict[int, int] = {}
    chosen: dict[int, int] = {}
    for (label, guess), count in found.confusion.items():
        images[label] = images.get(label, 0) + count
        chosen[guess] = chosen.get(guess, 0) + count
    classes = sorted({*range(len(run.classes)), *images, *chosen})
    confusion = found.confusion
    return [_ClassNumbers(k, images.get(k, 0), confusion.get((k, k), 0), chosen.get(k, 0)) for k in classes]


def _classes(run: Run, found: Predictions) -> str:
    numbers = _class_numbers(run, found)
    some = "" if found.images == found.total else f"The first {found.images:,} of "
    text = f"{some}{_count(found.total, f'{found.part} image')}, {found.weights or 'the weights of the run'}."
    tables = (_matrix(run, found, numbers), _by_class(run, numbers), _confusions(run, found, numbers))
    blocks = "".join(f"<div>{table}</div>" for table in tables if table)
    summary = f'<p class="summary">{escape(text[0].upper() + text[1:])}</p>'
    return f'{summary}<div class="tables">{blocks}</div>{_mistakes(run, found)}'


def _level(value: float) -> int:
    """Level of heat of a share; any share above 0 has one, and small ones are told apart."""
    return min(_HEAT, max(1, round(_HEAT * value**0.5))) if value > 0 else 0


def _matrix(run: Run, found: Predictions, numbers: Sequence[_ClassNumbers]) -> str:
    whole = len(numbers) <= _MATRIX
    chosen = list(numbers)
    title = "Confusion matrix"
    if not whole:
        chosen.sort(key=lambda c: -(c.images - c.hits) - (c.chosen - c.hits))
        chosen = sorted(chosen[:_MATRIX_PART])
        title += f": the {_MATRIX_PART} classes of {len(numbers):,} with most mistakes"
    names = [run.class_name(c.number) for c in chosen]
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    if not whole:
        head += '<th scope="col"><span>another class</span></th>'
    most = max((n for (r, c), n in found.confusion.items() if r != c), default=1)
    rows = []
    for row, name in zip(chosen, names, strict=True):
        cells, seen = [], 0
        for column in chosen:
            count = found.confusion.get((row.number, column.number), 0)
            seen += count
            kind = "d" if row is column else "e"
            level = _level((count / row.images if row.images else 0) if kind == "d" else count / most)
            cells.append(f'<td class="{kind}{level}">{count}</td>')
        if not whole:
            cells.append(f"<td>{row.images - seen}</td>")
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f"<h3>{escape(title)}</h3>"
        '<p class="summary">A row is what images show, a column what the network takes them for. '
        '<span class="key d5">blue</span> is right, the stronger the larger the share of the row; '
        '<span class="key e4">orange</span> is mistaken, the stronger the more often.</p>'
        f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(title)}"><table class="matrix">'
        f'<caption class="hidden">{escape(title)}: rows are true classes, columns predicted ones</caption>'
        f'<thead><tr><td class="corner">true ↓ predicted →</td>{head}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _confusions(run: Run, found: Predictions, numbers: Sequence[_ClassNumbers]) -> str:
    wrong = sorted(((n, pair) for pair, n in found.confusion.items() if pair[0] != pair[1] and n), reverse=True)
    if not wrong:
        return ""
    images = {c.number: c.images for c in numbers}
    rows = [
        _row(run.class_name(label), run.class_name(guess), f"{n:,}", _percent(n / images[label]))
        for n, (label, guess) in wrong[:_CONFUSIONS]
    ]
    head = ["image of", "taken for", "images", "of its class"]
    return "<h3>Most frequent confusions</h3>" + _table("Most frequent confusions", head, rows, kind="confusions")


def _by_class(run: Run, numbers: Sequence[_ClassNumbers]) -> str:
    head = ["class", "precision", "recall", "F1", "images"]

    def table(caption: str, chosen: Sequence[_ClassNumbers]) -> str:
        rows = [
            _row(run.class_name(c.number), *(f"{v:.4f}" for v in (c.precision, c.recall, c.f1)), f"{c.images:,}")
            for c in chosen
        ]
        return _table(caption, head, rows, kind="numbers")

    title = "Precision and recall by class"
    if len(numbers) <= _ROWS:
        return f"<h3>{title}</h3>{table(title, numbers)}"
    worst = sorted((c for c in numbers if c.images), key=lambda c: c.f1)[:_ROWS]
    return (
        f"<h3>{title}: the {len(worst)} lowest</h3>{table(f'{title}: the {len(worst)} lowest F1', worst)}"
        + _details(f"All {len(numbers):,} classes", table(title, numbers), "all-classes")
    )


def _mistakes(run: Run, found: Predictions) -> str:
    if not found.mistakes:
        wrong = any(label != guess and n for (label, guess), n in found.confusion.items())
        return "" if wrong else '<h3>Worst mistakes</h3><p class="empty">None: every image is right.</p>'
    items = []
    for mistake in found.mistakes:
        label, guess = run.class_name(mistake.label), run.class_name(mistake.predicted)
        place = f"{found.part} image {mistake.number}"
        picture = f'<img src="{escape(mistake.picture)}" alt="{escape(place)}">' if mistake.picture else ""
        file = os.path.basename(mistake.file)
        items.append(
            f"<li>{picture}<p><b>{escape(label)}</b> {_percent(mistake.label_probability)}<br>taken for "
            f"<b>{escape(guess)}</b> {_percent(mistake.probability)}</p>"
            f'<p class="place">{escape(place)}{f"<br>{escape(file)}" if file else ""}</p></li>'
        )
    return (
        '<h3>Worst mistakes</h3><p class="summary">The images with the highest loss of those that are mistaken, with '
        "what the network gave to the right class and to the one that it chose. Some may be labelled wrongly.</p>"
        f'<ul class="mistakes">{"".join(items)}</ul>'
    )


# ---- network and machine ----------------------------------------------------------------------------------------


def _first_layer(filters: Filters) -> str:
    height, width = filters.size
    shown = "" if len(filters.pictures) == filters.total else f", the first {len(filters.pictures)} shown"
    what = f"{filters.layer or 'first layer'} ({filters.kind}): {_count(filters.total, 'filter')}"
    what += f" of {height}{_TIMES}{width}"
    if filters.channels == 3:
        colour = "Each is scaled to its own largest weight; grey is zero in all three channels."
    else:
        mean = f"the mean over {filters.channels} channels; " if filters.channels != 1 else ""
        colour = f"Each is scaled to its own largest weight: {mean}grey is zero, white positive, black negative."
    pictures = "".join(f'<img src="{escape(picture)}" alt="">' for picture in filters.pictures)
    size = "big" if max(height, width) > 11 else ""
    return (
        f'<p class="summary">{escape(what + shown)}. {colour}</p>'
        f'<div class="filters {size}" role="img" aria-label="{escape(what + shown)}">{pictures}</div>'
    )


def _times(times: LayerTimes) -> str:
    total = times.seconds
    rows = sorted(times.rows, key=lambda row: -(row[3] + row[4]))
    slow, rest = rows[:_SLOWEST], rows[_SLOWEST:]
    longest = max([row[3] + row[4] for row in slow] or [1.0]) or 1.0

    def line(name: str, kind: str, forward: float, backward: float) -> str:
        bars = "".join(
            f'<i class="{way}" style="width:{100 * seconds / longest:.2f}%"></i>'
            for way, seconds in (("f", forward), ("b", backward))
        )
        cells = "".join(f"<td>{escape(text)}</td>" for text in (kind, f"{1e3 * forward:.2f}", f"{1e3 * backward:.2f}"))
        share = f'<td>{_percent((forward + backward) / total)}</td><td class="bars" aria-hidden="true">{bars}</td>'
        return f'<th scope="row">{escape(name)}</th>{cells}{share}'

    lines = [line(name or "(model)", kind, forward, backward) for name, kind, _, forward, backward in slow]
    if rest:
        others = f"{_count(len(rest), 'other')}"
        lines.append(line(others, "", sum(row[3] for row in rest), sum(row[4] for row in rest)))
    ordered = []
    for name, kind, calls, forward, backward in times.rows:
        milliseconds = (f"{1e3 * forward:.2f}", f"{1e3 * backward:.2f}", _percent((forward + backward) / total))
        cells = ("with another", "", "") if kind and not calls else milliseconds
        ordered.append(_row(name or "(model)", kind, *cells))
    head = ["layer", "kind", "forward ms", "backward ms", "share"]
    return (
        f'<p class="summary">A step of {_count(times.images, "image")} takes {1e3 * total:.1f} ms, mean of '
        f'{_count(times.steps, "step")}. <span class="key f">forward</span> <span class="key b">backward</span></p>'
        + _table("Time by layer, the slowest first", [*head, ""], lines, kind="times")
        + _details(
            "All layers in the order of the network",
            _table("Time by layer in the order of the network", head, ordered, kind="times"),
            "all-layers",
        )
    )


def _environment(run: Run) -> dict[str, str]:
    facts = dict(run.environment)
    if run.version:
        facts.setdefault("xpconv", run.version)
    return facts


def _settings(caption: str, values: Mapping[str, str]) -> str:
    rows = [_row(name, value) for name, value in values.items()]
    return _table(caption, ["name", "value"], rows, kind="settings")


# ---- several runs -----------------------------------------------------------------------------------------------


def _labels(runs: Sequence[Run]) -> list[str]:
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _comparison_charts(runs: Sequence[Run]) -> list[Chart]:
    charts = []
    for key, title, kind in (
        ("val_accuracy", "Validation accuracy", "share"),
        ("val_loss", "Validation loss", "loss"),
        ("accuracy", "Training accuracy", "share"),
        ("loss", "Training loss", "loss"),
        ("lr", "Learning rate", "rate"),
    ):
        series = []
        for number, (run, label) in enumerate(zip(runs, _labels(runs), strict=True)):
            points = _rates(run) if key == "lr" else _curve(run.epochs, "epoch", key)
            style = _STYLES[number % len(_STYLES)]  # told apart without colours too
            series.append(Series(label, points, f"r{number % _COLOURS}", style))
        charts.append(Chart(key.replace("_", "-"), title, "", series, kind))
    return charts


class _Quantity(NamedTuple):
    """A line of the table of results."""

    name: str
    of: Callable[[Run], float | None]
    show: Callable[[Any], str]
    best: Callable[..., Any] | None


_QUANTITIES = (
    _Quantity("test accuracy", lambda run: None if run.test is None else run.test["accuracy"], _number, max),
    _Quantity("test loss", lambda run: None if run.test is None else run.test["loss"], _number, min),
    _Quantity(
        "best validation accuracy", lambda run: None if run.best is None else run.best["val_accuracy"], _number, max
    ),
    _Quantity("its validation loss", lambda run: None if run.best is None else run.best["val_loss"], _number, min),
    _Quantity("its epoch", lambda run: None if run.best is None else run.best["epoch"], str, None),
    _Quantity("epochs", lambda run: run.epochs[-1]["epoch"] if run.epochs else 0, str, None),
    _Quantity("time", lambda run: run.seconds, _duration, None),
    _Quantity("time of an epoch", lambda run: run.seconds / len(run.epochs) if run.epochs else None, _duration, min),
    _Quantity("parameters", lambda run: run.parameters, lambda value: f"{value:,}", None),
)


def _results(runs: Sequence[Run], labels: Sequence[str]) -> str:
    rows = []
    for quantity in _QUANTITIES:
        values = [quantity.of(run) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = quantity.best(known) if quantity.best is not None and len(set(known)) > 1 else None
        cells = []
        for value in values:
            text = _NONE if value is None else escape(quantity.show(value))
            mark = ' class="best"' if best is not None and value == best else ""
            cells.append(f"<td{mark}>{text}{'<small> best</small>' if mark else ''}</td>")
        rows.append(f'<th scope="row">{quantity.name}</th>{"".join(cells)}')
    rows.append(_row("state", *(run.status or _NONE for run in runs)))
    return _table("Results", ["", *labels], rows, kind="results")


def _differences(caption: str, labels: Sequence[str], tables: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for table in tables for name in table)
    differ = [name for name in names if len({table.get(name) for table in tables}) > 1]
    same = len(names) - len(differ)
    text = f'<p class="summary">{_count(same, "other is", "others are")} the same.</p>' if same else ""
    if not differ:
        return '<p class="empty">No difference.</p>'
    rows = [_row(name, *(table.get(name, _NONE) for table in tables)) for name in differ]
    return _table(caption, ["name", *labels], rows, kind="settings") + text


def _comparison_body(runs: Sequence[Run]) -> str:
    labels = _labels(runs)
    figures = "".join(map(_figure, _comparison_charts(runs)))
    numbers = "".join(
        _numbers(run, f"Numbers of every epoch: {label}", f"numbers-{k}")
        for k, (run, label) in enumerate(zip(runs, labels, strict=True))
    )
    config = [{_option(k): _value(v) for k, v in run.config.items()} for run in runs]
    notes = "".join(
        f'<p class="note">{escape(f"{label}: {note}")}</p>'
        for run, label in zip(runs, labels, strict=True)
        for note in _notes(run)
    )
    sections = [
        ("result", "Results", notes + _results(runs, labels)),
        ("curves", "Learning curves", f'<div class="charts">{figures}</div>{numbers}'),
        ("config", "Configuration that differs", _differences("Configuration that differs", labels, config)),
        (
            "environment",
            "Environment that differs",
            _differences("Environment that differs", labels, [_environment(run) for run in runs]),
        ),
    ]
    line = f'<p class="subtitle">{escape(" · ".join(labels))}</p>'
    inside = "\n".join(_section(*section) for section in sections)
    nav = _nav([(name, title) for name, title, _ in sections])
    head = _header(f"{len(runs)} runs side by side", line, "")
    return f'{head}\n{nav}\n<main id="main" tabindex="-1">{inside}</main>'
