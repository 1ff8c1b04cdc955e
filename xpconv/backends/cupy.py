"""CuPy on an NVIDIA GPU, with the CUDA kernels of `xpconv._gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._gpu import GpuBackend
from .protocol import Array, Backend
from .registry import BackendUnavailableError, load_backend

__all__ = ["CupyBackend", "load"]

_INSTALL = 'pip install "xpconv[cuda13]" (or "xpconv[cuda12]" for a driver of CUDA 12)'


class CupyBackend(GpuBackend):
    """One GPU: ``"cupy"`` is device 0, ``"cupy:1"`` the next."""

    on_host = False

    def __init__(self, number: int) -> None:
        try:
            import cupy
        except ImportError as error:
            raise BackendUnavailableError(f"cupy is not installed: {_INSTALL}") from error
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:  # CUDARuntimeError, or an ImportError of a library that is missing
            raise BackendUnavailableError(
                f"cupy {cupy.__version__} is installed but finds no usable NVIDIA driver or device: {error}. "
                "Check that nvidia-smi lists a GPU and that the driver is new enough for the CUDA of the wheel; "
                f"otherwise {_INSTALL}"
            ) from error
        if number >= count:
            raise BackendUnavailableError(f"cupy has no device {number}: this machine has {count}")
        import array_api_compat.cupy as xp

        self._cupy = cupy
        self._gpu = cupy.cuda.Device(number)
        self.xp = xp
        self.device = self._gpu
        self.multiprocessors = self._gpu.attributes["MultiProcessorCount"]
        self.number = number
        self.name = "cupy" if number == 0 else f"cupy:{number}"
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, self._cupy.ndarray)

    def for_array(self, array: Array) -> Backend:
        number = array.device.id
        if number == self.number:
            return self
        return load_backend("cupy" if number == 0 else f"cupy:{number}")

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        with self._gpu:
            return self._cupy.asarray(obj, dtype=None if dtype is None else self.dtype(dtype))

    def to_numpy(self, array: Array) -> np.ndarray:
        return self._cupy.asnumpy(array)

    # CuPy computes and allocates on the current device of the thread, whatever device its arguments are on

    def running(self) -> Any:
        return self._gpu

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        with self._gpu:
            return super().empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        with self._gpu:
            return super().zeros(shape, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        with self._gpu:
            return super().full(shape, value, dtype)

    def arange(self, stop: int, dtype: Any) -> Array:
        with self._gpu:
            return super().arange(stop, dtype)

    def astype(self, array: Array, dtype: Any) -> Array:
        with self._gpu:
            return super().astype(array, dtype)

    def contiguous(self, array: Array) -> Array:
        with self._gpu:
            return self._cupy.ascontiguousarray(array)

    def raw_module(self, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> Any:
        module = self._cupy.RawModule(
            code=code, options=("-std=c++17", *options), name_expressions=tuple(name_expressions)
        )
        try:
            with self._gpu:
                module.compile()
        except self._cupy.cuda.compiler.CompileException as error:
            raise RuntimeError(
                f"{self.name}: NVRTC cannot compile {name_expressions[0]} and others:\n{error}"
            ) from error
        return module

    def synchronize(self) -> None:
        self._gpu.synchronize()

    def describe(self) -> str:
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.number)
        return f"cupy {self._cupy.__version__}, {properties['name'].decode()}"


def load(device: str | None) -> CupyBackend:
    """Factory of the registry."""
    if device is not None and not device.isdigit():
        raise BackendUnavailableError(f"cupy devices are numbers, as in 'cupy:1', got {device!r}")
    backend = CupyBackend(int(device or 0))
    return backend
