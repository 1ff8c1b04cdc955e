"""The optimizers, with PyTorch's meaning of every argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..backends import Backend, run
from ..backends.protocol import Array
from ..layers import Parameter
from .optimizers import AT_LEAST_ZERO, BETAS, FLAG, FRACTION, NUMBER, Kind, Optimizer

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


def _zeros(backend: Backend, like: Sequence[Array]) -> list[Array]:
    return [backend.zeros(array.shape, array.dtype) for array in like]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    ``v = momentum * v + (1 - dampening) * g`` (v = g in the first step) and ``p = p - lr * v``; with nesterov
    ``p = p - lr * (g + momentum * v)``. Here g is the gradient plus ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    momentum : float
        At least 0; 0 keeps no state.
    dampening : float
        0 with nesterov.
    weight_decay : float
        L2 penalty, at least 0.
    nesterov : bool
        Needs momentum.
    """

    _kinds: ClassVar[Mapping[str, Kind]] = {
        "lr": AT_LEAST_ZERO,
        "momentum": AT_LEAST_ZERO,
        "dampening": NUMBER,
        "weight_decay": AT_LEAST_ZERO,
        "nesterov": FLAG,
    }
    _operator = "sgd_steps"
    _sometimes = ("velocity",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "nesterov": nesterov})

    def _check_together(self, settings: Mapping[str, Any]) -> None:
        if settings["nesterov"] and (settings["momentum"] == 0 or settings["dampening"] != 0):
            raise ValueError(
                "nesterov: needs a momentum above 0 and no dampening, "
                f"got momentum {settings['momentum']} and dampening {settings['dampening']}"
            )

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, velocities = run(
            backend,
            self._operator,
            params,
            grads,
            arrays.get("velocity"),
            settings["lr"],
            settings["momentum"],
            settings["dampening"],
            settings["nesterov"],
            settings["weight_decay"],
        )
        return params, {"velocity": velocities}


class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradient (Hinton, Coursera lecture 6e, 2012).

    ``s = alpha * s + (1 - alpha) * g**2`` and ``p = p - lr * g / (sqrt(s) + eps)``; with momentum
    ``b = momentum * b + g / (sqrt(s) + eps)`` and ``p = p - lr * b``. Here g is the gradient plus ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    alpha : float
        Weight of the past in the mean, at least 0 and below 1.
    eps : float
        Added to the root, at least 0.
    weight_decay : float
        L2 penalty, at least 0.
    momentum : float
        At least 0.
    """

    _kinds: ClassVar[Mapping[str, Kind]] = {
        "lr": AT_LEAST_ZERO,
        "alpha": FRACTION,
        "eps": AT_LEAST_ZERO,
        "weight_decay": AT_LEAST_ZERO,
        "momentum": AT_LEAST_ZERO,
    }
    _operator = "rmsprop_steps"
    _always = ("square_avg",)
    _sometimes = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, square_avgs, buffers = run(
            backend,
            self._operator,
            params,
            grads,
            arrays["square_avg"] if arrays else _zeros(backend, params),
            arrays.get("momentum_buffer"),
            settings["lr"],
            settings["alpha"],
            settings["eps"],
            settings["momentum"],
            settings["weight_decay"],
        )
        return params, {"square_avg": square_avgs, "momentum_buffer": buffers}


class Adam(Optimizer):
    """Adam (Kingma, Ba 2015, arXiv:1412.6980).

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2`` and, t being the number of the step,
    ``p = p - lr * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)``. Here g is the gradient plus
    ``weight_decay * p``.

    Parameters
    ----------
    params : iterable of Parameter, or of dicts
        See `Optimizer`.
    lr : float
        Learning rate.
    betas : pair of float
        Weights of the past in the means, each at least 0 and below 1.
    eps : float
        Added to the root, at least 0.
    weight_decay : float
        L2 penalty, at least 0.
    """

    _kinds: ClassVar[Mapping[str, Kind]] = {
        "lr": AT_LEAST_ZERO,
        "betas": BETAS,
        "eps": AT_LEAST_ZERO,
        "weight_decay": AT_LEAST_ZERO,
    }
    _operator = "adam_steps"
    _always = ("m", "v")
    _decoupled = False

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(
        self,
        backend: Backend,
        params: list[Array],
        grads: list[Array],
        settings: dict[str, Any],
        arrays: dict[str, list[Array]],
        step: int,
    ) -> tuple[list[Array], dict[str, list[Array] | None]]:
        params, ms, vs = run(
            backend,
            self._operator,
            params,
            grads,
            arrays["m"] if arrays else _zeros(backend, params),
            arrays["v"] if arrays else _zeros(backend, params),
            step,
            settings["lr"],
            *settings["betas"],
            settings["eps"],
            settings["weight_decay"],
            self._decoupled,
        )
        return params, {"m": ms, "v": vs}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019, arXiv:1711.05101).

    As `Adam`, but the gradient stays as it is and ``p`` is first multiplied by ``1 - lr * weight_decay``.

    Parameters
    ----------
    params, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Decay of the parameters, at least 0.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
