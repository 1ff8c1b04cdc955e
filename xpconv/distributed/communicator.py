"""What ranks say to each other, whatever carries it: the protocol, and the case of a single process."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends import backend_of
from ..backends.protocol import Array

__all__ = ["Communicator", "DistributedError", "SelfComm", "check_rank", "gather_json", "gather_rows"]


class DistributedError(RuntimeError):
    """Ranks cannot work together: MPI is missing or another one than the launcher's, or the ranks do not agree."""


class Communicator(ABC):
    """A group of processes that call the same methods in the same order, each with arrays of its own.

    A subclass gives the five abstract members; the other methods come from them. All ranks get the same bits.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        How many there are.
    """

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many processes there are."""

    @abstractmethod
    def broadcast(self, array: Array, root: int = 0) -> Array:
        """The array of rank ``root``.

        Parameters
        ----------
        array : array
            Of the same shape, dtype and backend on every rank; not modified.
        root : int
            Whose.

        Returns
        -------
        array like the one given

        Raises
        ------
        ValueError
            There is no such rank.
        TypeError
            Not an array of a backend.
        """

    @abstractmethod
    def allreduce_mean(self, array: Array) -> Array:
        """The mean of the arrays of all ranks, element by element, the same bits on every rank.

        Parameters
        ----------
        array : array
            Floating-point; of the same shape, dtype and backend on every rank; not modified.

        Returns
        -------
        array like the one given

        Raises
        ------
        TypeError
            Not floating-point.
        """

    @abstractmethod
    def allgather(self, array: Array) -> Array:
        """The arrays of all ranks, in the order of the ranks.

        Parameters
        ----------
        array : array (...)
            Of the same shape, dtype and backend on every rank.

        Returns
        -------
        array (size, ...)

        Raises
        ------
        TypeError
            Not an array of a backend.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank is here."""

    def start_mean(self, array: Array) -> Callable[[], Array]:
        """Begin `allreduce_mean`, and go on computing; the function that is returned waits for the mean and gives it.

        ``array`` may be overwritten, and must be left alone until then. Where the transport has no such call, the mean
        is taken at once.

        Parameters
        ----------
        array : array (...)
            As for `allreduce_mean`.

        Returns
        -------
        callable
            ``finish() -> array (...)``, to be called once.

        Raises
        ------
        TypeError
            Not floating-point.
        """
        mean = self.allreduce_mean(array)
        return lambda: mean

    def progress(self) -> None:
        """Let means that were begun advance, where the transport needs to be asked."""
        return

    def meet(self, text: str, seconds: float) -> list[str] | None:
        """What all ranks have to say, for which each waits a while: some may be lost in another call.

        Parameters
        ----------
        text : str
            This rank's; of a long one the first part arrives.
        seconds : float
            How long to wait, where the transport can wait for a time.

        Returns
        -------
        list of str or None
            By rank; None if not all were here in time. Nothing can be said any more then, but `abort` be called.
        """
        return [str(line) for line in gather_json(self, text)]

    def abort(self, code: int = 1) -> None:
        """End all ranks at once, without waiting for them; a process alone just goes on.

        Parameters
        ----------
        code : int
            Exit code of the job.
        """
        return


class SelfComm(Communicator):
    """A single process: what it says it hears itself."""

    @property
    def rank(self) -> int:
        """0."""
        return 0

    @property
    def size(self) -> int:
        """1."""
        return 1

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """``array`` itself."""
        check_rank(self, root)
        return array

    def allreduce_mean(self, array: Array) -> Array:
        """``array`` itself."""
        check_floating(array)
        return array

    def allgather(self, array: Array) -> Array:
        """``array`` with an axis of length 1 in front."""
        return array[None, ...]

    def barrier(self) -> None:
        """Nothing to wait for."""

    def __repr__(self) -> str:
        return "SelfComm()"


def check_rank(comm: Communicator, root: int) -> int:
    """``root``, if there is such a rank; ValueError otherwise."""
    if not 0 <= root < comm.size:
        raise ValueError(f"root: expected a rank from 0 to {comm.size - 1}, got {root}")
    return root


def check_floating(array: Array) -> None:
    """Raise TypeError unless the array is floating-point: the mean of integers is none."""
    backend = backend_of(array=array)
    if not backend.is_floating(array):
        raise TypeError(f"array: expected floating-point, got {backend.dtype_name(array)}")


def gather_json(comm: Communicator, value: Any) -> list[Any]:
    """The values of all ranks, in their order: what JSON can hold, so that nothing that arrives is ever run."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = comm.allgather(np.array([len(text)], np.int64))[:, 0]
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    rows = comm.allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def gather_rows(comm: Communicator, rows: np.ndarray, counts: list[list[int]]) -> np.ndarray:
    """The rows of all ranks in the order of the data.

    Parameters
    ----------
    rows : numpy.ndarray (n, ...)
        This rank's shares of all batches, one after the other.
    counts : list of list of int
        By batch: how many examples each rank has of it. All ranks have the same.

    Returns
    -------
    numpy.ndarray (N, ...)
        On every rank.
    """
    most = max(sum(column) for column in zip(*counts, strict=True))
    padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    everything = comm.allgather(padded)
    places, parts = [0] * comm.size, []
    for batch in counts:
        for rank, count in enumerate(batch):
            parts.append(everything[rank, places[rank] : places[rank] + count])
            places[rank] += count
    return np.concatenate(parts)
