"""Training on many processes and devices: MPI through mpi4py, NCCL through CuPy.

One script serves all cases::

    comm = xpconv.distributed.get_communicator()
    trainer = xpconv.Trainer(model, loss, optimizer, comm=comm)
    trainer.fit((x, labels), epochs=5, batch_size=256)  # of all ranks together

    python script.py                  # one process
    mpiexec -n 4 python script.py     # four
"""

from __future__ import annotations

from .communicator import Communicator, DistributedError, SelfComm
from .mpi import MPIComm, launched_processes
from .nccl import NCCLComm

__all__ = ["Communicator", "DistributedError", "MPIComm", "NCCLComm", "SelfComm", "get_communicator"]

_KINDS = ("auto", "self", "mpi", "nccl")
_known: dict[str, Communicator] = {}


def get_communicator(kind: str = "auto") -> Communicator:
    """The communicator of this process; the same one at every call.

    Parameters
    ----------
    kind : str
        ``"auto"``: `MPIComm` in a process that mpiexec or srun has started as one of several, else `SelfComm`;
        ``"self"``, ``"mpi"`` and ``"nccl"`` name one.

    Returns
    -------
    Communicator

    Raises
    ------
    ValueError
        Another kind.
    MissingExtraError
        mpi4py, an MPI or CuPy is not installed; the message has the command that installs it.
    DistributedError
        The launcher and mpi4py belong to different MPIs, or NCCL cannot find its ranks.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    if kind == "auto":
        launched = launched_processes()
        kind = "mpi" if launched is not None and launched[0] > 1 else "self"
    if kind not in _known:
        _known[kind] = {"self": SelfComm, "mpi": MPIComm, "nccl": NCCLComm}[kind]()
    return _known[kind]
