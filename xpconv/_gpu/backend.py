"""What the operators on CUDA kernels need of a backend, besides the protocol of every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends.dispatch import Engine
from ..backends.protocol import Array, Backend
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
    """

    kernels: Kernels
    multiprocessors: int

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

    def batched_gemm(self, a: Array, b: Array) -> Array:
        """Matrix products of ``a`` (B, M, K) and ``b`` (B, K, N), one for each of B."""
        return self.xp.matmul(a, b)


def _engines() -> dict[str, tuple[Engine, ...]]:
    from . import ENGINES  # whose operators import this module

    return {operator: tuple(Engine(*entry) for entry in entries) for operator, entries in ENGINES.items()}
