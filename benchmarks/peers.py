"""The same work in PyTorch and in JAX: a function of arrays, its forward pass, and both passes together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from xpconv._bench.peers import BOTH, FORWARD, Pass, optional_torch, torch_pass

__all__ = ["BOTH", "FORWARD", "Pass", "jax_pass", "optional_jax", "optional_torch", "torch_pass"]


def optional_jax() -> ModuleType | None:
    """JAX, or None where it is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    return jax


def jax_pass(
    jax: ModuleType, function: Callable[..., Any], arguments: Sequence[np.ndarray], dy: np.ndarray | None
) -> Pass:
    """A function of arrays, compiled by XLA for these shapes; both passes are one program."""
    arrays = [jax.numpy.asarray(array) for array in arguments]
    gradient = jax.numpy.asarray(np.float32(1) if dy is None else dy)

    def both(gradient: Any, *arrays: Any) -> Any:
        y, backward = jax.vjp(function, *arrays)
        return (y, *backward(gradient))

    compiled, compiled_both = jax.jit(function), jax.jit(both)
    return {
        FORWARD: lambda: (jax.block_until_ready(compiled(*arrays)),),
        BOTH: lambda: jax.block_until_ready(compiled_both(gradient, *arrays)),
    }
