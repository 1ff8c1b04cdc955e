"""The parity promise: the same model, seed and batches give the same losses on every backend, to rounding."""

import numpy as np
import pytest

from xpconv import models
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import SGD, AdamW, OneCycleSchedule, clip_grad_norm
from xpconv.testing import CASES

STEPS = 10


def batches(dtype):
    """Images of three classes, each a blurred stripe somewhere, so that there is something to learn."""
    rng = np.random.default_rng(5)
    for _ in range(STEPS):
        labels = rng.integers(3, size=16)
        images = rng.normal(size=(16, 1, 12, 12)) * 0.5
        images[np.arange(16), 0, 2 + 3 * labels] += 2.0
        yield images.astype(dtype), labels


def losses(case, kind, dtype):
    with case.active() as backend:
        if kind == "small-cnn":
            model = models.SmallConvNet(1, 12, 3, width=4, rng=0, dtype=dtype)
            optimizer = AdamW(model.parameters(), lr=0.01)
        else:
            model = models.FullyConnectedNet([12, 8], 144, 3, normalization=kind, dropout=0.2, rng=0, dtype=dtype)
            optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
        schedule = OneCycleSchedule(optimizer.lr, STEPS)
        found = []
        for step, (images, labels) in enumerate(batches(dtype)):
            model.begin_step(step, seed=7)
            optimizer.lr = schedule(step)
            optimizer.zero_grad()
            scores = model(case.asarray(images))
            loss, dscores = softmax_cross_entropy(scores, backend.asarray(labels))
            model.backward(dscores)
            clip_grad_norm(model.parameters(), 5.0)
            optimizer.step()
            found.append(float(loss))
        model.eval()
        found.extend(case.to_numpy(model(case.asarray(images))).ravel().tolist())
    return np.array(found)


_reference: dict[tuple[str, str], np.ndarray] = {}


def reference(kind, dtype):
    if (kind, dtype) not in _reference:
        _reference[kind, dtype] = losses(CASES[0], kind, dtype)
    return _reference[kind, dtype]


@pytest.mark.parametrize("kind", ["small-cnn", "batchnorm", "layernorm"])
def test_ten_steps_agree(on, kind):
    if on.id == "jax" and kind != "batchnorm":
        pytest.skip("JAX compiles every shape anew, which takes long: one network is enough")
    for dtype in on.dtypes:
        want, got = reference(kind, dtype), losses(on, kind, dtype)
        tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
        np.testing.assert_allclose(got[:STEPS], want[:STEPS], rtol=tolerance)
        np.testing.assert_allclose(got[STEPS:], want[STEPS:], rtol=100 * tolerance, atol=100 * tolerance)


def test_it_learns():
    for kind in ("small-cnn", "batchnorm", "layernorm"):
        curve = reference(kind, "float32")[:STEPS]
        assert curve[-3:].mean() < 0.7 * curve[:3].mean(), kind
