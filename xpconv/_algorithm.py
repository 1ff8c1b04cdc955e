"""Which algorithm convolutions on NumPy arrays use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["get_conv_algorithm", "set_conv_algorithm", "use_conv_algorithm"]

_ALGORITHMS = ("auto", "winograd", "direct", "im2col")


def _checked(algorithm: str, source: str) -> str:
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"{source}: expected one of {', '.join(_ALGORITHMS)}, got {algorithm!r}")
    return algorithm


_algorithm: str | None = None  # XPCONV_CONV is read when first asked for: `import xpconv` is no place to complain
_override: ContextVar[str | None] = ContextVar("xpconv_conv_algorithm", default=None)


def get_conv_algorithm() -> str:
    """``"auto"``, ``"winograd"``, ``"direct"`` or ``"im2col"``: what convolutions on NumPy arrays use now."""
    global _algorithm
    override = _override.get()
    if override is not None:
        return override
    if _algorithm is None:
        _algorithm = _checked(os.environ.get("XPCONV_CONV") or "auto", "XPCONV_CONV")
    return _algorithm


def set_conv_algorithm(algorithm: str) -> None:
    """Choose the algorithm of convolutions on NumPy arrays, for the whole process.

    Parameters
    ----------
    algorithm : str
        ``"auto"`` (the start value, unless ``XPCONV_CONV`` is set): the fastest for the shape, from a model of their
        cost; the same for every call with the same shapes. ``"winograd"``: fewer multiplications, for 3 x 3 kernels of
        stride 1, at a rounding error a few times as large. ``"direct"``: no columns in memory. ``"im2col"``: columns
        and one matrix product by NumPy's BLAS, the reference.

    Raises
    ------
    ValueError
        None of them. A convolution that the algorithm cannot do raises it too, and says why; ``"direct"`` and
        ``"im2col"`` do every one.
    """
    global _algorithm
    _algorithm = _checked(algorithm, "algorithm")


@contextmanager
def use_conv_algorithm(algorithm: str) -> Iterator[None]:
    """`set_conv_algorithm` inside a ``with`` block, in this thread or task only."""
    token = _override.set(_checked(algorithm, "algorithm"))
    try:
        yield
    finally:
        _override.reset(token)
