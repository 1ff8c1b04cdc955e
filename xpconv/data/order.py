"""The order of the examples in an epoch and the random numbers of its steps, from the seed, the epoch and the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..backends.protocol import Array, Backend

__all__ = ["ImageRandom", "count_steps", "epoch_order", "sent_ahead", "share", "step_generator", "uniforms"]

# what a seed's numbers are for, so that no two purposes share them; the order of an epoch has none
_STEP, _IMAGES = 1, 2


def count_steps(examples: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches in an epoch; the last may be smaller, unless it is dropped."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


def epoch_order(examples: int, *, shuffle: bool, seed: int, number: int) -> np.ndarray:
    """Indices (N,) of the examples in epoch ``number``."""
    order = np.arange(examples)
    if not shuffle:
        return order
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number)))).permutation(order)


def share(count: int, rank: int, size: int) -> slice:
    """The part of ``count`` examples that is that of ``rank`` of ``size``: shares are in the order of the ranks.

    ::

        batch    0 1 2 3 4 5 6 7 8 9        10 examples, 4 ranks
        ranks    0 0 0 1 1 1 2 2 3 3        the first have one more; where there are too few, the last have none
    """
    least, more = divmod(count, size)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


class ImageRandom:
    """Random numbers of the images of a batch, each of which depends on the seed, the epoch and the image alone.

    So an image is augmented the same way whatever batch it is in, whoever makes that batch, and on every backend. They
    are the words of Philox 4x32-10 (Salmon et al. 2011), whose key is made of the seed and the epoch, and whose counter
    is the image's index and the number of the block of four words.

    Parameters
    ----------
    seed, number
        Of the run, of the epoch.
    indices : numpy.ndarray (n,)
        Of the images in their data set.
    """

    def __init__(self, seed: int, number: int, indices: np.ndarray) -> None:
        words = np.random.SeedSequence((seed, number), spawn_key=(_IMAGES,)).generate_state(2, np.uint32)
        self._key = int(words[0]), int(words[1])
        self._indices = indices.astype(np.uint64)
        self._blocks = 0
        self._words = np.empty((0, len(indices)), np.uint32)

    def __len__(self) -> int:
        return len(self._indices)

    def uniform(self, numbers: int) -> np.ndarray:
        """Further numbers (n, numbers) in [0, 1), multiples of 2**-32."""
        while len(self._words) < numbers:
            lower, upper = self._indices & np.uint64(0xFFFFFFFF), self._indices >> np.uint64(32)
            block = np.full(len(self), self._blocks, np.uint64)
            self._words = np.concatenate([self._words, _philox((lower, upper, block, np.zeros_like(block)), self._key)])
            self._blocks += 1
        taken, self._words = self._words[:numbers], self._words[numbers:]
        return taken.T * 2.0**-32


def _philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> np.ndarray:
    """Words (4, n) of counters whose words are arrays (n,) of uint64, as those of `xpconv._generic.dropout`, sooner."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        product0, product1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (product1 >> shift) ^ c1 ^ np.uint64(k0), (product0 >> shift) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & low, product0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def step_generator(seed: int, number: int, step: int, indices: np.ndarray | None = None) -> np.random.Generator:
    """What the random choices for the batch of one step are drawn from.

    With the indices of its images it also has ``images``, their `ImageRandom`.
    """
    words = np.random.SeedSequence((seed, number, step), spawn_key=(_STEP,))
    if indices is None:
        return np.random.Generator(np.random.PCG64(words))
    from ._batch_generator import BatchGenerator  # which imports numpy.random

    return BatchGenerator(np.random.PCG64(words), ImageRandom(seed, number, indices))


def uniforms(rng: np.random.Generator | ImageRandom, count: int, numbers: int) -> np.ndarray:
    """Random numbers (count, numbers) in [0, 1) for so many images: their own, where ``rng`` is that of their batch."""
    images = rng if isinstance(rng, ImageRandom) else getattr(rng, "images", None)
    if images is not None and len(images) == count:
        return images.uniform(numbers)
    assert not isinstance(rng, ImageRandom)
    return rng.random((count, numbers))


def sent_ahead(backend: Backend, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[Array, ...]]:
    """The arrays of each batch on ``backend``, each sent before the batch ahead of it is handed out.

    So one batch is under way to the device while it computes with another; on the host there is nothing to gain.
    """
    if backend.on_host:
        yield from (tuple(map(backend.asarray, arrays)) for arrays in batches)
        return
    under_way = None
    for arrays in batches:
        transfer = backend.prefetch(arrays)
        if under_way is not None:
            yield under_way()
        under_way = transfer
    if under_way is not None:
        yield under_way()
