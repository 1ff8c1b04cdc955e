"""What the networks share: where parameters are born, how the penalty on weights is added."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...backends import backend_of, get_backend
from ...backends.protocol import Array
from .._arrays import scalar

__all__ = ["as_inputs", "born", "penalized"]


def born(params: dict[str, np.ndarray], dtype: Any) -> dict[str, Array]:
    """Parameters drawn on the host as arrays of the default backend."""
    backend = get_backend()
    return {name: backend.asarray(values, dtype) for name, values in params.items()}


def as_inputs(X: Array, params: dict[str, Array], dtype: Any) -> Array:
    """Inputs in the dtype of the network; an error if they are not where its parameters are."""
    backend = backend_of(X=X, **params)
    return backend.astype(X, dtype)


def penalized(loss: Any, grads: dict[str, Array], params: dict[str, Array], weights: Iterable[str], reg: float) -> Any:
    """``loss + reg / 2 * sum of squares`` of the named weights; adds the gradient of the penalty to ``grads``."""
    reg = float(reg)  # a number of NumPy would promote float32
    for name in weights:
        w = params[name]
        backend = backend_of(w=w)
        if reg:
            with backend.running():
                loss = loss + 0.5 * reg * scalar(backend, backend.xp.sum(w * w))
                grads[name] = grads[name] + reg * w
    return loss
