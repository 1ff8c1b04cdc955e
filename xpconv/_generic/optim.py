"""One step of an optimizer on one parameter, by the formulas of PyTorch's optimizers.

The parameter and the state belong to the optimizer and are updated in place where the library can; the gradient is only
read. Callers must use what is returned: libraries whose arrays are constant (JAX) return new ones.
"""

from __future__ import annotations

import math

from ..backends.protocol import Array, Backend

__all__ = ["adam_step", "rmsprop_step", "sgd_step"]


def _decayed(p: Array, g: Array, weight_decay: float) -> tuple[Array, bool]:
    """``g + weight_decay * p`` and whether that is a fresh array, which may be overwritten."""
    if not weight_decay:
        return g, False
    total = p * weight_decay
    total += g
    return total, True


def sgd_step(
    backend: Backend,
    p: Array,
    g: Array,
    velocity: Array | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> tuple[Array, Array | None]:
    """Gradient descent with momentum; returns (p, velocity).

    ``velocity = momentum * velocity + (1 - dampening) * g``, and plainly g in the first step, where velocity is None;
    ``p = p - lr * velocity``, or with nesterov ``p - lr * (g + momentum * velocity)``. Velocity stays None without
    momentum.
    """
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
    return p, velocity


def rmsprop_step(
    backend: Backend,
    p: Array,
    g: Array,
    square_avg: Array,
    momentum_buffer: Array | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Array, Array, Array | None]:
    """RMSprop (Hinton's lecture 6e); returns (p, square_avg, momentum_buffer).

    ``square_avg = alpha * square_avg + (1 - alpha) * g**2``; the step is ``lr * g / (sqrt(square_avg) + eps)``, with
    momentum accumulated in momentum_buffer, which may be None in the first step and stays None without momentum.
    """
    g, _ = _decayed(p, g, weight_decay)
    square = g * g
    square *= 1 - alpha
    square_avg *= alpha
    square_avg += square
    scale = backend.xp.sqrt(square_avg)
    scale += eps
    step = g / scale
    if momentum:
        if momentum_buffer is None:
            momentum_buffer = step
        else:
            momentum_buffer *= momentum
            momentum_buffer += step
        step = momentum_buffer * lr
    else:
        step *= lr
    p -= step
    return p, square_avg, momentum_buffer


def adam_step(
    backend: Backend,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Array, Array, Array]:
    """Adam (Kingma, Ba 2015), or AdamW (Loshchilov, Hutter 2019) if decoupled; returns (p, m, v).

    ``step`` counts from one and corrects the bias of the averages: with ``m = beta1 * m + (1 - beta1) * g`` and
    ``v = beta2 * v + (1 - beta2) * g**2`` the parameter moves by
    ``lr / (1 - beta1**step) * m / (sqrt(v / (1 - beta2**step)) + eps)``. Decoupled weight decay shrinks the parameter
    by ``lr * weight_decay``; the other kind adds ``weight_decay * p`` to the gradient.
    """
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
    return p, m, v
