"""Rows of measurements, and how they are printed: plain text, Markdown, JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .timing import Ratio, allocator, median, ratio

__all__ = ["Row", "environment_line", "markdown", "plain", "row_of_samples"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what every contender took for the same work.

    Attributes
    ----------
    benchmark
        Name of its module.
    case, operation
        What was done: the shape or the net, and which part of the work.
    threads
        Of every contender.
    allocator
        One of `timing.ALLOCATORS`.
    unit
        Of `values`: ``"ms"`` or ``"MB"`` (10**6 bytes).
    values
        Medians by contender, less is better.
    baseline, subject
        Which two contenders the ratio is of: baseline / subject, above 1 where the subject is better.
    ratio
        None where the baseline is missing.
    note
        Said behind the row: what is missing, or what to know.
    """

    benchmark: str
    case: str
    operation: str
    threads: int
    allocator: str
    unit: str
    values: Mapping[str, float]
    baseline: str
    subject: str
    ratio: Ratio | None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = dataclasses.asdict(self)
        if self.ratio is not None:
            fields["ratio"] = self.ratio._asdict()
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Row:
        """The inverse of `as_dict`."""
        of = fields["ratio"]
        return cls(**{**fields, "ratio": None if of is None else Ratio(**of)})


def row_of_samples(
    benchmark: str,
    case: str,
    operation: str,
    threads: int,
    samples: Mapping[str, Sequence[float] | np.ndarray],
    *,
    baseline: str,
    subject: str = "xpconv",
    note: str = "",
) -> Row:
    """A row in milliseconds of what `timing.interleave` returned; no ratio without the baseline, or of times of 0."""
    measured = baseline in samples and min(*samples[baseline], *samples[subject]) > 0
    if baseline not in samples:
        note = "; ".join(part for part in (note, f"{baseline} not installed") if part)
    return Row(
        benchmark=benchmark,
        case=case,
        operation=operation,
        threads=threads,
        allocator=allocator(),
        unit="ms",
        values={name: median(times) * 1e3 for name, times in samples.items()},
        baseline=baseline,
        subject=subject,
        ratio=ratio(samples[baseline], samples[subject]) if measured else None,
        note=note,
    )


# ---- tables -------------------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(of: Ratio | None) -> str:
    if of is None:
        return "-"
    # one number alone has no spread
    return f"{of.value:.2f}" if of.low == of.high else f"{of.value:.2f} ({of.low:.2f}-{of.high:.2f})"


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Rows that share columns: those of one benchmark, one unit and one pair of contenders."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.benchmark, row.unit, row.baseline, row.subject), []).append(row)
    return groups


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and lines of one group; columns in which nothing is said are left out."""
    unit, baseline, subject = rows[0].unit, rows[0].baseline, rows[0].subject
    # peers first, xpconv last
    names = dict.fromkeys(name for row in rows for name in row.values)
    contenders = sorted(names, key=lambda name: (name == subject, name == "generic"))
    header = ["case", "operation", "threads", "allocator", *(f"{name} {unit}" for name in contenders)]
    lines = [[*header, f"{baseline} / {subject}", "note"]]
    for row in rows:
        values = [_number(row.values.get(name)) for name in contenders]
        lines.append([row.case, row.operation, str(row.threads), row.allocator, *values, _ratio(row.ratio), row.note])
    keep = [k for k in range(len(lines[0])) if k != len(lines[0]) - 1 or any(line[k] for line in lines[1:])]
    return [[line[k] for k in keep] for line in lines]


def _means(rows: Sequence[Row]) -> list[str]:
    """Geometric means of the ratios, where several cases share operation, threads and allocator."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            found.setdefault((row.operation, row.threads, row.allocator), []).append(row.ratio.value)
    lines = []
    for (operation, threads, allocator_name), values in found.items():
        if len(values) > 1:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            lines.append(
                f"geometric mean of {len(values)} cases, {operation}, threads {threads}, {allocator_name}: "
                f"{mean:.2f} (lowest {min(values):.2f})"
            )
    return lines


def _title(rows: Sequence[Row]) -> str:
    return f"{rows[0].benchmark}: {rows[0].baseline} / {rows[0].subject}, above 1 where {rows[0].subject} is better"


def plain(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    blocks = []
    for group in _groups(rows).values():
        cells = _cells(group)
        widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
        rule = "-" * min(max(map(len, text)), 160)
        body = [line.rstrip() for line in (text[0], rule, *text[1:], *_means(group))]
        blocks.append("\n".join([_title(group), *body]))
    return "\n\n".join(blocks)


def markdown(rows: Sequence[Row]) -> str:
    """The table for a document."""
    blocks = []
    for group in _groups(rows).values():
        header, *lines = _cells(group)
        table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)]
        means = [f"- {line}" for line in _means(group)]
        blocks.append("\n".join([f"## {_title(group)}", "", *table, *(["", *means] if means else [])]))
    return "\n\n".join(blocks)


def environment_line(environment: Mapping[str, Any]) -> str:
    """What the numbers depend on, in one line."""
    peer = f"torch {environment['torch']}" if environment["torch"] else "torch not installed"
    return (
        f"{environment['size']} run of {environment['date']}; {environment['cpu']} ({environment['cores']} cores; "
        f"{' '.join(environment['instructions'])}), load {environment['load']} at the start; {environment['system']}; "
        f"Python {environment['python']}, xpconv {environment['xpconv']}, numpy {environment['numpy']} "
        f"({', '.join(environment['blas'])}), {peer}"
    )
