"""The mean of the gradients over all ranks, taken while the rest of the backward pass still runs.

::

    backward    fc ---- conv3 ---- conv2 ---- conv1 ----|
    buckets          [fc, conv3] ready      [conv2, conv1] ready
    network               |-- mean of bucket 0 --||-- mean of bucket 1 --|
                                                                         | optimizer

Gradients become ready from the last layer to the first; so buckets are filled in that order, and each is sent as one
flat array as soon as its last gradient is there, in the order of the buckets, which is the same on all ranks (Li et
al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*, VLDB 2020).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..backends import backend_of, compute
from ..backends.protocol import Array, Backend
from .communicator import Communicator, DistributedError, gather_json

if TYPE_CHECKING:
    from ..layers import Layer, Parameter

__all__ = ["BUCKET_BYTES", "GradientMean", "NonFiniteGradientError", "name_of_non_finite"]

BUCKET_BYTES = 4 << 20  # large enough that latency does not count, small enough that there is something to overlap


class NonFiniteGradientError(ArithmeticError):
    """A gradient is infinite or NaN; the message names its layer and the rank that it came from."""


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[tuple[str, Parameter]]) -> None:
        self.parameters = parameters
        self.missing = 0  # parameters whose gradients are not ready
        self.sent: list[Array | None] = []
        self.finish: Callable[[], Array] | None = None  # of the mean that is under way


class GradientMean:
    """Replaces the gradients of a model, step by step, by their means over all ranks.

    Parameters
    ----------
    comm : Communicator
    model : Layer
        With the same parameters on all ranks.
    bucket_bytes : int
        Gradients are sent in parts of about so many bytes.
    overlap : bool
        Whether to send a part while the backward pass still runs. The first step never does: it counts how often each
        gradient is added to.
    """

    def __init__(
        self, comm: Communicator, model: Layer, *, bucket_bytes: int = BUCKET_BYTES, overlap: bool = True
    ) -> None:
        self.comm, self.model, self.overlap = comm, model, overlap
        self.bucket_bytes, self.bytes_sent = bucket_bytes, 0
        self.not_finite: str | None = None  # of the last step that was not checked: which gradient, and whose
        self.begin_run()
        self._counts: dict[int, int] = {}
        self._arrivals: dict[int, tuple[Array, Array]] = {}
        self._parts = 1
        self._next = 0  # of the buckets
        self._late = False

    def begin_run(self) -> None:
        """Look at the model anew: at its parameters, and in the next step at how often each is used."""
        self.buckets = _buckets(self.model, self.bucket_bytes)
        self._bucket_of = {id(p): bucket for bucket in self.buckets for _, p in bucket.parameters}
        # how often a gradient is added to in a forward and backward; 0 if it has to wait for the end
        self._uses: dict[int, int] | None = None

    @contextmanager
    def collecting(self, parts: int, *, overlap: bool = True, takes_all: bool = True) -> Iterator[None]:
        """Inside the block forward and backward run, ``parts`` times; behind it the gradients are means.

        Parameters
        ----------
        parts : int
            The same on all ranks.
        overlap : bool
            False where the gradients of the block are not yet those of the step.
        takes_all : bool
            Whether this rank has examples in all parts.
        """
        self._counts, self._arrivals = dict.fromkeys(self._bucket_of, 0), {}
        self._parts, self._next, self._late = parts, 0, False
        for bucket in self.buckets:
            bucket.missing, bucket.finish, bucket.sent = len(bucket.parameters), None, []
        hook = self._arrived if self.overlap and overlap else None
        parameters = [parameter for bucket in self.buckets for _, parameter in bucket.parameters]
        try:
            for parameter in parameters:
                parameter._on_gradient = hook
            yield
        finally:
            for parameter in parameters:
                parameter._on_gradient = None
        if hook is not None and self._uses is None and takes_all and any(self._counts.values()):
            self._uses = {key: count // parts for key, count in self._counts.items()}
            # a layer that goes on with a gradient when it was added: it is sent when all is done
            self._uses |= {id(parameter): 0 for parameter in parameters if self._was_changed(parameter)}
        self._arrivals = {}

    def _arrived(self, parameter: Parameter) -> None:
        """A gradient was added to: perhaps for the last time in this step."""
        key = id(parameter)
        self._counts[key] += 1
        if self._uses is None:
            grad = parameter.grad
            assert grad is not None
            backend = backend_of(grad=grad)
            self._arrivals[key] = grad, (backend.to_numpy(grad).copy() if backend.on_host else grad)
            return
        wanted = self._uses[key] * self._parts
        if self._counts[key] == wanted:
            bucket = self._bucket_of[key]
            bucket.missing -= 1
            while self._next < len(self.buckets) and not self.buckets[self._next].missing:
                self._start(self.buckets[self._next])
        elif self._counts[key] > wanted and self._bucket_of[key].finish is not None:
            self._late = True
        self.comm.progress()

    def _was_changed(self, parameter: Parameter) -> bool:
        """Whether a gradient is not the one that was there when it was last added to."""
        if id(parameter) not in self._arrivals:
            return False
        array, numbers = self._arrivals[id(parameter)]
        if parameter.grad is not array:
            return True
        backend = backend_of(grad=array)
        return backend.on_host and not np.array_equal(backend.to_numpy(array), numbers, equal_nan=True)

    def _start(self, bucket: _Bucket) -> None:
        backend = backend_of(parameter=bucket.parameters[0][1].data)
        parts = [_flat(backend, parameter) for _, parameter in bucket.parameters]
        flat = compute(backend, "gradients of a bucket", backend.xp.concat, parts)
        bucket.sent = [parameter.grad for _, parameter in bucket.parameters]
        self.bytes_sent += _bytes_of(bucket.parameters)
        bucket.finish = self.comm.start_mean(flat)
        self._next += 1

    def start_rest(self) -> None:
        """Send what is not under way yet."""
        for bucket in self.buckets[self._next :]:
            self._start(bucket)

    def finish(self, *, check: bool, complete: bool = True) -> None:
        """Wait for the means and make them the gradients.

        Parameters
        ----------
        check : bool
            Whether a gradient that is not finite is an error; else `not_finite` says which it was. On a device that is
            left to who reads the loss.
        complete : bool
            Whether every rank had examples, and so knows which parameters have a gradient.

        Raises
        ------
        NonFiniteGradientError
            On all ranks.
        DistributedError
            A gradient was changed after it was sent, which it was not in the first step.
        """
        self.start_rest()
        for bucket in self.buckets:
            now = [parameter.grad for _, parameter in bucket.parameters]
            self._late = self._late or any(grad is not sent for grad, sent in zip(now, bucket.sent, strict=True))
            bucket.sent = []
        if self._late:
            self.overlap = False
            raise DistributedError(
                "the gradient of a layer was changed after it was sent, which did not happen in the first step: the "
                "network does not do the same in every step; call fit again to go on, with gradients sent after each "
                "backward pass"
            )
        present = self._present(complete)
        wrong = False
        means: list[Array] = []
        for bucket in self.buckets:
            assert bucket.finish is not None
            mean = bucket.finish()
            backend = backend_of(mean=mean)
            # all ranks have the same bits, and so come to the same answer
            wrong = wrong or (backend.on_host and not _is_finite(backend.to_numpy(mean)))
            means.append(mean)
        self.not_finite = self._who_is_not_finite() if wrong else None
        if self.not_finite is not None and check:
            raise NonFiniteGradientError(self.not_finite)
        for bucket, mean in zip(self.buckets, means, strict=True):
            backend, start = backend_of(mean=mean), 0
            for name, parameter in bucket.parameters:
                stop = start + parameter.size
                parameter.grad = backend.reshape(mean[start:stop], parameter.shape) if present[name] else None
                start = stop

    def _present(self, complete: bool) -> dict[str, bool]:
        """Which parameters have a gradient: as on this rank, or, where one has had no example, as on rank 0."""
        names = [name for bucket in self.buckets for name, _ in bucket.parameters]
        grads = [parameter.grad for bucket in self.buckets for _, parameter in bucket.parameters]
        here = np.array([grad is not None for grad in grads], np.uint8)
        there = here if complete else self.comm.broadcast(here)
        return dict(zip(names, map(bool, there), strict=True))

    def _who_is_not_finite(self) -> str:
        """Which layer it is, the same words on all ranks."""
        found = gather_json(self.comm, name_of_non_finite(self.model))
        ranks = [rank for rank, name in enumerate(found) if name is not None]
        if not ranks:
            return "the sum of the gradients of all ranks overflows; try a smaller learning rate"
        who = "rank " + str(ranks[0]) if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))
        return f"the gradient of {found[ranks[0]]} is not finite on {who} of {self.comm.size}"


def name_of_non_finite(model: Layer) -> str | None:
    """The last parameter whose gradient is not finite, from which all before it have caught it; None without one."""
    for name, parameter in reversed(list(model.named_parameters())):
        grad = parameter.grad
        if grad is not None and not _is_finite(backend_of(grad=grad).to_numpy(grad)):
            return name
    return None


def _buckets(model: Layer, bucket_bytes: int) -> list[_Bucket]:
    """Parameters from the last to the first, in groups of one backend and dtype and of about that many bytes."""
    groups: list[list[tuple[str, Parameter]]] = []
    seen: set[int] = set()
    size = math.inf
    for name, parameter in reversed(list(model.named_parameters())):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        own = _bytes_of([(name, parameter)])
        same = groups and groups[-1][0][1].data.dtype == parameter.data.dtype
        if not same or size + own > bucket_bytes:
            groups.append([])
            size = 0
        groups[-1].append((name, parameter))
        size += own
    return [_Bucket(group) for group in groups]


def _bytes_of(parameters: list[tuple[str, Parameter]]) -> int:
    width = {"float64": 8, "float32": 4}
    return sum(
        parameter.size * width.get(backend_of(data=parameter.data).dtype_name(parameter.data), 2)
        for _, parameter in parameters
    )


def _flat(backend: Backend, parameter: Parameter) -> Array:
    if parameter.grad is None:
        return backend.zeros((parameter.size,), parameter.data.dtype)
    return backend.reshape(parameter.grad, (parameter.size,))


def weights_digest(model: Layer) -> str:
    """A hash of the bits of all parameters and buffers."""
    return digest_of(model.state_dict())


def digest_of(arrays: Mapping[str, Array]) -> str:
    """A hash of the bits of arrays, and of their names."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(backend_of(array=array).to_numpy(array)).view(np.uint8).tobytes())
    return digest.hexdigest()


def _is_finite(array: Array) -> bool:
    """Whether every number of a host array is finite; one pass that makes no array where all is well."""
    host = np.asarray(array)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(host))) or bool(np.all(np.isfinite(host)))
