"""``sgd_momentum``, ``rmsprop`` and ``adam``: state in ``config``, and ``(next_w, config)`` returned by all."""

import numpy as np
import pytest

import xpconv
from xpconv.cs231n import optim

STEPS = 4


def sgd_momentum(w, dw, state):
    state["v"] = 0.9 * state.get("v", 0.0) - 0.01 * dw
    return w + state["v"]


def rmsprop(w, dw, state):
    state["cache"] = 0.99 * state.get("cache", 0.0) + 0.01 * dw**2
    return w - 0.01 * dw / (np.sqrt(state["cache"]) + 1e-8)


def adam(w, dw, state):
    state["t"] = t = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * dw
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * dw**2
    return w - 0.001 * (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-8)


RULES = {"sgd_momentum": (sgd_momentum, 0.01), "rmsprop": (rmsprop, 0.01), "adam": (adam, 0.001)}


@pytest.mark.parametrize("name", RULES)
def test_steps_follow_the_formula_and_keep_their_state(on, close, rng, name):
    formula, learning_rate = RULES[name]
    w, gradients = rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4))
    dtype = on.dtypes[-1]
    here, config = on.asarray(w, dtype), {"learning_rate": learning_rate}
    state = {}
    for dw in gradients:
        w = formula(w, dw, state)
        here, config = getattr(optim, name)(here, on.asarray(dw, dtype), config)
        close(here, w)
    kept = {"sgd_momentum": ("velocity",), "rmsprop": ("cache",), "adam": ("m", "v", "t")}[name]
    assert set(kept) <= set(config)
    if name == "adam":
        assert config["t"] == STEPS


@pytest.mark.parametrize("name", RULES)
def test_the_optimizers_of_xpconv_take_the_same_steps(on, close, rng, name):
    formula, learning_rate = RULES[name]
    w, gradients = rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4))
    dtype = on.dtypes[-1]
    parameter = xpconv.Parameter(on.asarray(w, dtype))
    optimizer = {
        "sgd_momentum": lambda p: xpconv.optim.SGD(p, lr=learning_rate, momentum=0.9),
        "rmsprop": lambda p: xpconv.optim.RMSprop(p, lr=learning_rate, alpha=0.99, eps=1e-8),
        "adam": lambda p: xpconv.optim.Adam(p, lr=learning_rate),
    }[name]([parameter])
    state = {}
    for dw in gradients:
        w = formula(w, dw, state)
        parameter.grad = on.asarray(dw, dtype)
        optimizer.step()
        close(parameter.data, w)
