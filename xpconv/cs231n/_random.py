"""NumPy's global generator: the one that the course's notebooks seed, and whose numbers its printed results hold."""

from __future__ import annotations

import numpy as np

__all__ = ["choice", "rand", "randn", "seed"]

choice = np.random.choice
rand = np.random.rand
randn = np.random.randn
seed = np.random.seed
