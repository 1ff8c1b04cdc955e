"""A choice by name that holds for the process: from a function, a ``with`` block or the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Setting"]


class Setting:
    """One of a few names.

    Parameters
    ----------
    argument
        What messages call it.
    variable
        The environment variable that gives its start value. It is read when the setting is first asked for: an import
        is no place to complain.
    names
        The values it takes; the first is the start value where the variable is not set.
    """

    def __init__(self, argument: str, variable: str, names: tuple[str, ...]) -> None:
        self._argument, self._variable, self._names = argument, variable, names
        self._value: str | None = None
        self._override: ContextVar[str | None] = ContextVar(variable, default=None)

    def _checked(self, name: object, source: str) -> str:
        if name not in self._names:
            raise ValueError(f"{source}: expected one of {', '.join(self._names)}, got {name!r}")
        return str(name)

    def get(self) -> str:
        """The innermost `use` of this thread or task, else what `set` gave, else the environment's value."""
        override = self._override.get()
        if override is not None:
            return override
        if self._value is None:
            self._value = self._checked(os.environ.get(self._variable) or self._names[0], self._variable)
        return self._value

    def set(self, name: str) -> None:
        """Choose for the whole process; ValueError if there is no such name."""
        self._value = self._checked(name, self._argument)

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Choose inside a ``with`` block, in this thread or task only; ValueError if there is no such name."""
        token = self._override.set(self._checked(name, self._argument))
        try:
            yield
        finally:
            self._override.reset(token)
