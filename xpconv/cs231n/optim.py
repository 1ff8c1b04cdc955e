"""The course's update rules: ``next_w, config = rule(w, dw, config)``, with settings and state in the dictionary.

Missing settings get their defaults in the dictionary, which is returned and belongs to one parameter. Nothing but the
dictionary is modified.
"""

from __future__ import annotations

from ..backends import backend_of
from ..backends.protocol import Array
from ._arrays import on_its_device

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]

Config = dict


def _config(config: Config | None, w: Array, dw: Array, states: tuple[str, ...], **defaults: float) -> Config:
    """The dictionary with what was missing, states as zeros like w."""
    backend_of(w=w, dw=dw)
    if tuple(w.shape) != tuple(dw.shape):
        raise ValueError(f"dw: expected the shape of w, {tuple(w.shape)}, got {tuple(dw.shape)}")
    config = {} if config is None else config
    for name, value in defaults.items():
        config.setdefault(name, value)
    for name in states:
        if config.get(name) is None:
            config[name] = backend_of(w=w).xp.zeros_like(w)
    return config


def _number(config: Config, name: str) -> float:
    """A setting; a number of NumPy would promote float32."""
    return float(config[name])


@on_its_device
def sgd(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Gradient descent: ``w - learning_rate * dw``.

    config: ``learning_rate`` (1e-2).

    Parameters
    ----------
    w : array of any shape
        Parameters.
    dw : array like w
        Gradient of the loss to them.
    config : dict, optional
        Settings and state, see above; what is missing gets its first value, in this dictionary.

    Returns
    -------
    next_w : array like w
    config : dict
        For the next step.

    Raises
    ------
    TypeError, ValueError
        Settings that are no numbers; arrays of several backends, or of different shapes.
    """
    config = _config(config, w, dw, (), learning_rate=1e-2)
    return w - _number(config, "learning_rate") * dw, config


@on_its_device
def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Gradient descent with momentum: ``v = momentum * v - learning_rate * dw``, then ``w + v``.

    config: ``learning_rate`` (1e-2), ``momentum`` (0.9); state ``velocity``, the v.

    Parameters
    ----------
    w : array of any shape
        Parameters.
    dw : array like w
        Gradient of the loss to them.
    config : dict, optional
        Settings and state, see above; what is missing gets its first value, in this dictionary.

    Returns
    -------
    next_w : array like w
    config : dict
        For the next step.

    Raises
    ------
    TypeError, ValueError
        Settings that are no numbers; arrays of several backends, or of different shapes.
    """
    config = _config(config, w, dw, ("velocity",), learning_rate=1e-2, momentum=0.9)
    learning_rate, momentum = _number(config, "learning_rate"), _number(config, "momentum")
    config["velocity"] = momentum * config["velocity"] - learning_rate * dw
    return w + config["velocity"], config


@on_its_device
def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """RMSProp (Tieleman, Hinton 2012): steps divided by the root of a moving average of squared gradients.

    config: ``learning_rate`` (1e-2), ``decay_rate`` (0.99), ``epsilon`` (1e-8); state ``cache``, the average.

    Parameters
    ----------
    w : array of any shape
        Parameters.
    dw : array like w
        Gradient of the loss to them.
    config : dict, optional
        Settings and state, see above; what is missing gets its first value, in this dictionary.

    Returns
    -------
    next_w : array like w
    config : dict
        For the next step.

    Raises
    ------
    TypeError, ValueError
        Settings that are no numbers; arrays of several backends, or of different shapes.
    """
    config = _config(config, w, dw, ("cache",), learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    learning_rate, decay = _number(config, "learning_rate"), _number(config, "decay_rate")
    config["cache"] = decay * config["cache"] + (1 - decay) * dw * dw
    root = backend_of(w=w).xp.sqrt(config["cache"])
    return w - learning_rate * dw / (root + _number(config, "epsilon")), config


@on_its_device
def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Adam (Kingma, Ba 2015) with the full bias correction; t is counted up before it is used.

    config: ``learning_rate`` (1e-3), ``beta1`` (0.9), ``beta2`` (0.999), ``epsilon`` (1e-8); states ``m`` and ``v``,
    the moving averages of the gradient and of its square, and ``t`` (0), the number of steps.

    Parameters
    ----------
    w : array of any shape
        Parameters.
    dw : array like w
        Gradient of the loss to them.
    config : dict, optional
        Settings and state, see above; what is missing gets its first value, in this dictionary.

    Returns
    -------
    next_w : array like w
    config : dict
        For the next step.

    Raises
    ------
    TypeError, ValueError
        Settings that are no numbers; arrays of several backends, or of different shapes.
    """
    config = _config(config, w, dw, ("m", "v"), learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, t=0)
    learning_rate, beta1, beta2 = (_number(config, name) for name in ("learning_rate", "beta1", "beta2"))
    config["t"] += 1
    config["m"] = beta1 * config["m"] + (1 - beta1) * dw
    config["v"] = beta2 * config["v"] + (1 - beta2) * dw * dw
    mean = config["m"] / (1 - beta1 ** config["t"])
    root = backend_of(w=w).xp.sqrt(config["v"] / (1 - beta2 ** config["t"]))
    return w - learning_rate * mean / (root + _number(config, "epsilon")), config
