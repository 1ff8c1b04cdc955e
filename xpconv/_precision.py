"""The precision of float32 matrix products, and of the algorithms built on them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ._setting import Setting

__all__ = ["get_matmul_precision", "set_matmul_precision", "use_matmul_precision"]

setting = Setting("precision", "XPCONV_MATMUL_PRECISION", ("default", "highest", "tf32"))


def get_matmul_precision() -> str:
    """``"default"``, ``"highest"`` or ``"tf32"``: how matrices are multiplied now; see `set_matmul_precision`."""
    return setting.get()


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
    setting.set(precision)


def use_matmul_precision(precision: str) -> AbstractContextManager[None]:
    """`set_matmul_precision` inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    precision
        As for `set_matmul_precision`.

    Returns
    -------
    context manager
        It changes the setting on entry and restores it on the way out.

    Raises
    ------
    ValueError
        Unknown precision.
    """
    return setting.use(precision)
