"""What is wrong is named, with what was given and what is taken."""

import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import xpconv
from xpconv import layers
from xpconv.sklearn import ConvNetClassifier, ConvNetRegressor
from xpconv.training import TrainingError

X, Y = np.arange(48.0).reshape(6, 2, 2, 2) % 7, np.arange(6) % 2

PARAMETERS = [
    ({"max_iter": 0}, ValueError, "max_iter: must be at least 1, got 0"),
    ({"max_iter": 2.5}, TypeError, "max_iter: expected an integer, got 2.5"),
    ({"n_iter_no_change": -1}, ValueError, "n_iter_no_change: must be at least 1, got -1"),
    ({"batch_size": "all"}, TypeError, "batch_size: expected an integer or 'auto', got 'all'"),
    ({"batch_size": 0}, ValueError, "batch_size: must be at least 1, got 0"),
    ({"learning_rate_init": 0}, ValueError, "learning_rate_init: expected a number above 0, got 0"),
    ({"learning_rate_init": "high"}, TypeError, "learning_rate_init: expected a number above 0, got 'high'"),
    ({"weight_decay": -1}, ValueError, "weight_decay: expected a number of at least 0, got -1"),
    ({"tol": None}, TypeError, "tol: expected a number of at least 0, got None"),
    ({"clip_norm": 0}, ValueError, "clip_norm: must be positive, got 0"),
    ({"early_stopping": 1}, TypeError, "early_stopping: expected True or False, got 1"),
    ({"validation_fraction": 1.0}, ValueError, "validation_fraction: must be below 1, got 1"),
    ({"validation_fraction": 0}, ValueError, "validation_fraction: expected a number above 0 and at most 1, got 0"),
    ({"standardize": "yes"}, TypeError, "standardize: expected True or False, got 'yes'"),
    ({"dtype": "float16"}, ValueError, "dtype: expected 'float32', 'float64' or None, got 'float16'"),
    ({"optimizer": "lbfgs"}, ValueError, "optimizer: expected one of adam, adamw, rmsprop, sgd or a callable, got 'l"),
    ({"optimizer": lambda p: p}, TypeError, "optimizer: expected a callable that returns an Optimizer, got [Param"),
    ({"backend": "abacus"}, ValueError, "backend: unknown 'abacus'; known are numpy"),
    ({"random_state": "seven"}, ValueError, "'seven' cannot be used to seed"),
    ({"image_shape": (3, 3)}, ValueError, "image_shape: (1, 3, 3) was given, but X has images of shape (2, 2, 2)"),
    ({"image_shape": 8}, TypeError, "image_shape: expected (C, H, W), (H, W) or None, got 8"),
    ({"image_shape": (2, 2, 0)}, ValueError, "image_shape: must be at least 1, got 0"),
    ({"model": "vgg-99"}, ValueError, "name: expected one of small-cnn"),
    ({"model": 7}, TypeError, "model: expected a Layer, a callable, a name or None, got 7"),
    ({"model": lambda *_: 7}, TypeError, "model: expected a callable that returns a Layer, but it returned 7"),
    ({"model": layers.ReLU()}, ValueError, "model: expected a network with parameters, got ReLU()"),
    ({"model": layers.Linear(8, 2)}, ValueError, "model: does not take images of shape (2, 2, 2): x: expected"),
    (
        {"model": layers.Sequential(layers.Flatten(), layers.Linear(8, 5))},
        ValueError,
        "model: expected a result of shape (2, {outputs}) for two images, a column for each class or target, got (2, ",
    ),
]


# no reprs of functions, whose addresses differ between processes
PARAMETER_IDS = [f"{next(iter(given))}-{k}" for k, (given, *_) in enumerate(PARAMETERS)]


@pytest.mark.parametrize(("parameters", "error", "message"), PARAMETERS, ids=PARAMETER_IDS)
def test_parameters(kind, parameters, error, message):
    message = message.replace("{outputs}", "2" if kind is ConvNetClassifier else "1")
    with pytest.raises(error, match=re.escape(message)):
        kind(**parameters).fit(X, Y)


def test_half_precision_models(kind):
    model = layers.Sequential(layers.Flatten(), layers.Linear(8, 2 if kind is ConvNetClassifier else 1)).to(
        dtype="float16"
    )
    with pytest.raises(ValueError, match="model: expected parameters of float32 or float64, got float16; dtype="):
        kind(model).fit(X, Y)
    kind(model, dtype="float32", max_iter=1).fit(X, Y)


IMAGES = [
    (X[:, None], ValueError, "X: expected (n, features), (n, H, W) or (n, C, H, W), got shape (6, 1, 2, 2, 2)"),
    (X[:, 0, 0, 0], ValueError, "Expected 2D array, got 1D array instead"),
    (X[:0], ValueError, "Found array with 0 sample(s)"),
    (X[:, :0], ValueError, "Found array with 0 feature(s)"),
    (np.where(X == 3, np.nan, X), ValueError, "Input X contains NaN"),
    (np.where(X == 3, np.inf, X), ValueError, "Input X contains infinity"),
    (np.where(X == 3, 1e300, X), ValueError, "X: its values are too large"),
    (X + 1j, ValueError, "Complex data not supported"),
    (X.astype(str), ValueError, "not compatible with arrays of bytes/strings"),
    (X.astype("M8[s]"), ValueError, "X: expected numbers, got datetime64[s]"),
    ([[1, 2], [3]], ValueError, "inhomogeneous"),
    ("images", ValueError, "Expected 2D array, got scalar array instead"),
    (None, ValueError, "Expected 2D array, got scalar array instead"),
    (X[:5], ValueError, "inconsistent numbers of samples"),
    (np.ma.masked_less(X, 3), TypeError, "X: expected an array without a mask; X.filled(...) makes one"),
]


@pytest.mark.parametrize(("x", "error", "message"), IMAGES, ids=range(len(IMAGES)))
def test_images(kind, x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kind(max_iter=1).fit(x, Y)


def test_sparse_images(kind):
    sparse = pytest.importorskip("scipy.sparse").csr_array(X.reshape(6, 8))
    net = kind(max_iter=1).fit(X, Y)
    for call in (lambda: net.fit(sparse, Y), lambda: kind().partial_fit(sparse, Y, **classes(kind))):
        with pytest.raises(TypeError, match="Sparse data was passed"):
            call()


def classes(kind):
    return {"classes": [0, 1]} if kind is ConvNetClassifier else {}


def test_objects_that_are_numbers(kind):
    net = kind(max_iter=1, random_state=0).fit(X.astype(object), Y)
    np.testing.assert_array_equal(net.predict(X.astype(object)), kind(max_iter=1, random_state=0).fit(X, Y).predict(X))


def test_prediction(kind):
    with pytest.raises(NotFittedError):
        kind().predict(X)
    net = kind(max_iter=1).fit(X, Y)
    for wrong, message in [
        (X[:, :1], "X: expected images of shape (2, 2, 2), as in fit, got (1, 2, 2)"),
        (X.reshape(6, 2, 4), "X: expected images of shape (2, 2, 2), as in fit, got (1, 2, 4)"),
        (X.reshape(6, 8)[:, :7], "X has 7 features, but Conv"),
        (X * np.nan, "Input X contains NaN"),
        (X * 1e60, "X: has values that are too large for float32"),
    ]:
        net32 = kind(max_iter=1, dtype="float32").fit(X, Y) if "float32" in message else net
        with pytest.raises(ValueError, match=re.escape(message)):
            net32.predict(wrong)
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        net.predict(X[:0])


def test_after_a_fit_that_failed_there_is_no_network(kind):
    net = kind(max_iter=1).fit(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        net.fit(X * np.nan, Y)
    with pytest.raises(NotFittedError):
        net.predict(X)


def test_a_part_that_failed_changes_nothing(kind):
    net = kind(random_state=0, dtype="float32").partial_fit(X, Y, **classes(kind))
    before = net.predict(X)
    for wrong in (X * np.nan, X[:, :1], X * 1e60):
        with pytest.raises((ValueError, TrainingError)):
            net.partial_fit(wrong, Y)
    np.testing.assert_array_equal(net.predict(X), before)


WEIGHTS = [
    ([1, 1, 1, 1, 1, -2], r"sample_weight: must not be negative, got -2\.0 at index 5"),
    ([0] * 6, "sample_weight: all are zero|at least one non-zero"),
    ([1, 1, 1, 1, 1, np.nan], "Input sample_weight contains NaN"),
    ([1] * 5, r"sample_weight\.shape == \(5,\), expected \(6,\)"),
    (np.ones((6, 2)), "1D"),
    ([1e308] * 6, "sample_weight: too large, their sum is beyond"),
]


@pytest.mark.parametrize(("weights", "message"), WEIGHTS, ids=range(len(WEIGHTS)))
def test_sample_weights(kind, weights, message):
    with pytest.raises(ValueError, match=message):
        kind(max_iter=1).fit(X, Y, sample_weight=weights)


LABELS = [
    (Y + 0.5, "Unknown label type: continuous"),
    (np.eye(6), "y should be a 1d array, got an array of shape (6, 6) instead"),
    ([0, 1, 0, 1, 0, np.nan], "Input y contains NaN"),
    (None, "requires y to be passed"),
    ([[0], [1], [0], [1], [0]], "inconsistent numbers of samples"),
]


@pytest.mark.parametrize(("labels", "message"), LABELS, ids=range(len(LABELS)))
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_labels(labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ConvNetClassifier(max_iter=1).fit(X, labels)


TARGETS = [
    (["a"] * 6, ValueError, "y: expected numbers, got <U1"),
    ([1.0, 2, 3, 4, 5, np.inf], ValueError, "Input y contains infinity"),
    ([1e308, -1e308] * 3, ValueError, "y: its values are too large"),
    (np.zeros((6, 1, 1)), ValueError, "Found array with dim 3"),
    (None, ValueError, "requires y to be passed"),
    (Y.astype("M8[s]"), ValueError, r"y: expected numbers, got datetime64\[s\]"),
    (np.ma.masked_equal(Y, 0), TypeError, "y: expected an array without a mask"),
]


@pytest.mark.parametrize(("y", "error", "message"), TARGETS, ids=range(len(TARGETS)))
def test_targets(y, error, message):
    with pytest.raises(error, match=message):
        ConvNetRegressor(max_iter=1).fit(X, y)


def test_sparse_targets(kind):
    sparse = pytest.importorskip("scipy.sparse").csr_array(np.eye(6))
    with pytest.raises(TypeError, match="y: expected a dense array, got csr_array"):
        kind(max_iter=1).fit(X, sparse)


def test_labels_of_two_kinds():
    with pytest.raises(TypeError, match="y: expected labels that can be sorted, all of one kind"):
        ConvNetClassifier(max_iter=1).fit(X, np.array(["a", 1] * 3, object))


def test_one_class():
    net = ConvNetClassifier(max_iter=1).fit(X, ["only"] * 6)
    assert list(net.predict(X)) == ["only"] * 6
    np.testing.assert_array_equal(net.predict_proba(X), np.ones((6, 1)))


CLASS_WEIGHTS = [
    ("even", "class_weight: expected a dict, 'balanced' or None, got 'even'"),
    ([1, 2], "class_weight: expected a dict, 'balanced' or None, got [1, 2]"),
    ({0: -1.0}, "class_weight: expected finite weights of at least 0, got {0: -1.0}"),
    ({0: 0, 1: 0}, "class_weight: leaves no example with a weight above 0"),
    ({0: 1e308, 1: 1e308}, "class_weight: too large"),
    ({"zero": 2}, "The classes, [0, 1], are not in class_weight"),
]


@pytest.mark.parametrize(("weights", "message"), CLASS_WEIGHTS, ids=range(len(CLASS_WEIGHTS)))
def test_class_weights(weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ConvNetClassifier(class_weight=weights, max_iter=1).fit(X, Y)


def test_parts():
    net = ConvNetClassifier(max_iter=1)
    with pytest.raises(ValueError, match="classes: must be passed on the first call to partial_fit"):
        net.partial_fit(X, Y)
    for wrong in (5, "ab", [], [[0], [1]], {0, 1}):
        with pytest.raises(ValueError, match="classes: expected an array of all labels, got"):
            net.partial_fit(X, Y, classes=wrong)
    with pytest.raises(ValueError, match=r"y: expected labels of the classes \[0 2\], got \[1\]"):
        net.partial_fit(X, Y, classes=[0, 2])
    with pytest.raises(ValueError, match="early_stopping: partial_fit does not support it"):
        ConvNetClassifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="class_weight: 'balanced' needs all examples at once"):
        ConvNetClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1])
    net.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes: expected \[0 1\], as in the first call, got \[0 1 2\]"):
        net.partial_fit(X, Y, classes=[0, 1, 2])
    numbers = ConvNetRegressor().partial_fit(X, Y)
    with pytest.raises(ValueError, match="y: expected 1 targets for each image, as before, got 2"):
        numbers.partial_fit(X, np.stack([Y, Y], axis=1))


def test_too_few_to_hold_out(kind):
    with pytest.raises(ValueError, match=r"validation_fraction: 0\.1 of 6 examples is fewer than 2|test_size = 1"):
        kind(early_stopping=True).fit(X, Y)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflow
def test_a_loss_that_is_not_finite():
    with pytest.raises(TrainingError, match=r"loss became .* try a smaller one"):
        ConvNetRegressor(optimizer="sgd", learning_rate_init=1e12, max_iter=50).fit(X, Y)


def test_arrays_of_another_library(kind):
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    array = xpconv.asarray(X, backend="array_api_strict:device1")
    with pytest.raises(TypeError, match="X: expected an array of NumPy, got array_api_strict"):
        kind(max_iter=1).fit(array, Y)
