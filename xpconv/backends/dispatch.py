"""Which kernel serves an operator.

The table is ``(backend, operator) -> engines``, best first. An engine says which calls it supports; the first that
does runs, else the generic operator of the same name and signature in `xpconv._generic`. `register_operator` and
`register_kernel` add to both from outside of the package.

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
    "operators",
    "register_kernel",
    "register_operator",
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

    Raises
    ------
    ValueError
        Unknown mode.
    """
    _setting.set(mode)


def use_kernels(mode: str) -> AbstractContextManager[None]:
    """`set_kernels` inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    mode
        As for `set_kernels`.

    Returns
    -------
    context manager
        It changes the setting on entry and restores it on the way out.

    Raises
    ------
    ValueError
        Unknown mode.
    """
    return _setting.use(mode)


def serving(backend: Backend, operator: str, dtype: str, geometry: Any = None) -> Engine:
    """The engine that runs ``operator`` on ``backend`` for this dtype and geometry.

    Parameters
    ----------
    backend
        Whose kernels are asked.
    operator
        A name of `xpconv.backends.run`.
    dtype
        Name of the dtype of the first array, such as ``"float32"``.
    geometry
        Of the windows, where the operator slides one.

    Returns
    -------
    Engine
        The first of the backend's engines that supports the call, else the generic one.

    Raises
    ------
    KernelUnavailableError
        None of them does, and ``XPCONV_KERNELS`` is ``native``.
    ValueError
        Unknown operator.
    """
    mode = _setting.get()
    if mode != "generic":
        engines = backend.engines.get(operator, ())
        if _kernels:
            engines = (*_kernels.get((_family(backend.name), operator), ()), *engines)
        for engine in engines:
            if engine.supports(dtype, geometry):
                return engine
        if mode == "native" and engines:
            raise KernelUnavailableError(
                f"{operator}: no native kernel of {backend.name} ({', '.join(e.name for e in engines)}) supports "
                f"{dtype} with {geometry}, and XPCONV_KERNELS is 'native'"
            )
    return Engine("generic", _generic_operator(operator), _always)


def _always(dtype: str, geometry: Any) -> bool:
    return True


def _family(name: str) -> str:
    """The registry's name of a backend, without its device."""
    return name.partition(":")[0]


# ---- operators and kernels of others -------------------------------------------------------------------------------

_operators: dict[str, Callable[..., Any]] = {}  # name -> in the array API
_kernels: dict[tuple[str, str], tuple[Engine, ...]] = {}  # (backend without its device, operator) -> best first


def _generic_operator(operator: str) -> Callable[..., Any]:
    function = _operators.get(operator)
    if function is None:
        from .. import _generic  # only now, which keeps `import xpconv` fast

        function = getattr(_generic, operator, None)
    if function is None:
        raise ValueError(f"operator: unknown {operator!r}; xpconv.backends.register_operator makes one known")
    return function


def operators() -> list[str]:
    """Names of all operators: those of xpconv, which every array-API backend runs, then the registered ones."""
    from .. import _generic

    return [*_generic.__all__, *_operators]


def register_operator(name: str, function: Callable[..., Any]) -> None:
    """Make an operator known, so that `run` finds it on every backend.

    Parameters
    ----------
    name
        What `run` takes. An operator that was registered under that name is replaced, its kernels stay.
    function
        ``function(backend, *arguments)`` in names of the array API standard, through ``backend.xp``: what runs where no
        kernel does, and what kernels are tested against. It returns fresh arrays and modifies none, as it may be called
        twice when memory runs out.

    Raises
    ------
    TypeError
        name is not a string, or function not callable.
    ValueError
        The name is no identifier, or that of an operator of xpconv, for which `register_kernel` takes other kernels.
    """
    from .. import _generic

    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    if not name.isidentifier():
        raise ValueError(f"name: expected an identifier, got {name!r}")
    if name in _generic.__all__:
        raise ValueError(f"name: {name!r} is an operator of xpconv; register_kernel gives it another kernel")
    if not callable(function):
        raise TypeError(f"function: expected a callable that takes a backend and the arguments, got {function!r}")
    _operators[name] = function


def register_kernel(
    operator: str,
    function: Callable[..., Any],
    *,
    backend: str,
    name: str | None = None,
    supports: Callable[[str, Any], bool] | None = None,
) -> None:
    """Have a backend run an operator by ``function`` where that supports the call, before all kernels that it has.

    Parameters
    ----------
    operator
        One of `operators`.
    function
        As the operator in the array API: the same arguments, passed by position, and results. Arrays may have any
        strides, and must not be modified.
    backend
        A registered name without a device: ``"cupy"`` is for all its devices.
    name
        For messages and `xpconv.show_config`; the name of the function if None. A kernel of the same name, backend
        and operator is replaced.
    supports
        ``supports(dtype_name, geometry) -> bool``, for the dtype of the first array and, for operators that slide a
        window, its geometry, else None. All calls if None.

    Raises
    ------
    TypeError
        Not callable, or the function does not take the arguments of the operator.
    ValueError
        Unknown operator or backend.
    """
    from .registry import registered_backends  # which imports this module

    generic = _generic_operator(operator)
    if not callable(function):
        raise TypeError(f"function: expected a callable that takes a backend and the arguments, got {function!r}")
    if supports is not None and not callable(supports):
        raise TypeError(f"supports: expected a callable that takes a dtype's name and a geometry, got {supports!r}")
    if backend not in registered_backends():
        device = " without its device" if isinstance(backend, str) and ":" in backend else ""
        known = ", ".join(registered_backends())
        raise ValueError(f"backend: expected a registered name{device}, got {backend!r}; known are {known}")
    _check_arguments(operator, function, generic)
    own_name: str = getattr(function, "__name__", type(function).__name__)
    engine = Engine(name or own_name, function, supports or _always)
    key = (backend, operator)
    _kernels[key] = (engine, *(other for other in _kernels.get(key, ()) if other.name != engine.name))


def _check_arguments(operator: str, function: Callable[..., Any], generic: Callable[..., Any]) -> None:
    """Raise TypeError unless ``function`` can be called by position as ``generic`` is."""
    from inspect import signature  # takes time to import

    try:
        wanted, got = signature(generic), signature(function)
    except (TypeError, ValueError):  # compiled functions need not tell
        return
    try:
        got.bind(*wanted.parameters)
    except TypeError as error:
        raise TypeError(
            f"function: {operator} is called as {operator}({', '.join(wanted.parameters)}), by position: {error}"
        ) from None


# what is no array, without asking for attributes that are not there, which takes time
_PLAIN = frozenset((type(None), bool, int, float, str, tuple))


def run(backend: Backend, operator: str, first: Any, *arguments: Any, geometry: Any = None) -> Any:
    """Run ``operator`` on ``first`` and ``arguments``; ``geometry``, if given, is passed on as the last of them.

    Lists are lists of arrays, those of one list being of one dtype.

    Parameters
    ----------
    backend
        The one of all the arrays.
    operator
        Name of the operator, which is the name of its generic form: ``"conv2d"``.
    first
        The first array or list of arrays, of the shape that the operator takes; its dtype decides the engine.
    *arguments
        The other arrays and scalars, in the order of the operator's signature.
    geometry
        Of the windows, where the operator slides one.

    Returns
    -------
    object
        What the operator returns: fresh arrays.

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
        if type(argument) in _PLAIN:
            ready.append(argument)
        elif isinstance(argument, list):
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
    backend
        On whose device it runs.
    name
        Whose work it is, for the message when memory runs out: ``"Residual"``.
    function
        Such as `operator.add` or ``backend.xp.concat``. It may be called twice, so it must modify nothing.
    *arguments, **options
        What the function is called with.

    Returns
    -------
    object
        What the function returns.

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
