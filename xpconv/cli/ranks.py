"""Commands that mpiexec has started on several ranks: who prints, who writes, and how the job ends.

A command that works over ranks says so with ``parser.set_defaults(run=run, over_ranks=True)``; any other is refused
under mpiexec. It asks `communicator` for its ranks. On all but rank 0 nothing is printed, whatever the command does,
and no file may be touched: `first_does` runs a function on rank 0 alone, and gives its result to all. Errors are raised
as in a single process: `xpconv.cli.main` finds out whether all ranks have the same one, which is then told once, or
else names the rank and ends the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .._extras import require
from ..backends import Backend
from ..distributed import Communicator, DistributedError, SelfComm, get_communicator
from ..distributed.communicator import gather_json
from .output import complain

__all__ = [
    "Ending",
    "FirstFailed",
    "Place",
    "Warned",
    "check_same",
    "communicator",
    "endings",
    "find_ranks",
    "first_does",
    "one_of_machine",
    "only_first_prints",
    "place_of",
    "refuse_ranks",
    "transport_of",
]

_SECONDS_TO_MEET = 3.0  # in which ranks may come to the same error, one after the other
_SECONDS_TO_TELL = 1.0  # that a process leaves to the one of its machine that tells why none of them can start

# What a launcher tells each process: its number among those of its machine.
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")

_found: list[Communicator] = []


class FirstFailed(Exception):
    """Rank 0 could not do its part, and tells why: the others just leave."""


def find_ranks() -> Communicator:
    """The ranks of this command, for all that ask `communicator`.

    Raises
    ------
    MissingExtraError, DistributedError
        mpiexec has started several processes, and mpi4py is not there, or belongs to another MPI.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "suspicious MPI")  # of mpi4py; the error says more
        _found[:] = [get_communicator()]
    return _found[0]


def communicator() -> Communicator:
    """The ranks that run this command together; of a single process `SelfComm`."""
    return _found[0] if _found else SelfComm()


# ---- one for all --------------------------------------------------------------------------------------------------


def first_does(comm: Communicator, work: Callable[[], Any]) -> Any:
    """Run ``work`` on rank 0; all ranks call this together.

    Parameters
    ----------
    comm : Communicator
    work : callable
        ``work() -> value`` that JSON can hold.

    Returns
    -------
    value
        On all ranks; tuples are lists on the others.

    Raises
    ------
    FirstFailed
        On the other ranks, if ``work`` raises on rank 0.
    """
    if comm.size == 1:
        return work()
    sent: dict[str, Any] = {"failed": True}
    try:
        if comm.rank == 0:
            value = work()
            json.dumps(value)  # what cannot be sent is an error of rank 0 alone
            sent = {"value": value}
    finally:
        sent = gather_json(comm, sent)[0]
    if "failed" in sent:
        raise FirstFailed
    return value if comm.rank == 0 else sent["value"]


def check_same(comm: Communicator, facts: dict[str, Any]) -> None:
    """Raise DistributedError on all ranks unless they have the same facts, which JSON can hold, by name."""
    everyone = gather_json(comm, facts)
    different = []
    for name, value in everyone[0].items():
        odd = next((rank for rank, other in enumerate(everyone) if other.get(name) != value), None)
        if odd is not None:
            different.append(f"{name} is {value!r} on rank 0 and {everyone[odd].get(name)!r} on rank {odd}")
    if different:
        raise DistributedError(f"the ranks were not started alike: {'; '.join(different)}")


# ---- where ranks are ----------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a rank runs.

    Attributes
    ----------
    machines
        How many there are.
    local_rank, local_size
        Number of the rank on its machine, and ranks there.
    threads
        CPUs of the rank: of those that it may use its part, if other ranks may use them too.
    machine_cpus
        CPUs of the machine.
    """

    machines: int
    local_rank: int
    local_size: int
    threads: int
    machine_cpus: int

    def lines(self, ranks: int, batch_size: int, threads: int | None) -> list[str]:
        """What to tell of so many ranks with so many threads each, None for a GPU each."""
        where = "on this machine" if self.machines == 1 else f"on {self.machines} machines"
        each = "one GPU each" if threads is None else f"{threads} thread{'s' * (threads > 1)} each"
        share = f"{batch_size // ranks}" + (f" or {batch_size // ranks + 1}" if batch_size % ranks else "")
        lines = [f"{ranks} {where}, {each}; a batch of {batch_size} images is {share} for each"]
        if threads is not None and threads * self.local_size < self.machine_cpus:
            lines.append(
                f"{threads * self.local_size} of {self.machine_cpus} CPUs of this machine are used; Open MPI's "
                "mpiexec --bind-to none gives the ranks all of them, --threads N sets how many threads each has"
            )
        return lines


def place_of(comm: Communicator) -> Place:
    """Where this rank runs; all ranks call this together."""
    total = os.cpu_count() or 1
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(total))
    everyone = gather_json(comm, [platform.node(), mine])
    here = [(rank, cpus) for rank, (name, cpus) in enumerate(everyone) if name == platform.node()]
    sharing = sum(not set(cpus).isdisjoint(mine) for _, cpus in here)  # mpiexec may have given each CPUs of its own
    return Place(
        len({name for name, _ in everyone}),
        [rank for rank, _ in here].index(comm.rank),
        len(here),
        max(1, len(mine) // sharing),
        total,
    )


def transport_of(comm: Communicator, place: Place | None, backend: Backend) -> Communicator:
    """What carries gradients: NCCL where each rank has a GPU of its own, else MPI; all ranks call this together."""
    if place is None or backend.on_host:
        return comm
    if all(gather_json(comm, _has_nccl(place))):
        return get_communicator("nccl")
    return comm


def _has_nccl(place: Place) -> bool:
    try:
        cupy = require("cupy", "GPUs", extra="cuda13")
        return bool(cupy.cuda.nccl.available) and cupy.cuda.runtime.getDeviceCount() >= place.local_size
    except Exception:  # of whatever CuPy says of a machine without GPUs: MPI does it too
        return False


# ---- what is printed ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def only_first_prints(comm: Communicator) -> Iterator[None]:
    """Inside the block the standard output of all ranks but the first goes nowhere."""
    if comm.rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Warned:
    """The warnings of all ranks: rank 0 tells its own at once, and at the end those that only others had.

    Parameters
    ----------
    comm : Communicator
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._texts: list[str] = []

    def __call__(self, text: str) -> None:
        """Take a warning."""
        if self._comm.rank == 0:
            complain("warning", text)
        if self._comm.size > 1:
            self._texts.append(text)

    def wait_for_all(self) -> None:
        """The end of the command, for which all ranks wait."""
        if self._comm.size == 1:
            return
        everyone = gather_json(self._comm, list(dict.fromkeys(self._texts)))
        told = set(everyone[0])
        for rank, texts in enumerate(everyone):
            for text in texts:
                if self._comm.rank == 0 and text not in told:
                    complain("warning", f"{_name(rank, self._comm)}: {text}")
                told.add(text)


def _name(rank: int, comm: Communicator) -> str:
    return f"rank {rank} of {comm.size}"


# ---- how a job ends -----------------------------------------------------------------------------------------------


class Ending(NamedTuple):
    """How a command ends that does not come to its end.

    Attributes
    ----------
    status
        The exit status.
    kind
        ``"error"``, ``"traceback"``, or "" for neither.
    text
        What to tell; nothing if it is empty.
    """

    status: int
    kind: str
    text: str


def endings(comm: Communicator, mine: Ending) -> tuple[list[Ending], bool]:
    """What this process tells of how the command ends, and whether it ends the others, which go on.

    Waits some seconds for the others to end as well. If they do, rank 0 tells what all ranks have to tell, each text
    once; else this rank tells its own. The status of the first ending is that of the job.
    """
    if comm.size == 1:
        return [mine], False
    said = comm.meet(json.dumps([*mine]), _SECONDS_TO_MEET)
    if said is None:
        return [mine._replace(text=mine.text and f"{_name(comm.rank, comm)}: {mine.text}")], True
    everyone = [_read(text, mine) for text in said]
    alike = len({ending.text for ending in everyone if ending.text}) == 1
    told: dict[str, Ending] = {}
    for rank, ending in enumerate(everyone):
        if ending.text and ending.text not in told:
            told[ending.text] = ending if alike else ending._replace(text=f"{_name(rank, comm)}: {ending.text}")
    if comm.rank == 0 and told:
        return list(told.values()), False
    return [next(iter(told.values()), mine)._replace(text="")], False


def _read(said: str, otherwise: Ending) -> Ending:
    """What a rank has said; of a text that was too long to arrive whole this one's own is as good as any."""
    try:
        status, kind, text = json.loads(said)
    except ValueError:
        return otherwise
    return Ending(status, kind, text)


@contextlib.contextmanager
def one_of_machine() -> Iterator[bool]:
    """Whether this process tells why the ranks cannot start: of several on a machine one, though they cannot talk.

    The others wait at the end of the block, since the launcher stops all when the first one leaves.
    """
    numbers = [os.environ[name] for name in _LOCAL_RANKS if name in os.environ]
    speaks = not numbers or numbers[0] == "0"
    yield speaks
    if not speaks:
        time.sleep(_SECONDS_TO_TELL)


def refuse_ranks(comm: Communicator, command: str) -> None:
    """Raise DistributedError if several processes run a command that is for one."""
    if comm.size > 1:
        raise DistributedError(f"{command} takes one process, mpiexec has started {comm.size}: run it without mpiexec")
