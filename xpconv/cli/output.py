"""All that the commands print: for people, for people who want the result alone, or for machines.

=========  =============================================================================================================
text       `say`, `show` and `result` print; on a terminal in colour and wrapped to its width
``quiet``  `result` prints
``json``   `emit` prints, one JSON object a line; nothing else goes to the standard output
=========  =============================================================================================================

Warnings and errors go to the standard error in every mode. Text from outside is printed with escapes for control
characters, whatever prints it.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from .._text import columns_of, pad, printable, wrap

__all__ = [
    "SCHEMA",
    "complain",
    "emit",
    "fill",
    "has_colour",
    "is_live",
    "mode",
    "mode_of",
    "prepare_streams",
    "result",
    "say",
    "show",
    "silence",
    "transient",
    "use_output",
    "width_of",
]

SCHEMA = 1
"""Of the JSON lines: it grows when a field goes or changes its meaning; new fields and events may come any time."""

_LABEL = 10  # columns of what `say` begins with
_NARROW = 50  # columns of a terminal that has no room for that
_COLOURS = {"label": "36", "result": "1", "error": "1;31", "warning": "33"}


_mode: contextvars.ContextVar[str] = contextvars.ContextVar("mode", default="text")
_terminals: contextvars.ContextVar[bool] = contextvars.ContextVar("terminals", default=True)


def mode() -> str:
    """For whom is printed now: ``"text"``, ``"quiet"`` or ``"json"``."""
    return _mode.get()


def mode_of(options: argparse.Namespace) -> str:
    """What the options of a command ask for."""
    return "json" if getattr(options, "json", False) else "quiet" if getattr(options, "quiet", False) else "text"


@contextlib.contextmanager
def use_output(mode: str, *, warn: Callable[[str], None] | None = None, terminals: bool = True) -> Iterator[None]:
    """Inside the block the functions of this module print in that mode; warnings take one line each.

    ``warn`` is given the text of each, and None complains of it. With ``terminals`` False no stream counts as one.
    """

    def show_warning(message: Warning | str, *arguments: Any, **options: Any) -> None:
        text = " ".join(str(message).split())
        if warn is None:
            complain("warning", text)
        else:
            warn(text)

    token, before = _mode.set(mode), _terminals.set(terminals)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            yield
    finally:
        _mode.reset(token)
        _terminals.reset(before)


# ---- streams ------------------------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Output that is closed goes nowhere; what a locale cannot write, and names that are no text, become escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115, it stays open as stdout does
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Send the rest nowhere: what is still buffered must not raise again when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return _terminals.get() and stream.isatty()
    except ValueError:  # it is closed
        return False


def is_live(stream: TextIO) -> bool:
    """Whether the stream is a terminal on which a line can be written anew."""
    return _is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def has_colour(stream: TextIO) -> bool:
    """Whether to print in colour: NO_COLOR forbids, FORCE_COLOR demands; else on a terminal that is not dumb."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    return is_live(stream)


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that the stream is; None for a file or a pipe, whose lines are never broken."""
    return max(10, shutil.get_terminal_size().columns) if _is_terminal(stream) else None


def _styled(text: str, kind: str, stream: TextIO) -> str:
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if text and kind and has_colour(stream) else text


def _print(text: str) -> None:
    _clear()
    print(text, flush=True)


# ---- for people ---------------------------------------------------------------------------------------------------


def say(label: str, text: str) -> None:
    """A line of what is going on."""
    if mode() != "text":
        return
    label, text = printable(label), printable(text)
    head, width = pad(label, _LABEL), width_of(sys.stdout)
    if columns_of(head) > _LABEL:
        head = f"{label} "
    lines = [head + text]
    if width is not None:
        lines = list(wrap(text, width, first=head, indent=" " * (2 if width < _NARROW else _LABEL)))
    lines[0] = _styled(label, "label", sys.stdout) + lines[0][len(label) :]
    _print("\n".join(lines))


def show(text: str) -> None:
    """Lines that are laid out already, such as a table; names in it must have gone through `printable`."""
    if mode() == "text":
        _print(printable(text, keep="\n"))


def result(text: str, *, styled: bool = True) -> None:
    """What was asked for; also in quiet mode."""
    if mode() != "json":
        text = printable(text, keep="\n")
        _print("\n".join(_styled(line, "result" if styled else "", sys.stdout) for line in text.split("\n")))


def fill(parts: Sequence[str], width: int | None) -> str:
    """The parts two spaces apart, in as many lines as the width takes."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width is not None and columns_of(lines[-1]) + 2 + columns_of(part) > width:
            lines.append(f"  {part}")
        else:
            lines[-1] += f"  {part}"
    return "\n".join(lines)


_transient = False  # whether the terminal shows a line that is to be taken away


def transient(text: str) -> None:
    """A line about what is going on just now, on a terminal only; whatever is printed next takes its place."""
    global _transient
    if mode() == "text" and is_live(sys.stdout):
        room, shown = (width_of(sys.stdout) or 80) - 1, printable(text)
        while columns_of(shown) > room:
            shown = shown[:-1]
        print(f"\r\x1b[K{_styled(shown, 'label', sys.stdout)}", end="", flush=True)
        _transient = True


def _clear() -> None:
    global _transient
    if _transient:
        _transient = False
        print("\r\x1b[K", end="", flush=True)


def complain(kind: str, text: str) -> None:
    """A line on the standard error: ``"error"``, ``"warning"``, or "" for neither."""
    with contextlib.suppress(OSError):
        _clear()
    word = f"{kind}: " if kind else ""
    style = kind if kind in _COLOURS else "warning"
    with contextlib.suppress(OSError):  # nobody reads errors
        print(
            f"{_styled(f'xpconv: {word}'.rstrip(), style, sys.stderr)} {printable(text)}", file=sys.stderr, flush=True
        )


# ---- for machines -------------------------------------------------------------------------------------------------


def emit(event: str, **fields: Any) -> None:
    """A JSON object on a line of its own: ``{"schema": 1, "event": EVENT, ...}``; NaN and infinities become null."""
    if mode() == "json":
        # ASCII: the same in every locale, and nothing that a terminal would obey
        print(json.dumps(_plain({"schema": SCHEMA, "event": event, **fields}), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)
