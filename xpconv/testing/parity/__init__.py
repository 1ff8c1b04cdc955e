"""Do two backends compute the same? Every public operator, and a short training run, on both.

`cases` is the fixed table of what is computed, `compare` runs a case on both sides and says how far they are apart as
parts of what rounding can explain, `table` prints that. ``xpconv parity`` is the command on top; the tests go through
the same cases.

How far two results may be apart follows from the number of roundings behind them; see `bounds`.
"""

from .bounds import EXACT, Bound, accumulator
from .cases import ParityCase, cases
from .comparison import LARGEST_VALUE_LIMIT, Finding, compare, is_ok, table

__all__ = [
    "EXACT",
    "LARGEST_VALUE_LIMIT",
    "Bound",
    "Finding",
    "ParityCase",
    "accumulator",
    "cases",
    "compare",
    "is_ok",
    "table",
]
