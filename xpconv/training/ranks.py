"""What a `Trainer` does when it is one of several ranks.

Every rank has the whole model and takes its share of each batch. A step is then that of one process with the whole
batch: gradients are means over all examples, loss and accuracy those of the whole batch, and all ranks decide alike.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import backend_of, compute, to_numpy
from ..backends.protocol import Array
from ..data import ArrayDataset, Batches
from ..data.order import share
from ..distributed.communicator import Communicator, DistributedError, gather_json, gather_rows
from ..distributed.gradients import GradientMean, digest_of, weights_digest
from ..layers import BatchNorm1d, BatchNorm2d

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..layers import Layer
    from .trainer import Trainer

__all__ = ["Ranks", "broadcast_state"]

# On a device a flag that all ranks must see waits for the device: so it is looked at every so many times only.
_PATIENCE = 16

# So many examples of a set are looked at to see that the ranks have the same one.
_EXAMPLES = 8


class Ranks:
    """The ranks that a trainer is one of.

    Parameters
    ----------
    comm : Communicator
        Of more than one rank.
    trainer : Trainer
    sync_batch_norm : bool
        Whether batch normalisation takes the statistics of the whole batch instead of those of a rank's share.
    check_every : int
        After so many steps the ranks compare their weights; 0: never.
    """

    def __init__(self, comm: Communicator, trainer: Trainer, sync_batch_norm: bool, check_every: int) -> None:
        self.comm, self.trainer = comm, trainer
        self.sync_batch_norm, self.check_every = sync_batch_norm, check_every
        self.mean = GradientMean(comm, trainer.model)
        self._asked = 0
        self._complete = True  # whether every rank has examples in every part of the batch

    # ---- before a run ---------------------------------------------------------------------------------------

    @contextmanager
    def running(self, batches: Any, held_out: Any, epochs: int) -> Iterator[None]:
        """Inside the block a run goes on: all ranks have agreed on what they train, and start from the same weights."""
        self._check_agreement(batches, held_out, epochs)
        broadcast_state(self.comm, self.trainer.model)
        self.mean.begin_run()
        synced = [layer for layer in self._batch_norms() if self.sync_batch_norm]
        try:
            for layer in synced:
                layer.comm = self.comm
            yield
        finally:
            for layer in synced:
                layer.comm = None

    def _batch_norms(self) -> list[Any]:
        return [
            layer for _, layer in self.trainer.model.named_layers() if isinstance(layer, (BatchNorm1d, BatchNorm2d))
        ]

    def _check_agreement(self, batches: Any, held_out: Any, epochs: int) -> None:
        """Raise DistributedError on all ranks, saying what differs, unless they are about to do the same."""
        mine = _facts(self.trainer, batches, held_out, epochs)
        mine |= {"sync_batch_norm": self.sync_batch_norm, "check_ranks": self.check_every}
        everyone = gather_json(self.comm, mine)
        differences = []
        for name in mine:
            values = [facts.get(name) for facts in everyone]
            odd = next((rank for rank, value in enumerate(values) if value != values[0]), None)
            if odd is not None:
                differences.append(f"{name} is {_short(values[0])} on rank 0 and {_short(values[odd])} on rank {odd}")
        if differences:
            raise DistributedError("the ranks do not do the same: " + "; ".join(differences))
        if batches.batch_size < self.comm.size or batches.examples < self.comm.size:
            raise DistributedError(
                f"{self.comm.size} ranks need at least as many examples in a batch and in the data set; the batch size "
                f"(of all ranks together) is {batches.batch_size}, the set has {batches.examples} examples"
            )

    # ---- a step ---------------------------------------------------------------------------------------------

    def sum_of(self, value: float | Array) -> float | Array:
        """The sum over the ranks of a number, or of arrays () on their devices."""
        if isinstance(value, float):
            return self.add_up(value)[0]
        backend = backend_of(value=value)
        with backend.running():
            return self.comm.allreduce_mean(backend.reshape(value, (1,)))[0, ...] * self.comm.size

    def first_example(self, batch: int) -> int:
        """Place in a batch of so many examples of the first that is this rank's."""
        return int(share(batch, self.comm.rank, self.comm.size).start)

    def parts(self, examples: int, batch: int, count: int) -> list[slice]:
        """The share of this rank in at most ``count`` parts, as many on all ranks; some may be empty."""
        most, least = share(batch, 0, self.comm.size).stop, batch // self.comm.size
        parts = min(count, max(most, 1))
        self._complete = least >= parts
        return [share(examples, part, parts) for part in range(parts)]

    def takes_part_without_examples(self) -> bool:
        """Whether a rank without examples goes through the net all the same: others wait for its statistics."""
        return self.sync_batch_norm and bool(self._batch_norms())

    @contextmanager
    def collecting(self, parts: int) -> Iterator[None]:
        """Inside the block a batch goes forward and backward, in parts; behind it the gradients are those of all."""
        trainer = self.trainer
        whole = trainer.mixed_precision is None  # else gradients are scaled and cast when the block is left
        takes_all = self._complete or self.takes_part_without_examples()
        with self.mean.collecting(parts, overlap=whole, takes_all=takes_all):
            yield
        self.mean.start_rest()  # before anything else is sent, since the ranks need not all have started them
        buffers = self._start_buffers()
        self.mean.finish(check=trainer.loss_scale is None, complete=self._complete)
        if buffers is not None:
            buffers()

    def _start_buffers(self) -> Callable[[], None] | None:
        """Begin to average running statistics, which every rank has of its own share."""
        model = self.trainer.model
        places = [
            (layer, name, array)
            for _, layer in model.named_layers()
            if layer.training and getattr(layer, "comm", None) is None
            for name, array in layer._own(layer._buffer_names)
        ]
        floating = [(layer, name, array) for layer, name, array in places if backend_of(b=array).is_floating(array)]
        if not self._complete:  # ranks without examples have not counted the step, or a part of it
            for layer, name, array in places:
                if not backend_of(b=array).is_floating(array):
                    setattr(layer, name, self.comm.broadcast(array))
        kinds: dict[Any, list[tuple[Any, str, Array]]] = {}
        for place in floating:
            kinds.setdefault(place[2].dtype, []).append(place)
        waiting = []
        for group in kinds.values():
            backend = backend_of(b=group[0][2])
            parts = [backend.reshape(array, (math.prod(array.shape),)) for _, _, array in group]
            flat = compute(backend, "running statistics", backend.xp.concat, parts)
            waiting.append((backend, group, self.comm.start_mean(flat)))

        def finish() -> None:
            for backend, group, wait in waiting:
                mean, start = wait(), 0
                for layer, name, array in group:
                    stop = start + math.prod(array.shape)
                    setattr(layer, name, backend.reshape(mean[start:stop], tuple(array.shape)))
                    start = stop

        return finish if waiting else None

    def totals(self, loss: Array, hits: Array | None, examples: int) -> tuple[Array, Array | None]:
        """Mean loss and hits of the whole batch, from what this rank's share of so many examples adds to them."""
        backend = backend_of(loss=loss)
        if not backend.on_host:
            with backend.running():
                counted = loss * math.nan if hits is None else backend.astype(hits, loss.dtype)
                sums = self.comm.allreduce_mean(backend.xp.stack([loss, counted])) * self.comm.size
                if not examples and math.isnan(float(to_numpy(sums[1, ...]))):  # nor are there hits elsewhere
                    hits = None
                return sums[0, ...], None if hits is None else sums[1, ...]
        counted = math.nan if hits is None else float(to_numpy(hits))
        sums = self.comm.allreduce_mean(np.array([float(to_numpy(loss)), counted])) * self.comm.size
        return sums[0:1].reshape(()), None if math.isnan(sums[1]) else np.asarray(round(sums[1]))

    def check_weights(self) -> None:
        """Raise DistributedError on all ranks if their weights are no longer the same bits, when it is time to look."""
        if not self.check_every or self.trainer.step % self.check_every:
            return
        digests = gather_json(self.comm, weights_digest(self.trainer.model))
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if odd:
            raise DistributedError(
                f"after step {self.trainer.step} the weights of rank {odd[0]} are no longer those of rank 0: something "
                "that is not the same on all ranks has changed them, such as a callback or a random layer of your own"
            )

    # ---- decisions ------------------------------------------------------------------------------------------

    def any(self, *flags: bool, now: bool = False) -> tuple[bool, ...]:
        """Each flag, whether some rank has it set; to be called by all ranks alike."""
        parameter = next(iter(self.trainer.model.parameters()), None)
        if parameter is not None and not now and not backend_of(parameter=parameter.data).on_host:
            self._asked += 1
            if self._asked % _PATIENCE:
                return (False,) * len(flags)
        return tuple(map(bool, self.comm.allreduce_mean(np.array(flags, np.float64))))

    # ---- evaluation -----------------------------------------------------------------------------------------

    def split(self, batches: Any) -> Any:
        """Batches of which this rank gets its shares."""
        return batches.split(self.comm.rank, self.comm.size)

    def add_up(self, *values: float) -> list[float]:
        """The sum of each number over the ranks."""
        return [float(value) * self.comm.size for value in self.comm.allreduce_mean(np.array(values, np.float64))]

    def rows_of_batches(self, rows: Array | None, batches: Any) -> np.ndarray:
        """The rows of all ranks in the order of the data, from those of this one's shares of all batches, if any."""
        return self._gathered(rows, [batches.step_size(step) for step in range(len(batches))])

    def scores_of_all(self, scores: Callable[[slice], Array], count: int) -> np.ndarray:
        """The scores of ``count`` examples, of which each rank makes its share: ``scores(share)``."""
        own = share(count, self.comm.rank, self.comm.size)
        return self._gathered(scores(own) if own.stop > own.start or not count else None, [count])

    def _gathered(self, rows: Array | None, counts: list[int]) -> np.ndarray:
        host = None if rows is None else to_numpy(rows)
        forms = gather_json(self.comm, None if host is None else [list(host.shape[1:]), host.dtype.name])
        tail, dtype = next(form for form in forms if form is not None)
        shares = [[part.stop - part.start for part in self._shares(count)] for count in counts]
        return gather_rows(self.comm, np.empty((0, *tail), dtype) if host is None else host, shares)

    def _shares(self, count: int) -> list[slice]:
        return [share(count, rank, self.comm.size) for rank in range(self.comm.size)]


def broadcast_state(comm: Communicator, model: Layer) -> None:
    """Give all ranks the weights and buffers of rank 0."""
    for _, array, put in model._state():
        put(comm.broadcast(array))


def _facts(trainer: Trainer, batches: Any, held_out: Any, epochs: int) -> dict[str, Any]:
    """What has to be the same on all ranks, by a name that the message can use."""
    from .. import __version__

    model, optimizer, average = trainer.model, trainer.optimizer, trainer._average
    state, trained = optimizer.state_dict(), trainer._trained()
    shapes = [
        (name, list(parameter.shape), backend_of(p=parameter.data).dtype_name(parameter.data))
        for name, parameter in model.named_parameters()
    ]
    return {
        "the version of xpconv": __version__,
        "the version of Python": ".".join(map(str, sys.version_info[:3])),
        "the version of NumPy": np.__version__,
        "the script": _digest_of_file(sys.argv[0] if sys.argv else None),
        "the code of the model": _digest_of_file(getattr(sys.modules.get(type(model).__module__), "__file__", None)),
        "the model": _digest([_described(model), shapes]),
        "the number of parameters": sum(math.prod(shape) for _, shape, _ in shapes),
        "the optimizer": [type(optimizer).__name__, state["settings"]],
        "the state of the optimizer": digest_of(state["arrays"])[:12],
        "the frozen layers": _frozen(trainer),
        "the trained parameters": [name for name, p in model.named_parameters() if id(p) in trained],
        "the loss": _described(trainer.loss),
        "the schedule": _described(trainer.schedule),
        "the learning rates": _rates(trainer, epochs * len(batches)),
        "seed": trainer.seed,
        "clip_norm": None if trainer.clip_norm is None else float(trainer.clip_norm),
        "ema": None if average is None else average.decay,
        "the averaged weights": None if average is None else digest_of(average._arrays)[:12],
        "the loss scale": None if trainer.loss_scale is None else trainer.loss_scale.state_dict(),
        "accumulate": trainer.accumulate,
        "mixed_precision": trainer.mixed_precision,
        "the metrics": sorted(trainer.metrics),
        "the number of epochs": epochs,
        "the batch size": batches.batch_size,
        "the number of training examples": batches.examples,
        "the training data": _digest_of_data(batches),
        "the seed of the data": batches.seed,
        "the number of validation examples": None if held_out is None else held_out.examples,
        "the batch size of validation": None if held_out is None else held_out.batch_size,
        "the validation data": None if held_out is None else _digest_of_data(held_out),
        "the step that the run is at": [trainer.epoch, trainer.epoch_step, trainer.step],
    }


def _described(value: Any) -> str:
    """What it is in words that are the same in every process that has an equal one."""
    if isinstance(value, functools.partial):
        more = [*map(_described, value.args), *(f"{name}={_described(a)}" for name, a in value.keywords.items())]
        return f"{_described(value.func)} with {', '.join(more)}"
    text = getattr(value, "__qualname__", None) or repr(value)
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def _frozen(trainer: Trainer) -> list[str]:
    known = trainer.model.training  # else it says nothing about its layers, see `Trainer.fit`
    layers = trainer.model.named_layers()
    return [name for name, layer in layers if (not layer.training if known else id(layer) in trainer._frozen)]


def _rates(trainer: Trainer, steps: int) -> list[float] | None:
    """Some learning rates of the run; None without a schedule, or with one that cannot be asked out of turn."""
    if trainer.schedule is None:
        return None
    try:
        schedule = copy.deepcopy(trainer.schedule)
        return [float(schedule(step)) for step in (trainer.step, steps // 2, max(steps - 1, 0))]
    except Exception:  # of whatever a user's own function finds wrong with these steps
        return None


def _digest_of_data(batches: Any) -> str:
    """A hash of the targets and of a few examples, and of what is done to them."""
    if isinstance(batches, Batches):
        settings = [batches.shuffle, batches.mixup, batches.dtype, batches.training, _described(batches.transform)]
        images = batches.dataset.images if isinstance(batches.dataset, ArrayDataset) else None
        arrays = [batches.dataset.labels, images]
    else:
        settings = [batches.shuffle, batches.dtype]
        arrays = [batches.y, batches.x]
    found: dict[str, Array] = {}
    for k, array in enumerate(arrays):
        if array is None:
            continue
        count = array.shape[0]
        settings.append([list(array.shape), backend_of(array=array).dtype_name(array)])
        few = math.prod(array.shape[1:]) == 1 and isinstance(array, np.ndarray)
        rows = [slice(0, count)] if few else [slice(r, r + 1) for r in range(0, count, max(1, -(-count // _EXAMPLES)))]
        found |= {f"{k} {row.start}": array[row, ...] for row in rows}
    return _digest([settings, digest_of(found)])


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def _digest_of_file(name: str | None) -> str | None:
    """None for what was typed into an interpreter."""
    try:
        return None if not name or not Path(name).is_file() else _digest(Path(name).read_bytes())
    except OSError:
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
