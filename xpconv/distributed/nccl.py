"""Ranks that each have a GPU, through CuPy's NCCL: arrays go from device to device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .._extras import require
from ..backends import backend_of
from ..backends.protocol import Array
from .communicator import Communicator, DistributedError, check_floating, check_rank
from .mpi import launched_processes

__all__ = ["NCCLComm"]


class NCCLComm(Communicator):
    """The ranks of a job that each drive one GPU, which has to be the current device.

    NCCL's id, which all ranks need to find each other, travels over MPI where the job was started by mpiexec, else over
    a TCP store on rank 0, both of `cupyx.distributed`. Arrays of the host are sent to the device and back.

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
        use_mpi = launched_processes() is not None and rank is None
        if use_mpi:
            world = require("mpi4py.MPI", "processes started by mpiexec", extra="mpi").COMM_WORLD
            rank, size = world.rank, world.size
        else:
            rank = _from_environment("RANK") if rank is None else rank
            size = _from_environment("WORLD_SIZE") if size is None else size
        assert rank is not None
        assert size is not None
        if not 0 <= rank < size:
            raise DistributedError(f"rank: expected 0 to {size - 1}, got {rank}")
        self._cupy, self._rank, self._size = cupy, int(rank), int(size)
        self._group = require("cupyx.distributed", "NCCL needs CuPy; its groups", extra="cuda13").init_process_group(
            self._size,
            self._rank,
            host=host or os.environ.get("MASTER_ADDR", "127.0.0.1"),
            port=port or int(os.environ.get("MASTER_PORT", "13333")),
            use_mpi=use_mpi,
        )

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
        self._group.broadcast(there, root)
        return self._like(there, array, array.shape)

    def allreduce_mean(self, array: Array) -> Array:
        """See `Communicator.allreduce_mean`; half types are added up in float32."""
        check_floating(array)
        there = self._copy(array)
        if there.dtype.itemsize == 2:
            there = there.astype(self._cupy.float32)
        self._group.all_reduce(there, there, "sum")
        there /= self._size
        return self._like(there, array, array.shape)

    def allgather(self, array: Array) -> Array:
        """See `Communicator.allgather`."""
        there = self._copy(array)
        rows = self._cupy.empty((self._size, *there.shape), there.dtype)
        self._group.all_gather(there, rows, there.size)
        return self._like(rows, array, (self._size, *array.shape))

    def barrier(self) -> None:
        """See `Communicator.barrier`."""
        self._group.barrier()

    def _copy(self, array: Array) -> Any:
        """A contiguous copy on the device, with an axis at least: NCCL is given memory, not views."""
        return self._cupy.ascontiguousarray(self._cupy.array(array, copy=True))

    def _like(self, there: Any, array: Array, shape: tuple[int, ...]) -> Array:
        backend, there = backend_of(array=array), there.reshape(shape)
        if isinstance(array, np.ndarray):
            return self._cupy.asnumpy(there).astype(array.dtype, copy=False)
        return backend.astype(there, backend.dtype_name(array))

    def __repr__(self) -> str:
        return f"NCCLComm(rank={self.rank}, size={self.size})"


def _from_environment(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise DistributedError(
            f"NCCLComm needs {name}: start the job with mpiexec, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT "
            f"for each process (got {name}={text!r})"
        )
    return int(text)
