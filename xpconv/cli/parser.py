"""The parser of the command line: help that fits the terminal, and mistakes that are told with what was meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

__all__ = ["Help", "Parser", "UsageError", "add_output_options", "nearest"]


class UsageError(ValueError):
    """Arguments that the parser does not understand."""


def nearest(name: object, known: Iterable[str]) -> str:
    """What may have been meant, in parentheses; nothing if there is nothing like it."""
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


class Help(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves lines that begin with two spaces as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = []
        for block in text.strip("\n").split("\n\n"):
            if block.startswith("  "):
                blocks.append("\n".join(indent + line for line in block.split("\n")))
            else:
                blocks.append(super()._fill_text(block, width, indent))
        return "\n\n".join(blocks)


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError`, takes no abbreviations, and names the option or command that was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Help, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise, with the place to look at."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As `argparse` does, after a look at the names."""
        if args is not None:
            self._check_names(args)
        return super().parse_known_args(args, namespace)

    def _commands(self) -> dict[str, argparse.ArgumentParser] | None:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return None

    def _check_names(self, args: Sequence[str]) -> None:
        """Here, since argparse tells of a missing argument first, and of an unknown one without a suggestion."""
        commands = self._commands()
        for word in args:
            if word == "--":
                return
            if word.startswith("--") and " " not in word:
                name = word.partition("=")[0]
                if name not in self._option_string_actions:
                    known = [option for option in self._option_string_actions if option.startswith("--")]
                    self.error(f"unknown option {name}{nearest(name, known)}")
            elif commands is not None and not word.startswith("-"):
                if word not in commands:
                    self.error(f"unknown command {word!r}{nearest(word, commands)}; known are {', '.join(commands)}")
                return  # the rest is the command's


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that all of them share."""
    group = parser.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print the result and errors, nothing else")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object a line, for other programs (see the guide)"
    )
