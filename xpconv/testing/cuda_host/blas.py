"""cuBLAS in NumPy: takes the arguments of `xpconv._gpu.cublas.Cublas`, with the meaning that they have there."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._gpu.cublas import Product
from .recording import perform

__all__ = ["HostBlas", "round_to_tf32"]


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 ``values`` rounded to 10 bits of mantissa, to even between two, as tensor cores see them."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    dropped = 13
    last = (bits >> dropped) & 1
    rounded = (bits + last + np.uint32((1 << (dropped - 1)) - 1)) & np.uint32(~((1 << dropped) - 1) & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def _columns(memory: np.ndarray, rows: int, columns: int, ld: int, step: int, batch: int) -> np.ndarray:
    """Matrices (batch, rows, columns) that start where ``memory`` does and lie there column by column."""
    if ld < rows:
        raise ValueError(f"cuBLAS: invalid value: leading dimension {ld} of a matrix with {rows} rows")
    size = memory.dtype.itemsize
    return np.lib.stride_tricks.as_strided(memory, (batch, rows, columns), (step * size, size, ld * size))


class HostBlas:
    """What `xpconv._gpu.cublas.Cublas` is on a GPU."""

    def multiply(
        self,
        product: Product,
        first: Any,
        second: Any,
        out: Any,
        types: tuple[str, str],
        compute: str,
        alpha: float,
        beta: float,
    ) -> None:
        """``out = alpha * first @ second + beta * out``; see `xpconv._gpu.cublas.Cublas.multiply`.

        Raises
        ------
        ValueError
            A leading dimension that is too small.
        TypeError
            Dtypes other than ``types`` says.
        """
        p = product
        if (first.dtype.name, out.dtype.name) != types or second.dtype != first.dtype:
            raise TypeError(f"cuBLAS: {first.dtype}, {second.dtype} and {out.dtype} are taken for {types}")
        # from here on only addresses, as there
        a, b, c = (array.view(np.ndarray) for array in (first, second, out))
        shapes = ((p.k, p.m) if p.transpose_first else (p.m, p.k), (p.n, p.k) if p.transpose_second else (p.k, p.n))
        a = _columns(a, *shapes[0], p.ld_first, p.step_first, p.batch)
        b = _columns(b, *shapes[1], p.ld_second, p.step_second, p.batch)
        c = _columns(c, p.m, p.n, p.ld_out, p.step_out, p.batch)
        wide = np.float64 if compute == "float64" else np.float32

        def run() -> None:
            factors = [np.asarray(f, wide) for f in (a, b)]
            if compute == "tf32":
                factors = [round_to_tf32(f) for f in factors]
            left = np.matrix_transpose(factors[0]) if p.transpose_first else factors[0]
            right = np.matrix_transpose(factors[1]) if p.transpose_second else factors[1]
            # a single product as one of two axes: NumPy gives that to BLAS whatever the strides
            result = np.matmul(left[0], right[0])[None] if p.batch == 1 else np.matmul(left, right)
            result *= wide(alpha)
            if beta:  # else what is there is not read: it may be NaN
                result += wide(beta) * c
            c[...] = result

        perform(run, writes=(out,))

    def take_workspace(self) -> None:
        """None is needed."""
