"""CUDA source through the host compiler, with the calling convention of `cupy.RawModule`."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from .array import HostArray
from .recording import perform

__all__ = ["HostArray", "HostKernel", "HostModule", "find_compiler", "thread_schedule"]

_SHIM = Path(__file__).with_name("cuda_on_host.cuh")
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",  # CUDA's compilers do not assume strict aliasing
    "-ffp-contract=off",  # the same rounding on every processor
    "-U_FORTIFY_SOURCE",  # its longjmp refuses to change stacks
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
)
_schedule: ContextVar[int] = ContextVar("xpconv_cuda_host_schedule", default=0)
_one_launch = threading.Lock()  # a module runs one block at a time
# no fork in the middle of a launch, whose end the child would wait for in vain
os.register_at_fork(before=_one_launch.acquire, after_in_parent=_one_launch.release, after_in_child=_one_launch.release)


@contextmanager
def thread_schedule(number: int) -> Iterator[None]:
    """Order in which threads and blocks run inside the ``with`` block.

    Parameters
    ----------
    number
        0: in order; 1: in reverse; any other: a pseudo-random order, drawn anew after each barrier, from this seed.

    Yields
    ------
    None
        The order holds in this thread or task only.
    """
    token = _schedule.set(number)
    try:
        yield
    finally:
        _schedule.reset(token)


@functools.cache
def find_compiler() -> tuple[str, str] | None:
    """Path and version of the host's C++ compiler (``CXX``, else c++, g++ or clang++), or None."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            continue
        return path, done.stdout.partition("\n")[0]
    return None


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xpconv" / "cuda-host"


def _shortened(log: str, limit: int = 6000) -> str:
    return log if len(log) <= limit else log[:limit] + f"\n... ({len(log) - limit} more characters)"


def _compile(source: str, options: Sequence[str], what: str) -> Path:
    """The shared library of ``source``, from the cache if it was compiled before."""
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found (CXX, c++, g++, clang++)")
    path, version = compiler
    command = [path, *_FLAGS, *options, "-include", str(_SHIM), "-x", "c++", "-"]
    key = "\0".join((source, _SHIM.read_text(), version, *command))
    library = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(library.with_suffix(".lock"), "w") as lock,  # one process compiles, the others wait for it
        tempfile.TemporaryDirectory(dir=library.parent) as folder,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        fresh = Path(folder) / "module.so"
        done = subprocess.run([*command, "-o", str(fresh)], input=source, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{what}: the host compiler failed\n{' '.join(command)}\n{_shortened(done.stderr)}")
        os.replace(fresh, library)  # whole or not at all
    return library


class HostKernel:
    """One kernel of a `HostModule`: ``kernel(grid, block, args)``, as `cupy.RawKernel`.

    Arguments are checked against the kernel's parameters, which CuPy does not: a `HostArray` of the right dtype for a
    pointer (whatever its strides, as in CuPy; None for a null pointer), a NumPy scalar of the very type for a number, a
    plain NumPy array of one element for a structure.

    Parameters
    ----------
    library
        The compiled module.
    number
        Of the kernel, in the order of the name expressions.
    name
        For messages.
    """

    def __init__(self, library: ctypes.CDLL, number: int, name: str) -> None:
        describe = getattr(library, f"describe_{number}")
        describe.restype = ctypes.c_char_p
        self.name = name
        self.parameters: list[str] = describe().decode().split()
        self._launch = getattr(library, f"launch_{number}")
        self._launch.restype = ctypes.c_char_p

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        """Run the kernel; raises RuntimeError with what the checks of ``cuda_on_host.cuh`` have found."""
        if shared_mem:
            raise ValueError(f"{self.name}: shared_mem is {shared_mem}, but kernels declare what they share")
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: takes {len(self.parameters)} arguments, got {len(args)}")
        held = [self._value(i, *pair) for i, pair in enumerate(zip(self.parameters, args, strict=True))]
        pointers = (ctypes.c_void_p * len(held))(*[a.ctypes.data for a in held])
        three = ctypes.c_uint * 3
        # what the pointers point to must live as long as the launch may be repeated: `held` and `args`
        written = [
            a for parameter, a in zip(self.parameters, args, strict=True) if parameter[0] == "w" and a is not None
        ]

        def launch(held: Any = (held, args)) -> None:
            with _one_launch:
                error = self._launch(
                    three(*(*grid, 1, 1)[:3]), three(*(*block, 1, 1)[:3]), pointers, ctypes.c_uint(_schedule.get())
                )
                if error:
                    raise RuntimeError(f"{self.name}: {error.decode()}")

        perform(launch, writes=written)

    def _value(self, position: int, parameter: str, value: Any) -> np.ndarray:
        """One-element array whose memory holds the argument."""
        how, _, type_name = parameter.partition(":")
        where = f"{self.name}: argument {position}"
        if how == "v":
            if type_name.startswith("struct"):
                size = int(type_name[len("struct") :])
                if type(value) is not np.ndarray or value.size != 1 or value.dtype.itemsize != size:
                    raise TypeError(f"{where}: expected a NumPy array of one structure of {size} bytes, got {value!r}")
                return value
            if not isinstance(value, np.generic) or value.dtype.name != type_name:
                raise TypeError(f"{where}: expected a {type_name} of NumPy, got {type(value).__name__} {value!r}")
            return np.asarray(value)
        if value is None:
            return np.zeros(1, np.uintp)
        if not isinstance(value, HostArray) or value.dtype.name != type_name:
            got = f"{type(value).__name__} of {value.dtype.name}" if hasattr(value, "dtype") else repr(value)
            raise TypeError(f"{where}: expected a device array of {type_name}, got {got}")
        if how == "w" and not value.flags.writeable:
            raise ValueError(f"{where}: the kernel writes to it, but it is read-only")
        return np.array([value.ctypes.data], np.uintp)


class HostModule:
    """Kernels of one CUDA source, compiled for the host, as `cupy.RawModule`.

    Parameters
    ----------
    code
        CUDA C++ that includes nothing but what `cuda_on_host.cuh` replaces.
    options
        For the compiler: definitions, ``-fsanitize=address``.
    name_expressions
        The kernels, template arguments included.

    Raises
    ------
    RuntimeError
        It does not compile; the message has the compiler's log.
    """

    def __init__(self, code: str, options: Sequence[str] = (), name_expressions: Sequence[str] = ()) -> None:
        wrappers = "".join(f"\nCUDA_ON_HOST_KERNEL({i}, {name})" for i, name in enumerate(name_expressions))
        what = f"{name_expressions[0]} and {len(name_expressions) - 1} more" if name_expressions else "module"
        library = ctypes.CDLL(str(_compile(f'{code}\n#line 1 "wrappers"{wrappers}\n', options, what)))
        self._kernels = {name: HostKernel(library, i, name) for i, name in enumerate(name_expressions)}

    def get_function(self, name: str) -> HostKernel:
        """The kernel of a name expression.

        Parameters
        ----------
        name
            One of the name expressions that the module was made with.

        Returns
        -------
        HostKernel
            Ready to be called.

        Raises
        ------
        KeyError
            None of them.
        """
        return self._kernels[name]
