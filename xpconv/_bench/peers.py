"""The same work in PyTorch: a function of arrays, its forward pass, and both passes together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["BOTH", "FORWARD", "Pass", "optional_torch", "torch_pass"]

FORWARD, BOTH = "forward", "forward + backward"

Pass = dict[str, Callable[[], Sequence[Any]]]
"""By operation, a function that returns the results: y, or y and the gradients of all arguments."""


def optional_torch() -> ModuleType | None:
    """PyTorch, or None where it is not installed: the peer, never a need."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch


def torch_pass(
    torch: ModuleType,
    function: Callable[..., Any],
    arguments: Sequence[np.ndarray],
    dy: np.ndarray | None,
    *,
    channels_last: bool = False,
) -> Pass:
    """A function of tensors under autograd, as a user runs it.

    Parameters
    ----------
    dy
        Gradient to its result; None where that is one number.
    channels_last
        Move every array of four axes to PyTorch's other layout first.
    """

    def tensor(array: np.ndarray) -> Any:
        found = torch.from_numpy(array)
        four = channels_last and array.ndim == 4
        return found.contiguous(memory_format=torch.channels_last) if four else found

    tensors = [tensor(array).requires_grad_() for array in arguments]
    gradient = None if dy is None else tensor(dy)

    def forward() -> Sequence[Any]:
        with torch.no_grad():
            return (function(*tensors),)

    def both() -> Sequence[Any]:
        y = function(*tensors)
        return (y.detach(), *torch.autograd.grad(y, tensors, gradient))

    return {FORWARD: forward, BOTH: both}
