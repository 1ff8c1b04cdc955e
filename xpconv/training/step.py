"""The gradients of a step: of a batch in parts, in full or mixed precision, and clipped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..backends import backend_of, compute, run, to_numpy
from ..backends.protocol import Array
from ..optim.clip import clip_grad_norm
from .mixed import HalfModel
from .sums import TrainingError

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["clip", "gradients"]


def gradients(trainer: Trainer, x: Array, targets: Array) -> tuple[Array, Array | None]:
    """Set the gradients of the model to those of the mean loss of a batch.

    Returns
    -------
    loss : array ()
        The mean.
    hits : array () or None
        See `count_hits`.
    """
    backend = backend_of(x=x, targets=targets)
    model, dtype = trainer.model, trainer.mixed_precision
    model.zero_grad()
    scale = 1.0 if trainer.loss_scale is None else trainer.loss_scale.scale
    total: Any = None
    all_hits: Any = None
    way: Any = model
    with contextlib.ExitStack() as stack:
        if dtype is not None:
            way = stack.enter_context(HalfModel.of(model, backend, dtype, scale))
        for part, wanted, share in _parts(x, targets, trainer.accumulate):
            scores = way.forward(part)
            loss, dscores = trainer.loss(scores, wanted)
            hits = trainer._hits(scores, wanted)
            if share != 1:
                loss, dscores = compute(backend, "accumulate", _times, loss, share), dscores * share
            way.backward(dscores)
            total = loss if total is None else backend.asarray(total + loss)
            all_hits = hits if all_hits is None or hits is None else backend.asarray(all_hits + hits)
    return total, all_hits


def _times(loss: Array, share: float) -> Array:
    return backend_of(loss=loss).asarray(loss * share)


def _parts(x: Array, targets: Array, count: int) -> Iterator[tuple[Array, Array, float]]:
    """A batch in at most ``count`` parts of one size but for the last, each with its share of the examples."""
    examples = x.shape[0]
    size = max(1, math.ceil(examples / count))
    if size >= examples:
        yield x, targets, 1.0
        return
    for start in range(0, examples, size):
        stop = min(start + size, examples)
        yield x[start:stop, ...], targets[start:stop, ...], (stop - start) / examples


def clip(trainer: Trainer) -> tuple[Any | None, bool]:
    """Clip the gradients where that is asked for; their norm before, if so, and whether all of them are finite.

    With a loss scale gradients that are not finite are no error, and have no norm. Without one they are told by the
    norm, on a device later on, when it is read.
    """
    scaled = trainer.loss_scale is not None
    norm: Any = None
    if trainer.clip_norm is not None:
        try:
            norm = clip_grad_norm(trainer.model.parameters(), trainer.clip_norm, error_if_nonfinite=not scaled)
        except FloatingPointError as error:
            raise TrainingError(f"step {trainer.step}, with learning rate {trainer.optimizer.lr:g}: {error}") from error
    if not scaled:
        return norm, True
    square = norm
    if square is None:
        grads = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        square = run(backend_of(grad=grads[0]), "squared_norm", grads) if grads else 0.0
    finite = math.isfinite(float(square) if isinstance(square, float) else float(to_numpy(square)))
    return (norm if finite else None), finite
