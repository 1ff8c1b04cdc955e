"""Ranks that each have a GPU, through CuPy's NCCL: arrays go from device to device."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._extras import require
from ..backends.protocol import Array
from .communicator import Communicator, DistributedError, check_floating, check_rank
from .mpi import MPIComm, launched_processes

__all__ = ["NCCLComm"]


class NCCLComm(Communicator):
    """The ranks of a job that each drive one GPU, which has to be the current device.

    NCCL's id, which all ranks need to find each other, travels over MPI where the job was started by mpiexec, else over
    a TCP store on rank 0, both of `cupyx.distributed`. Arrays of the host go to the device and back. All calls run in
    a stream of their own, one after the other: means that were begun go on beside what the current stream computes.

    A rank that fails ends the whole job under mpiexec, see `MPIComm`. Without it that is left to who started the ranks:
    the others wait.

    Parameters
    ----------
    rank, size : int, optional
        From MPI, or from the environment variables ``RANK`` and ``WORLD_SIZE`` that most launchers set.
    host, port : str, int, optional
        Of the store; by default ``MASTER_ADDR`` (127.0.0.1) and ``MASTER_PORT`` (13333). Not used under mpiexec.

    Raises
    ------
    MissingExtraError
        CuPy is not installed.
    DistributedError
        CuPy was built without NCCL; or neither MPI nor the environment says how many ranks there are.
    """

    def __init__(
        self, rank: int | None = None, size: int | None = None, *, host: str | None = None, port: int | None = None
    ) -> None:
        cupy = require("cupy", "NCCL needs CuPy; its arrays", extra="cuda13")
        if not getattr(cupy.cuda.nccl, "available", False):
            raise DistributedError("this CuPy has no NCCL: pip install nvidia-nccl-cu13 (or -cu12), or use MPIComm")
        self._mpi: MPIComm | None = None
        if launched_processes() is not None and rank is None:
            self._mpi = MPIComm()
            rank, size = self._mpi.rank, self._mpi.size
        else:
            rank = _from_environment("RANK") if rank is None else rank
            size = _from_environment("WORLD_SIZE") if size is None else size
        assert rank is not None
        assert size is not None
        if not 0 <= rank < size:
            raise DistributedError(f"rank: expected 0 to {size - 1}, got {rank}")
        self._cupy, self._rank, self._size = cupy, int(rank), int(size)
        groups = require("cupyx.distributed", "NCCL needs CuPy; its groups", extra="cuda13")
        address = {
            "host": host or os.environ.get("MASTER_ADDR", "127.0.0.1"),
            "port": port or int(os.environ.get("MASTER_PORT", "13333")),
        }
        with _store_that_ends():
            self._group = groups.init_process_group(self._size, self._rank, **address, use_mpi=self._mpi is not None)
            # all ranks have the id now; the process of a store that still ran would keep rank 0 from leaving
            self._group.stop()
        self._stream = cupy.cuda.Stream(non_blocking=True)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self._rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self._size

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """See `Communicator.broadcast`."""
        check_rank(self, root)
        there = self._copy(array)
        if there.size:
            self._wait(self._start(self._group.broadcast, self._bytes(there), root))
        return self._like(there, array, array.shape)

    def allreduce_mean(self, array: Array) -> Array:
        """See `Communicator.allreduce_mean`; half types are added up in float32."""
        check_floating(array)
        return self._start_mean(self._copy(array), array)()

    def start_mean(self, array: Array) -> Callable[[], Array]:
        """See `Communicator.start_mean`; an array of the device is reduced where it lies, beside the current stream."""
        check_floating(array)
        on_device = isinstance(array, self._cupy.ndarray)
        return self._start_mean(self._cupy.ascontiguousarray(array) if on_device else self._copy(array), array)

    def _start_mean(self, there: Any, array: Array) -> Callable[[], Array]:
        """Begin the mean in the memory of ``there``, which must live until it is finished."""
        if there.dtype.char not in "fd":
            there = there.astype(self._cupy.float32)
        done = self._start(self._group.all_reduce, there, there, "sum") if there.size else None

        def finish() -> Array:
            if done is not None:
                self._wait(done)
            mean = there
            mean /= self._size
            return self._like(mean, array, array.shape)

        return finish

    def allgather(self, array: Array) -> Array:
        """See `Communicator.allgather`."""
        there = self._copy(array)
        rows = self._cupy.empty((self._size, *there.shape), there.dtype)
        if there.size:
            mine = self._bytes(there)
            self._wait(self._start(self._group.all_gather, mine, self._bytes(rows), mine.size))
        return self._like(rows, array, (self._size, *array.shape))

    def barrier(self) -> None:
        """See `Communicator.barrier`; it waits for the device, too."""
        self.allgather(np.zeros(1, np.uint8))  # of the host, whose result is waited for

    def abort(self, code: int = 1) -> None:
        """End all ranks of the job under mpiexec; without it only who started them can."""
        if self._mpi is not None:
            self._mpi.abort(code)

    def _start(self, function: Callable[..., None], *arguments: Any) -> Any:
        """Call NCCL behind what the current stream has to do so far; the event of its end."""
        self._stream.wait_event(self._cupy.cuda.get_current_stream().record())
        function(*arguments, stream=self._stream)
        return self._stream.record()

    def _wait(self, done: Any) -> None:
        """Let what the current stream is given next wait for an event; so does memory that is used again there."""
        self._cupy.cuda.get_current_stream().wait_event(done)

    def _copy(self, array: Array) -> Any:
        """A contiguous copy on the device, with an axis at least: NCCL is given memory, not views."""
        _check_known(array, self._cupy.ndarray)
        return self._cupy.ascontiguousarray(self._cupy.array(array, copy=True))

    def _bytes(self, there: Any) -> Any:
        """The memory of an array as bytes: NCCL knows neither bool nor bfloat16, and what is only copied may be any."""
        return there.reshape(-1).view(self._cupy.uint8)

    def _like(self, there: Any, array: Array, shape: tuple[int, ...]) -> Array:
        there = there.reshape(shape).astype(array.dtype, copy=False)
        return there if isinstance(array, self._cupy.ndarray) else self._cupy.asnumpy(there)

    def __repr__(self) -> str:
        return f"NCCLComm(rank={self.rank}, size={self.size})"


def _check_known(array: Array, on_device: type) -> None:
    """Raise TypeError for an array that is neither NumPy's nor CuPy's."""
    if not isinstance(array, (np.ndarray, on_device)):
        raise TypeError(f"array: NCCL takes arrays of NumPy and CuPy, got {type(array).__name__}")


@contextmanager
def _store_that_ends() -> Iterator[None]:
    """Inside the block CuPy may start its store, a process that is not left behind where something fails.

    It can only be forked: it holds a lock, which cannot be sent to a process that starts anew, as is the default from
    Python 3.14 on.
    """
    before, method = multiprocessing.active_children(), multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in before:
                process.terminate()
        raise
    finally:
        multiprocessing.set_start_method(method, force=True)


def _from_environment(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise DistributedError(
            f"NCCLComm needs {name}: start the job with mpiexec, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT "
            f"for each process (got {name}={text!r})"
        )
    return int(text)
