"""The losses with weights are what PyTorch computes without, example by example."""

import numpy as np
import pytest

import xpconv
from xpconv.functional import softmax_cross_entropy
from xpconv.sklearn._losses import weighted_squared_error


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy(on, rng, scale):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    labels, weights = np.array([0, 3, 1, 1, 2]), np.array([1.0, 0.5, 0.0, 3.0, 2.0])
    for dtype in on.dtypes:
        values = (scale * rng.normal(size=(5, 4))).astype(dtype)
        rows = np.zeros((5, 4), dtype)
        rows[np.arange(5), labels] = weights
        loss, dscores = softmax_cross_entropy(on.asarray(values), on.asarray(rows))
        scores = torch.tensor(values.astype(np.float64), requires_grad=True)
        each = torch.nn.functional.cross_entropy(scores, torch.tensor(labels), reduction="none")
        expected = (each * torch.tensor(weights)).mean()
        expected.backward()
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        assert float(xpconv.to_numpy(loss)) == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(on.to_numpy(dscores), scores.grad.numpy(), rtol=0, atol=tolerance)
        assert on.to_numpy(dscores).dtype == dtype


def test_squared_error(on, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    weights = np.array([1.0, 0.5, 0.0, 3.0])
    for dtype in on.dtypes:
        values, targets = rng.normal(size=(2, 4, 3)).astype(dtype)
        rows = np.concatenate([targets, weights[:, None]], axis=1).astype(dtype)
        loss, dpred = weighted_squared_error(on.asarray(values), on.asarray(rows))
        pred = torch.tensor(values.astype(np.float64), requires_grad=True)
        each = torch.nn.functional.mse_loss(pred, torch.tensor(targets.astype(np.float64)), reduction="none")
        expected = (each * torch.tensor(weights)[:, None]).mean()
        expected.backward()
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        assert float(xpconv.to_numpy(loss)) == pytest.approx(expected.item(), rel=tolerance)
        np.testing.assert_allclose(on.to_numpy(dpred), pred.grad.numpy(), rtol=0, atol=tolerance)
        assert on.to_numpy(dpred).dtype == dtype
