"""The generator that transforms get; apart from the rest, as its base class imports numpy.random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .order import ImageRandom

__all__ = ["BatchGenerator"]


class BatchGenerator(np.random.Generator):
    """A generator for a batch, which depends on the seed, the epoch and the step.

    Attributes
    ----------
    images : ImageRandom
        Numbers of each of its images, which do not depend on the step.
    """

    def __init__(self, bits: np.random.BitGenerator, images: ImageRandom) -> None:
        super().__init__(bits)
        self.images = images
