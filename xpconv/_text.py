"""Text for people: names from outside made harmless, and columns counted as a terminal does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

__all__ = ["columns_of", "pad", "printable", "wrap"]

# control characters, invisible marks that may turn the direction of the line, halves of pairs, ends of lines
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # parts of ordinary words and emoji


def printable(text: object, *, keep: str = "") -> str:
    r"""``str(text)`` with characters that a terminal would obey, or not show, written as escapes: ``\x1b``.

    A name of a file or of a class may have any character. One that is printed as it is can move the cursor, change
    colours, or make one name look like another.

    Parameters
    ----------
    keep
        Characters that stay in any case, such as the ends of lines of a table.
    """
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return whole
    return "".join(c if c in keep or _is_shown(c) else c.encode("unicode_escape").decode("ascii") for c in whole)


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _HIDDEN


def columns_of(text: str) -> int:
    """Columns that the text takes on a terminal: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int) -> str:
    """``text`` with spaces behind it, up to ``width`` columns."""
    return text + " " * (width - columns_of(text))


def wrap(text: str, width: int, *, first: str = "", indent: str = "") -> Iterator[str]:
    """Lines of at most ``width`` columns, broken at spaces; a word that is longer has a line of its own.

    Parameters
    ----------
    first, indent
        What the first line begins with, and what the others do.
    """
    line = head = first
    for word in text.split(" "):
        wide = columns_of(word)
        # a word that is too long for any line stays beside the head
        beside = line == head and (len(indent) >= len(head) or columns_of(indent) + wide > width)
        if not beside and columns_of(line) + (line != head) + wide > width:
            yield line.rstrip()
            line = head = indent
        line += word if line == head else f" {word}"
    yield line.rstrip()
