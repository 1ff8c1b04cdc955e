"""How much Python runs around a kernel: function calls are counted, which no load of the machine changes.

A call takes about 0.1 to 0.3 microseconds, so 40 of them are some 10. More than here means that something is computed
again in each call that a table should know.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv.backends import load_backend

if not load_backend("numpy").engines:
    pytest.skip("xpconv was built without kernels", allow_module_level=True)

_PACKAGE = Path(xpconv.__file__).parent


def python_calls(function):
    """Calls of Python functions outside of the kernels' own modules, by name; the second time around."""
    function()
    calls = Counter()

    def count(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and _PACKAGE in path.parents and _PACKAGE / "_cpu" not in path.parents:
            calls[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def _arrays():
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((2, 3, 4, 4), dtype=np.float32),
        "w": rng.standard_normal((3, 3, 1, 1), dtype=np.float32),
        "b": np.zeros(3, np.float32),
        "rows": rng.standard_normal((2, 8), dtype=np.float32),
        "matrix": rng.standard_normal((4, 8), dtype=np.float32),
        "bias": np.zeros(4, np.float32),
    }


def _batch_norm(a, training):
    return F.batch_norm_relu(a["x"], a["b"], a["b"], a["b"], a["b"] + 1, residual=a["x"], training=training)


# forward, backward of (dy, cache), and the most calls that each may make
CASES = {
    "conv2d": (lambda a: F.conv2d(a["x"], a["w"], a["b"]), F.conv2d_backward, 40, 28),
    "conv2d, pairs": (
        lambda a: F.conv2d(a["x"], a["w"], stride=(1, 1), padding=(1, 1), dilation=(1, 1)),
        F.conv2d_backward,
        40,
        28,
    ),
    "relu": (lambda a: F.relu(a["x"]), F.relu_backward, 20, 20),
    "max_pool2d": (lambda a: F.max_pool2d(a["x"], 2), F.max_pool2d_backward, 32, 28),
    "avg_pool2d": (lambda a: F.avg_pool2d(a["x"], 2), F.avg_pool2d_backward, 32, 28),
    "batch_norm_relu": (lambda a: _batch_norm(a, True), F.batch_norm_relu_backward, 78, 62),
    "batch_norm_relu, evaluation": (lambda a: _batch_norm(a, False), F.batch_norm_relu_backward, 66, 62),
    "linear": (lambda a: F.linear(a["rows"], a["matrix"], a["bias"]), F.linear_backward, 42, 46),
}


@pytest.mark.parametrize("name", CASES)
def test_calls_of_python_functions(name):
    forward, backward, most_forward, most_backward = CASES[name]
    arrays = _arrays()
    y, cache = forward(arrays)
    calls = python_calls(lambda: forward(arrays))
    assert 0 < calls.total() <= most_forward, calls
    calls = python_calls(lambda: backward(y, cache))
    assert 0 < calls.total() <= most_backward, calls


def test_geometries_are_looked_up(monkeypatch):
    """Sizes are computed for the first call with some shapes, and no more."""
    arrays = _arrays()
    for forward in (CASES["conv2d"][0], CASES["max_pool2d"][0]):
        forward(arrays)
    monkeypatch.setattr(xpconv._geometry, "_window", None)  # calling it would fail
    for forward in (CASES["conv2d"][0], CASES["max_pool2d"][0]):
        forward(arrays)
