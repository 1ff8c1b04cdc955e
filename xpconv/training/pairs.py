"""What a `Trainer` takes its batches from, such as two arrays that need be no images and may live on a device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._checks import check_integer
from ..backends import BackendMismatchError, backend_of, compute, get_backend
from ..backends.protocol import Array
from ..data import ArrayDataset, Batches, Dataset
from ..data.order import count_steps, epoch_order, sent_ahead, share

__all__ = ["ArrayPairs", "batches_of", "check_source"]


def check_source(name: str, array: Array) -> None:
    """Raise BackendMismatchError unless ``array`` is of NumPy or of the default backend, on which the model is."""
    here, backend = get_backend(), backend_of(**{name: array})
    if backend is not here and backend.name != "numpy":
        raise BackendMismatchError(
            f"{name} is an array of {backend.name} but the model is on {here.name}; "
            f"move it with xpconv.asarray({name}, backend={here.name!r})"
        )


class ArrayPairs:
    """What `xpconv.data.Batches` is to images: rows of ``x`` and ``y`` in an order that depends on seed and epoch.

    For the same seed it is the order of `Batches`.

    Parameters
    ----------
    x : array (N, ...)
        Floating-point; of NumPy, or of the default backend.
    y : array (N, ...)
        Targets: labels or numbers; of NumPy, or of the default backend.
    batch_size : int
        The last batch may be smaller.
    shuffle : bool
        A new order in each epoch.
    seed : int
        Of the order.
    dtype : str
        Floating-point arrays are converted to it, batch by batch.

    Raises
    ------
    TypeError, ValueError
        Naming the argument and its value. Arrays of another backend are a `BackendMismatchError`.
    """

    def __init__(self, x: Array, y: Array, batch_size: int, *, shuffle: bool, seed: int, dtype: str) -> None:
        batch_size = check_integer("batch_size", batch_size, 1)
        for name, array in (("x", x), ("y", y)):
            check_source(name, array)
            if not array.shape:
                raise ValueError(f"{name}: expected an array with one row for each example, got a scalar")
        if not backend_of(x=x).is_floating(x):
            got = backend_of(x=x).dtype_name(x)
            advice = "; convert it first, for images for example xpconv.asarray(x, dtype='float32') / 255"
            raise TypeError(f"x: expected floating-point, got {got}{advice if 'int' in got else ''}")
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"y: expected {x.shape[0]} targets, one for each row of x, got {y.shape[0]}")
        if not x.shape[0]:
            raise ValueError(f"x: expected at least one example, got shape {tuple(x.shape)}")
        self.x, self.y = x, y
        self._part = (0, 1)
        self.batch_size, self.shuffle, self.seed, self.dtype = batch_size, shuffle, seed, dtype

    def __len__(self) -> int:
        """Batches in an epoch."""
        return count_steps(self.x.shape[0], self.batch_size)

    @property
    def examples(self) -> int:
        """How many there are."""
        return int(self.x.shape[0])

    def step_size(self, step: int) -> int:
        """Examples in the whole batch of a step."""
        return min(self.batch_size, self.examples - step * self.batch_size)

    def split(self, rank: int, size: int) -> ArrayPairs:
        """The same batches, of which an epoch gives the share of one rank."""
        part = copy.copy(self)
        part._part = (rank, size)
        return part

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of epoch ``number`` from step ``start`` on; of split ones the share of a rank."""
        backend = get_backend()
        order = epoch_order(self.x.shape[0], shuffle=self.shuffle, seed=self.seed, number=number)
        first, size = start * self.batch_size, self.batch_size
        wholes = [range(k, min(k + size, len(order))) for k in range(first, len(order), size)]
        own = [whole[share(len(whole), *self._part)] for whole in wholes]
        parts = [slice(part.start, part.stop) for part in own]
        # Rows of host arrays are cut out there and sent; of arrays on a device they are taken there, by an order that
        # is sent once.
        arrays = {"x": self.x, "y": self.y}
        on_host = [name for name, array in arrays.items() if backend_of(array=array).name == "numpy"]
        there = [name for name in arrays if name not in on_host]
        cut = ([arrays[name][order[part]] for name in on_host] for part in parts)  # indexing copies
        order_there = backend.asarray(order) if there and not backend.on_host else None
        for part, sent in zip(parts, sent_ahead(backend, cut), strict=True):
            rows = dict(zip(on_host, sent, strict=True))
            for name in there:
                chosen = backend.asarray(order[part]) if order_there is None else order_there[part]
                rows[name] = compute(backend, "batch", backend.xp.take, arrays[name], chosen, axis=0)
            x, y = (backend.astype(a, self.dtype) if backend.is_floating(a) else a for a in (rows["x"], rows["y"]))
            yield x, y


def batches_of(data: Any, batch_size: int, *, training: bool, seed: int, dtype: str) -> Batches | ArrayPairs:
    """The batches of what a `Trainer` is given: shuffled and augmented in training, in order and as they are otherwise.

    Parameters
    ----------
    data : Batches, data set or pair of arrays
    batch_size, seed, dtype
        Where it is not batches already.
    """
    if isinstance(data, Batches):
        return data if training else data.for_evaluation()
    if not isinstance(data, Dataset):
        try:
            images, targets = data
        except (TypeError, ValueError):
            raise TypeError(
                f"data: expected Batches, an ArrayDataset or a pair (images, labels), got {type(data).__name__}"
            ) from None
        if not _is_labelled_images(images, targets):
            return ArrayPairs(images, targets, batch_size, shuffle=training, seed=seed, dtype=dtype)
        data = ArrayDataset(images, targets)
    return Batches(data, batch_size, shuffle=training, seed=seed, dtype=dtype)


def _is_labelled_images(images: Any, targets: Any) -> bool:
    """Whether these are host arrays for `ArrayDataset`, which checks them more closely than `ArrayPairs` can."""
    return (
        isinstance(images, np.ndarray)
        and type(images).__module__.startswith("numpy")  # not a subclass that another backend owns
        and images.ndim == 4
        and (not isinstance(targets, np.ndarray) or (targets.ndim == 1 and targets.dtype.kind in "iu"))
    )
