"""Every operator, forward and backward, and a short training run against NumPy: the suite of ``xpconv parity``."""

from __future__ import annotations

import importlib.util
import math

from xpconv.testing import Case, parity

from .section import Options, Row, Rows

SECONDS = 100
NEEDS_GPU = False

# enough on the stand-in, where the tests run the whole table
_TINY = ("conv2d, 3x3", "batch_norm, images", "softmax_cross_entropy, 10 classes", "Adam, weight decay")


def run(options: Options, rows: Rows) -> None:
    """A row for each case and dtype."""
    subject, reference = Case("subject", options.backend), Case("reference", "numpy")
    dtypes = ["float32"] if options.tiny else ["float32", "float64", "float16"]
    # CuPy has its numbers from a package of their own
    if not options.tiny and importlib.util.find_spec("ml_dtypes") is not None:
        dtypes.append("bfloat16")
    for dtype in dtypes:
        for case in parity.cases():
            if options.tiny and not case.name.startswith(_TINY):
                continue
            if parity.accumulator(dtype) != dtype and not case.in_half:
                continue

            def compare(case=case, dtype=dtype) -> Row:
                findings = parity.compare(case, subject, reference, dtype)
                return {
                    "ok": parity.is_ok(findings, dtype),
                    "operators": sorted({f.operator for f in findings}),
                    "results": len(findings),
                    "of_tolerance": _finite(max(f.of_tolerance for f in findings)),
                    "of_largest": _finite(max(f.of_largest for f in findings)),
                    "problems": [f"{f.operator} {f.result}: {f.problem}" for f in findings if f.problem],
                }

            rows.attempt(options, compare, case=case.name, dtype=dtype)
    wrong = [row["case"] for row in rows.all if not row.get("ok")]
    if wrong:
        raise AssertionError(f"{len(wrong)} cases out of tolerance or not run: {', '.join(wrong[:5])}")


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        mine = [row for row in rows if row["dtype"] == dtype]
        good = [row for row in mine if row.get("ok")]
        operators = [row for row in good if not row["case"].startswith("training run")]
        worst = max((row["of_largest"] for row in operators), default=0.0)
        found.append(
            f"{dtype}: {len(good)} of {len(mine)} cases within tolerance; operators within {worst:.1e} of the largest"
        )
        found += [f"  OUT: {row['case']}: {'; '.join(row['problems'])[:150]}" for row in mine if row.get("problems")]
        found += [f"  {row['case']}: {row['error'][:150]}" for row in mine if row.get("error")]
    return found
