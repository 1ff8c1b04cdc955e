"""Mixup: batches that are mixtures of two, and labels that say how much of each class there is.

H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, *mixup: Beyond Empirical Risk Minimization*, ICLR 2018.
"""

from __future__ import annotations

import numpy as np

from ..backends.protocol import Array, Backend

__all__ = ["draw_mixture", "mix"]

_MIXTURE = 3  # what these random numbers are for, see `order`


def draw_mixture(alpha: float, count: int, seed: int, number: int, step: int) -> tuple[float, np.ndarray]:
    """How much of each image stays, drawn from Beta(alpha, alpha), and whom it is mixed with: a permutation (n,)."""
    words = np.random.SeedSequence((seed, number, step), spawn_key=(_MIXTURE,))
    rng = np.random.Generator(np.random.PCG64(words))
    return float(rng.beta(alpha, alpha)), rng.permutation(count)


def mix(
    backend: Backend, x: Array, labels: Array, num_classes: int, ratio: float, partners: np.ndarray
) -> tuple[Array, Array]:
    """``ratio`` parts of a batch and ``1 - ratio`` parts of it in the order ``partners``; likewise its labels as rows.

    Parameters
    ----------
    x : array (n, ...)
        Floating-point.
    labels : array (n,)
        From 0 to ``num_classes - 1``.

    Returns
    -------
    x : array (n, ...)
    targets : array (n, K)
        In the dtype of x; each row adds up to 1.
    """
    xp = backend.xp
    order = backend.asarray(partners)
    with backend.running():
        rows = labels[:, None] == backend.astype(backend.arange(num_classes, labels.dtype), labels.dtype)[None, :]
        rows = backend.astype(rows, x.dtype)
        return tuple(a * ratio + xp.take(a, order, axis=0) * (1 - ratio) for a in (x, rows))  # type: ignore[return-value]
