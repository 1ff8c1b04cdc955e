"""The backend ``cuda-host``: the CUDA kernels on NumPy memory, through the host compiler."""

# ruff: noqa: D102 - methods that override: the docstring stands once, in the protocol

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ..._gpu import GpuBackend
from ...backends import BackendUnavailableError, KernelUnavailableError
from ...backends.protocol import Array
from .array import HostArray, call
from .blas import HostBlas
from .module import HostModule, find_compiler
from .recording import HostCapture, check_read, check_transfer, hold

__all__ = ["HostCudaBackend", "HostNamespace", "load"]


class HostNamespace(ModuleType):
    """NumPy's functions with `HostArray` for results."""

    def __init__(self) -> None:
        super().__init__("numpy_as_a_device", HostNamespace.__doc__)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def function(*args: Any, **kwargs: Any) -> Any:
            return call(found, args, kwargs)

        function.__name__ = name
        setattr(self, name, function)  # so that it is made once
        return function


class HostCudaBackend(GpuBackend):
    """A device of two multiprocessors that computes with NumPy and with CUDA kernels compiled for the host."""

    name = "cuda-host"
    on_host = False  # it plays a GPU, whose values cannot be read for free
    multiprocessors = 2  # few, so that the loops of kernels take more than one turn
    l2_bytes = 8 << 10  # and little, so that convolutions of tests are cut into slices
    gemm_tile = 8
    compiler_options: tuple[str, ...] = ()

    def __init__(self) -> None:
        if find_compiler() is None:
            raise BackendUnavailableError(
                "cuda-host needs a C++ compiler for the CUDA kernels: install g++ or clang++, or name one in CXX"
            )
        self.xp = HostNamespace()
        self.blas = HostBlas()
        super().__init__()

    def owns(self, array: object) -> bool:
        return type(array) is HostArray

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        if type(obj) is HostArray:
            return obj if dtype is None else self.astype(obj, dtype)
        check_transfer("asarray")
        # a copy, as a transfer to a device is
        values = np.asarray(obj)
        return np.array(values, dtype=self.dtype(values.dtype if dtype is None else dtype)).view(HostArray)

    def to_numpy(self, array: Array) -> np.ndarray:
        check_read("to_numpy")
        return np.asarray(array)

    def dtype(self, name: Any) -> Any:
        try:
            dtype = np.dtype(name)
        except TypeError:
            raise TypeError(f"dtype: {self.name} has no {name!r}") from None
        return dtype if dtype.isnative else dtype.newbyteorder("=")

    def capture(self, function: Callable[[], Any]) -> HostCapture:
        return HostCapture(function)

    def raw_module(self, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> HostModule:
        defined = ("-DXPCONV_ON_HOST", *options, *self.compiler_options)
        try:
            return HostModule(code, defined, name_expressions)
        except RuntimeError as error:
            raise KernelUnavailableError(str(error)) from error

    def contiguous(self, array: Array) -> Array:
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)

    def address(self, array: Array, *, written: bool = False) -> int:
        """Address of the first element, for a kernel.

        Parameters
        ----------
        array : array of any shape
            Of this backend.
        written
            Whether the kernel writes to it.

        Returns
        -------
        int
            It stays valid while the array lives, and while a recording holds it.

        Raises
        ------
        ValueError
            It is to be written to, and read-only.
        """
        if written and not array.flags.writeable:
            raise ValueError("a kernel writes to an array that is read-only")
        hold(array, written)
        return array.ctypes.data

    def free_bytes(self) -> int:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def describe(self) -> str:
        compiler = find_compiler()
        return f"cuda-host: NumPy {np.__version__}, kernels by {compiler[1] if compiler else 'no compiler'}"


def load(device: str | None) -> HostCudaBackend:
    """Factory of the registry.

    Parameters
    ----------
    device
        None, since there is one device.

    Returns
    -------
    HostCudaBackend
        A new one.

    Raises
    ------
    BackendUnavailableError
        A device is named, or there is no C++ compiler.
    """
    if device is not None:
        raise BackendUnavailableError(f"cuda-host has one device, got {device!r}")
    return HostCudaBackend()
