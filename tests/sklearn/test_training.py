"""Training: against loops written by hand, what weights do, when it stops, and what it leaves behind."""

import pickle

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split

from xpconv import layers, models, optim
from xpconv.sklearn import ConvNetClassifier, ConvNetRegressor

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate_init": 0.1, "standardize": False}


def first_weights(linear, seed, image_shape, outputs):
    """The weights that an estimator starts with, by the first number that its random state gives."""
    rng = np.random.default_rng(np.random.RandomState(seed).randint(2**31 - 1))
    layer = linear(image_shape, outputs, rng)
    return layer.state_dict()["1.weight"].copy(), layer.state_dict()["1.bias"].copy()


def test_classifier_as_a_loop(images, linear, rng):
    x, labels = images
    weights = rng.uniform(0.5, 2.0, size=24)
    net = ConvNetClassifier(linear, max_iter=7, n_iter_no_change=100, random_state=3, **PLAIN)
    net.fit(x, labels, sample_weight=weights)

    w, b = first_weights(linear, 3, (2, 5, 4), 3)
    rows, share = x.reshape(24, -1), weights / weights.sum()
    losses = []
    for _ in range(7):
        scores = rows @ w.T + b
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        losses.append(-(share * np.log(p[np.arange(24), labels])).sum())
        p[np.arange(24), labels] -= 1
        d = p * share[:, None]
        w, b = w - 0.1 * d.T @ rows, b - 0.1 * d.sum(axis=0)
    np.testing.assert_allclose(net.model_.state_dict()["1.weight"], w, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(net.model_.state_dict()["1.bias"], b, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(net.loss_curve_, losses, rtol=1e-10)
    scores = rows @ w.T + b
    np.testing.assert_allclose(
        net.predict_proba(x), np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), rtol=1e-10
    )
    np.testing.assert_array_equal(net.predict(x), scores.argmax(axis=1))
    assert net.score(x, labels) == accuracy_score(labels, scores.argmax(axis=1))


@pytest.mark.parametrize("targets", [(), (2,)])
def test_regressor_as_a_loop(images, linear, rng, targets):
    x, _ = images
    y, weights = rng.normal(100, 20, size=(24, *targets)), rng.uniform(0.5, 2.0, size=24)
    settings = PLAIN | {"standardize": True, "learning_rate_init": 0.01}
    net = ConvNetRegressor(linear, max_iter=7, n_iter_no_change=100, random_state=3, **settings)
    net.fit(x, y, sample_weight=weights)

    outputs = targets[0] if targets else 1
    w, b = first_weights(linear, 3, (2, 5, 4), outputs)
    share = weights / weights.sum()

    def standard(values, axes):
        mean = np.average(values, axis=0, weights=share).mean(axis=axes, keepdims=True)
        variance = np.average((values - mean) ** 2, axis=0, weights=share).mean(axis=axes, keepdims=True)
        return (values - mean) / np.sqrt(variance), mean, np.sqrt(variance)

    rows = standard(x, (1, 2))[0].reshape(24, -1)
    wanted, mean, scale = standard(y.reshape(24, outputs), ())
    for _ in range(7):
        d = 2 * (rows @ w.T + b - wanted) * share[:, None] / outputs
        w, b = w - 0.01 * d.T @ rows, b - 0.01 * d.sum(axis=0)
    expected = (rows @ w.T + b) * scale + mean
    np.testing.assert_allclose(net.predict(x), expected.reshape(y.shape), rtol=1e-10)
    assert net.predict(x).shape == y.shape
    assert net.score(x, y) == pytest.approx(r2_score(y, expected.reshape(y.shape)), rel=1e-9)
    assert net.n_outputs_ == outputs


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_weight_is_so_many_examples(kind, images, rng, dtype):
    x, y = images
    weights = rng.integers(0, 4, size=24)
    assert 0 in weights
    settings = {"max_iter": 8, "random_state": 0, "dtype": dtype, "batch_size": 100}
    weighted = kind(**settings).fit(x, y, sample_weight=weights)
    repeated = kind(**settings).fit(x.repeat(weights, axis=0), y.repeat(weights))
    plain = kind(**settings).fit(x, y)
    method = "predict_proba" if kind is ConvNetClassifier else "predict"
    results = [getattr(net, method)(x) for net in (weighted, repeated, plain)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-8 if dtype == "float64" else 1e-3)
    assert np.abs(results[0] - results[2]).max() > 0.01  # and they do have an effect
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9 if dtype == "float64" else 1e-4)


def test_equal_weights_are_none(kind, images):
    x, y = images
    nets = [kind(max_iter=3, random_state=0).fit(x, y, sample_weight=w) for w in (None, np.ones(24), 8.0)]
    for net in nets[1:]:
        np.testing.assert_array_equal(net.predict(x), nets[0].predict(x))


def test_class_weights_are_sample_weights(images):
    x, labels = images
    names = np.array(["cat", "dog", "emu"])[labels][:20]
    x, sample_weight = x[:20], 1.0 + np.arange(20) % 2
    settings = {"max_iter": 5, "random_state": 0}
    factors = {"cat": 0.5, "emu": 3.0}
    by_class = ConvNetClassifier(class_weight=factors, **settings).fit(x, names, sample_weight=sample_weight)
    by_sample = ConvNetClassifier(**settings).fit(
        x, names, sample_weight=sample_weight * np.array([factors.get(name, 1.0) for name in names])
    )
    np.testing.assert_allclose(by_class.predict_proba(x), by_sample.predict_proba(x), rtol=1e-9)
    balanced = ConvNetClassifier(class_weight="balanced", **settings).fit(x, names, sample_weight=sample_weight)
    sums = {name: sample_weight[names == name].sum() for name in ("cat", "dog", "emu")}
    assert len(set(sums.values())) > 1
    by_sample = ConvNetClassifier(**settings).fit(
        x, names, sample_weight=[weight / sums[name] for name, weight in zip(names, sample_weight, strict=True)]
    )
    np.testing.assert_allclose(balanced.predict_proba(x), by_sample.predict_proba(x), rtol=1e-9)
    assert list(balanced.classes_) == ["cat", "dog", "emu"]
    assert set(balanced.predict(x)) <= {"cat", "dog", "emu"}


def test_all_forms_of_images_are_the_same(digits):
    x, y = digits[0][:100], digits[1][:100]
    forms = [x, x[:, None], x.reshape(100, 64), x.astype(np.float32), x.astype(np.uint8), x.astype(int).tolist()]
    settings = {"max_iter": 2, "random_state": 0, "dtype": "float32"}
    nets = [ConvNetClassifier(**settings).fit(form, y) for form in forms]
    for net in nets:
        assert net.image_shape_ == (1, 8, 8)
        assert net.n_features_in_ == 64
        for form in forms:
            np.testing.assert_array_equal(net.predict_proba(form), nets[0].predict_proba(x))
    given = ConvNetClassifier(image_shape=(4, 4, 4), **settings).fit(forms[2], y)
    assert given.image_shape_ == (4, 4, 4)


def test_digits(digits):
    x, y = digits
    net = ConvNetClassifier(max_iter=15, learning_rate_init=3e-3, random_state=0).fit(x[:450], y[:450])
    assert net.score(x[450:], y[450:]) > 0.85
    assert net.loss_curve_[-1] < 0.1 < net.loss_curve_[0]
    probabilities = net.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(net.predict_log_proba(x)), probabilities, rtol=1e-12)
    assert (net.n_iter_, net.t_, len(net.loss_curve_)) == (15, 15 * 450, 15)
    assert net.loss_ == net.loss_curve_[-1]
    assert net.best_loss_ == min(net.loss_curve_)
    assert net.validation_scores_ is None
    assert net.best_validation_score_ is None


def test_an_integer_seed_gives_the_same_every_time(kind, images):
    x, y = images
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    nets = [kind(max_iter=3, batch_size=8, random_state=seed).fit(x, y) for seed in (5, 5, 6)]
    results = [net.model_.state_dict()["0.weight"] for net in nets]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-3
    kind(max_iter=1, early_stopping=True, validation_fraction=0.5).fit(x, y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_without_a_seed_it_is_another_one(images):
    x, y = images
    np.random.seed(7)  # noqa: NPY002
    first = ConvNetClassifier(max_iter=1).fit(x, y).predict_proba(x)
    np.random.seed(7)  # noqa: NPY002
    assert np.abs(ConvNetClassifier(max_iter=1).fit(x, y).predict_proba(x) - first).max() > 1e-6


def test_dropout_depends_on_the_seed_alone(images):
    x, y = images

    def model(shape, outputs, rng):
        return models.FullyConnectedNet([16], int(np.prod(shape)), outputs, dropout=0.5, rng=rng)

    nets = [ConvNetClassifier(model, max_iter=3, random_state=seed).fit(x, y) for seed in (1, 1, 2)]
    assert nets[0].loss_curve_ == nets[1].loss_curve_ != nets[2].loss_curve_


# ---- stopping -----------------------------------------------------------------------------------------------


def test_it_stops_when_the_loss_stays(images, linear):
    x, y = images
    net = ConvNetClassifier(linear, max_iter=50, tol=1e6, n_iter_no_change=4, random_state=0).fit(x, y)
    assert net.n_iter_ == 1 + 4 + 1  # the first improves on infinity; as MLPClassifier: more than 4 without
    assert ConvNetClassifier(linear, max_iter=50, tol=0.0, n_iter_no_change=4, random_state=0).fit(x, y).n_iter_ == 50


@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_takes_the_best_epoch(kind, digits, weighted):
    x, y = digits[0][:200], digits[1][:200]
    weights = 1.0 + np.arange(200) % 3 if weighted else np.ones(200)
    settings = {"early_stopping": True, "validation_fraction": 0.25, "learning_rate_init": 0.02, "n_iter_no_change": 3}
    net = kind(max_iter=60, random_state=4, **settings).fit(x, y, sample_weight=weights if weighted else None)
    assert len(net.validation_scores_) == net.n_iter_ == len(net.loss_curve_) < 60
    assert net.best_validation_score_ == max(net.validation_scores_) > net.validation_scores_[-1] - 1e-9
    assert net.best_loss_ is None
    _, held_out = train_test_split(
        np.arange(200),
        test_size=0.25,
        random_state=np.random.RandomState(4),
        stratify=y if kind is ConvNetClassifier else None,
    )
    score = net.score(x[held_out], y[held_out], sample_weight=weights[held_out])
    assert score == pytest.approx(net.best_validation_score_, rel=1e-12)
    assert net.t_ == 150 * net.n_iter_


def test_verbose(images, capsys, linear):
    ConvNetClassifier(linear, max_iter=9, tol=1e6, n_iter_no_change=1, random_state=0, verbose=True).fit(*images)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:18] for line in lines[:3]] == ["Iteration 1, loss ", "Iteration 2, loss ", "Iteration 3, loss "]
    assert lines[3:] == ["No improvement by more than tol=1e+06 for 2 epochs: stopping."]


# ---- a part at a time ---------------------------------------------------------------------------------------


def parts(net, x, y, count, **rest):
    for number in range(count):
        net.partial_fit(x, y, **(rest if number == 0 else {}))
    return net


def test_epochs_one_by_one_are_a_fit(kind, images):
    x, y = images
    first = {"classes": [0, 1, 2]} if kind is ConvNetClassifier else {}
    settings = {"batch_size": 7, "random_state": 0, "n_iter_no_change": 100}
    whole = kind(max_iter=4, **settings).fit(x, y)
    single = parts(kind(**settings), x, y, 4, **first)
    np.testing.assert_array_equal(single.predict(x), whole.predict(x))
    assert single.loss_curve_ == whole.loss_curve_
    assert (single.n_iter_, single.t_) == (whole.n_iter_, whole.t_) == (4, 96)


def test_a_pickle_goes_on(kind, images):
    x, y = images
    first = {"classes": [0, 1, 2]} if kind is ConvNetClassifier else {}
    settings = {"batch_size": 7, "random_state": 0}
    straight = parts(kind(**settings), x, y, 4, **first)
    broken = pickle.loads(pickle.dumps(parts(kind(**settings), x, y, 2, **first)))
    np.testing.assert_array_equal(parts(broken, x, y, 2).predict(x), straight.predict(x))
    assert broken.loss_curve_ == straight.loss_curve_


def test_fit_then_part(images):
    x, y = images
    net = ConvNetClassifier(max_iter=3, random_state=0).fit(x, y)
    curve = list(net.loss_curve_)
    net.partial_fit(x[:8], y[:8])
    assert net.loss_curve_[:3] == curve
    assert (net.n_iter_, net.t_) == (4, 3 * 24 + 8)


def test_a_part_may_lack_classes(images):
    x, y = images
    net = ConvNetClassifier(random_state=0).partial_fit(x[y == 1], y[y == 1], classes=[2, 1, 0])
    assert net.predict_proba(x).shape == (24, 3)
    assert list(net.classes_) == [0, 1, 2]


def test_another_learning_rate_for_the_next_part(images, linear):
    x, y = images
    net = ConvNetClassifier(linear, random_state=0, **PLAIN).partial_fit(x, y, classes=[0, 1, 2])
    before = net.model_.state_dict()["1.weight"]
    net.set_params(learning_rate_init=1e-30).partial_fit(x, y)
    np.testing.assert_array_equal(net.model_.state_dict()["1.weight"], before)


# ---- models and optimizers ----------------------------------------------------------------------------------


def test_an_instance_is_not_touched(images, linear):
    x, y = images
    model = linear((2, 5, 4), 3, np.random.default_rng(0))
    before = model.state_dict()
    nets = [ConvNetClassifier(model, max_iter=2, random_state=seed).fit(x, y) for seed in (0, 1)]
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    assert model.training
    assert nets[0].model_ is not model
    # one batch, no dropout: nothing depends on the seed, since the weights are those of the instance
    np.testing.assert_allclose(nets[0].predict_proba(x), nets[1].predict_proba(x), rtol=1e-12)


def test_frozen_layers_stay(images):
    x, y = images
    conv = layers.Conv2d(2, 4, 3, rng=0)
    norm = layers.BatchNorm2d(4)
    model = layers.Sequential(conv, norm, layers.Flatten(), layers.Linear(24, 3, rng=0))
    norm.eval()
    net = ConvNetClassifier(model, random_state=0).partial_fit(x, y, classes=[0, 1, 2])
    pickle.loads(pickle.dumps(net)).partial_fit(x, y)
    net.partial_fit(x, y)
    np.testing.assert_array_equal(net.model_.state_dict()["1.running_mean"], np.zeros(4, np.float32))
    assert np.abs(net.model_.state_dict()["3.weight"] - model.state_dict()["3.weight"]).max() > 1e-4


@pytest.mark.parametrize("name", ["fully-connected", "three-layer-convnet"])
def test_models_by_name(images, name):
    x, y = images
    nets = [ConvNetClassifier(name, max_iter=2, random_state=0).fit(x, y) for _ in range(2)]
    np.testing.assert_array_equal(nets[0].predict_proba(x), nets[1].predict_proba(x))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (1, 3, 1), (1, 4, 5), (3, 9, 2)])
def test_the_default_network_takes_any_size(kind, rng, shape):
    x, y = rng.normal(size=(6, *shape)), np.arange(6) % 2
    assert kind(max_iter=1, random_state=0).fit(x, y).predict(x).shape == (6,)


def test_optimizers(images, linear):
    x, y = images
    curves = {}
    for name in ("adam", "adamw", "rmsprop", "sgd"):
        curves[name] = ConvNetClassifier(linear, optimizer=name, max_iter=3, random_state=0).fit(x, y).loss_curve_
    assert len({tuple(curve) for curve in curves.values()}) == 4
    own = ConvNetClassifier(
        linear,
        optimizer=lambda parameters: optim.Adam(parameters, lr=1e-3, weight_decay=1e-2),
        max_iter=3,
        random_state=0,
    )
    assert own.fit(x, y).loss_curve_ == curves["adam"]


def test_dtype_follows_the_images(images, linear):
    x, y = images
    for values, dtype in ((x, "float64"), (x.astype(np.float32), "float32"), (x.astype(int), "float32")):
        net = ConvNetClassifier(max_iter=1, random_state=0).fit(values, y)
        assert net.model_.state_dict()["0.weight"].dtype == dtype
    net = ConvNetClassifier(linear, max_iter=1).fit(x.astype(np.float32), y)
    assert net.model_.state_dict()["1.weight"].dtype == np.float64
    net = ConvNetClassifier(linear, max_iter=1, dtype="float32").fit(x, y)
    assert net.model_.state_dict()["1.weight"].dtype == np.float32
    assert net.predict_proba(x).dtype == np.float64
