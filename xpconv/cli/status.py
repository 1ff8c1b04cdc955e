"""The exit statuses of ``xpconv``, and which error gives which."""

from __future__ import annotations

import errno

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "MEANINGS",
    "PIPE_CLOSED",
    "PREEMPTED",
    "WRONG_USAGE",
    "expected_errors",
    "status_of",
]

DONE = 0
FAILED = 1
WRONG_USAGE = 2
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h, as that of `xpconv.training.Preempted`
INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE

MEANINGS = {
    DONE: "done",
    FAILED: "the work failed: a result out of tolerance, a loss that is not finite, no memory, a full disk",
    WRONG_USAGE: "wrong usage: an option, setting, file or run folder that does not do; a package or backend that is "
    "not there",
    PREEMPTED: "told to go by SIGTERM or SIGUSR1, and saved: start it again with --resume",
    INTERRUPTED: "interrupted by Ctrl-C",
    PIPE_CLOSED: "the reader of the output has gone",
}

# what the machine, and not the user, is to blame for
_OF_THE_MACHINE = {errno.ENOSPC, errno.EIO, errno.EFBIG, errno.ENOMEM, getattr(errno, "EDQUOT", errno.ENOSPC)}


def expected_errors() -> tuple[type[Exception], ...]:
    """Errors that are told in one line; others are bugs, and end with a traceback and status 1."""
    from ..backends import BackendUnavailableError, KernelUnavailableError
    from ..distributed import DistributedError
    from ..training import CheckpointError, RunFolderError, TrainingError

    return (
        BackendUnavailableError,
        CheckpointError,
        DistributedError,
        ImportError,
        KernelUnavailableError,
        MemoryError,
        OSError,
        RunFolderError,
        TrainingError,
        TypeError,
        ValueError,
    )


def status_of(error: BaseException) -> int:
    """`FAILED` if the command was right and the work failed, `WRONG_USAGE` if the user has to change something."""
    from ..backends import KernelUnavailableError
    from ..training import TrainingError

    if isinstance(error, (TrainingError, MemoryError, KernelUnavailableError)):
        return FAILED
    cause = error if isinstance(error, OSError) else error.__cause__
    return FAILED if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE else WRONG_USAGE
