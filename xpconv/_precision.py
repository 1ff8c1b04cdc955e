"""The precision of float32 matrix products, and of the algorithms built on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["get_matmul_precision", "set_matmul_precision", "use_matmul_precision"]

_PRECISIONS = ("default", "highest", "tf32")


def _checked(precision: object, source: str) -> str:
    if precision not in _PRECISIONS:
        raise ValueError(f"{source}: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
    return str(precision)


_precision: str | None = None  # XPCONV_MATMUL_PRECISION is read when first asked for
_override: ContextVar[str | None] = ContextVar("xpconv_matmul_precision", default=None)


def get_matmul_precision() -> str:
    """``"default"``, ``"highest"`` or ``"tf32"``: how matrices are multiplied now; see `set_matmul_precision`."""
    global _precision
    override = _override.get()
    if override is not None:
        return override
    if _precision is None:
        _precision = _checked(os.environ.get("XPCONV_MATMUL_PRECISION") or "default", "XPCONV_MATMUL_PRECISION")
    return _precision


def set_matmul_precision(precision: str) -> None:
    """Choose how convolutions and linear layers multiply, for the whole process.

    Parameters
    ----------
    precision
        ``"default"``: every number is of the arrays' dtype throughout. Convolutions on NumPy arrays may take Winograd's
        algorithm, whose rounding error is a few times that of a plain sum.
        ``"highest"``: the same without Winograd's algorithm.
        ``"tf32"``: as "default", but on the backends ``cupy`` and ``cuda-host`` the factors of float32 products are
        rounded to 10 bits of mantissa, float32 having 23, and the products added up in float32, on the tensor cores of
        a GPU of compute capability 8.0 or above. Several times as fast, with errors of about 1e-3 of the size of the
        factors. Half precision has its own tensor cores, and always adds up in float32.

    Raises
    ------
    ValueError
        None of them.
    """
    global _precision
    _precision = _checked(precision, "precision")


@contextmanager
def use_matmul_precision(precision: str) -> Iterator[None]:
    """`set_matmul_precision` inside a ``with`` block, in this thread or task only."""
    token = _override.set(_checked(precision, "precision"))
    try:
        yield
    finally:
        _override.reset(token)
