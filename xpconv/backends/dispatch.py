"""Which kernel serves an operator.

The table is ``(backend, operator) -> engines``, best first. An engine says which calls it supports; the first that
does runs, else the generic operator of the same name and signature in `xpconv._generic`.

Every operator takes ``(backend, *arguments)`` and returns fresh arrays. For the choice it is enough to know the dtype
of the first array and the geometry (a `Window`, a `ConvGeometry`, or None for operators that slide no window).

Whatever makes arrays goes through `run`, or through `compute` where it is no operator: there the device of the arrays
becomes the current one of the thread, and memory that runs out is dealt with. Views of an array need neither.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .._setting import Setting
from .._workspace import get_workspace_mb
from .protocol import NO_CONTEXT, Backend, Shortage

__all__ = [
    "DeviceMemoryError",
    "Engine",
    "KernelUnavailableError",
    "compute",
    "get_kernels",
    "run",
    "serving",
    "set_kernels",
    "use_kernels",
]


class KernelUnavailableError(RuntimeError):
    """No kernel for a call: none supports it and XPCONV_KERNELS is ``native``, or the device's compiler failed."""


class DeviceMemoryError(MemoryError):
    """The memory of a device does not hold what an operator needs, not even after unused memory was given back."""


class Engine(NamedTuple):
    """One native implementation of an operator.

    Attributes
    ----------
    name
        For messages and `xpconv.show_config`.
    function
        Same signature as the generic operator.
    supports
        ``supports(dtype_name, geometry) -> bool``.
    """

    name: str
    function: Callable[..., Any]
    supports: Callable[[str, Any], bool]


_setting = Setting("mode", "XPCONV_KERNELS", ("auto", "generic", "native"))


def get_kernels() -> str:
    """``"auto"``, ``"generic"`` or ``"native"``: which kernels calls use now."""
    return _setting.get()


def set_kernels(mode: str) -> None:
    """Choose kernels for the whole process.

    Parameters
    ----------
    mode
        ``"auto"``: native where the backend has one that supports the call. ``"generic"``: never native.
        ``"native"``: like auto, but where the backend has native kernels for an operator and none supports the call,
        raise `KernelUnavailableError` instead of falling back.
    """
    _setting.set(mode)


def use_kernels(mode: str) -> AbstractContextManager[None]:
    """`set_kernels` inside a ``with`` block, in this thread or task only."""
    return _setting.use(mode)


def serving(backend: Backend, operator: str, dtype: str, geometry: Any = None) -> Engine:
    """The engine that runs ``operator`` on ``backend`` for this dtype and geometry."""
    mode = _setting.get()
    if mode != "generic":
        engines = backend.engines.get(operator, ())
        for engine in engines:
            if engine.supports(dtype, geometry):
                return engine
        if mode == "native" and engines:
            raise KernelUnavailableError(
                f"{operator}: no native kernel of {backend.name} ({', '.join(e.name for e in engines)}) supports "
                f"{dtype} with {geometry}, and XPCONV_KERNELS is 'native'"
            )
    from .. import _generic  # only now, which keeps `import xpconv` fast

    return Engine("generic", getattr(_generic, operator), _always)


def _always(dtype: str, geometry: Any) -> bool:
    return True


def run(backend: Backend, operator: str, first: Any, *arguments: Any, geometry: Any = None) -> Any:
    """Run ``operator`` on ``first`` and ``arguments``; ``geometry``, if given, is passed on as the last of them.

    Lists are lists of arrays, those of one list being of one dtype.

    Raises
    ------
    KernelUnavailableError
        There is no kernel for it: see there.
    DeviceMemoryError
        The memory of the device does not suffice (on the host: MemoryError).
    """
    leading = first[0] if isinstance(first, list) else first
    engine = serving(backend, operator, backend.dtype_name(leading), geometry)
    prepare = backend.prepare
    ready: list[Any] = [backend]
    for argument in (first, *arguments):
        if isinstance(argument, list):
            ready.append([prepare(array) for array in argument])
        else:
            ready.append(prepare(argument) if hasattr(argument, "dtype") else argument)
    if geometry is not None:
        ready.append(geometry)
    # the steps of optimizers, which modify arrays in place, would take effect twice
    repeatable = not operator.endswith("_steps")
    return _attempt(backend, operator, repeatable, engine.function, ready, {})


def compute(backend: Backend, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """``function(*arguments, **options)`` on the device of ``backend``, for small work that is no operator.

    Parameters
    ----------
    name
        Whose work it is, for the message when memory runs out: ``"Residual"``.
    function
        Such as `operator.add` or ``backend.xp.concat``. It may be called twice, so it must modify nothing.

    Raises
    ------
    DeviceMemoryError
        The memory of the device does not suffice (on the host: MemoryError).
    """
    return _attempt(backend, name, True, function, arguments, options)


def _attempt(
    backend: Backend, name: str, repeatable: bool, function: Callable[..., Any], arguments: Any, options: Any
) -> Any:
    """Call ``function``; where memory runs out once more, if ``repeatable`` and the backend could free some."""
    context = backend.running()
    if context is NO_CONTEXT:  # nothing to enter, which takes time too
        return _attempt_here(backend, name, repeatable, function, arguments, options)
    with context:
        return _attempt_here(backend, name, repeatable, function, arguments, options)


def _attempt_here(
    backend: Backend, name: str, repeatable: bool, function: Callable[..., Any], arguments: Any, options: Any
) -> Any:
    """`_attempt` on the device that is current."""
    while True:
        try:
            return function(*arguments, **options)
        except DeviceMemoryError:  # of something that the function has called, named already
            raise
        except Exception as error:
            shortage = backend.out_of_memory(error)
            if shortage is None:
                raise
        # not in the handler: the error holds on to the arrays of the attempt, and would to those of the caller
        if not (repeatable and backend.free_memory()):
            raise _memory_error(backend, name, shortage)
        repeatable = False


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _memory_error(backend: Backend, name: str, shortage: Shortage) -> MemoryError:
    if backend.on_host:
        return MemoryError(f"{name}: {shortage.reason or 'not enough memory'}")
    asked = shortage.reason if shortage.asked is None else f"asked for {_mib(shortage.asked)} ({shortage.asked} bytes)"
    room = ""
    if shortage.free is not None and shortage.total is not None:
        room = f", and {_mib(shortage.free)} of {_mib(shortage.total)} are free"
    return DeviceMemoryError(
        f"{name}: {backend.name} is out of memory: {asked}{room}. Smaller batches need less; the columns of a "
        f"convolution are capped at {get_workspace_mb()} MiB (XPCONV_WORKSPACE_MB, xpconv.set_workspace_mb)"
    )
