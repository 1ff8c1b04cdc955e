"""The order of the examples in an epoch and the random numbers of its steps, from the seed, the epoch and the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..backends.protocol import Array, Backend

__all__ = ["count_steps", "epoch_order", "sent_ahead", "step_generator"]


def count_steps(examples: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches in an epoch; the last may be smaller, unless it is dropped."""
    return examples // batch_size if drop_last else -(-examples // batch_size)


def epoch_order(examples: int, *, shuffle: bool, seed: int, number: int) -> np.ndarray:
    """Indices (N,) of the examples in epoch ``number``."""
    order = np.arange(examples)
    return _generator(seed, number).permutation(order) if shuffle else order


def step_generator(seed: int, number: int, step: int) -> np.random.Generator:
    """What the random choices for the batch of one step are drawn from."""
    # + 1: a seed sequence takes no notice of a zero at its end, and step 0 must differ from the permutation
    return _generator(seed, number, step + 1)


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


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
