"""Which algorithm convolutions on NumPy arrays use."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ._setting import Setting

__all__ = ["get_conv_algorithm", "set_conv_algorithm", "use_conv_algorithm"]

setting = Setting("algorithm", "XPCONV_CONV", ("auto", "winograd", "direct", "im2col"))


def get_conv_algorithm() -> str:
    """``"auto"``, ``"winograd"``, ``"direct"`` or ``"im2col"``: what convolutions on NumPy arrays use now."""
    return setting.get()


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
    setting.set(algorithm)


def use_conv_algorithm(algorithm: str) -> AbstractContextManager[None]:
    """`set_conv_algorithm` inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    algorithm
        As for `set_conv_algorithm`.

    Returns
    -------
    context manager
        It changes the setting on entry and restores it on the way out.

    Raises
    ------
    ValueError
        Unknown algorithm.
    """
    return setting.use(algorithm)
