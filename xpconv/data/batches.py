"""Batches of a data set in an order that depends on the seed, the epoch and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..backends import get_backend, load_backend
from ..backends.protocol import Array, Backend
from .dataset import ArrayDataset

__all__ = ["Batches", "Transform", "check_dtype"]

# the name in quotes: looking it up would import numpy.random, a fifth of what importing NumPy takes
Transform = Callable[[Array, "np.random.Generator", bool], Array]


class Batches:
    """Cuts a data set into batches, on a backend.

    The order of the images and all random choices of the augmentation are drawn on the host and depend on ``seed``, the
    epoch and the step alone: a run that is resumed in the middle of an epoch continues bit for bit, and all backends
    see the same batches.

    Iterating goes through epoch 0 the first time, epoch 1 the second time, and so on; `epoch` gives any one.

    Parameters
    ----------
    dataset : ArrayDataset
    batch_size : int
        The last batch of an epoch may be smaller, unless ``drop_last``.
    shuffle : bool
        A new order in each epoch; False keeps that of the set.
    seed : int
        Not negative.
    transform : callable, optional
        ``transform(images, rng, training) -> images`` on arrays of the backend: images as the set has them, a host
        generator for this batch, and whether to augment. See `Compose`, `standard_transform`.
    drop_last : bool
        Leave out a last batch that is not full.
    dtype : str
        Floating-point dtype of the images. uint8 that no transform has converted becomes 0 to 1.
    backend : str, optional
        Where the arrays are made; None means the default backend at the time an epoch begins.
    training : bool, optional
        What the transform is told; None means the value of ``shuffle``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong and its value.
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        transform: Transform | None = None,
        drop_last: bool = False,
        dtype: str = "float32",
        backend: str | None = None,
        training: bool | None = None,
    ) -> None:
        if not isinstance(dataset, ArrayDataset):
            raise TypeError(f"dataset: expected an ArrayDataset, got {type(dataset).__name__}")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform: expected a callable or None, got {transform!r}")
        check_dtype(dtype)
        self.dataset = dataset
        self.batch_size = _integer("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.seed = _integer("seed", seed, 0)
        self.transform = transform
        self.drop_last = bool(drop_last)
        self.dtype = dtype
        self.backend = backend
        self.training = self.shuffle if training is None else bool(training)
        self._next_epoch = 0
        if len(self) == 0:
            raise ValueError(f"batch_size: {self.batch_size} with drop_last leaves nothing of {len(dataset)} images")

    def __len__(self) -> int:
        """Batches in an epoch."""
        count, rest = divmod(len(self.dataset), self.batch_size)
        return count if self.drop_last or rest == 0 else count + 1

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        number = self._next_epoch
        self._next_epoch += 1
        return self.epoch(number)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of epoch ``number`` from step ``start`` on.

        Yields
        ------
        images : array (n, C, H, W)
            Of ``dtype``; never memory of the data set.
        labels : array (n,)
            Of the backend's integer dtype: int64, int32 with JAX's defaults.
        """
        number = _integer("number", number, 0)
        start = _integer("start", start, 0)
        if start > len(self):
            raise ValueError(f"start: an epoch has {len(self)} steps, got {start}")
        backend = get_backend() if self.backend is None else load_backend(self.backend)
        return self._batches(backend, number, start)

    def _batches(self, backend: Backend, number: int, start: int) -> Iterator[tuple[Array, Array]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = _generator(self.seed, number).permutation(order)
        for step in range(start, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            # + 1: a seed sequence takes no notice of a zero at its end, and step 0 must differ from the permutation
            rng = _generator(self.seed, number, step + 1)
            # indexing copies, so that a backend that shares memory with NumPy does not share the data set's
            images = self._images(backend, self.dataset.images[chosen], rng)
            yield images, backend.asarray(self.dataset.labels[chosen])

    def _images(self, backend: Backend, images: np.ndarray, rng: np.random.Generator) -> Array:
        # bytes go to the device as they are, a quarter of the transfer; the conversion happens there
        x = backend.asarray(images, dtype=None if images.dtype == np.uint8 else self.dtype)
        if self.transform is not None:
            x = self.transform(x, rng, self.training)
            if not backend.owns(x) or x.ndim != 4 or x.shape[0] != len(images):
                got = f"shape {tuple(x.shape)}" if hasattr(x, "shape") else ""
                raise ValueError(
                    f"transform: expected {len(images)} images (N, C, H, W) of {backend.name}, got "
                    f"{type(x).__module__}.{type(x).__name__} {got}"
                )
        if backend.dtype_name(x) == "uint8":
            # in float32, as float16 would round twice; a product, as XLA makes one of a division, rounded differently
            x = backend.astype(x, "float64" if self.dtype == "float64" else "float32") * (1 / 255)
        if not backend.is_floating(x):
            raise TypeError(f"transform: expected images of uint8 or floating-point, got {backend.dtype_name(x)}")
        return backend.astype(x, self.dtype)


def check_dtype(dtype: object) -> None:
    """Raise ValueError unless ``dtype`` is the name of a floating-point one."""
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype: expected float16, bfloat16, float32 or float64, got {dtype!r}")


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _integer(name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: must be at least {minimum}, got {value}")
    return int(value)
