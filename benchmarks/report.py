"""Rows of measurements, and how they are printed: plain text, Markdown, JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .timing import Ratio, allocator, median, ratio

__all__ = ["Row", "environment_line", "geometric_mean", "left_out", "markdown", "plain", "row_of_samples"]

PEERS = ("torch", "jax")


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
    spread
        Quartiles of each contender's samples, in `unit`.
    flops, nbytes
        Work of one run: floating-point operations as its definition counts them, whatever an algorithm saves; bytes of
        each input read once and each output written once.
    share
        The rate of the subject as a part of what the machine can do: multiply-adds if there are `flops`, else copying.
    engine
        What xpconv chose for the work.
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
    spread: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    flops: float = 0.0
    nbytes: float = 0.0
    share: float | None = None
    engine: str = ""

    @property
    def rate(self) -> float | None:
        """10**9 operations or bytes a second of the subject, or None."""
        if not (self.flops or self.nbytes) or not self.values.get(self.subject):
            return None
        return (self.flops or self.nbytes) / 1e9 / (self.values[self.subject] / 1e3)

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
        spread = {name: (low, high) for name, (low, high) in fields.get("spread", {}).items()}
        return cls(**{**fields, "ratio": None if of is None else Ratio(**of), "spread": spread})


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
    **more: Any,
) -> Row:
    """A row in milliseconds of what `timing.interleave` returned; no ratio without the baseline, or of times of 0.

    ``more`` are further fields of the row.
    """
    measured = baseline in samples and min(*samples[baseline], *samples[subject]) > 0
    if baseline not in samples:
        note = "; ".join(part for part in (note, f"without {baseline}") if part)
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
        spread={name: _quartiles(np.asarray(times) * 1e3) for name, times in samples.items()},
        **more,
    )


def _quartiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


def left_out(benchmark: str, case: str, threads: int) -> Row:
    """A row that says that there was no time for a case."""
    return Row(
        benchmark, case, "", threads, allocator(), "ms", {}, "torch", "xpconv", None,
        "left out: the time of the section was up",
    )  # fmt: skip


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
    header = ["case", "operation", "threads", "allocator", *(f"{name} {unit}".strip() for name in contenders)]
    lines = [[*header, f"{baseline} / {subject}", f"rate of {subject}", "of peak", "engine", "note"]]
    for row in rows:
        values = [_number(row.values.get(name)) for name in contenders]
        speed = "" if row.rate is None else f"{_number(row.rate)} {'GFLOP/s' if row.flops else 'GB/s'}"
        share = "" if row.share is None else f"{row.share:.0%}"
        ratio_text = _ratio(row.ratio) if baseline else ""
        what = [row.case, row.operation, str(row.threads), row.allocator]
        lines.append([*what, *values, ratio_text, speed, share, row.engine, row.note])
    optional = range(len(header), len(lines[0]))
    keep = [k for k in range(len(lines[0])) if k not in optional or any(line[k] for line in lines[1:])]
    return [[line[k] for k in keep] for line in lines]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _means(rows: Sequence[Row]) -> list[str]:
    """Geometric means of the ratios, where several cases share operation, threads and allocator."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        if row.ratio is not None:
            found.setdefault((row.operation, row.threads, row.allocator), []).append(row.ratio.value)
    lines = []
    for (operation, threads, allocator_name), values in found.items():
        if len(values) > 1:
            lines.append(
                f"geometric mean of {len(values)} cases, {operation}, threads {threads}, {allocator_name}: "
                f"{geometric_mean(values):.2f} (lowest {min(values):.2f})"
            )
    return lines


def _title(rows: Sequence[Row]) -> str:
    row = rows[0]
    if not row.baseline:
        return row.benchmark
    return f"{row.benchmark}: {row.baseline} / {row.subject}, above 1 where {row.subject} is better"


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
    peers = [f"{name} {environment[name]}" if environment[name] else f"{name} not installed" for name in PEERS]
    isa = f", kernels for {environment['instruction_set']}" if environment["instruction_set"] else ""
    return (
        f"{environment['size']} run of {environment['date']}; {environment['cpu']} ({environment['cores']} cores; "
        f"{' '.join(environment['instructions'])}), load {environment['load']} at the start; {environment['system']}; "
        f"Python {environment['python']}, xpconv {environment['xpconv']} (commit {environment['commit']}{isa}), "
        f"numpy {environment['numpy']} ({', '.join(environment['blas'])}), {', '.join(peers)}"
    )
