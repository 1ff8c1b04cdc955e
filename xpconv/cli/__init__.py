"""The command ``xpconv``: train, evaluate and use a network without writing a program."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_BROKEN_PIPE = 141  # 128 + SIGPIPE
_USER_ERROR = 2


class _UsageError(ValueError):
    """Arguments that the parser does not understand."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    # here and not above: --version and mistakes in the command need no numerical library
    from . import evaluate, export, info, lr_find, parity, predict, train

    parser = _Parser(
        prog="xpconv",
        description="Convolutional networks on the array library you already have.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xpconv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in (train, lr_find, evaluate, predict, export, info, parity):
        module.add_command(commands)
    return parser


def _one_line(error: BaseException) -> str:
    from ..backends import DeviceMemoryError

    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError) and not isinstance(error, DeviceMemoryError):
        return "not enough memory; a smaller --batch-size needs less"
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = "".join(line + (" " if line[-1] in ":;,." else "; ") for line in lines)
    return text.rstrip("; ") or type(error).__name__


def _prepare_streams() -> None:
    """Output that is closed goes nowhere, and names of files that are no text are printed with escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115, it stays open as stdout does
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _check_environment() -> None:
    """Raise ValueError for a setting that is wrong now, and not after a run has begun."""
    from .. import get_conv_algorithm, get_workspace_mb
    from .._precision import get_matmul_precision
    from ..backends import get_kernels

    get_conv_algorithm()
    get_kernels()
    get_matmul_precision()
    get_workspace_mb()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (those of the process if None).

    Parameters
    ----------
    arguments
        Words behind the command's name; None stands for those of the process.

    Returns
    -------
    int
        The exit status: 0; 1 if ``parity`` found a result out of tolerance; 2 after an error of the user or of the
        machine, told in one line on standard error; 130 after Ctrl-C; 141 if the reader of the output has gone. With
        ``XPCONV_TRACEBACK=1`` errors are raised instead.
    """
    _prepare_streams()
    expected: tuple[type[Exception], ...] = ()
    try:
        # here, since Ctrl-C may come while they are imported
        from ..backends import BackendUnavailableError, KernelUnavailableError
        from ..training import CheckpointError, RunFolderError, TrainingError

        expected = (
            BackendUnavailableError,
            CheckpointError,
            ImportError,
            KernelUnavailableError,
            MemoryError,
            OSError,
            RunFolderError,
            TrainingError,
            TypeError,
            ValueError,
        )
        options = _parser().parse_args(arguments)
        _check_environment()
        status = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("xpconv: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # nobody reads on; what is still buffered must not raise again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except expected as error:
        if os.environ.get("XPCONV_TRACEBACK", "0") not in ("", "0"):
            raise
        print(f"xpconv: error: {_one_line(error)}", file=sys.stderr)
        return _USER_ERROR
