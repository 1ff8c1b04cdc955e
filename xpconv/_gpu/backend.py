"""What the operators on CUDA kernels need of a backend, besides the protocol of every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends.dispatch import Engine
from ..backends.protocol import Array, Backend
from .cublas import multiply
from .module import Kernels

__all__ = ["GpuBackend"]


class GpuBackend(Backend):
    """An array library whose arrays CUDA kernels can read: CuPy on a GPU, or its stand-in on the host.

    Arrays have ``strides`` in bytes and ``flags.c_contiguous``.

    Attributes
    ----------
    kernels
        The compiled kernels of this device.
    multiprocessors
        How many blocks of every kernel make the device busy is counted in these.
    l2_bytes
        Size of the last cache, in which the columns of a slice of a convolution should stay.
    gemm_tile
        A multiprocessor computes this many rows and columns of a matrix product at a time.
    blas
        What multiplies matrices, a `xpconv._gpu.cublas.Cublas`; None where it cannot be had.
    """

    kernels: Kernels
    multiprocessors: int
    l2_bytes: int
    gemm_tile: int = 128
    blas: Any

    def __init__(self) -> None:
        super().__init__()
        self.kernels = Kernels(self.raw_module)
        self.engines: Mapping[str, Sequence[Engine]] = _engines()

    def raw_module(self, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> Any:
        """Compile CUDA source; see `xpconv._gpu.module.Kernels`."""
        raise NotImplementedError

    def contiguous(self, array: Array) -> Array:
        """``array`` in C order; itself if it is so already."""
        raise NotImplementedError

    def address(self, array: Array, *, written: bool = False) -> int:
        """Where the first element of ``array`` lies, for a launch whose kernel may write there if ``written``.

        For kernels that take structures of addresses. The array must live until they are launched.
        """
        raise NotImplementedError

    def gemm(self, a: Array, b: Array, *, out: Array | None = None, accumulate: bool = False) -> Array:
        """Matrix product of ``a`` (M, K) and ``b`` (K, N), into or added to ``out``; see `xpconv._gpu.cublas.multiply`.

        Parameters
        ----------
        out
            Matrix (M, N) with unit stride along one axis; for half precision it may be float32. New if None.
        accumulate
            Whether to add to what is in ``out``.
        """
        with self.running():
            return multiply(self, a, b, out, accumulate)

    def batched_gemm(self, a: Array, b: Array, *, out: Array | None = None, accumulate: bool = False) -> Array:
        """Matrix products of ``a`` (B, M, K) and ``b`` (B, K, N), one for each of B; otherwise as `gemm`."""
        with self.running():
            return multiply(self, a, b, out, accumulate)


def _engines() -> dict[str, tuple[Engine, ...]]:
    from . import ENGINES  # whose operators import this module

    return {operator: tuple(Engine(*entry) for entry in entries) for operator, entries in ENGINES.items()}
