"""What scikit-learn has for estimators works with these: pipelines, searches, cross-validation, pickles."""

import io
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import get_tags

import xpconv
from xpconv import layers
from xpconv.sklearn import ConvNetClassifier, ConvNetRegressor

QUICK = {"max_iter": 4, "learning_rate_init": 0.01, "random_state": 0}


def test_pipeline(digits):
    x, y = digits[0].reshape(-1, 64), digits[1]
    line = make_pipeline(StandardScaler(), PCA(49, random_state=0), ConvNetClassifier(**QUICK)).fit(x[:300], y[:300])
    assert line[-1].image_shape_ == (1, 7, 7)
    assert line.score(x[300:], y[300:]) > 0.3
    images = make_pipeline(FunctionTransformer(lambda v: v[:, None]), ConvNetClassifier(**QUICK))
    images.fit(digits[0][:100], y[:100], convnetclassifier__sample_weight=np.ones(100))
    assert images[-1].image_shape_ == (1, 8, 8)


def test_grid_search_over_images_and_models(digits):
    x, y = digits[0][:150, None], digits[1][:150]
    grid = {"model": [None, "fully-connected"], "learning_rate_init": [1e-6, 0.01]}
    search = GridSearchCV(ConvNetClassifier(**QUICK), grid, cv=2).fit(x, y)
    assert search.best_params_["learning_rate_init"] == 0.01
    assert search.best_estimator_.image_shape_ == (1, 8, 8)
    assert search.predict(x).shape == (150,)


@pytest.mark.filterwarnings("default")  # of joblib's processes
def test_cross_validation_in_two_processes(digits):
    x, y = digits[0][:120], digits[1][:120]
    net = ConvNetClassifier(**QUICK)
    scores = cross_val_score(net, x, y, cv=3, n_jobs=2)
    np.testing.assert_array_equal(scores, cross_val_score(net, x, y, cv=3))
    assert scores.mean() > 0.4
    numbers = cross_val_predict(ConvNetRegressor(**QUICK), x, np.stack([y, -y], axis=1), cv=2)
    assert numbers.shape == (120, 2)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(digits, method):
    x, y = digits[0][:300], digits[1][:300] % 3
    net = CalibratedClassifierCV(ConvNetClassifier(**QUICK), cv=2, method=method).fit(x, y)
    assert log_loss(y, net.predict_proba(x)) < 0.8
    assert net.score(x, y) > 0.7


def test_voting(digits):
    x, y = digits[0][:200], digits[1][:200]
    nets = [(str(seed), ConvNetClassifier(max_iter=4, learning_rate_init=0.01, random_state=seed)) for seed in (0, 1)]
    assert VotingClassifier(nets, voting="soft").fit(x, y).score(x, y) > 0.6


def test_clone(images, kind):
    x, y = images
    model = layers.Sequential(layers.Flatten(), layers.Linear(40, 3 if kind is ConvNetClassifier else 1, rng=0))
    net = kind(model, max_iter=2, random_state=0).fit(x, y)
    copied = clone(net)
    assert not hasattr(copied, "model_")
    assert copied.model is not model
    assert {k: v for k, v in copied.get_params().items() if k != "model"} == {
        k: v for k, v in net.get_params().items() if k != "model"
    }
    np.testing.assert_array_equal(copied.fit(x, y).predict(x), net.predict(x))


def test_tags():
    classifier, regressor = get_tags(ConvNetClassifier()), get_tags(ConvNetRegressor())
    assert is_classifier(ConvNetClassifier())
    assert is_regressor(ConvNetRegressor())
    assert classifier.input_tags.three_d_array
    assert not classifier.input_tags.sparse
    assert not classifier.input_tags.allow_nan
    assert classifier.target_tags.required
    assert not classifier.target_tags.multi_output
    assert regressor.target_tags.multi_output


def test_names_of_features(digits):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    x, y = digits[0][:50].reshape(50, 64), digits[1][:50]
    names = [f"pixel {i}" for i in range(64)]
    net = ConvNetClassifier(max_iter=1, random_state=0).fit(pandas.DataFrame(x, columns=names), y)
    assert list(net.feature_names_in_) == names
    with pytest.raises(ValueError, match="feature names"):
        net.predict(pandas.DataFrame(x, columns=names[::-1]))


# ---- backends and pickles -----------------------------------------------------------------------------------


class NumPyOnly(pickle.Unpickler):
    """Refuses everything of an array library other than NumPy."""

    def find_class(self, module, name):
        assert module.partition(".")[0] in {"numpy", "xpconv", "builtins", "copyreg", "collections"}, (module, name)
        return super().find_class(module, name)


def test_every_backend_gives_the_same_and_its_pickles_are_numpy(on, kind, images, sparing):
    sparing(kind is ConvNetClassifier)
    x, y = images[0].astype(np.float32), images[1]
    outputs = 3 if kind is ConvNetClassifier else 1
    with xpconv.use_backend("numpy"):
        linear = layers.Sequential(layers.Flatten(), layers.Linear(40, outputs, rng=0))
    compiles = on.backend in ("jax", "cuda-host")  # each new operator, for seconds
    # float64 where it can be had: in float32 the rounding of some steps grows to what the bounds do not hold
    dtype = "float32" if compiles else "float64"
    settings = {"max_iter": 3, "learning_rate_init": 0.01, "random_state": 0, "dtype": dtype}
    net = kind(linear if compiles else None, backend=on.backend, **settings).fit(x, y)
    with xpconv.use_backend("numpy"):
        here = kind(net.model, **settings).fit(x, y)
    assert type(on.asarray(x)) is type(next(net.model_.parameters()).data)
    np.testing.assert_allclose(net.predict(x), here.predict(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.loss_curve_, here.loss_curve_, rtol=1e-4)

    loaded = NumPyOnly(io.BytesIO(pickle.dumps(net))).load()
    assert isinstance(next(loaded.model_.parameters()).data, np.ndarray)
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))  # moved back to its backend
    assert type(next(loaded.model_.parameters()).data) is type(on.asarray(x))
    moved = NumPyOnly(io.BytesIO(pickle.dumps(net))).load().set_params(backend="numpy")
    np.testing.assert_allclose(moved.predict(x), net.predict(x), rtol=1e-4, atol=1e-4)


def test_a_model_of_another_backend(images):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, y = images
    with xpconv.use_backend("torch"):
        model = layers.Sequential(layers.Flatten(), layers.Linear(40, 3, rng=0))
    model[1].weight.grad = torch.ones((3, 40))
    net = NumPyOnly(io.BytesIO(pickle.dumps(ConvNetClassifier(model, backend="torch")))).load()
    assert isinstance(net.model[1].weight.data, np.ndarray)
    assert net.model[1].weight.grad is None
    assert isinstance(model[1].weight.data, torch.Tensor)  # the original is what it was
    fitted = ConvNetClassifier(model, backend="numpy", max_iter=1).fit(x, y)
    assert isinstance(fitted.model_[1].weight.data, np.ndarray)
    assert model[1].weight.grad is not None


def test_joblib(images, tmp_path, kind):
    x, y = images
    net = kind(max_iter=2, random_state=0).fit(x, y)
    joblib.dump(net, tmp_path / "net.joblib")
    loaded = joblib.load(tmp_path / "net.joblib")
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))
    mapped = joblib.load(tmp_path / "net.joblib", mmap_mode="r")  # arrays that cannot be written to
    np.testing.assert_array_equal(mapped.predict(x), net.predict(x))
    assert mapped.partial_fit(x, y).n_iter_ == 3


def test_a_pickle_keeps_no_optimizer_and_no_gradients_after_fit(images):
    x, y = images
    net = ConvNetClassifier("fully-connected", max_iter=1).fit(x, y)
    size = sum(parameter.size for parameter in net.model_.parameters()) * 8
    assert size < len(pickle.dumps(net)) < 1.2 * size


# ---- without scikit-learn -----------------------------------------------------------------------------------


def test_without_scikit_learn_the_message_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import xpconv; xpconv.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == (
        "xpconv._extras.MissingExtraError: the estimators of xpconv.sklearn need the package scikit-learn, "
        'which is not installed: pip install "xpconv[sklearn]"'
    )
