"""Batches of two arrays that need be no images and no class labels, and may live on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backends import BackendMismatchError, backend_of, get_backend
from ..backends.protocol import Array, Backend

__all__ = ["ArrayPairs", "check_source"]


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
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size: expected an integer of at least 1, got {batch_size!r}")
        for name, array in (("x", x), ("y", y)):
            check_source(name, array)
            if not array.shape:
                raise ValueError(f"{name}: expected an array with one row for each example, got a scalar")
        if not backend_of(x=x).is_floating(x):
            raise TypeError(
                f"x: expected floating-point, got {backend_of(x=x).dtype_name(x)}; convert it first, for images for "
                "example xpconv.asarray(x, dtype='float32') / 255"
            )
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"y: expected {x.shape[0]} targets, one for each row of x, got {y.shape[0]}")
        if not x.shape[0]:
            raise ValueError(f"x: expected at least one example, got shape {tuple(x.shape)}")
        self.x, self.y = x, y
        self.batch_size, self.shuffle, self.seed, self.dtype = batch_size, shuffle, seed, dtype

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.x.shape[0] // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of epoch ``number`` from step ``start`` on."""
        backend = get_backend()
        order = np.arange(self.x.shape[0])
        if self.shuffle:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        for step in range(start, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield _rows(backend, self.x, chosen, self.dtype), _rows(backend, self.y, chosen, self.dtype)


def _rows(backend: Backend, array: Any, chosen: np.ndarray, dtype: str) -> Array:
    if isinstance(array, np.ndarray):
        rows = backend.asarray(array[chosen])  # indexing copies
    else:
        rows = backend.xp.take(array, backend.asarray(chosen), axis=0)
    return backend.astype(rows, dtype) if backend.is_floating(rows) else rows
