"""The gradients of a step: of a batch in parts, in full or mixed precision, and clipped."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import Backend, backend_of, compute, run, to_numpy
from ..backends.protocol import Array
from ..distributed.gradients import NonFiniteGradientError
from ..optim.clip import clip_grad_norm
from .mixed import HalfModel
from .sums import TrainingError
from .weighting import class_weights, mean_over_examples, total_weight

if TYPE_CHECKING:
    from ..layers import Parameter
    from .ranks import Ranks
    from .trainer import Trainer

__all__ = ["clip", "gradients"]


def gradients(trainer: Trainer, x: Array, targets: Array, batch: int | None = None) -> tuple[Array, Array | None]:
    """Set the gradients of the model to those of the mean loss of a batch.

    Parameters
    ----------
    x, targets : array
        The batch; with several ranks this rank's share of it.
    batch : int, optional
        Examples of the whole batch, where these are a share.

    Returns
    -------
    loss : array ()
        The mean, over the whole batch.
    hits : array () or None
        See `count_hits`.
    """
    ranks = trainer._ranks
    trainer.model.zero_grad()
    total: Any
    if ranks is None or batch is None:
        ranks, total, parts = None, x.shape[0], _parts(x.shape[0], trainer.accumulate)
    else:
        total, parts = batch, ranks.parts(x.shape[0], batch, trainer.accumulate)
    loss = trainer.loss
    weight = class_weights(loss, targets)
    if weight is not None and (ranks is not None or len(parts) > 1):  # else the loss itself divides by the whole
        loss, total = partial(mean_over_examples, loss), total_weight(weight, targets, x.dtype)
        total = total if ranks is None else ranks.sum_of(total)
    if ranks is None:
        return _forward_backward(trainer, x, targets, parts, loss, total, 1)
    try:
        with ranks.collecting(len(parts)):
            value, hits = _forward_backward(trainer, x, targets, parts, loss, total, ranks.comm.size)
    except NonFiniteGradientError as error:
        raise TrainingError(f"step {trainer.step}, with learning rate {trainer.optimizer.lr:g}: {error}") from error
    return ranks.totals(value, hits, x.shape[0])


def _forward_backward(
    trainer: Trainer,
    x: Array,
    targets: Array,
    parts: Sequence[slice],
    loss_of: Callable[[Array, Array], tuple[Any, Array]],
    total: Any,
    ranks: int,
) -> tuple[Array, Array | None]:
    """What a batch in parts, or a share of it, adds to the mean loss of the whole batch, and its hits.

    Parameters
    ----------
    loss_of : callable
        The loss of a part, a mean over its examples.
    total : number or array ()
        By what the sum over all examples of the whole batch is divided.
    ranks : int
        Their mean divides the gradients, so that each has gradients so many times larger. In a half type they are
        divided before, to overflow and to be rounded as they are in one process.
    """
    backend = backend_of(x=x, targets=targets)
    model, dtype = trainer.model, trainer.mixed_precision
    scale = 1.0 if trainer.loss_scale is None else trainer.loss_scale.scale
    added: Any = None
    all_hits: Any = None
    way: Any = model
    with contextlib.ExitStack() as stack:
        if dtype is not None:
            way = stack.enter_context(HalfModel.of(model, backend, dtype, scale / ranks))
        for rows in parts:
            whole = len(parts) == 1
            part, wanted = (x, targets) if whole else (x[rows, ...], targets[rows, ...])
            if not part.shape[0] and trainer._ranks is not None:
                _pass_on_nothing(trainer._ranks, way, part, backend)
                continue
            scores = way.forward(part)
            loss, dscores = loss_of(scores, wanted)
            hits = trainer._hits(scores, wanted)
            loss = _times(backend, loss, _share(part.shape[0], total))
            way.backward(_times(backend, dscores, _share(part.shape[0] * ranks, total)))
            added = loss if added is None else backend.asarray(added + loss)
            all_hits = hits if all_hits is None or hits is None else backend.asarray(all_hits + hits)
    if added is None:  # a rank without examples
        return backend.zeros((), x.dtype), backend.asarray(np.zeros((), np.int64))
    return added, all_hits


def _trained(trainer: Trainer) -> list[Parameter]:
    """The parameters of the model that the optimizer has; the gradients of others do not count."""
    trained = trainer._trained()
    return [parameter for parameter in trainer.model.parameters() if id(parameter) in trained]


def _pass_on_nothing(ranks: Ranks, way: Any, part: Array, backend: Backend) -> None:
    """What a rank does that has no examples in a part of the batch: it answers those who ask it for its statistics."""
    if ranks.takes_part_without_examples():
        scores = way.forward(part)
        way.backward(backend.zeros(tuple(scores.shape), scores.dtype))


def _share(examples: int, total: Any) -> Any:
    """``examples / total``, NaN where the total is 0: a loss that has nothing to divide by."""
    if not isinstance(total, (int, float)):
        return examples / total  # on a device; there 1 / 0 is inf, which is told as NaN is
    return examples / total if total else math.nan


def _times(backend: Backend, values: Array, share: Any) -> Array:
    if not isinstance(share, float):
        share = backend.astype(share, values.dtype)
    elif share == 1:
        return values
    return backend.asarray(compute(backend, "accumulate", operator.mul, values, share))


def _parts(examples: int, count: int) -> list[slice]:
    """A batch in at most ``count`` parts of one size but for the last."""
    size = max(1, math.ceil(examples / count))
    return [slice(start, min(start + size, examples)) for start in range(0, max(examples, 1), size)]


def clip(trainer: Trainer) -> tuple[Any | None, bool]:
    """Clip the gradients where that is asked for; their norm before, if so, and whether all of them are finite.

    With a loss scale gradients that are not finite are no error, and have no norm. Without one they are told by the
    norm, on a device later on, when it is read.
    """
    scaled = trainer.loss_scale is not None
    norm: Any = None
    if trainer.clip_norm is not None:
        try:
            norm = clip_grad_norm(_trained(trainer), trainer.clip_norm, error_if_nonfinite=not scaled)
        except FloatingPointError as error:
            raise TrainingError(f"step {trainer.step}, with learning rate {trainer.optimizer.lr:g}: {error}") from error
    if not scaled:
        return norm, True
    square = norm
    if square is None:
        grads = [parameter.grad for parameter in _trained(trainer) if parameter.grad is not None]
        square = run(backend_of(grad=grads[0]), "squared_norm", grads) if grads else 0.0
    finite = math.isfinite(float(square) if isinstance(square, float) else float(to_numpy(square)))
    return (norm if finite else None), finite
