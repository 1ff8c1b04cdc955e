"""A step of an optimizer in a graph of the device: recorded once, replayed with other rates and step counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends import serving
from ..backends.protocol import Array

if TYPE_CHECKING:
    from .optimizers import Bucket, Optimizer

__all__ = ["RecordedStep"]


class RecordedStep:
    """A step that a graph of the device has recorded and replays; made by `Optimizer.recording`.

    The graph reads learning rates and step counts from arrays that live as long as this object.

    Parameters
    ----------
    optimizer
        One that has taken an ordinary step.

    Raises
    ------
    RuntimeError
        It has taken none yet, or the kernels of its backend cannot read their numbers on the device.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not optimizer._last:
            raise RuntimeError("optimizer: a step can be recorded only after an ordinary one, which makes its state")
        self._optimizer = optimizer
        self._buckets = optimizer._buckets(optimizer._last, graded=False)
        self._on_device: list[tuple[Array, Array]] = []
        self._written: list[tuple[float, int]] = []  # what stands in them
        self._arrays: list[Array] | None = None  # those whose addresses the graph knows
        for bucket in self._buckets:
            backend, steps, lr = bucket.backend, bucket.steps, bucket.settings["lr"]
            if backend.on_host or serving(backend, optimizer._operator, bucket.dtype).name == "generic":
                raise RuntimeError(
                    f"optimizer: the kernels of {backend.name} for {bucket.dtype} that serve {optimizer._operator} "
                    "cannot read its numbers on the device"
                )
            wide = "float64" if bucket.dtype == "float64" else "float32"
            self._on_device.append((backend.full((1,), lr, wide), backend.full((1,), steps, "int64")))
            self._written.append((lr, steps))
            self._warm_up(bucket, wide)

    def _warm_up(self, bucket: Bucket, wide: str) -> None:
        """A step of scratch values: what only a recorded step launches is compiled and loaded before the capture."""
        backend = bucket.backend
        with backend.running():
            p, g, lr = (backend.zeros((1,), dtype) for dtype in (bucket.dtype, bucket.dtype, wide))
            state = {name: [backend.zeros((1,), bucket.dtype)] for name in bucket.kept}
            step = backend.zeros((1,), "int64")
            self._optimizer._update(backend, [p], [g], {**bucket.settings, "lr": lr}, state, step)

    def _take(self, buckets: list[Bucket]) -> None:
        """Record the step."""
        optimizer = self._optimizer
        if self._arrays is not None:
            raise RuntimeError("optimizer: this recording has its step already")
        if [bucket.but_lr() for bucket in buckets] != [bucket.but_lr() for bucket in self._buckets]:
            raise RuntimeError("optimizer: the step to record has other parameters than the last one, or new settings")
        for bucket, (lr, step) in zip(buckets, self._on_device, strict=True):
            _, kept = optimizer._run(bucket, lr, step)
            if {name for name, arrays in kept.items() if arrays is not None} != set(bucket.kept):
                raise RuntimeError("optimizer: the step to record makes new state; take an ordinary one before")
        self._arrays = self._used()

    def _used(self) -> list[Array]:
        """All arrays that the step works on in place."""
        optimizer, used = self._optimizer, []
        parameters = optimizer._parameters()
        for bucket in self._buckets:
            for index in bucket.indexes:
                mine = optimizer._arrays.get(index, {})
                used += [parameters[index].data, *(mine.get(name) for name in bucket.kept)]
        return used

    def is_current(self) -> bool:
        """Whether a replay still does what an ordinary step for these parameters would.

        False after parameters or state were replaced (by ``to`` or ``load_state_dict``), after a setting other than the
        learning rate was changed, and while the parameters have taken unequal numbers of steps.
        """
        optimizer = self._optimizer
        if self._arrays is None or any(a is not b for a, b in zip(self._arrays, self._used(), strict=True)):
            return False
        for bucket in self._buckets:
            settings = optimizer._settings(optimizer.param_groups[bucket.group])
            if bucket._replace(settings=settings).but_lr() != bucket.but_lr():
                return False
            if len({optimizer._steps.get(index) for index in bucket.indexes}) > 1:
                return False
        return True

    def prepare_replay(self, *, checked: bool = False) -> None:
        """Bring the numbers on the device up to date and count the step; to be called right before each replay.

        It waits for nothing: what has changed is written on the current stream, which must be that of the replay.

        Parameters
        ----------
        checked
            Whether `is_current` has just been asked: it goes through all arrays, which takes the time of some launches.

        Raises
        ------
        RuntimeError
            The recording is not current, see `is_current`.
        """
        if not (checked or self.is_current()):
            raise RuntimeError("optimizer: its arrays or settings have changed since the step was recorded")
        optimizer = self._optimizer
        for number, bucket in enumerate(self._buckets):
            lr, steps = optimizer.param_groups[bucket.group]["lr"], optimizer._steps[bucket.indexes[0]]
            with bucket.backend.running():
                for array, new, old in zip(self._on_device[number], (lr, steps), self._written[number], strict=True):
                    if new != old:
                        array[...] = new
            self._written[number] = (lr, steps + 1)
            for index in bucket.indexes:
                optimizer._steps[index] = steps + 1
