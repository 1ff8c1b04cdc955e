"""Checks of numbers given as arguments, with messages that name the argument, what it got and what it takes."""

from __future__ import annotations

import math
import numbers
import operator

__all__ = ["check_integer", "check_number", "is_number"]


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number: Python's, NumPy's, or an array without axes; True and False are none."""
    if isinstance(value, numbers.Real):
        return not isinstance(value, bool)
    if getattr(value, "shape", None) != () or not hasattr(value, "__float__"):
        return False
    dtype = str(getattr(value, "dtype", ""))
    return "bool" not in dtype and "complex" not in dtype


def check_number(name: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """``value`` as a float, which must be finite and in ``[low, high]``.

    Parameters
    ----------
    above
        Whether ``low`` itself is excluded.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it takes.
    """
    if type(value) is float and low <= value <= high and -math.inf < value < math.inf and not (above and value == low):
        return value
    if low == -math.inf:
        takes = "a finite number"
    elif above:
        takes = f"a number above {low}" + ("" if high == math.inf else f" and at most {high}")
    else:
        takes = f"a number of at least {low}" if high == math.inf else f"a number between {low} and {high}"
    if not is_number(value):
        raise TypeError(f"{name}: expected {takes}, got {value!r:.200}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not (low <= number <= high and math.isfinite(number)) or (above and number == low):
        raise ValueError(f"{name}: expected {takes}, got {value!r}")
    return number


def check_integer(
    name: str, value: object, low: int | None = None, high: int | None = None, *, takes: str = "an integer"
) -> int:
    """``value`` as an int, which must be in ``[low, high]``; None is no limit.

    Parameters
    ----------
    takes
        What else the argument may be, for the message: ``"an integer or None"``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what it takes.
    """
    if type(value) is int and (low is None or low <= value) and (high is None or value <= high):
        return value
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # not an integer, or an array with axes
        number = None
    if number is None:
        raise TypeError(f"{name}: expected {takes}, got {value!r:.200}")
    if (low is not None and number < low) or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name}: must be {limits}, got {number}")
    return number
