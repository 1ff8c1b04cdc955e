"""Metrics against scikit-learn, and through the Trainer."""

import math
from functools import partial

import numpy as np
import pytest

from xpconv import layers, optim
from xpconv.functional import mse, softmax_cross_entropy
from xpconv.training import (
    Trainer,
    class_report,
    confusion_matrix,
    mean_absolute_error,
    r2,
    read_checkpoint,
    top_k_accuracy,
)


@pytest.fixture
def sk():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")


@pytest.fixture
def problem(rng):
    """Class 4 is never a label and class 0 never the guess."""
    scores = rng.normal(size=(60, 5))
    scores[:, 0] -= 10
    return scores, rng.integers(0, 4, 60)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_top_k(sk, problem, k):
    scores, labels = problem
    expected = sk.top_k_accuracy_score(labels, scores, k=k, labels=range(5)) if k < 5 else 1.0
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected, abs=1e-12)


def test_top_k_of_equal_scores():
    scores = np.zeros((4, 4))
    assert [top_k_accuracy(scores, np.arange(4), k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


def test_confusion_matrix(sk, problem):
    scores, labels = problem
    np.testing.assert_array_equal(
        confusion_matrix(scores, labels), sk.confusion_matrix(labels, scores.argmax(axis=1), labels=range(5))
    )


def test_report(sk, problem):
    scores, labels = problem
    report = class_report(scores, labels)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, scores.argmax(axis=1), labels=range(5), zero_division=0
    )
    np.testing.assert_allclose(report.precision, precision, rtol=1e-14)
    np.testing.assert_allclose(report.recall, recall, rtol=1e-14)
    np.testing.assert_allclose(report.f1, f1, rtol=1e-14)
    np.testing.assert_array_equal(report.support, support)
    assert report.accuracy == sk.accuracy_score(labels, scores.argmax(axis=1))
    lines = report.table(["a", "b", "long name", "d", "e"]).splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "f1", "images"]
    assert lines[3].split() == ["long", "name", *(f"{v[2]:.4f}" for v in (precision, recall, f1)), str(support[2])]
    assert lines[-2].split() == ["macro", *(f"{v.mean():.4f}" for v in (precision, recall, f1)), "60"]
    assert len(set(map(len, lines[:-1]))) == 1
    with pytest.raises(ValueError, match="names: expected 5, one for each class, got 2"):
        report.table(["a", "b"])


def test_numbers(sk, rng):
    pred, target = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    target[:, 2] = 1e6 + pred[:, 2]
    pred[:, 2] += 1e6
    assert r2(pred, target) == pytest.approx(sk.r2_score(target, pred), rel=1e-12)
    assert r2(pred[:, 0], target[:, 0]) == pytest.approx(sk.r2_score(target[:, 0], pred[:, 0]), rel=1e-12)
    assert mean_absolute_error(pred, target) == pytest.approx(sk.mean_absolute_error(target, pred), rel=1e-12)
    for guess in (3.0, 4.0):
        steady = np.full(5, 3.0)
        assert r2(np.full(5, guess), steady) == sk.r2_score(steady, np.full(5, guess))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: top_k_accuracy(np.ones((3, 2)), np.zeros(3, int), 3), ValueError, "k: must be between 1 and 2, got 3"),
        (lambda: top_k_accuracy(np.ones((3, 2)), np.array([0, 1, 2])), ValueError, "labels: .* got 2 at index 2"),
        (lambda: confusion_matrix(np.ones((3, 2)), np.zeros(2, int)), ValueError, r"labels: expected shape \(3,\)"),
        (lambda: confusion_matrix(np.ones((3, 2)), np.zeros(3)), TypeError, "labels: expected integers, got float64"),
        (lambda: confusion_matrix(np.ones((0, 2)), np.zeros(0, int)), ValueError, "scores: expected a non-empty array"),
        (lambda: confusion_matrix(np.array([[0, np.nan]]), np.zeros(1, int)), ValueError, "scores: row 0 has a NaN"),
        (lambda: r2(np.ones(3), np.ones((3, 1))), ValueError, r"target: expected shape \(3,\) like pred"),
        (lambda: mean_absolute_error([], []), ValueError, "pred: the mean over an empty array"),
    ],
)
def test_wrong_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ---- in a run ---------------------------------------------------------------------------------------------------


def test_metrics_of_validation_data(make_trainer, make_batches, test_set, tmp_path):
    metrics = {"top2": partial(top_k_accuracy, k=2), "f1": lambda s, t: class_report(s, t).f1.mean()}
    trainer = make_trainer(metrics=metrics)
    trainer.fit(make_batches(), epochs=2, validation=test_set)
    scores = trainer.predict(test_set.images / np.float32(255))
    expected = {
        "top2": top_k_accuracy(scores, test_set.labels, 2),
        "f1": class_report(scores, test_set.labels).f1.mean(),
    }
    last = trainer.history[-1]
    assert {name: last[f"val_{name}"] for name in metrics} == pytest.approx(expected)
    # batches of another size: the metric is one of the whole set, not a mean over batches
    report = trainer.report(test_set, batch_size=4)
    assert {name: report[name] for name in metrics} == pytest.approx(expected)
    assert (report["loss"], report["accuracy"]) == trainer.evaluate(test_set, batch_size=4)
    trainer.save(tmp_path / "net")
    assert read_checkpoint(tmp_path / "net").state["history"] == trainer.history


def test_regression(rng):
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 2)) + 3).astype(np.float32)
    net = layers.Linear(4, 2, rng=0)
    metrics = {"r2": r2, "mae": mean_absolute_error}
    trainer = Trainer(net, mse, optim.Adam(net.parameters(), lr=0.05), metrics=metrics)
    trainer.fit((x, y), epochs=60, validation=(x, y), batch_size=10)
    assert trainer.history[-1]["val_r2"] > 0.99
    pred = trainer.predict(x)
    assert trainer.report((x, y))["mae"] == pytest.approx(np.abs(pred - y).mean(), rel=1e-5)
    assert math.isnan(trainer.report((x, y))["accuracy"])
    assert trainer.best["val_loss"] == min(record["val_loss"] for record in trainer.history)


@pytest.mark.parametrize("wrapped", [False, True])
def test_probabilities_as_labels(rng, wrapped):
    """As mixup makes them: the label of a row is its heaviest class."""
    x = rng.normal(size=(40, 6)).astype(np.float32)
    rows = rng.dirichlet(np.ones(3) * 0.3, 40).astype(np.float32)
    loss = partial(softmax_cross_entropy, label_smoothing=0.1) if wrapped else softmax_cross_entropy
    net = layers.Linear(6, 3, rng=0)
    trainer = Trainer(net, loss, optim.Adam(net.parameters(), lr=0.05))
    trainer.fit((x, rows), epochs=30, batch_size=8)
    scores = trainer.predict(x)
    hits = (scores.argmax(axis=1) == rows.argmax(axis=1)).mean()
    assert trainer.evaluate((x, rows)) == pytest.approx((float(loss(scores, rows)[0]), hits), rel=1e-5)
    assert 0 < trainer.history[-1]["accuracy"] <= 1
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]


@pytest.mark.parametrize(
    ("metrics", "error", "match"),
    [
        ({"f1": 3}, TypeError, "metrics: expected functions by name, got 'f1': 3"),
        ({"loss": r2}, ValueError, "metrics: loss is there already"),
        ({"f1": lambda s, t: "high"}, TypeError, "metrics: f1 must give a number, got 'high'"),
    ],
)
def test_wrong_metrics(make_trainer, test_set, metrics, error, match):
    with pytest.raises(error, match=match):
        make_trainer(metrics=metrics).report(test_set)
