"""NumPy on the CPU, with the compiled kernels of `xpconv._cpu`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .dispatch import Engine
from .protocol import Array, Backend
from .registry import BackendUnavailableError

__all__ = ["NumpyBackend", "load"]


_NAMES = {"f": "float32", "d": "float64"}


def _native_engines() -> dict[str, tuple[Engine, ...]]:
    try:
        from .._cpu import ENGINES
    except ImportError as error:
        warnings.warn(
            f"xpconv: the compiled CPU kernels are missing ({error}); NumPy runs the slower generic operators",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}
    return {operator: tuple(Engine(*entry) for entry in entries) for operator, entries in ENGINES.items()}


class NumpyBackend(Backend):
    """Arrays are exactly `numpy.ndarray` or memory maps; masked arrays and matrices mean something else."""

    name = "numpy"
    xp = np

    def __init__(self) -> None:
        super().__init__()
        self.engines = _native_engines()
        self._empty: Any = np.empty
        if self.engines:
            from .._cpu import empty

            self._empty = empty

    def owns(self, array: object) -> bool:
        return type(array) in (np.ndarray, np.memmap)

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        values = np.asarray(obj)
        return np.asarray(values, dtype=self.dtype(values.dtype if dtype is None else dtype))

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def dtype(self, name: Any) -> Any:
        if isinstance(name, str) and name == "bfloat16":
            # where ml_dtypes is loaded NumPy knows the name, but not how it goes with Python's numbers
            raise TypeError("dtype: numpy has no 'bfloat16'")
        try:
            dtype = np.dtype(name)
        except TypeError:
            raise TypeError(f"dtype: numpy has no {name!r}") from None
        return dtype if dtype.isnative else dtype.newbyteorder("=")

    def dtype_name(self, array: Array) -> str:
        # every call asks several times; finding a dtype itself in a table takes longer
        return _NAMES.get(array.dtype.char) or super().dtype_name(array)

    def describe(self) -> str:
        if not self.engines:
            return f"numpy {np.__version__}, without compiled kernels"
        from .._cpu._kernels import instruction_set

        vectors = instruction_set()
        return f"numpy {np.__version__}, compiled kernels{f' ({vectors})' if vectors else ''}"

    def keep(self, mask: Array, array: Array) -> Array:
        # and-ing the bits is several times as fast as `where`, which branches on each element
        bits = np.dtype(f"i{array.dtype.itemsize}")
        kept = -mask.astype(bits)  # all bits of true ones
        kept &= array.view(bits)
        return kept.view(array.dtype)

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        return array.reshape(shape)

    def gemm(self, a: Array, b: Array) -> Array:
        if a.dtype is not b.dtype:
            return np.matmul(a, b)
        return np.matmul(a, b, out=self._empty((a.shape[0], b.shape[1]), a.dtype))

    def add(self, a: Array, b: Array) -> Array:
        if self.engines and a.shape == b.shape and a.dtype == b.dtype and a.dtype.char in "fd":
            from .._cpu.activation import add

            return add(a, b)
        return a + b

    def free_memory(self) -> bool:
        if not self.engines:
            return False
        from .._cpu import trim_memory

        return trim_memory() > 0

    def prepare(self, array: Array) -> Array:
        if type(array) is np.memmap:  # else results become memory maps of nothing
            array = np.asarray(array)
        if array.flags.aligned and array.dtype.isnative:
            return array
        return np.array(array, dtype=array.dtype.newbyteorder("="))


def load(device: str | None) -> NumpyBackend:
    """Factory of the registry."""
    if device not in (None, "cpu"):
        raise BackendUnavailableError(f"numpy has no device {device!r}; it runs on the CPU")
    return NumpyBackend()
