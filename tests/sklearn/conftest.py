"""Small problems, and estimators that train on them in a moment."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from xpconv import layers
from xpconv.sklearn import ConvNetClassifier, ConvNetRegressor


@pytest.fixture(scope="session")
def digits():
    """The first 600 digits: images (600, 8, 8) and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images[:600], data.target[:600]


@pytest.fixture
def images(rng):
    """Images (24, 2, 5, 4) of three classes, and their labels."""
    labels = np.arange(24) % 3
    return rng.normal(size=(24, 2, 5, 4)) + labels[:, None, None, None], labels


def linear_model(image_shape, outputs, rng):
    """A network that mixes no examples and whose training is easily written down."""
    size = int(np.prod(image_shape))
    return layers.Sequential(layers.Flatten(), layers.Linear(size, outputs, rng=rng, dtype="float64"))


@pytest.fixture
def linear():
    return linear_model


@pytest.fixture(params=[ConvNetClassifier, ConvNetRegressor])
def kind(request):
    return request.param
