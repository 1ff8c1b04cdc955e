"""CUDA kernels of one's own, for CuPy's arrays and for the stand-in device on the host: `CudaModule`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from .._checks import check_integer
from .._gpu import GpuBackend
from .._gpu.launch import checked, waves
from .dispatch import KernelUnavailableError
from .protocol import Backend

__all__ = ["CudaModule"]

# what the host does to check the use of shared memory is not to be had from a plain declaration
_PRELUDE = """\
#ifndef XPCONV_ON_HOST
#define SHARED_ARRAY(T, name, size) __shared__ T name[size]
#else
#define __shared__ static_assert(false, "declare shared memory as SHARED_ARRAY(T, name, size), which CUDA takes too");
#endif
"""


class CudaModule:
    """CUDA C++ source, compiled on each device when one of its kernels is first launched there.

    On ``cupy`` NVRTC compiles it, on ``cuda-host`` the C++ compiler of the host, for tests without a GPU.

    Parameters
    ----------
    source : str or pathlib.Path
        The text, or the file that it is in. Kernels are functions of C++, not ``extern "C"``, and declare shared memory
        as ``SHARED_ARRAY(float, name, 256)``. Headers of CUDA are included where ``XPCONV_ON_HOST`` is not defined.
    kernels : sequence of str
        Which are compiled, with template arguments: ``["scale<float>", "scale<double>"]``.
    options : sequence of str
        For the compilers: ``["-DBLOCK=128"]``.

    Attributes
    ----------
    text : str
        What is compiled: the source, behind the definition of ``SHARED_ARRAY``.
    kernels, options : tuple of str
        As given.

    Raises
    ------
    TypeError
        Not a text or a path, or kernels that are no sequence of names.
    ValueError
        No kernels.
    OSError
        The file cannot be read.

    Examples
    --------
    A grid-stride loop, launched for as many elements as there are::

        module = CudaModule(
            '''
            template <class T> __global__ void scale(const T* x, T* y, T factor, long long count) {
                for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
                     i += (long long)gridDim.x * blockDim.x)
                    y[i] = factor * x[i];
            }
            ''',
            ["scale<float>"],
        )
        y = backend.empty(x.shape, x.dtype)
        module.launch(backend, "scale<float>", x.size, (x, y, np.float32(2), np.int64(x.size)))
    """

    def __init__(self, source: str | Path, kernels: Sequence[str], *, options: Sequence[str] = ()) -> None:
        name = "source.cu"
        if isinstance(source, Path):
            name, source = source.name, source.read_text(encoding="utf-8")
        if not isinstance(source, str):
            raise TypeError(f"source: expected a text or a path, got {type(source).__name__}")
        for argument, value in (("kernels", kernels), ("options", options)):
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"{argument}: expected a sequence of strings, got {value!r:.200}")
        if not kernels:
            raise ValueError("kernels: expected the name of at least one")
        self.kernels, self.options = tuple(kernels), tuple(options)
        self.text = f'{_PRELUDE}#line 1 "{name}"\n{source}\n'  # the compilers' messages tell lines of the source
        self._compiled: weakref.WeakKeyDictionary[Backend, Any] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def launch(
        self,
        backend: Backend,
        kernel: str,
        grid: int | Sequence[int],
        arguments: Sequence[Any],
        *,
        threads: int = 256,
    ) -> None:
        """Start a kernel on the current stream of the device, without waiting for it.

        Parameters
        ----------
        backend
            That an operator was given; within it, its device is the current one.
        kernel
            One of `kernels`.
        grid
            A number of elements, for a grid-stride loop over them: then as many blocks as fill the device are started,
            none for no elements. Or how many blocks, along one to three axes.
        arguments
            For each parameter of the kernel an array of the backend in C order (``backend.contiguous(x)``), a NumPy
            scalar of the very type (``np.float32(0.5)`` for a float, ``np.int64(n)`` for a long long), or None for a
            null pointer.
        threads
            Of a block.

        Raises
        ------
        TypeError
            A backend that runs no CUDA kernels, or a Python number, whose size a kernel cannot know.
        ValueError
            An unknown kernel, an array with gaps or in another order, a wrong grid.
        KernelUnavailableError
            It does not compile; the message has the compiler's log.
        """
        if not isinstance(backend, GpuBackend):
            name = backend.name if isinstance(backend, Backend) else repr(backend)
            raise TypeError(f"backend: expected one that runs CUDA kernels (cupy or cuda-host), got {name}")
        if kernel not in self.kernels:
            raise ValueError(f"kernel: expected one of {', '.join(self.kernels)}, got {kernel!r}")
        threads = check_integer("threads", threads, 1, 1024)
        if isinstance(grid, Sequence):
            blocks = tuple(check_integer("grid", length, 0) for length in grid)
            if not 1 <= len(blocks) <= 3:
                raise ValueError(f"grid: expected one to three axes, got {len(blocks)}")
        else:
            count = check_integer("grid", grid, 0)
            blocks = (waves(backend, count, threads),) if count else (0,)
        passed = tuple(checked(argument, position) for position, argument in enumerate(arguments))
        if prod(blocks):
            self._get(backend, kernel)(blocks, (threads,), passed)

    def _get(self, backend: GpuBackend, kernel: str) -> Any:
        with self._lock:
            module = self._compiled.get(backend)
            if module is None:
                try:
                    module = backend.raw_module(self.text, self.options, self.kernels)
                except KernelUnavailableError as error:
                    raise KernelUnavailableError(f"{', '.join(self.kernels)}: cannot be compiled; {error}") from error
                self._compiled[backend] = module
        return module.get_function(kernel)
