"""Steps of optimizers on lists of parameters, by the formulas of PyTorch's optimizers, and clipping of gradients.

All arrays of a call are of one dtype. Parameters and state belong to the optimizer and are updated in place where the
library can; gradients are only read. Callers must use what is returned: libraries whose arrays are constant (JAX)
return new ones. Learning rates and steps may be arrays of one element, as the kernels of a GPU take them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ..backends.protocol import Array, Backend

__all__ = ["adam_steps", "clip_gradients", "copy_tensors", "rmsprop_steps", "sgd_steps", "squared_norm"]


def _in_float32(steps: Callable[..., Any]) -> Callable[..., Any]:
    """The same for half precision, by float32 copies: in float16 an eps of 1e-8 is 0, and so are squares of 1e-4."""

    @functools.wraps(steps)
    def computed(backend: Backend, params: list[Array], *rest: Any) -> Any:
        if backend.accumulator(params[0]) == params[0].dtype:
            return steps(backend, params, *rest)
        narrow, wide = params[0].dtype, backend.dtype("float32")
        lists = [
            [backend.astype(array, wide) for array in part] if isinstance(part, list) else part
            for part in (params, *rest)
        ]
        results = steps(backend, *lists)
        return tuple(part and [backend.astype(array, narrow) for array in part] for part in results)

    return computed


def _decayed(p: Array, g: Array, weight_decay: float) -> tuple[Array, bool]:
    """``g + weight_decay * p`` and whether that is a fresh array, which may be overwritten."""
    if not weight_decay:
        return g, False
    total = p * weight_decay
    total += g
    return total, True


def _number(backend: Backend, value: Any) -> Any:
    """A number that may stand in an array of one element; then it is read."""
    return backend.to_numpy(value).item() if hasattr(value, "dtype") else value


@_in_float32
def sgd_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    velocities: list[Array] | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> tuple[list[Array], list[Array] | None]:
    """Gradient descent with momentum; returns (params, velocities).

    ``velocity = momentum * velocity + (1 - dampening) * g``, and plainly g in the first step, where velocities is None;
    ``p = p - lr * velocity``, or with nesterov ``p - lr * (g + momentum * velocity)``. Velocities stay None without
    momentum.
    """
    lr = _number(backend, lr)
    new_params, new_velocities = [], []
    for p, g, velocity in zip(params, grads, velocities or [None] * len(params), strict=True):
        g, fresh = _decayed(p, g, weight_decay)
        if not momentum:
            step = g * lr
        else:
            if velocity is None:
                velocity = g if fresh else backend.xp.asarray(g, copy=True)
            else:
                velocity *= momentum
                velocity += g if dampening == 0 else g * (1 - dampening)
            if nesterov:
                step = velocity * momentum
                step += g
                step *= lr
            else:
                step = velocity * lr
        p -= step
        new_params.append(p)
        new_velocities.append(velocity)
    return new_params, new_velocities if momentum else velocities


@_in_float32
def rmsprop_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    square_avgs: list[Array],
    momentum_buffers: list[Array] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> tuple[list[Array], list[Array], list[Array] | None]:
    """RMSprop (Hinton's lecture 6e); returns (params, square_avgs, momentum_buffers).

    ``square_avg = alpha * square_avg + (1 - alpha) * g**2``; the step is ``lr * g / (sqrt(square_avg) + eps)``, with
    momentum accumulated in a momentum_buffer; these may be None in the first step and stay None without momentum.
    """
    lr = _number(backend, lr)
    new_params, new_square_avgs, new_buffers = [], [], []
    for p, g, square_avg, buffer in zip(
        params, grads, square_avgs, momentum_buffers or [None] * len(params), strict=True
    ):
        g, _ = _decayed(p, g, weight_decay)
        square = g * g
        square *= 1 - alpha
        square_avg *= alpha
        square_avg += square
        scale = backend.xp.sqrt(square_avg)
        scale += eps
        step = g / scale
        if momentum:
            if buffer is None:
                buffer = step
            else:
                buffer *= momentum
                buffer += step
            step = buffer * lr
        else:
            step *= lr
        p -= step
        new_params.append(p)
        new_square_avgs.append(square_avg)
        new_buffers.append(buffer)
    return new_params, new_square_avgs, new_buffers if momentum else momentum_buffers


@_in_float32
def adam_steps(
    backend: Backend,
    params: list[Array],
    grads: list[Array],
    ms: list[Array],
    vs: list[Array],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Adam (Kingma, Ba 2015), or AdamW (Loshchilov, Hutter 2019) if decoupled; returns (params, ms, vs).

    ``step`` counts from one and corrects the bias of the averages: with ``m = beta1 * m + (1 - beta1) * g`` and
    ``v = beta2 * v + (1 - beta2) * g**2`` the parameter moves by
    ``lr / (1 - beta1**step) * m / (sqrt(v / (1 - beta2**step)) + eps)``. Decoupled weight decay shrinks the parameter
    by ``lr * weight_decay``; the other kind adds ``weight_decay * p`` to the gradient.

    A ``step`` that is an array is the number of the step before, and is counted up here.
    """
    if hasattr(step, "dtype"):
        step += 1
    step, lr = _number(backend, step), _number(backend, lr)
    new_params, new_ms, new_vs = [], [], []
    for p, g, m, v in zip(params, grads, ms, vs, strict=True):
        if decoupled:
            if weight_decay:
                p *= 1 - lr * weight_decay
        else:
            g, _ = _decayed(p, g, weight_decay)
        part = g * (1 - beta1)
        m *= beta1
        m += part
        part = g * g
        part *= 1 - beta2
        v *= beta2
        v += part
        scale = backend.xp.sqrt(v)
        scale *= 1 / math.sqrt(1 - beta2**step)
        scale += eps
        part = m / scale
        part *= lr / (1 - beta1**step)
        p -= part
        new_params.append(p)
        new_ms.append(m)
        new_vs.append(v)
    return new_params, new_ms, new_vs


def squared_norm(backend: Backend, grads: list[Array]) -> Array:
    """Sum of the squares of all numbers, without axes; of half precision, whose squares overflow at 256, in float32."""
    total = None
    for g in grads:
        values = backend.astype(g, backend.accumulator(g))
        part = backend.xp.sum(values * values)
        total = part if total is None else total + part
    return backend.asarray(total)


def clip_gradients(backend: Backend, grads: list[Array], square: Array, max_norm: float) -> tuple[list[Array], Array]:
    """Gradients scaled down together, without reading a value on the host; returns (fresh gradients, norm).

    The norm is the root of ``square``, without axes. Where ``max_norm / (norm + 1e-6)`` is below 1, the gradients are
    multiplied by it; they are left as they are also where the norm is not finite.
    """
    xp, wide = backend.xp, backend.accumulator(grads[0])
    norm = xp.sqrt(backend.astype(square, wide))
    scale = max_norm / (norm + 1e-6)
    scale = xp.where(xp.isfinite(norm) & (scale < 1), scale, xp.ones_like(scale))
    clipped = []
    for g in grads:
        # asarray, since NumPy makes a scalar of an array without axes
        scaled = backend.asarray(backend.astype(g, wide) * scale)
        clipped.append(backend.astype(scaled, g.dtype))
    return clipped, norm


def copy_tensors(backend: Backend, targets: list[Array], sources: list[Array]) -> list[Array]:
    """Copy each source into its target of the same shape and dtype, which can be assigned to; returns the targets."""
    for target, source in zip(targets, sources, strict=True):
        target[...] = source
    return targets
