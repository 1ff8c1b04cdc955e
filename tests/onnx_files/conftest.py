"""Fixtures of the tests of ONNX files: onnxruntime is the judge.

The folder is not named `onnx`: pytest, run from within `tests`, would take it for the package of that name.
"""

import numpy as np
import pytest

from xpconv import layers


def _run(path, x, **providers):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is the oracle of ONNX files")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.fixture
def run_file():
    """``run_file(path, x)`` is what onnxruntime makes of ``x``."""
    return _run


@pytest.fixture
def randomised(rng):
    """``randomised(model)`` gives it parameters and statistics that are nothing special."""

    def fill(model):
        state = {}
        for name, values in model.state_dict().items():
            if name.endswith("running_var"):
                fresh = rng.uniform(0.5, 2, values.shape)
            elif values.dtype.kind == "f":
                fan = max(1, int(np.prod(values.shape[1:])))
                fresh = rng.normal(0.3 if values.ndim == 1 else 0, 1 / np.sqrt(fan), values.shape)
            else:
                continue
            state[name] = fresh.astype(values.dtype)
        model.load_state_dict(state, strict=False)
        return model

    return fill


class Gate(layers.Layer):
    """Computes something of its own, which no layer of xpconv does."""

    def __init__(self):
        self.inner = layers.ReLU()

    def forward(self, x):
        return self.inner(x) * 2

    def backward(self, dy):
        return self.inner.backward(2 * dy)


@pytest.fixture
def foreign_layer():
    """A layer that ONNX cannot know."""
    return Gate()
