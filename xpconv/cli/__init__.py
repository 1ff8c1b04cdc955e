"""The command ``xpconv``: train, evaluate and use a network without writing a program."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from .. import __version__
from . import status as exit_status
from .output import complain, emit, mode_of, prepare_streams, silence, use_output
from .parser import Parser, UsageError, add_output_options

__all__ = ["build_parser", "main"]

_COMMAND_WITHOUT_OUTPUT = "completion"  # it prints a script, whoever asks


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    # here and not above: Ctrl-C may come while they are imported
    from . import bench, completion, evaluate, export, info, lr_find, parity, predict, report, train

    statuses = "; ".join(f"{status} {meaning}" for status, meaning in exit_status.MEANINGS.items())
    parser = Parser(
        prog="xpconv",
        description="Convolutional networks on the array library you already have.",
        epilog="  example: xpconv train --epochs 5\n\n"
        "xpconv COMMAND --help tells the options of a command, with an example.\n\n"
        f"Exit status: {statuses}. XPCONV_TRACEBACK=1 shows where an error comes from.",
    )
    parser.add_argument("--version", action="version", version=f"xpconv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for module in (train, lr_find, evaluate, predict, report, export, info, bench, parity, completion):
        module.add_command(commands)
    for name, command in commands.choices.items():
        if name != _COMMAND_WITHOUT_OUTPUT:
            add_output_options(command)
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


def _check_environment() -> None:
    """Raise ValueError for a setting that is wrong now, and not after a run has begun."""
    from .. import get_conv_algorithm, get_workspace_mb
    from .._precision import get_matmul_precision
    from ..backends import get_kernels

    get_conv_algorithm()
    get_kernels()
    get_matmul_precision()
    get_workspace_mb()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C does nothing inside the block, where there are only a few lines left to print."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (those of the process if None).

    Parameters
    ----------
    arguments
        Words behind the command's name; None stands for those of the process.

    Returns
    -------
    int
        The exit status, one of those in ``xpconv.cli.status``. An error is told in one line on standard error; with
        ``XPCONV_TRACEBACK=1`` it is raised instead.
    """
    prepare_streams()
    began = time.monotonic()
    mode = "text"
    expected: tuple[type[Exception], ...] = ()
    try:
        expected = exit_status.expected_errors()
        arguments = sys.argv[1:] if arguments is None else arguments
        parser = build_parser()
        if not arguments:
            parser.print_help(sys.stderr)
            return exit_status.WRONG_USAGE
        options = parser.parse_args(arguments)
        mode = mode_of(options)
        with use_output(mode):
            emit("start", command=options.command, version=__version__)
            _check_environment()
            status: int = options.run(options)
            emit("end", status=status, seconds=round(time.monotonic() - began, 3))
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        with _deaf():
            return _end(mode, exit_status.INTERRUPTED, "", "interrupted", began)
    except BrokenPipeError:
        silence(sys.stdout)
        return exit_status.PIPE_CLOSED
    except expected as error:
        if os.environ.get("XPCONV_TRACEBACK", "0") not in ("", "0") and not isinstance(error, UsageError):
            raise
        return _end(mode, exit_status.status_of(error), "error", _one_line(error), began)


def _end(mode: str, status: int, kind: str, text: str, began: float) -> int:
    """Tell what went wrong, to whoever can still be told."""
    complain(kind, text)
    try:
        with use_output(mode):
            if kind:
                emit(kind, message=text)
            emit("end", status=status, seconds=round(time.monotonic() - began, 3))
        sys.stdout.flush()
    except OSError:  # its reader has gone, or the disk that it is written to is full
        silence(sys.stdout)
    return status
