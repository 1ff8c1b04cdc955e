"""What becomes an image of which shape, and how it is standardised."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from xpconv.sklearn import _images
from xpconv.sklearn._images import Standardizer, as_rows, choose_shape


@pytest.mark.parametrize(
    ("features", "shape"), [(1, (1, 1, 1)), (2, (1, 1, 2)), (4, (1, 2, 2)), (63, (1, 1, 63)), (784, (1, 28, 28))]
)
def test_rows_without_a_shape(features, shape):
    assert choose_shape(features, None, None) == shape


def test_given_shapes():
    assert choose_shape(12, None, (3, 4)) == (1, 3, 4)
    assert choose_shape(12, None, [3, 2, 2]) == (3, 2, 2)
    assert choose_shape(16, (4, 2, 2), None) == (4, 2, 2)
    assert choose_shape(16, (4, 2, 2), (4, 2, 2)) == (4, 2, 2)


def test_rows_keep_the_order_of_the_numbers(rng):
    x = rng.normal(size=(3, 2, 4, 5))
    for values in (x, np.asfortranarray(x), x.tolist()):
        rows, shape = as_rows(values)
        assert shape == (2, 4, 5)
        np.testing.assert_array_equal(rows[1], x[1].ravel())
    rows, shape = as_rows(x[:, 0])
    assert shape == (1, 4, 5)
    assert rows.shape == (3, 20)
    assert as_rows(x[0, 0])[1] is None
    assert as_rows(np.zeros((0, 2, 4, 5)))[0].shape == (0, 40)


def test_standardisation_is_that_of_scikit_learn(rng, monkeypatch):
    monkeypatch.setattr(_images, "_NUMBERS_AT_ONCE", 100)  # several parts
    x = rng.normal(3.0, 5.0, size=(40, 3, 6))
    weights = rng.integers(1, 4, size=40)
    found = Standardizer.of(x, weights.astype(float), "X")
    for channel in range(3):
        scaler = StandardScaler().fit(x[:, channel].reshape(-1, 1), sample_weight=np.repeat(weights, 6))
        assert found.mean[channel] == pytest.approx(scaler.mean_[0], rel=1e-12)
        assert found.scale[channel] == pytest.approx(scaler.scale_[0], rel=1e-12)
        expected = scaler.transform(x[:, channel].reshape(-1, 1)).reshape(40, 6)
        np.testing.assert_allclose(found.apply(x, "float64", "X")[:, channel], expected, rtol=1e-12)
    assert found.apply(x, "float32", "X").dtype == np.float32
    np.testing.assert_allclose(found.invert(found.apply(x, "float64", "X")[:, :, 0]), x[:, :, 0], rtol=1e-12)


def test_a_constant_channel_and_tiny_numbers(rng):
    x = np.concatenate([np.full((5, 1, 4), 0.1), 1e-30 * rng.normal(size=(5, 1, 4))], axis=1)
    values = Standardizer.of(x, np.ones(5), "X").apply(x, "float32", "X")
    np.testing.assert_allclose(values[:, 0], 0, atol=1e-12)
    assert values[:, 1].std() == pytest.approx(1, rel=1e-5)


def test_bytes_are_numbers(rng):
    x = rng.integers(0, 256, size=(10, 1, 9), dtype=np.uint8)
    found = Standardizer.of(x, np.ones(10), "X")
    assert found.mean[0] == pytest.approx(x.mean())
    assert found.scale[0] == pytest.approx(x.std())
