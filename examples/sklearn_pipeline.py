"""Handwritten digits with scikit-learn: a convolutional network in a pipeline, a search, and calibrated probabilities.

    python examples/sklearn_pipeline.py                     # about a minute; needs pip install "xpconv[sklearn]"
    python examples/sklearn_pipeline.py --backend torch
    python examples/sklearn_pipeline.py --small             # 400 of the digits, twice; seconds

The digits (1797 images of 8 x 8, as rows of 64 numbers) come with scikit-learn. It has printed, at its end,
``test accuracy 0.9778``.
"""

import argparse

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.metrics import classification_report, log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from xpconv import layers as L
from xpconv.sklearn import ConvNetClassifier


def three_convolutions(image_shape: tuple[int, int, int], classes: int, rng: np.random.Generator) -> L.Layer:
    """A model of one's own: made once for each fit, with weights from ``rng``."""
    channels = image_shape[0]
    return L.Sequential(
        *(L.Conv2d(channels, 32, 3, padding=1, rng=rng), L.BatchNorm2d(32), L.ReLU()),
        *(L.Conv2d(32, 32, 3, padding=1, rng=rng), L.BatchNorm2d(32), L.ReLU(), L.MaxPool2d(2)),
        *(L.Conv2d(32, 64, 3, padding=1, rng=rng), L.BatchNorm2d(64), L.ReLU(), L.GlobalAvgPool2d()),
        L.Linear(64, classes, rng=rng),
    )


def shrink(images: np.ndarray) -> np.ndarray:
    """Numbers of 0 to 16 as float32 of 0 to 1: computing in float32 takes half the time."""
    return (images / 16).astype(np.float32)


def main(argv: list[str] | None = None) -> float:
    """Search, fit, calibrate; gives the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="numpy", help="where to compute: numpy, cupy, torch, ...")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=1797, help="how many of the digits")
    parser.add_argument("--small", action="store_true", help="400 digits and 2 epochs, to see that it runs")
    options = parser.parse_args(argv)
    if options.small:
        options.images, options.epochs = 400, 2

    digits, labels = load_digits(return_X_y=True)
    digits, labels = digits[: options.images], labels[: options.images]
    train, test, train_labels, test_labels = train_test_split(
        digits, labels, test_size=0.25, stratify=labels, random_state=0
    )

    network = ConvNetClassifier(
        learning_rate_init=2e-3, batch_size=32, max_iter=options.epochs, backend=options.backend, random_state=0
    )
    pipeline = make_pipeline(FunctionTransformer(shrink), network)
    search = GridSearchCV(pipeline, {"convnetclassifier__model": [None, three_convolutions]}, cv=2)
    search.fit(train, train_labels)
    for settings, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        model = settings["convnetclassifier__model"]
        print(f"{'default network' if model is None else model.__name__}: cross-validated accuracy {score:.4f}")

    best = search.best_estimator_
    print(classification_report(test_labels, best.predict(test), digits=3, zero_division=0))
    calibrated = CalibratedClassifierCV(best, cv=3).fit(train, train_labels)
    for name, classifier in (("as it is", best), ("calibrated", calibrated)):
        print(f"log loss {name}: {log_loss(test_labels, classifier.predict_proba(test)):.4f}")
    accuracy = best.score(test, test_labels)
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
