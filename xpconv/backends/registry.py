"""The backends by name, the default one, and the backend of an array.

The array decides the kernels: `backend_of` looks at the arguments of a call. The default backend decides where new
arrays (parameters, data batches, random numbers) are born.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .dispatch import compute
from .protocol import Array, Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "asarray",
    "available_backends",
    "backend_of",
    "free_memory",
    "get_backend",
    "load_backend",
    "loaded_backend",
    "packages_of",
    "register_backend",
    "registered_backends",
    "set_backend",
    "to_numpy",
    "use_backend",
]

Factory = Callable[[str | None], Backend]

ENTRY_POINT_GROUP = "xpconv.backends"


class BackendMismatchError(TypeError):
    """Arrays of two libraries, or of two devices, in one call."""


class BackendUnavailableError(RuntimeError):
    """A backend that is known but cannot start here; the message says why and what to install."""


class _Entry(NamedTuple):
    factory: Factory
    packages: tuple[str, ...]  # top-level packages that define its array types; () if unknown
    plugin: bool = False  # found by its entry point, so that its array types may be in other packages as well


def _builtin(module: str, package: str = "xpconv.backends") -> Factory:
    def load(device: str | None) -> Backend:
        return importlib.import_module(f"{package}.{module}").load(device)

    return load


_lock = threading.RLock()
_entries: dict[str, _Entry] = {
    "numpy": _Entry(_builtin("numpy"), ("numpy",)),
    "cupy": _Entry(_builtin("cupy"), ("cupy",)),
    "torch": _Entry(_builtin("torch"), ("torch",)),
    "jax": _Entry(_builtin("jax"), ("jax", "jaxlib")),
    "array_api_strict": _Entry(_builtin("array_api_strict"), ("array_api_strict",)),
    "cuda-host": _Entry(_builtin("cuda_host", "xpconv.testing"), ("xpconv",)),
}
_entry_points_read = False
_loaded: dict[str, Backend] = {}
_by_type: dict[type, Backend] = {}
_default: Backend | None = None
_override: ContextVar[Backend | None] = ContextVar("xpconv_backend", default=None)


def register_backend(name: str, factory: Factory, *, packages: tuple[str, ...] = ()) -> None:
    """Make a backend known under ``name``.

    Parameters
    ----------
    name
        What `set_backend` takes. A name that is known already is replaced.
    factory
        Called with the device part of ``"name:device"`` (or None) when the backend is first needed; returns a
        `Backend` or raises `BackendUnavailableError`.
    packages
        Packages that define its array types, so that other arrays do not load it; only their top level counts.
        Packages can also register through the entry-point group ``xpconv.backends``; such a backend is started for an
        array only if that is of the same package, or of no library known.

    Raises
    ------
    TypeError
        A name that is no string, a factory that cannot be called, packages that are one string.
    ValueError
        A name that is empty or has a colon.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    if not name or ":" in name:
        raise ValueError(f"name: must be non-empty and without ':', got {name!r}")
    if not callable(factory):
        raise TypeError(f"factory: expected a callable that takes a device, got {factory!r}")
    if isinstance(packages, str):
        raise TypeError(f"packages: expected a tuple of names, got {packages!r}")
    global _default
    with _lock:
        _entries[name] = _Entry(factory, tuple(package.partition(".")[0] for package in packages))
        for key in [k for k in _loaded if k.split(":")[0] == name]:
            backend = _loaded.pop(key)
            if _default is backend:
                _default = None
        _by_type.clear()


def _from_entry_point(point: EntryPoint) -> Factory:
    def load(device: str | None) -> Backend:
        return point.load()(device)

    return load


def _read_entry_points() -> None:
    global _entry_points_read
    with _lock:
        if _entry_points_read:
            return
        from importlib.metadata import entry_points  # takes a third of the time of `import numpy`

        _entry_points_read = True
        for point in entry_points(group=ENTRY_POINT_GROUP):
            if point.name not in _entries:
                _entries[point.name] = _Entry(_from_entry_point(point), (point.module.partition(".")[0],), plugin=True)


def _start(family: str, device: str | None) -> Backend:
    """A new backend from its factory; whatever goes wrong becomes a `BackendUnavailableError` that says what."""
    try:
        backend = _entries[family].factory(device)
    except BackendUnavailableError:
        raise
    except Exception as error:  # a broken installation or plug-in must not break the search for another backend
        raise BackendUnavailableError(f"{family} cannot start: {type(error).__name__}: {error}") from error
    if not isinstance(backend, Backend) or backend.name.partition(":")[0] != family:
        raise BackendUnavailableError(
            f"{family} cannot start: its factory returned {backend!r} instead of a Backend whose name is {family!r}"
        )
    return backend


def registered_backends() -> list[str]:
    """Names of all known backends, whether or not they can start here."""
    _read_entry_points()
    return list(_entries)


def load_backend(name: str | Backend) -> Backend:
    """The backend of ``"name"`` or ``"name:device"``, started on first use; a backend is returned as it is.

    Parameters
    ----------
    name
        ``"name"``, ``"name:device"``, or a backend.

    Returns
    -------
    Backend
        The same one each time.

    Raises
    ------
    ValueError
        Unknown name.
    BackendUnavailableError
        It cannot start here; the message says why.
    TypeError
        Not a string.
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        raise TypeError(f"backend: expected a name such as 'numpy', got {name!r}")
    backend = _loaded.get(name)
    if backend is not None:
        return backend
    family, _, device = name.partition(":")
    if family not in _entries:
        _read_entry_points()
    if family not in _entries:
        raise ValueError(f"backend: unknown {name!r}; known are {', '.join(registered_backends())}")
    with _lock:
        if name not in _loaded:
            backend = _start(family, device or None)
            # "torch:cpu" and "torch" are one backend: arrays are told apart by the identity of theirs
            _loaded[name] = _loaded.setdefault(backend.name, backend)
        return _loaded[name]


def loaded_backend(name: str) -> Backend | None:
    """The backend of that name if it has been started, else None."""
    return _loaded.get(name)


def packages_of(name: str) -> tuple[str, ...]:
    """Top-level packages of the array types of a registered backend; empty if they are not known."""
    return _entries[name].packages


def free_memory() -> None:
    """Give memory that is kept for later use back to the system, or to the device.

    Operators on NumPy arrays keep the memory of results that nobody holds any more, about as much as a training step
    needs, since fresh memory costs more time than many of them; libraries for GPUs do so too. Nothing changes but the
    time of the next calls. Every backend that has been started is asked.
    """
    for backend in {id(backend): backend for backend in _loaded.values()}.values():
        backend.free_memory()


def available_backends() -> list[str]:
    """Names of the backends that start here (it tries each, so it may import large libraries)."""
    names = []
    for name in registered_backends():
        try:
            load_backend(name)
        except BackendUnavailableError:
            continue
        names.append(name)
    return names


def get_backend() -> Backend:
    """The backend on which new arrays are born.

    The innermost `use_backend`, else the last `set_backend`, else ``XPCONV_BACKEND``, else NumPy.

    Raises
    ------
    ValueError
        ``XPCONV_BACKEND`` is no name of a backend.
    BackendUnavailableError
        The backend that ``XPCONV_BACKEND`` names cannot start here.
    """
    global _default
    override = _override.get()
    if override is not None:
        return override
    if _default is None:
        name = os.environ.get("XPCONV_BACKEND") or "numpy"
        try:
            _default = load_backend(name)
        except (ValueError, BackendUnavailableError) as error:
            if name == "numpy":
                raise
            raise type(error)(f"XPCONV_BACKEND is {name!r}: {error}") from error
    return _default


def set_backend(name: str | Backend) -> None:
    """Set the process-wide default backend, for all threads.

    Parameters
    ----------
    name
        ``"numpy"``, ``"cupy"``, ``"cupy:1"``, ``"torch"``, ``"jax"``, ``"array_api_strict"`` or a registered name;
        or what `get_backend` has returned.

    Raises
    ------
    ValueError
        Unknown name.
    BackendUnavailableError
        It cannot start here. The default stays what it was.
    """
    global _default
    _default = load_backend(name)


@contextmanager
def use_backend(name: str | Backend) -> Iterator[Backend]:
    """Default backend inside a ``with`` block, in this thread or task only; restored on the way out.

    Parameters
    ----------
    name
        As for `set_backend`.

    Yields
    ------
    Backend
        The backend of that name.

    Raises
    ------
    ValueError
        Unknown name.
    BackendUnavailableError
        It cannot start here.
    """
    token = _override.set(load_backend(name))
    try:
        yield get_backend()
    finally:
        _override.reset(token)


def _candidates(kind: type) -> Iterator[str]:
    """Names of backends that may own arrays of type ``kind``, the likely ones first; some come twice.

    Plug-ins are looked for, and started, only if nobody before them owns it.
    """
    root = kind.__module__.partition(".")[0]
    # newest first, so that a registered backend can claim a subclass of another library's array
    names = list(_entries)[::-1]
    yield from (n for n in names if root in _entries[n].packages or not _entries[n].packages)
    _read_entry_points()
    names = list(_entries)[::-1]
    yield from (n for n in names if _entries[n].plugin and root in _entries[n].packages)
    bases = {base.__module__.partition(".")[0] for base in kind.__mro__}
    yield from (n for n in names if bases & set(_entries[n].packages))
    yield from (n for n in names if _entries[n].plugin)


def _find_owner(array: object) -> Backend | None:
    """Backend of a type seen for the first time. Only backends that may own it are started.

    Raises BackendUnavailableError if the one that should own it cannot start.
    """
    root = type(array).__module__.partition(".")[0]
    reason, asked = None, set()
    for name in _candidates(type(array)):
        if name in asked:
            continue
        asked.add(name)
        try:
            backend = load_backend(name)
        except BackendUnavailableError as error:
            if reason is None and root in _entries[name].packages:
                reason = error
            continue
        if backend.owns(array):
            return backend
    if reason is not None:
        raise reason
    return None


def _is_masked(array: object) -> bool:
    """Whether ``array`` is a `numpy.ma.MaskedArray`, without importing that module."""
    return isinstance(array, np.ndarray) and hasattr(array, "filled")


def _find(array: object) -> Backend | None:
    """Backend of ``array``, on its device; None if no backend owns it."""
    kind = type(array)
    backend = _by_type.get(kind)
    if backend is None:
        # numbers and sequences of them, as `asarray` gets them, are nobody's arrays
        plain = kind.__module__ == "builtins" or issubclass(kind, np.generic)
        backend = None if plain else _find_owner(array)
        if backend is None:
            return None
        _by_type[kind] = backend
    return backend.for_array(array)


def _lookup(name: str, array: object) -> Backend:
    backend = _find(array)
    if backend is None:
        kind = type(array)
        if _is_masked(array):
            advice = f"fill what is masked first, as in {name}.filled(0)"
        else:
            advice = f"xpconv.asarray({name}) makes one"
        raise TypeError(
            f"{name}: expected an array, got {kind.__module__}.{kind.__qualname__}; {advice} "
            f"(known backends: {', '.join(registered_backends())})"
        )
    return backend


_PARAMETERS = ("w", "b", "weight", "bias", "running_mean", "running_var")


def backend_of(**arrays: Array) -> Backend:
    """The one backend of the named arrays; None values are skipped.

    Parameters
    ----------
    **arrays
        Arrays of any shape, or None, by the names that messages shall call them.

    Returns
    -------
    Backend
        That of the device on which they are.

    Raises
    ------
    TypeError
        An argument is not an array of a known library.
    BackendMismatchError
        The arrays are of different libraries or devices. Nothing is ever transferred silently.
    """
    found: Backend | None = None
    first = ""
    for name, array in arrays.items():
        if array is None:
            continue
        known = _by_type.get(type(array))
        backend = _lookup(name, array) if known is None else known.for_array(array)
        if found is None:
            found, first = backend, name
        elif backend is not found:
            # parameters stay where they are: it is the data that was not moved to them
            moved, to = (first, backend) if name in _PARAMETERS else (name, found)
            raise BackendMismatchError(
                f"{name} is an array of {backend.name} but {first} is one of {found.name}; "
                f"move one with xpconv.asarray({moved}, backend={to.name!r})"
            )
    if found is None:
        if len(arrays) == 1:
            raise TypeError(f"{next(iter(arrays))}: expected an array, got None")
        raise TypeError(f"expected at least one array among {', '.join(arrays)}")
    return found


def _numbers(name: str, obj: Any) -> np.ndarray:
    """``obj``, an array of NumPy or of no known library, a sequence or a number, as a NumPy array of numbers."""
    if _is_masked(obj):
        raise TypeError(f"{name}: is a masked array; fill what is masked first, as in {name}.filled(0)")
    try:
        values = np.asarray(obj)
    except ValueError as error:  # rows of several lengths, too many axes
        raise ValueError(f"{name}: expected an array, a sequence of numbers or a number: {error}") from None
    if values.dtype.kind not in "biufc" and values.dtype.name != "bfloat16":
        got = f"an array of {values.dtype}" if hasattr(obj, "dtype") else f"{type(obj).__name__} {obj!r:.60}"
        raise TypeError(f"{name}: expected an array, a sequence of numbers or a number, got {got}")
    return values


def _has_bfloat16(backend: Backend) -> bool:
    """Whether the library has bfloat16 by itself; NumPy only has it where some other package was imported."""
    if backend.on_host:
        return hasattr(backend.xp, "bfloat16")
    try:
        backend.dtype("bfloat16")
    except TypeError:
        return False
    return True


def asarray(obj: Any, dtype: Any = None, *, backend: str | Backend | None = None) -> Array:
    """``obj`` as an array of ``backend`` (a name; the default backend if None), moved there if need be.

    Parameters
    ----------
    obj
        An array of any known library, a (nested) sequence, or a number. The result may share its memory.
    dtype
        A name such as ``"float32"``, or a dtype of the library or of NumPy; None keeps the dtype of an array and takes
        NumPy's of anything else. (Where a library cannot keep it: bfloat16 becomes float32 in NumPy, 64-bit integers
        become 32-bit ones in JAX if their values allow it.)
    backend
        Where to; the default backend if None.

    Returns
    -------
    array
        Of the shape of obj; obj itself where nothing has to change.

    Raises
    ------
    TypeError
        Not numbers, a masked array, or a dtype that the backend does not have.
    ValueError
        A nested sequence whose rows differ in length.
    DeviceMemoryError
        The memory of a device does not hold it.
    ValueError
        A nested sequence whose rows differ in length.
    BackendUnavailableError
        The backend cannot start here.
    """
    target = get_backend() if backend is None else load_backend(backend)
    source = None if type(obj) is np.ndarray else _find(obj)
    if source is None:
        obj = _numbers("obj", obj)
    elif source is not target:
        if dtype is None and source.dtype_name(obj) == "bfloat16" and _has_bfloat16(target):
            dtype = "bfloat16"  # its way leads over float32, which holds all its values
        obj = source.to_numpy(obj)
    return compute(target, "asarray", target.asarray, obj, dtype)


def to_numpy(array: Array) -> np.ndarray:
    """The values of an array of any backend as a NumPy array (a view where memory can be shared).

    bfloat16, which NumPy does not have, becomes float32. Numbers and (nested) sequences of them are taken as well.

    Parameters
    ----------
    array : array of any shape
        Of any known library; or what NumPy makes an array of numbers of.

    Returns
    -------
    numpy.ndarray
        Of the same shape; not to be written to, since memory may be shared.

    Raises
    ------
    TypeError
        Not numbers, or a masked array.
    ValueError
        A nested sequence whose rows differ in length.
    """
    source = _find(array)
    return _numbers("array", array) if source is None else source.to_numpy(array)
