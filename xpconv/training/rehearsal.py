"""Steps of training that leave no trace: what the learning-rate finder and the profile take."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..backends import Backend, backend_of, compute
from ..backends.protocol import Array
from ..layers import RandomLayer

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["rehearsal"]


@contextlib.contextmanager
def rehearsal(trainer: Trainer, data: Any, batch_size: int) -> Iterator[tuple[Backend, Iterator[tuple[Array, Array]]]]:
    """Inside the block ``trainer._step_on`` may be called; behind it everything is as it was, to the last array.

    Returns
    -------
    context manager of (Backend, iterator)
        The backend of the model, and batches (x, targets) of ``data`` without end.
    """
    trainer._check_optimizer("trains")
    layers = [layer for _, layer in trainer.model.named_layers()]
    parameters = list(trainer.model.parameters())
    with trainer._on_model_backend() as backend, contextlib.ExitStack() as stack:
        batches = trainer._batches(data, batch_size, training=True)
        modes = [(layer, layer.training, layer._keeps) for layer in layers]
        kept = [(parameter, parameter.data, parameter.grad) for parameter in parameters]
        buffers = [(layer, name, array) for layer in layers for name, array in layer._own(layer._buffer_names)]
        chance = [(layer, layer._key, layer._uses) for layer in layers if isinstance(layer, RandomLayer)]
        optimizer, scale = trainer.optimizer.state_dict(), trainer.loss_scale
        frozen = trainer._frozen
        try:
            trainer._start_training()
            for parameter in parameters:  # optimizers work in place: on copies
                own = backend_of(parameter=parameter.data)
                parameter.data = compute(own, "copy", own.xp.asarray, parameter.data, copy=True)
            if scale is not None:
                trainer.loss_scale = dataclasses.replace(scale)
            yield backend, _endless(batches, stack)
        finally:
            trainer.model.clear_cache()
            for parameter, array, gradient in kept:
                parameter.data, parameter.grad = array, gradient
            for layer, name, array in buffers:
                setattr(layer, name, array)
            for random, key, uses in chance:
                random._key, random._uses = key, uses
            for layer, training, keeps in modes:
                layer.training, layer._keeps = training, keeps
            trainer.optimizer.load_state_dict(optimizer)
            trainer.loss_scale, trainer._frozen = scale, frozen


def _endless(batches: Any, stack: contextlib.ExitStack) -> Iterator[tuple[Array, Array]]:
    number = 0
    while True:
        epoch = batches.epoch(number)
        if hasattr(epoch, "close"):  # of a loader that works ahead
            stack.callback(epoch.close)
        yield from epoch
        number += 1
