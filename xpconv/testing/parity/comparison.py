"""Running a case on two backends, and printing how far apart they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backends import to_numpy
from ..matrix import Case
from .bounds import Bound, accumulator, is_exact, rounded, tolerance
from .cases import Key, ParityCase, on_backend, on_host

__all__ = ["LARGEST_VALUE_LIMIT", "Finding", "compare", "is_ok", "table"]

LARGEST_VALUE_LIMIT = 1e-5
"""Promised for float32: no result of an operator is further from NumPy's than this part of its largest value."""

_SHOWN = 20  # problems in the table; a broken kernel makes hundreds


class Finding(NamedTuple):
    """One result of one case, on both sides.

    Attributes
    ----------
    case, operator, result
        What it is.
    difference
        Largest absolute difference.
    of_largest
        The same as a part of the largest value of the reference; 0 for an empty result.
    of_tolerance
        The same as a part of what rounding explains, element by element; above 1 it is an error. 0 or infinite where
        results must be equal bit for bit.
    exact
        Whether they must.
    problem
        What is wrong, in words; empty if nothing is.
    """

    case: str
    operator: str
    result: str
    difference: float
    of_largest: float
    of_tolerance: float
    exact: bool
    problem: str = ""


def _wide(array: Any) -> np.ndarray:
    """Values to compare: floating-point numbers in float64, everything else as it is."""
    values = np.asarray(to_numpy(array) if hasattr(array, "dtype") else array)
    return values.astype(np.float64) if values.dtype.kind not in "iub" else values


def _finding(case: str, key: Key, got: Any, want: Any, bound: Bound, dtype: str) -> Finding:
    exact = is_exact(bound, dtype)

    def finding(difference: float, of_largest: float, of_tolerance: float, problem: str = "") -> Finding:
        return Finding(case, *key, difference, of_largest, of_tolerance, exact, problem)

    a, b = _wide(got), _wide(want)
    if a.shape != b.shape:
        return finding(math.inf, math.inf, math.inf, f"shape {a.shape} instead of {b.shape}")
    if (a.dtype.kind == "f") != (b.dtype.kind == "f"):
        return finding(math.inf, math.inf, math.inf, f"values of kind {a.dtype.kind!r} instead of {b.dtype.kind!r}")
    if b.size == 0:
        return finding(0.0, 0.0, 0.0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if exact and b.dtype.kind == "f" and dtype != accumulator(dtype):
        b = rounded(b, dtype).astype(np.float64)  # once, as the half type writes it
    with np.errstate(invalid="ignore", divide="ignore"):
        # equal infinities and NaN on both sides are no difference, NaN on one side is an infinite one
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        apart = np.where(np.isnan(apart), np.inf, apart)
        parts = np.where(apart == 0, 0.0, apart / np.broadcast_to(tolerance(bound, dtype), b.shape))
    largest = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0))
    difference, part = float(apart.max()), float(parts.max())
    of_largest = 0.0 if difference == 0 else difference / largest if largest else math.inf
    problem = ""
    if not part <= 1:
        index = tuple(int(k) for k in np.unravel_index(int(np.argmax(parts)), b.shape))
        at = f" at index {index}" if index else ""
        rule = "they must be equal" if exact else f"{part:.3g} times what rounding explains"
        problem = f"got {a[index]:.9g}, expected {b[index]:.9g}{at}: {rule}"
    return finding(difference, of_largest, part, problem)


@functools.lru_cache(maxsize=512)  # they depend on nothing else, and several subjects may be judged
def _bounds(case: ParityCase, dtype: str) -> dict[Key, Bound]:
    with Case("bounds", "numpy").active():
        return case.bounds(on_host(case.name, dtype))


def compare(case: ParityCase, subject: Case, reference: Case, dtype: str = "float32") -> list[Finding]:
    """Run a case on both sides; a finding for each of its results.

    Parameters
    ----------
    case
        One of `cases`.
    subject, reference
        What is judged, and what by: ways to run operators, see `xpconv.testing.CASES`.
    dtype
        ``"float32"``, ``"float64"``, ``"float16"`` or ``"bfloat16"``. For the two half types the inputs are rounded to
        them, and the reference computes with these numbers in float32.

    Returns
    -------
    list of Finding
        A case that cannot be run on the subject gives one finding, whose problem is the error. An error of the
        reference is raised: then there is nothing to compare with.
    """
    with np.errstate(all="ignore"):
        # with a device of several the current one: cases compute with arrays themselves, besides calling operators
        with reference.active() as backend, backend.running():
            want = case.call(on_backend(case.name, accumulator(dtype), backend, rounding=dtype))
        bounds = _bounds(case, dtype)
        try:
            with subject.active() as backend, backend.running():
                got = case.call(on_backend(case.name, dtype, backend))
                backend.synchronize()
            missing = set(want) ^ set(got)
            if missing:
                raise AssertionError(f"results on one side only: {sorted(missing)}")
        except Exception as error:  # whatever it is, the other cases are still worth knowing
            operator = next(iter(want))[0]
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return [Finding(case.name, operator, "", math.inf, math.inf, math.inf, False, problem)]
        return [_finding(case.name, key, got[key], want[key], bounds[key], dtype) for key in want]


def _is_operator(finding: Finding) -> bool:
    return finding.operator != "training run"


def largest(findings: Sequence[Finding]) -> Finding | None:
    """The result of an operator (not of the training run) that is furthest from the reference, of its largest value."""
    return max(filter(_is_operator, findings), key=lambda f: f.of_largest, default=None)


def is_ok(findings: Sequence[Finding], dtype: str = "float32") -> bool:
    """Whether nothing is out of tolerance, and in float32 no operator beyond `LARGEST_VALUE_LIMIT`.

    Parameters
    ----------
    findings
        From `compare`.
    dtype
        Of the comparison.

    Returns
    -------
    bool
        What ``xpconv parity`` makes its exit status of.
    """
    worst = largest(findings)
    within = dtype != "float32" or worst is None or worst.of_largest <= LARGEST_VALUE_LIMIT
    return within and not any(f.problem for f in findings)


def _figure(value: float) -> str:
    return "equal" if value == 0 else f"{value:.1e}"


def table(findings: Sequence[Finding], dtype: str = "float32") -> str:
    """For a terminal of 80 columns: a line for each operator, the worst of its results; then what is wrong.

    Parameters
    ----------
    findings
        From `compare`.
    dtype
        Of the comparison.

    Returns
    -------
    str
        Lines.
    """
    header = f"{'operator':<28}{'results':>8}{'difference':>12}{'of largest':>12}{'of tolerance':>14}"
    lines = [header, "-" * len(header)]
    operators = dict.fromkeys(f.operator for f in findings)
    for operator in operators:
        mine = [f for f in findings if f.operator == operator]
        part = max(f.of_tolerance for f in mine)
        tolerance = "bit-equal" if part == 0 and all(f.exact for f in mine) else f"{part:.1g}"
        marks = "  <-- out" if any(f.problem for f in mine) else ""
        lines.append(
            f"{operator:<28}{len(mine):>8}{_figure(max(f.difference for f in mine)):>12}"
            f"{_figure(max(f.of_largest for f in mine)):>12}{tolerance:>14}{marks}"
        )
    wrong = [f for f in findings if f.problem]
    if wrong:
        lines += ["", "out of tolerance:"]
        for f in wrong[:_SHOWN]:
            lines += [f"  {f.case}", f"    {f.operator} {f.result}".rstrip() + f": {f.problem}"]
        if len(wrong) > _SHOWN:
            lines.append(f"  and {len(wrong) - _SHOWN} more")
    worst = largest(findings)
    lines += ["", "of tolerance: of what rounding explains; bit-equal: as promised, and so it is"]
    if worst is not None:
        limit = f" (limit {LARGEST_VALUE_LIMIT:.0e})" if dtype == "float32" else ""
        lines.append(
            f"operators differ by at most {worst.of_largest:.1e} of the largest value{limit}\n"
            f"  {worst.result} of {worst.case}"
        )
    count = f"{len(findings)} results of {len({f.case for f in findings})} cases"
    lines.append(f"{count}: {'all within tolerance' if is_ok(findings, dtype) else f'{len(wrong)} out of tolerance'}")
    return "\n".join(lines)
