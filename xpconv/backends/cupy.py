"""CuPy on an NVIDIA GPU, with the CUDA kernels of `xpconv._gpu`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .._gpu import GpuBackend, cublas
from .._gpu.graph import CupyCapture, check_transfer
from ._pinned import PinnedTransfers
from .dispatch import KernelUnavailableError
from .protocol import Array, Backend, Shortage
from .registry import BackendUnavailableError, load_backend

__all__ = ["CupyBackend", "load"]

_EXTRAS = (12, 13)  # versions of CUDA that there is an extra for
_INSTALL = 'pip install "xpconv[cuda13]" (or "xpconv[cuda12]" for a driver of CUDA 12)'
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY


def _import() -> Any:
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":  # something that CuPy needs
            raise BackendUnavailableError(f"cupy is installed but cannot be imported: {error}; {_INSTALL}") from error
        raise BackendUnavailableError(f"cupy is not installed: {_INSTALL}") from error
    except ImportError as error:
        text = " ".join(str(error).split())  # CuPy fills a page
        raise BackendUnavailableError(f"cupy is installed but cannot be imported: {text}") from error
    return cupy


def _visible() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"


def _why_not(cupy: Any, error: Exception) -> str:
    """What is wrong and what helps, where ``error`` came of counting the devices."""
    wheel = f"cupy {cupy.__version__}"
    try:
        runtime = cupy.cuda.runtime
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion() // 1000
    except Exception:  # a library of CUDA is missing: the error itself is all there is
        return f"{wheel} is installed but cannot use CUDA: {error}; {_INSTALL}"
    if driver == 0:
        return (
            f"{wheel} is installed but there is no NVIDIA driver: install one for CUDA {needed} (nvidia-smi shows it)"
        )
    supported = driver // 1000
    if supported < needed:
        advice = "install a newer driver"
        if supported in _EXTRAS:
            advice += f', or: pip uninstall cupy-cuda{needed}x; pip install "xpconv[cuda{supported}]"'
        return (
            f"{wheel} needs a driver of CUDA {needed}, and this NVIDIA driver supports CUDA up to "
            f"{supported}.{driver % 1000 // 10}: {advice}"
        )
    return f"{wheel} finds no usable GPU{_visible()}: {error}; nvidia-smi should list one"


class CupyBackend(GpuBackend):
    """One GPU: ``"cupy"`` is device 0, ``"cupy:1"`` the next."""

    on_host = False
    why_no_blas = ""  # where `blas` is None

    def __init__(self, number: int) -> None:
        cupy = _import()
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:  # CUDARuntimeError, or an error of a library that is missing
            raise BackendUnavailableError(_why_not(cupy, error)) from error
        if number >= count:
            raise BackendUnavailableError(f"cupy has no device {number}: it sees {count}{_visible()}")
        import array_api_compat.cupy as xp

        self._cupy = cupy
        self._gpu = cupy.cuda.Device(number)
        self._transfers = PinnedTransfers(cupy, self._gpu)
        self.xp = xp
        self.device = self._gpu
        self.multiprocessors = self._gpu.attributes["MultiProcessorCount"]
        self.l2_bytes = self._gpu.attributes["L2CacheSize"]
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

    @cached_property
    def blas(self) -> cublas.Cublas | None:  # type: ignore[override]
        """cuBLAS, loaded when first asked for: it is large."""
        cuda = self._cupy.cuda
        try:
            library = cublas.load_library(cuda.runtime.runtimeGetVersion() // 1000)
        except OSError as error:
            self.why_no_blas = str(error)
            return None
        return cublas.Cublas(library, lambda: cuda.get_current_stream().ptr, cuda.alloc)

    def capture(self, function: Callable[[], Any]) -> CupyCapture:
        return CupyCapture(self, function)

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        if not self.owns(obj):
            check_transfer("asarray")
        with self._gpu:
            return self._cupy.asarray(obj, dtype=None if dtype is None else self.dtype(dtype))

    def dtype(self, name: Any) -> Any:
        if isinstance(name, type):  # ml_dtypes.bfloat16 is one
            name = np.dtype(name)
        if name != "bfloat16":
            return super().dtype(name)
        try:
            import ml_dtypes  # CuPy computes with its dtype, and has no name for it
        except ImportError:
            raise TypeError(f"dtype: {self.name} has 'bfloat16' only with the package ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)

    def to_numpy(self, array: Array) -> np.ndarray:
        with self._gpu:
            values = self._cupy.asnumpy(array)
        return values.astype(np.float32) if values.dtype.name == "bfloat16" else values

    @cached_property
    def _reading(self) -> Any:
        """A stream that waits for no other one unless it is told to."""
        return self._cupy.cuda.Stream(non_blocking=True)

    def mark(self) -> Callable[[Array], np.ndarray]:
        with self._gpu:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record()

        def read(array: Array) -> np.ndarray:
            with self._gpu, self._reading:  # a copy on the stream of the work would come after all of it
                self._reading.wait_event(event)
                return self.to_numpy(array)

        return read

    # CuPy computes and allocates on the current device of the thread, whatever device its arguments are on, and on the
    # stream that is current for that device

    def running(self) -> Any:
        return self._gpu

    def out_of_memory(self, error: Exception) -> Shortage | None:
        cuda = self._cupy.cuda
        if isinstance(error, (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError)):
            if error.status != _OUT_OF_MEMORY:
                return None
        elif isinstance(error, cublas.CublasError):
            if error.status != cublas.OUT_OF_MEMORY:
                return None
        elif not isinstance(error, cuda.memory.OutOfMemoryError):
            return None
        with self._gpu:
            free, total = cuda.runtime.memGetInfo()
        return Shortage(str(error), getattr(error, "_size", None), free, total)

    def free_memory(self) -> bool:
        with self._gpu:
            if self._cupy.cuda.get_current_stream().is_capturing():  # which freeing would break off
                return False
            self._cupy.get_default_memory_pool().free_all_blocks()
        return True

    def free_bytes(self) -> int:
        with self._gpu:
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            return free + self._cupy.get_default_memory_pool().free_bytes()

    def prefetch(self, arrays: Sequence[np.ndarray]) -> Callable[[], tuple[Array, ...]]:
        return self._transfers.send(arrays)

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

    def address(self, array: Array, *, written: bool = False) -> int:
        return array.data.ptr

    def raw_module(self, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> Any:
        module = self._cupy.RawModule(
            code=code, options=("-std=c++17", *options), name_expressions=tuple(name_expressions)
        )
        try:
            with self._gpu:
                module.compile()
        except self._cupy.cuda.compiler.CompileException as error:
            raise KernelUnavailableError(f"NVRTC says:\n{error}") from error
        except (ImportError, OSError, RuntimeError) as error:  # no NVRTC or headers of CUDA, no folder for the cache
            if self.out_of_memory(error) is not None:
                raise
            raise KernelUnavailableError(f"{type(error).__name__}: {error}") from error
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
    return CupyBackend(int(device or 0))
