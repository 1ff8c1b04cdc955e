"""How many threads the CPU kernels use."""

from __future__ import annotations

import os
from types import ModuleType

from ._checks import check_integer

__all__ = ["get_num_threads", "set_num_threads"]


def _available() -> int:
    """CPUs that this process may run on; fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _initial() -> int:
    text = os.environ.get("XPCONV_NUM_THREADS")
    if not text:
        return min(_available(), _MOST)
    try:
        return check_integer("XPCONV_NUM_THREADS", int(text), 1, _MOST)
    except ValueError:
        raise ValueError(f"XPCONV_NUM_THREADS: expected a whole number between 1 and {_MOST}, got {text!r}") from None


def _kernels() -> ModuleType | None:
    """The compiled kernels, which keep the number once they are loaded; None where they were not built."""
    try:
        from ._cpu import _kernels as kernels  # here, since `import xpconv` does without them
    except ImportError:
        return None
    return kernels


_MOST = 1024  # MAX_THREADS of kernels/cpu/threads.c
_number = _initial()  # what the kernels start with


def get_num_threads() -> int:
    """How many threads the CPU kernels use, the calling one included.

    Returns
    -------
    int
        The number set; before that ``XPCONV_NUM_THREADS``, or else the CPUs available to the process. Always 1 if the
        kernels were built without threads.
    """
    kernels = _kernels()
    return _number if kernels is None else kernels.get_num_threads()


def set_num_threads(number: int) -> None:
    """Let the CPU kernels use ``number`` threads, the calling one included.

    Results do not depend on it. Matrix products outside of convolutions run in NumPy's BLAS, which has threads and
    settings of its own (``OPENBLAS_NUM_THREADS``, or the package ``threadpoolctl``).

    Parameters
    ----------
    number : int
        At least 1. Kernels that were built without threads stay at 1.

    Raises
    ------
    TypeError, ValueError
        ``number`` is no integer, or out of range.
    """
    global _number
    _number = check_integer("number", number, 1, _MOST)
    kernels = _kernels()
    if kernels is not None:
        kernels.set_num_threads(_number)
