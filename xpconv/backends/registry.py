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
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import numpy as np

from .protocol import Array, Backend

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "asarray",
    "available_backends",
    "backend_of",
    "get_backend",
    "load_backend",
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


def _builtin(module: str) -> Factory:
    def load(device: str | None) -> Backend:
        return importlib.import_module(f"xpconv.backends.{module}").load(device)

    return load


_lock = threading.RLock()
_entries: dict[str, _Entry] = {
    "numpy": _Entry(_builtin("numpy"), ("numpy",)),
    "cupy": _Entry(_builtin("cupy"), ("cupy",)),
    "torch": _Entry(_builtin("torch"), ("torch",)),
    "jax": _Entry(_builtin("jax"), ("jax", "jaxlib")),
    "array_api_strict": _Entry(_builtin("array_api_strict"), ("array_api_strict",)),
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
        Top-level packages of its array types, so that other arrays do not load it. Packages can also register through
        the entry-point group ``xpconv.backends``.
    """
    if not name or ":" in name:
        raise ValueError(f"name: must be non-empty and without ':', got {name!r}")
    if not callable(factory):
        raise TypeError(f"factory: expected a callable that takes a device, got {factory!r}")
    global _default
    with _lock:
        _entries[name] = _Entry(factory, tuple(packages))
        for key in [k for k in _loaded if k.split(":")[0] == name]:
            backend = _loaded.pop(key)
            if _default is backend:
                _default = None
        _by_type.clear()


def _read_entry_points() -> None:
    global _entry_points_read
    with _lock:
        if _entry_points_read:
            return
        _entry_points_read = True
        for point in entry_points(group=ENTRY_POINT_GROUP):
            if point.name not in _entries:
                _entries[point.name] = _Entry(lambda device, point=point: point.load()(device), ())


def registered_backends() -> list[str]:
    """Names of all known backends, whether or not they can start here."""
    _read_entry_points()
    return list(_entries)


def load_backend(name: str) -> Backend:
    """The backend of ``"name"`` or ``"name:device"``, started on first use.

    Raises
    ------
    ValueError
        Unknown name.
    BackendUnavailableError
        It cannot start here; the message says why.
    """
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
            _loaded[name] = _entries[family].factory(device or None)
        return _loaded[name]


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
    """
    global _default
    override = _override.get()
    if override is not None:
        return override
    if _default is None:
        _default = load_backend(os.environ.get("XPCONV_BACKEND", "numpy"))
    return _default


def set_backend(name: str) -> None:
    """Set the process-wide default backend, for all threads.

    Parameters
    ----------
    name
        ``"numpy"``, ``"cupy"``, ``"cupy:1"``, ``"torch"``, ``"jax"``, ``"array_api_strict"`` or a registered name.

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
def use_backend(name: str) -> Iterator[Backend]:
    """Default backend inside a ``with`` block, in this thread or task only; restored on the way out."""
    token = _override.set(load_backend(name))
    try:
        yield get_backend()
    finally:
        _override.reset(token)


def _find_owner(array: object) -> Backend | None:
    """Backend of a type seen for the first time. Only backends that may own it are started."""
    root = type(array).__module__.partition(".")[0]
    bases = {base.__module__.partition(".")[0] for base in type(array).__mro__}
    _read_entry_points()
    # newest first, so that a registered backend can claim a subclass of another library's array
    names = list(_entries)[::-1]
    likely = [n for n in names if root in _entries[n].packages]
    inherited = [n for n in names if n not in likely and bases & set(_entries[n].packages)]
    unknown = [n for n in names if not _entries[n].packages]
    for name in [*unknown, *likely, *inherited]:
        try:
            backend = load_backend(name)
        except BackendUnavailableError:
            continue
        if backend.owns(array):
            return backend
    return None


def _lookup(name: str, array: object) -> Backend:
    kind = type(array)
    backend = _by_type.get(kind)
    if backend is None:
        backend = _find_owner(array)
        if backend is None:
            raise TypeError(
                f"{name}: expected an array, got {kind.__module__}.{kind.__qualname__}; "
                f"xpconv.asarray makes one (known backends: {', '.join(registered_backends())})"
            )
        _by_type[kind] = backend
    return backend.for_array(array)


def backend_of(**arrays: Array) -> Backend:
    """The one backend of the named arrays; None values are skipped.

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
        backend = _lookup(name, array)
        if found is None:
            found, first = backend, name
        elif backend is not found:
            raise BackendMismatchError(
                f"{name} is an array of {backend.name} but {first} is one of {found.name}; "
                f"move one with xpconv.asarray({name}, backend={found.name!r})"
            )
    if found is None:
        raise TypeError(f"expected at least one array among {', '.join(arrays)}")
    return found


def asarray(obj: Any, dtype: Any = None, *, backend: str | Backend | None = None) -> Array:
    """``obj`` as an array of ``backend`` (a name; the default backend if None), moved there if need be.

    Parameters
    ----------
    obj
        An array of any known library, a (nested) sequence, or a number.
    dtype
        A name such as ``"float32"`` or the library's own dtype; None keeps the dtype of an array.
    """
    target = backend if isinstance(backend, Backend) else get_backend() if backend is None else load_backend(backend)
    if isinstance(obj, np.ndarray) and type(obj) is np.ndarray:
        return target.asarray(obj, dtype)
    try:
        source = _lookup("obj", obj)
    except TypeError:
        return target.asarray(np.asarray(obj), dtype)
    if source is target:
        return target.asarray(obj, dtype)
    return target.asarray(source.to_numpy(obj), dtype)


def to_numpy(array: Array) -> np.ndarray:
    """The values of an array of any backend as a NumPy array (a view where memory can be shared)."""
    if type(array) is np.ndarray:
        return array
    try:
        backend = _lookup("array", array)
    except TypeError:
        if type(array).__module__ == "builtins" or isinstance(array, np.generic):
            return np.asarray(array)
        raise
    return backend.to_numpy(array)
