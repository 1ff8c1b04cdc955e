"""The command ``xpconv``: train, evaluate and use a network without writing a program."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence

from .. import __version__
from ..distributed import Communicator, DistributedError
from ..distributed.mpi import launched_processes
from . import ranks
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
    try:
        comm = ranks.find_ranks()
    except (ImportError, DistributedError) as error:
        with ranks.one_of_machine() as speaks:
            if speaks:
                complain("error", _one_line(error))
        return exit_status.WRONG_USAGE
    except KeyboardInterrupt:
        complain("", "interrupted")
        return exit_status.INTERRUPTED
    return _main(sys.argv[1:] if arguments is None else arguments, comm, time.monotonic())


def _main(arguments: Sequence[str], comm: Communicator, began: float) -> int:
    mode = "text"
    expected: tuple[type[Exception], ...] = ()
    mine: ranks.Ending
    try:
        with ranks.only_first_prints(comm):
            expected = exit_status.expected_errors()
            parser = build_parser()
            if not arguments:
                if comm.rank == 0:
                    parser.print_help(sys.stderr)
                return exit_status.WRONG_USAGE
            options = parser.parse_args(arguments)
            mode = mode_of(options)
            if not getattr(options, "over_ranks", False):
                ranks.refuse_ranks(comm, f"xpconv {options.command}")
            ranks.check_same(comm, {"the command": options.command})  # before these ask each other different things
            warned = ranks.Warned(comm)
            # Open MPI gives every rank a terminal of its own, whatever the launcher itself prints to
            direct = launched_processes() is None
            with use_output(mode if comm.rank == 0 else "quiet", warn=warned, terminals=direct):
                emit("start", command=options.command, version=__version__)
                _check_environment()
                status: int = options.run(options)
                warned.wait_for_all()
                emit("end", status=status, seconds=round(time.monotonic() - began, 3))
                sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        mine = ranks.Ending(exit_status.INTERRUPTED, "", "interrupted")
        with _deaf():
            return _end(comm, mode, mine, began)
    except BrokenPipeError:
        silence(sys.stdout)
        mine = ranks.Ending(exit_status.PIPE_CLOSED, "", "")
    except ranks.FirstFailed:
        mine = ranks.Ending(exit_status.FAILED, "", "")
    except Exception as error:
        told = isinstance(error, expected) and (not _wants_traceback() or isinstance(error, UsageError))
        if comm.size == 1 and not told:
            raise
        status = exit_status.status_of(error) if told else exit_status.FAILED
        text = _one_line(error) if told else "".join(traceback.format_exception(error))
        mine = ranks.Ending(status, "error" if told else "traceback", text)
    return _end(comm, mode, mine, began)


def _wants_traceback() -> bool:
    return os.environ.get("XPCONV_TRACEBACK", "0") not in ("", "0")


def _end(comm: Communicator, mode: str, mine: ranks.Ending, began: float) -> int:
    """Tell what went wrong, to whoever can still be told, and end the other ranks if they go on."""
    told, end_job = ranks.endings(comm, mine)
    for ending in told:
        if ending.text:
            _tell(mode, ending)
    status = told[0].status
    if comm.rank == 0 or end_job:
        _tell_status(mode, status, began)
    if end_job:
        comm.abort(status)
    return status


def _tell(mode: str, ending: ranks.Ending) -> None:
    kind, text = ending.kind, ending.text
    if kind == "traceback":
        with contextlib.suppress(OSError):  # nobody reads errors
            print(text, end="", file=sys.stderr, flush=True)  # at once: others may print too
        kind, text = "error", text.rstrip().rpartition("\n")[2]
    else:
        complain(kind, text)
    if not kind:
        return
    try:
        with use_output(mode):
            emit(kind, message=text)
    except OSError:
        silence(sys.stdout)


def _tell_status(mode: str, status: int, began: float) -> None:
    try:
        with use_output(mode):
            emit("end", status=status, seconds=round(time.monotonic() - began, 3))
        sys.stdout.flush()
    except OSError:  # its reader has gone, or the disk that it is written to is full
        silence(sys.stdout)
