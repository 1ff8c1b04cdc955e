"""Which kernel serves an operator.

The table is ``(backend, operator) -> engines``, best first. An engine says which calls it supports; the first that
does runs, else the generic operator of the same name and signature in `xpconv._generic`.

Every operator takes ``(backend, *arguments)`` and returns fresh arrays. For the choice it is enough to know the dtype
of the first array and the geometry (a `Window`, a `ConvGeometry`, or None for operators that slide no window).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from .protocol import Backend

__all__ = ["Engine", "KernelUnavailableError", "get_kernels", "run", "serving", "set_kernels", "use_kernels"]

_MODES = ("auto", "generic", "native")


class KernelUnavailableError(RuntimeError):
    """``XPCONV_KERNELS=native`` and no native kernel of the backend can serve the call."""


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


def _checked(mode: str, source: str) -> str:
    if mode not in _MODES:
        raise ValueError(f"{source}: expected one of {', '.join(_MODES)}, got {mode!r}")
    return mode


_mode: str | None = None  # XPCONV_KERNELS is read when first asked for: `import xpconv` is no place to complain
_mode_override: ContextVar[str | None] = ContextVar("xpconv_kernels", default=None)


def get_kernels() -> str:
    """``"auto"``, ``"generic"`` or ``"native"``: which kernels calls use now."""
    global _mode
    override = _mode_override.get()
    if override is not None:
        return override
    if _mode is None:
        _mode = _checked(os.environ.get("XPCONV_KERNELS") or "auto", "XPCONV_KERNELS")
    return _mode


def set_kernels(mode: str) -> None:
    """Choose kernels for the whole process.

    Parameters
    ----------
    mode
        ``"auto"``: native where the backend has one that supports the call. ``"generic"``: never native.
        ``"native"``: like auto, but where the backend has native kernels for an operator and none supports the call,
        raise `KernelUnavailableError` instead of falling back.
    """
    global _mode
    _mode = _checked(mode, "mode")


@contextmanager
def use_kernels(mode: str) -> Iterator[None]:
    """`set_kernels` inside a ``with`` block, in this thread or task only."""
    token = _mode_override.set(_checked(mode, "mode"))
    try:
        yield
    finally:
        _mode_override.reset(token)


def serving(backend: Backend, operator: str, dtype: str, geometry: Any = None) -> Engine:
    """The engine that runs ``operator`` on ``backend`` for this dtype and geometry."""
    from .. import _generic  # only now, which keeps `import xpconv` fast

    mode = get_kernels()
    engines = backend.engines.get(operator, ())
    if mode != "generic":
        for engine in engines:
            if engine.supports(dtype, geometry):
                return engine
        if mode == "native" and engines:
            raise KernelUnavailableError(
                f"{operator}: no native kernel of {backend.name} ({', '.join(e.name for e in engines)}) supports "
                f"{dtype} with {geometry}, and XPCONV_KERNELS is 'native'"
            )
    return Engine("generic", getattr(_generic, operator), _always)


def _always(dtype: str, geometry: Any) -> bool:
    return True


def run(backend: Backend, operator: str, first: Any, *arguments: Any, geometry: Any = None) -> Any:
    """Run ``operator`` on ``first`` and ``arguments``; ``geometry``, if given, is passed on as the last of them."""
    engine = serving(backend, operator, backend.dtype_name(first), geometry)
    prepare = backend.prepare
    ready = [prepare(a) if hasattr(a, "dtype") else a for a in (first, *arguments)]
    if geometry is not None:
        ready.append(geometry)
    with backend.running():
        return engine.function(backend, *ready)
