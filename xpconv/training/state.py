"""What a `Trainer` keeps in a checkpoint, and how it is checked when it is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint

if TYPE_CHECKING:
    from ..layers import Layer

__all__ = ["AVERAGED", "below", "load_model", "load_weights", "read_trainer"]

AVERAGED = "ema."  # before the names of the arrays of a model with averaged weights


def _is_count(value: object, limit: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_sums(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"loss", "hits", "images"}:
        return False
    hits = value["hits"]
    return _is_real(value["loss"]) and _is_count(value["images"]) and (hits is None or _is_count(hits))


def _is_best(value: Any) -> bool:
    names = ("epoch", "val_loss", "val_accuracy")
    return value is None or (isinstance(value, dict) and all(_is_real(value.get(name)) for name in names))


_COUNT = (_is_count, "an integer of at least 0")


def _is_average(value: Any) -> bool:
    return isinstance(value, dict) and _is_real(value.get("decay")) and _is_count(value.get("count"))


def _is_scale(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"scale", "growth_interval", "good_steps", "skipped"}
        and _is_real(value["scale"])
        and 0 < value["scale"] < math.inf
        and all(_is_count(value[name]) for name in ("growth_interval", "good_steps", "skipped"))
    )


def _are_callbacks(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("kind"), str) and isinstance(entry.get("state"), dict)
        for entry in value
    )


# What the state of a checkpoint must have; see `Trainer.save`.
_Check = tuple[Callable[[Any], bool], str]

_CHECKS: dict[str, _Check] = {
    "seed": (lambda v: _is_count(v, 2**64), "an integer from 0 to 2**64 - 1"),
    "step": _COUNT,
    "epoch": _COUNT,
    "epoch_step": _COUNT,
    "order": (lambda v: v is None or isinstance(v, dict), "a mapping or null"),
    "sums": (_are_sums, "a mapping of loss, hits and images"),
    "seconds": (_is_real, "a number"),
    "history": (lambda v: isinstance(v, list) and all(isinstance(r, dict) for r in v), "a list of mappings"),
    "best": (_is_best, "a mapping of epoch, val_loss and val_accuracy, or null"),
    "optimizer": (lambda v: isinstance(v, dict), "a mapping"),
}

# What it may have: entries of what not every run has.
_OPTIONAL: dict[str, _Check] = {
    "classes": (lambda v: isinstance(v, list) and all(isinstance(c, str) for c in v), "a list of names"),
    "ema": (_is_average, "a mapping of decay and count"),
    "loss_scale": (_is_scale, "a mapping of scale, growth_interval, good_steps and skipped"),
    "callbacks": (_are_callbacks, "a list of mappings of kind and state"),
}


def load_weights(path: str | os.PathLike[str], model: Layer) -> dict[str, Any]:
    """Load the weights of a checkpoint of `Trainer.save` into ``model``; returns its ``step``, ``epoch`` and ``best``.

    Of a run with ``ema`` they are the averaged ones, which its validation has judged. It returns ``classes`` too: the
    names of the classes, or None where they have none.

    Raises
    ------
    CheckpointError
        The file cannot be read or does not fit the model, which is then unchanged.
    """
    checkpoint = read_trainer(path)
    load_model(path, model, checkpoint.arrays, averaged=True)
    found = {name: checkpoint.state[name] for name in ("step", "epoch", "best")}
    names = checkpoint.state.get("classes")
    return {**found, "classes": None if names is None else tuple(names)}


def read_trainer(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint at ``path``, which must be one of `Trainer.save`; CheckpointError otherwise."""
    checkpoint = read_checkpoint(path)
    if checkpoint.state.get("kind") != "trainer":
        raise CheckpointError(f"{os.fspath(path)}: not a checkpoint of a Trainer")
    for name in _CHECKS:
        if name not in checkpoint.state:
            raise CheckpointError(f"{os.fspath(path)}: its training state has no {name!r}")
    present = {name: check for name, check in _OPTIONAL.items() if name in checkpoint.state}
    for name, (test, words) in (_CHECKS | present).items():
        value = checkpoint.state[name]
        if not test(value):
            raise CheckpointError(
                f"{os.fspath(path)}: {name!r} of its training state: expected {words}, got {value!r:.60}"
            )
    return checkpoint


def below(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def load_model(path: str | os.PathLike[str], model: Layer, arrays: dict[str, Any], *, averaged: bool = False) -> None:
    """Load weights and buffers; if ``averaged`` the averages of weights, where there are some."""
    prefix = AVERAGED if averaged and any(name.startswith(AVERAGED) for name in arrays) else "model."
    try:
        model.load_state_dict(below(prefix, arrays))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{os.fspath(path)}: does not fit the model: {error}") from error
