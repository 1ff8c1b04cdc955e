"""Ranks of an MPI job, through mpi4py.

MPI is only ever given memory of the host: arrays of a device are copied there and back, so that an MPI without CUDA
support never sees a pointer that it cannot read.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from .._extras import MissingExtraError, require
from ..backends import backend_of, to_numpy
from ..backends.protocol import Array, Backend
from .communicator import Communicator, DistributedError, check_floating, check_rank

__all__ = ["MPIComm", "launched_processes"]

_MOST_BYTES = 16384  # of what a rank says when it meets the others

_SECONDS_TO_FORWARD = 0.5  # that the launcher has to pass on what was printed: what it has not read by the end is lost

_SECONDS_TO_LEAVE = 3.0  # by which ranks may leave one after the other, with a code that is not 0

# What a launcher tells the processes that it starts: how many they are.
_SIZES = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpiexec",
    "PMI_SIZE": "MPICH's or Intel MPI's mpiexec",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's mpiexec",
    "MPI_LOCALNRANKS": "mpiexec",
}


def launched_processes() -> tuple[int, str] | None:
    """How many processes a launcher of MPI has started this one with, and which launcher; None without one."""
    for name, launcher in _SIZES.items():
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text):
            return int(text), launcher
    # srun sets SLURM_NTASKS for every job; only with a process manager for MPI are the tasks ranks
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdecimal() and ("PMIX_RANK" in os.environ or "PMI_RANK" in os.environ):
        return int(tasks), "srun"
    return None


class MPIComm(Communicator):
    """The ranks of an MPI job.

    Making one installs a hook for exceptions that nobody catches: the rank prints its number and the traceback and ends
    the whole job, which would wait for it for ever otherwise. So does a rank that leaves by ``sys.exit`` with a code
    other than 0, unless all others leave in the next seconds too.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        None means a duplicate of ``MPI.COMM_WORLD``, so that no message meets one of the program's own.

    Raises
    ------
    MissingExtraError
        mpi4py, or an MPI for it, is not installed.
    DistributedError
        The launcher belongs to another MPI than mpi4py: every process would train on its own.
    """

    def __init__(self, comm: Any = None) -> None:
        self._mpi = _load_mpi()
        launched = launched_processes()
        world = self._mpi.COMM_WORLD
        if launched is not None and launched[0] > 1 and world.size == 1:
            library = self._mpi.Get_library_version().split(",")[0].strip("\x00 \n")
            raise DistributedError(
                f"{launched[1]} started {launched[0]} processes, but mpi4py's MPI ({library}) sees one: launcher and "
                "mpi4py belong to different MPIs. Use the mpiexec of that MPI; with pip install 'xpconv[mpi]' it is "
                f"beside the Python that runs this: {os.path.join(os.path.dirname(sys.executable), 'mpiexec')}"
            )
        self._comm = world.Dup() if comm is None else comm
        self._meeting = self._comm.Dup()  # a group of its own, since the others may be in the middle of a sum
        self._under_way: list[Any] = []
        self._exit_code = 0  # of a sys.exit; 0 again where the program went on nevertheless
        _end_job_on_exceptions(self)
        _end_job_on_failed_exit(self)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._comm.rank)

    @property
    def size(self) -> int:
        """How many processes there are."""
        return int(self._comm.size)

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """See `Communicator.broadcast`."""
        backend, host = backend_of(array=array), np.array(to_numpy(array), order="C")
        self._comm.Bcast(_bytes(host), root=check_rank(self, root))
        return _back(backend, host, array)

    def allreduce_mean(self, array: Array) -> Array:
        """See `Communicator.allreduce_mean`."""
        check_floating(array)
        backend, host = _summable(array)
        self._exit_code = 0
        self._comm.Allreduce(self._mpi.IN_PLACE, host)
        host /= self.size
        return _back(backend, host, array)

    def allgather(self, array: Array) -> Array:
        """See `Communicator.allgather`."""
        backend, host = backend_of(array=array), np.array(to_numpy(array), order="C")
        rows = np.empty((self.size, *host.shape), host.dtype)
        self._comm.Allgather(_bytes(host), _bytes(rows))
        return rows if backend.name == "numpy" else backend.asarray(rows, backend.dtype_name(array))

    def barrier(self) -> None:
        """See `Communicator.barrier`."""
        self._comm.Barrier()

    def start_mean(self, array: Array) -> Callable[[], Array]:
        """See `Communicator.start_mean`; a NumPy array is reduced where it lies."""
        check_floating(array)
        backend = backend_of(array=array)
        in_place = backend.name == "numpy" and array.flags.c_contiguous and array.dtype.char in "fd"
        host = array if in_place else _summable(array)[1]
        request = self._comm.Iallreduce(self._mpi.IN_PLACE, host)
        self._under_way.append(request)

        def finish() -> Array:
            request.Wait()
            self._under_way.remove(request)
            np.divide(host, self.size, out=host)
            return host if in_place else _back(backend, host, array)

        return finish

    def progress(self) -> None:
        """Give MPI the processor for a moment: without a thread of its own it advances only when it is called."""
        for request in self._under_way:
            request.Test()

    def meet(self, text: str, seconds: float) -> list[str] | None:
        """See `Communicator.meet`."""
        mine = np.zeros(_MOST_BYTES, np.uint8)
        said = text.encode(errors="backslashreplace")[:_MOST_BYTES]
        mine[: len(said)] = np.frombuffer(said, np.uint8)
        rows = np.empty((self.size, _MOST_BYTES), np.uint8)
        request, limit = self._meeting.Iallgather(mine, rows), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > limit:
                self._under_way.append(request)  # it keeps the arrays, which MPI may still write to
                return None
            time.sleep(0.01)
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]

    def abort(self, code: int = 1) -> None:
        """End all ranks of the job."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_SECONDS_TO_FORWARD)
        self._comm.Abort(code)

    def __repr__(self) -> str:
        return f"MPIComm(rank={self.rank}, size={self.size})"


def _load_mpi() -> Any:
    try:
        return require("mpi4py.MPI", "processes started by mpiexec", extra="mpi")
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError) as error:  # mpi4py is there, and finds no MPI, or one that it does not know
        raise MissingExtraError(
            f"mpi4py cannot use the MPI of this machine ({error}): pip install 'xpconv[mpi]' brings one of its own"
        ) from error


def _summable(array: Array) -> tuple[Backend, np.ndarray]:
    """The array's backend, and a copy in the memory of the host that MPI may overwrite, in a type that it adds up."""
    backend = backend_of(array=array)
    host = np.array(to_numpy(array), order="C")
    if host.dtype.char not in "fd":
        host = host.astype(np.float32)  # half types: sums in them would be poor, and MPI has none
    return backend, host


def _back(backend: Backend, host: np.ndarray, like: Array) -> Array:
    return backend.asarray(host, backend.dtype_name(like))


def _bytes(host: np.ndarray) -> np.ndarray:
    """The memory of an array as bytes: what is only copied may be of any type."""
    return np.atleast_1d(host).view(np.uint8).reshape(-1)


def _end_job_on_exceptions(comm: MPIComm) -> None:
    if comm.size == 1 or getattr(sys.excepthook, "_ends_job", False):
        return
    before = sys.excepthook

    def end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        where = f"rank {comm.rank} of {comm.size}"
        try:
            if before is sys.__excepthook__:
                lines = traceback.format_exception(kind, error, trace)
                print(f"{where}: it ends the job for this exception:\n{''.join(lines)}", file=sys.stderr)
            else:
                before(kind, error, trace)
        finally:
            comm.abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    end_job._ends_job = True  # type: ignore[attr-defined]
    sys.excepthook = end_job


def _end_job_on_failed_exit(comm: MPIComm) -> None:
    """Let ``sys.exit`` with a code other than 0 end the job, where the other ranks do not leave as well."""
    if comm.size == 1 or getattr(sys.exit, "_ends_job", False):
        return
    before, leaving = sys.exit, comm._comm.Dup()  # a group of its own, since the others may be in the middle of a sum

    def leave(status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            comm._exit_code = status if isinstance(status, int) else int(status is not None)
        before(status)

    def end_job() -> None:
        if not comm._exit_code or comm._mpi.Is_finalized():
            return
        request, limit = leaving.Ibarrier(), time.monotonic() + _SECONDS_TO_LEAVE
        while not request.Test():
            if time.monotonic() > limit:
                where = f"rank {comm.rank} of {comm.size}"
                print(f"{where}: it left with exit code {comm._exit_code}, and ends the job", file=sys.stderr)
                comm.abort(comm._exit_code)
            time.sleep(0.01)

    leave._ends_job = True  # type: ignore[attr-defined]
    sys.exit = leave  # type: ignore[assignment]
    atexit.register(end_job)
