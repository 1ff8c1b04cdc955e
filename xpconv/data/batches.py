"""Batches of a data set in an order that depends on the seed, the epoch and the step alone."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from .._checks import check_integer, check_number
from ..backends import compute, get_backend, load_backend, run
from ..backends.protocol import Array, Backend
from .augment import Recipe, Transform, check_dtype
from .background import in_background
from .dataset import ArrayDataset, Dataset
from .mixup import draw_mixture, mix
from .order import ImageRandom, count_steps, epoch_order, sent_ahead, share, step_generator

__all__ = ["PLACEMENTS", "Batches"]

PLACEMENTS = ("auto", "device", "host")

# of the free memory of a device that a data set may take; the net and its activations need the rest
_SHARE = 0.25

# Images whose indices, labels and random choices go to the device at once, so that hardly any step has a transfer.
_IMAGES_AT_ONCE = 1 << 16


class _Resident(NamedTuple):
    """A data set's images on a device, and what they are a copy of: the host's, or a set that is read."""

    source: Any
    images: Array


# by the name of the backend and the dtype there; a set that nobody has any more leaves its devices
_residents: WeakKeyDictionary[Dataset, dict[tuple[str, str], _Resident]] = WeakKeyDictionary()
_ITEM_SIZE = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class Batches:
    """Cuts a data set into batches, on a backend.

    The order of the images and all random choices of the augmentation are drawn on the host and depend on ``seed``, the
    epoch and the image (or, for transforms that do not ask for it, the step) alone: a run that is resumed in the middle
    of an epoch continues bit for bit, and all backends see the same batches, whatever the number of workers.

    Where the backend is a device with memory of its own, the images are copied there once and batches are put together
    there, if the set takes at most a quarter of the memory that is free; else each batch is on its way to the device
    while the one before it is being used. `ShiftCrop`, `RandomFlip` and `Normalize`, in this order and with any left
    out, are one kernel for sets of uint8. Nothing of this changes a batch. What is written into the arrays of a set
    once it was copied has no effect on the device; other arrays in their place have. Sets that lie in files are read
    batch by batch, unless ``placement`` is ``"device"``.

    Iterating goes through epoch 0 the first time, epoch 1 the second time, and so on; `epoch` gives any one.

    Parameters
    ----------
    dataset : Dataset
        An `ArrayDataset`, `LazyDataset` or `ImageFiles`.
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
    placement : str
        ``"device"``: the set is copied to the backend in the first epoch there, once for all `Batches` of this set;
        ``"host"``: it stays on the host; ``"auto"``: see above.
    workers : int
        Threads that read images and, where the arrays are on the host, transform them, while earlier batches are being
        used; 0: none. A transform runs in several threads at once then.
    prefetch : int, optional
        So many batches are ready or being made while one is used: at least one for each worker, which None means
        twice.
    mixup : float
        In training, each batch is mixed with itself in another order, in a ratio drawn from Beta(mixup, mixup) (Zhang
        et al., *mixup: Beyond Empirical Risk Minimization*, 2018), and labels are rows (n, K) of ``dtype``: what each
        class's share is. 0: no mixture.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong and its value.
    DataError
        When a batch is made: an image cannot be read. The error names it.
    BackendUnavailableError
        The backend that is named cannot start here.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        transform: Transform | None = None,
        drop_last: bool = False,
        dtype: str = "float32",
        backend: str | None = None,
        training: bool | None = None,
        placement: str = "auto",
        workers: int = 0,
        prefetch: int | None = None,
        mixup: float = 0.0,
    ) -> None:
        if not isinstance(dataset, Dataset):
            raise TypeError(f"dataset: expected an ArrayDataset or another Dataset, got {type(dataset).__name__}")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform: expected a callable or None, got {transform!r}")
        check_dtype(dtype)
        if placement not in PLACEMENTS:
            raise ValueError(f"placement: expected one of {', '.join(PLACEMENTS)}, got {placement!r}")
        if backend is not None:
            load_backend(backend)
        self.dataset = dataset
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.seed = check_integer("seed", seed, 0)
        self.transform = transform
        self.drop_last = bool(drop_last)
        self.dtype = dtype
        self.backend = backend
        self.training = self.shuffle if training is None else bool(training)
        self.placement = placement
        self.workers = check_integer("workers", workers, 0, 1024)
        self.prefetch = 2 * self.workers if prefetch is None else check_integer("prefetch", prefetch, 0)
        self.mixup = check_number("mixup", mixup, 0)
        self._next_epoch = 0
        self._part = (0, 1)
        if len(self) == 0:
            raise ValueError(f"batch_size: {self.batch_size} with drop_last leaves nothing of {len(dataset)} images")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return count_steps(len(self.dataset), self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        number = self._next_epoch
        self._next_epoch += 1
        return self.epoch(number)

    def for_evaluation(self) -> Batches:
        """Batches of the same set in its own order, neither augmented nor mixed, and none left out."""
        batches = Batches(
            self.dataset,
            self.batch_size,
            shuffle=False,
            transform=self.transform,
            dtype=self.dtype,
            backend=self.backend,
            training=False,
            placement=self.placement,
            workers=self.workers,
            prefetch=self.prefetch,
        )
        batches._part = self._part
        return batches

    @property
    def examples(self) -> int:
        """Images that an epoch takes."""
        return min(len(self.dataset), len(self) * self.batch_size)

    def step_size(self, step: int) -> int:
        """Images in the whole batch of a step.

        Parameters
        ----------
        step : int
            From 0 to ``len(batches) - 1``.

        Returns
        -------
        int
            ``batch_size``, but for a smaller last batch.
        """
        return min(self.batch_size, self.examples - step * self.batch_size)

    def split(self, rank: int, size: int) -> Batches:
        """The same batches, of which `epoch` gives the share of one of several ranks.

        The shares of all ranks, in their order, are the batch: each image is in one of them, augmented as ever, if the
        transform draws by image. They differ by at most one image; of a batch with fewer images than ranks the last
        ranks have none.

        Parameters
        ----------
        rank, size : int
            Which share, of how many.

        Returns
        -------
        Batches

        Raises
        ------
        TypeError, ValueError
            Not integers, or no such rank.
        """
        size = check_integer("size", size, 1)
        split = copy.copy(self)
        split._part = (check_integer("rank", rank, 0, size - 1), size)
        return split

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of epoch ``number`` from step ``start`` on; of split ones the share of a rank.

        Parameters
        ----------
        number
            Of the epoch, from 0.
        start
            Steps that are left out, from 0 to the length of the epoch.

        Yields
        ------
        images : array (n, C, H, W)
            Of ``dtype``; never memory of the data set.
        labels : array (n,)
            Of the backend's integer dtype: int64, int32 with JAX's defaults. With ``mixup`` rows (n, K) of ``dtype``.

        Raises
        ------
        TypeError, ValueError
            Not integers, or out of range.
        DataError
            When a batch is made: an image cannot be read.
        """
        number = check_integer("number", number, 0)
        start = check_integer("start", start, 0)
        if start > len(self):
            raise ValueError(f"start: an epoch has {len(self)} steps, got {start}")
        backend = self._backend()
        epoch = _Epoch(self, backend, number, start)
        if self.is_resident():
            pairs = epoch.of_resident(self._resident(backend))
        else:
            pairs = epoch.on_host() if backend.on_host else epoch.sent()
        return epoch.mixed(pairs, self.mixup) if self.mixup and self.training else pairs

    def is_resident(self) -> bool:
        """Whether an epoch that begins now takes its batches from a copy of the whole set on the backend."""
        backend = self._backend()
        if self.placement != "auto" or backend.on_host or not isinstance(self.dataset, ArrayDataset):
            return self.placement == "device"
        dtype = self._resident_dtype()
        if (backend.name, dtype) in _residents.get(self.dataset, ()):
            return True
        free = backend.free_bytes()
        return free is not None and self.dataset.images.size * _ITEM_SIZE[dtype] <= _SHARE * free

    def _backend(self) -> Backend:
        return get_backend() if self.backend is None else load_backend(self.backend)

    def _resident_dtype(self) -> str:
        return "uint8" if self.dataset.is_bytes else self.dtype

    def _resident(self, backend: Backend) -> Array:
        """The images of the set on the backend."""
        known = _residents.setdefault(self.dataset, {})
        # not the set itself, which would never be forgotten then
        source: Any = self.dataset.images if isinstance(self.dataset, ArrayDataset) else type(self.dataset)
        key = backend.name, self._resident_dtype()
        if key not in known or known[key].source is not source:
            known.pop(key, None)  # its memory may be needed
            images = source if isinstance(source, np.ndarray) else self.dataset.read(np.arange(len(self.dataset)))
            known[key] = _Resident(source, compute(backend, "data set", backend.asarray, images, dtype=key[1]))
        return known[key].images


class _Epoch:
    """The batches of one epoch on one backend, from step ``start`` on, put together in one of three ways."""

    def __init__(self, batches: Batches, backend: Backend, number: int, start: int) -> None:
        self.dataset = batches.dataset
        self.transform, self.training, self.dtype = batches.transform, batches.training, batches.dtype
        self.backend = backend
        self.seed, self.number = batches.seed, number
        self.steps = range(start, len(batches))
        self.batch_size = batches.batch_size
        self.part = batches._part
        self.mixes = bool(batches.mixup) and batches.training
        self.order = epoch_order(len(self.dataset), shuffle=batches.shuffle, seed=self.seed, number=number)
        self.is_bytes = self.dataset.is_bytes
        self.workers, self.prefetch = batches.workers, batches.prefetch
        fits = self.is_bytes and len(self.dataset) < 2**31  # what int32 can number
        self.recipe = Recipe.of(self.transform) if fits else None

    def on_host(self) -> Iterator[tuple[Array, Array]]:
        """For arrays in the host's memory."""
        return in_background(self._host_pair, self.steps, self.workers, self.prefetch)

    def mixed(self, pairs: Iterator[tuple[Array, Array]], alpha: float) -> Iterator[tuple[Array, Array]]:
        """Each batch mixed with itself in another order, with rows of shares as labels."""
        for step, (x, labels) in zip(self.steps, pairs, strict=True):
            ratio, partners = draw_mixture(alpha, x.shape[0], self.seed, self.number, step)
            own = share(x.shape[0], *self.part)
            mixed = mix(self.backend, x, labels, self.dataset.num_classes, ratio, partners)
            yield mixed[0][own, ...], mixed[1][own, ...]

    def of_resident(self, images: Array) -> Iterator[tuple[Array, Array]]:
        """From the whole set on the backend."""
        backend, size = self.backend, self.batch_size
        fused = None if self.recipe is None else self._fused(self.recipe)
        at_once = max(1, _IMAGES_AT_ONCE // size)
        for first in range(self.steps.start, self.steps.stop, at_once):
            steps = range(first, min(first + at_once, self.steps.stop))
            chosen = [self._chosen(step) for step in steps]
            indices = np.concatenate(chosen)
            labels = backend.asarray(self.dataset.labels[indices])
            choices = backend.asarray(indices if self.recipe is None else self._choices(self.recipe, indices, indices))
            stop = 0
            for step in steps:
                part = slice(stop, stop + len(chosen[step - first]))
                stop = part.stop
                if fused is not None:
                    x = fused(images, choices[part, ...])
                else:
                    x = compute(backend, "batch", backend.xp.take, images, choices[part], axis=0)
                    x = self._transformed(x, step)
                yield x, labels[part]

    def sent(self) -> Iterator[tuple[Array, Array]]:
        """From the host, each batch on its way to the device before the one ahead of it is handed out."""
        fused = None if self.recipe is None else self._fused(self.recipe)
        made = in_background(self._host_arrays, self.steps, self.workers, self.prefetch)
        arrived = sent_ahead(self.backend, made)
        for step, (images, labels, *choices) in zip(self.steps, arrived, strict=True):
            if fused is not None:
                x = fused(images, *choices)
            else:
                x = self._transformed(images if self.is_bytes else self.backend.astype(images, self.dtype), step)
            yield x, labels

    def _chosen(self, step: int) -> np.ndarray:
        """Indices of the images of a step: of this rank's, or of all where each may be mixed with any other."""
        whole = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        return whole if self.mixes else whole[share(len(whole), *self.part)]

    def _choices(self, recipe: Recipe, rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Choices (n, 4) of the operator ``crop_flip_normalize`` for images of these indices, in these rows."""
        choices = np.zeros((len(indices), 4), np.int32)
        choices[:, 0] = rows
        if self.training and recipe.is_random:
            recipe.draw(ImageRandom(self.seed, self.number, indices), self.dataset.image_shape[1:], choices)
        return choices

    def _host_pair(self, step: int) -> tuple[Array, Array]:
        """The batch of a step, on a backend in the host's memory."""
        chosen = self._chosen(step)
        with _naming(self.number, step, chosen):
            # memory of its own, so that a backend that shares memory with NumPy does not share the data set's
            images = self.dataset.read(chosen)
            x = self.backend.asarray(images, dtype=None if self.is_bytes else self.dtype)
            return self._transformed(x, step), self.backend.asarray(self.dataset.labels[chosen])

    def _host_arrays(self, step: int) -> list[np.ndarray]:
        """What has to be sent for a step: images, labels, and for a recipe its choices of these images."""
        chosen = self._chosen(step)
        with _naming(self.number, step, chosen):
            images = self.dataset.read(chosen)
        if not self.is_bytes and self.dtype != "bfloat16":  # which NumPy does not have
            images = images.astype(self.dtype, copy=False)
        arrays = [images, self.dataset.labels[chosen]]
        if self.recipe is not None:
            arrays.append(self._choices(self.recipe, np.arange(len(chosen)), chosen))
        return arrays

    def _fused(self, recipe: Recipe) -> Callable[[Array, Array], Array]:
        """``function(images, choices)`` that makes a batch in one pass."""
        backend = self.backend
        recipe.check(self.dataset.image_shape)
        scale, shift, dtype = recipe.constants(self.dataset.image_shape[0], self.dtype)
        like, scale, shift = backend.empty((0,), dtype), backend.asarray(scale), backend.asarray(shift)

        def fused(images: Array, choices: Array) -> Array:
            x = run(backend, "crop_flip_normalize", like, images, choices, scale, shift)
            return backend.astype(x, self.dtype)

        return fused

    def _transformed(self, x: Array, step: int) -> Array:
        backend, count = self.backend, x.shape[0]
        if self.transform is not None:
            with backend.running():
                rng = step_generator(self.seed, self.number, step, self._chosen(step))
                x = self.transform(x, rng, self.training)
            if not backend.owns(x) or x.ndim != 4 or x.shape[0] != count:
                got = f"shape {tuple(x.shape)}" if hasattr(x, "shape") else ""
                raise ValueError(
                    f"transform: expected {count} images (N, C, H, W) of {backend.name}, got "
                    f"{type(x).__module__}.{type(x).__name__} {got}"
                )
        if backend.dtype_name(x) == "uint8":
            # in float32, as float16 would round twice; a product, as XLA makes one of a division, rounded differently
            x = backend.astype(x, "float64" if self.dtype == "float64" else "float32")
            x = compute(backend, "batch", operator.mul, x, 1 / 255)
        if not backend.is_floating(x):
            raise TypeError(f"transform: expected images of uint8 or floating-point, got {backend.dtype_name(x)}")
        return backend.astype(x, self.dtype)


@contextlib.contextmanager
def _naming(epoch: int, step: int, indices: np.ndarray) -> Iterator[None]:
    """Adds to an error, which may come from a thread, what was being made."""
    try:
        yield
    except Exception as error:
        some = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        error.add_note(f"while making the batch of step {step} of epoch {epoch}, of the images {some}")
        raise
