"""The host's random state: where initial weights and seeds come from when a layer is given no generator of its own.

Numbers are drawn on the host in float64 and then cast, so that every backend and dtype starts from the same weights.
"""

from __future__ import annotations

import threading

import numpy as np

from ._checks import check_integer

__all__ = ["as_generator", "host_generator", "is_step_on_device", "manual_seed"]

_lock = threading.Lock()
_generator: np.random.Generator | None = None


def manual_seed(seed: int) -> None:
    """Start the process-wide generator anew.

    Parameters
    ----------
    seed
        A non-negative integer; equal seeds give equal weights on every backend.

    Raises
    ------
    TypeError, ValueError
        Not an integer, or negative.
    """
    global _generator
    fresh = np.random.default_rng(check_integer("seed", seed, 0, takes="a non-negative integer"))
    with _lock:
        _generator = fresh


def host_generator() -> np.random.Generator:
    """The process-wide NumPy generator; seeded from the operating system until `manual_seed` is called."""
    global _generator
    with _lock:
        if _generator is None:  # not at import, which would load numpy.random for everybody
            _generator = np.random.default_rng()
        return _generator


def is_step_on_device(step: object) -> bool:
    """Whether ``step`` is an array of one uint32 on a device, from where a recorded graph reads the step's number."""
    host = isinstance(step, (np.ndarray, np.generic)) and type(step).__module__.startswith("numpy")
    return not host and getattr(step, "shape", None) == (1,) and str(getattr(step, "dtype", "")).endswith("uint32")


def as_generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """``rng`` itself, a generator seeded with an integer, or the process-wide one for None."""
    if rng is None:
        return host_generator()
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(check_integer("rng", rng, 0, takes="a numpy.random.Generator, an integer or None"))
