"""What a `Trainer` keeps in a checkpoint, and how it is checked when it is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..backends.protocol import Array
from .checkpoint import Checkpoint, CheckpointError, read_checkpoint
from .mixed import HALF_TYPES, LossScale
from .sums import Sums

if TYPE_CHECKING:
    from ..layers import Layer
    from .trainer import Trainer

__all__ = ["contents_of", "load_trained", "read_trainer", "restore"]

_AVERAGED = "ema."  # before the names of the arrays of a model with averaged weights


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


# What the state of a checkpoint must have; see `contents_of`.
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
    "mixed_precision": (lambda v: v in HALF_TYPES, "a half type"),
    "callbacks": (_are_callbacks, "a list of mappings of kind and state"),
}


def contents_of(trainer: Trainer) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and state of a checkpoint of the trainer."""
    model, optimizer = trainer.model, trainer.optimizer.state_dict()
    arrays = {f"model.{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"optimizer.{name}": array for name, array in optimizer["arrays"].items()}
    sums = trainer._sums
    state: dict[str, Any] = {
        "kind": "trainer",
        "seed": trainer.seed,
        "step": trainer.step,
        "epoch": trainer.epoch,
        "epoch_step": trainer.epoch_step,
        "order": trainer._order,
        "sums": {"loss": sums.loss, "hits": sums.hits, "images": sums.images},
        "seconds": trainer._seconds,
        "history": trainer.history,
        "best": trainer.best,
        "optimizer": optimizer["settings"],
    }
    if trainer.classes is not None:
        state["classes"] = list(trainer.classes)
    if trainer._average is not None:
        state["ema"] = {"decay": trainer._average.decay, "count": trainer._average.count}
        with trainer.averaged_weights():
            arrays |= {f"{_AVERAGED}{name}": array for name, array in model.state_dict().items()}
    if trainer.mixed_precision is not None:
        state["mixed_precision"] = trainer.mixed_precision
    if trainer.loss_scale is not None:
        state["loss_scale"] = trainer.loss_scale.state_dict()
    states = [(type(callback).__name__, callback.state_dict()) for callback in trainer.callbacks]
    if any(kept for _, kept in states):
        state["callbacks"] = [{"kind": kind, "state": kept} for kind, kept in states if kept]
    return arrays, state


def restore(trainer: Trainer, path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Put a new trainer where that of the checkpoint stood; CheckpointError leaves model and optimizer unchanged."""
    name, (arrays, state) = os.fspath(path), checkpoint
    _restore_features(trainer, name, checkpoint)
    model, optimizer = trainer.model, trainer.optimizer
    before = model.state_dict(), optimizer.state_dict()
    _load_model(path, model, arrays)
    try:
        optimizer.load_state_dict({"arrays": _below("optimizer.", arrays), "settings": state["optimizer"]})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        model.load_state_dict(before[0])
        raise CheckpointError(f"{name}: does not fit the optimizer: {error}") from error
    try:
        _restore_callbacks(trainer, state.get("callbacks", []))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        raise CheckpointError(f"{name}: does not fit the callbacks: {error}") from error
    for entry in ("step", "epoch", "epoch_step", "history", "best"):
        setattr(trainer, entry, state[entry])
    trainer.classes = None if state.get("classes") is None else tuple(state["classes"])
    trainer._order = state["order"]
    trainer._sums = Sums(**state["sums"])
    trainer._seconds = state["seconds"]


def _restore_features(trainer: Trainer, name: str, checkpoint: Checkpoint) -> None:
    """Averaged weights and the loss scale; what is not in both, the checkpoint and the trainer, is an error."""
    arrays, state = checkpoint
    average, half = trainer._average, state.get("mixed_precision")
    if (average is None) != ("ema" not in state):
        raise CheckpointError(f"{name}: is of a run {'with' if average is None else 'without'} ema, which must stay so")
    if average is not None and state["ema"]["decay"] != average.decay:
        raise CheckpointError(
            f"{name}: is of a run with ema {state['ema']['decay']}, which must stay so, got {average.decay}"
        )
    if half != trainer.mixed_precision:
        raise CheckpointError(
            f"{name}: is of a run with mixed_precision {half}, which must stay so, got {trainer.mixed_precision}"
        )
    if average is not None:
        try:
            average.load(_below(_AVERAGED, arrays), state["ema"]["count"])
        except ValueError as error:
            raise CheckpointError(f"{name}: does not fit the model: {error}") from error
    if trainer.loss_scale is not None:
        if "loss_scale" not in state:
            raise CheckpointError(f"{name}: its training state has no 'loss_scale'")
        trainer.loss_scale = LossScale(**state["loss_scale"])


def _restore_callbacks(trainer: Trainer, entries: list[dict[str, Any]]) -> None:
    """Give each state to the next callback of its class."""
    left = list(entries)
    for callback in trainer.callbacks:
        mine = next((entry for entry in left if entry["kind"] == type(callback).__name__), None)
        if mine is not None:
            left.remove(mine)
            callback.load_state_dict(mine["state"])


def load_trained(model: Layer, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the weights of a checkpoint of `Trainer.save` into ``model``.

    Of a run with ``ema`` they are the averaged ones, which its validation has judged. Files that have weights alone are
    for `xpconv.load_weights`.

    Parameters
    ----------
    model : Layer
        The network that was trained, on any backend.
    path
        The checkpoint.

    Returns
    -------
    dict
        ``step``, ``epoch`` and ``best`` of the trainer, and ``classes``: the names of the classes, or None where they
        have none.

    Raises
    ------
    CheckpointError
        The file cannot be read or does not fit the model, which is then unchanged.
    """
    checkpoint = read_trainer(path)
    _load_model(path, model, checkpoint.arrays, averaged=True)
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


def _below(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _load_model(path: str | os.PathLike[str], model: Layer, arrays: dict[str, Any], *, averaged: bool = False) -> None:
    """Load weights and buffers; if ``averaged`` the averages of weights, where there are some."""
    prefix = _AVERAGED if averaged and any(name.startswith(_AVERAGED) for name in arrays) else "model."
    try:
        model.load_state_dict(_below(prefix, arrays))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{os.fspath(path)}: does not fit the model: {error}") from error
