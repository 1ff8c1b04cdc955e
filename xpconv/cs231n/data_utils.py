"""CIFAR-10 as the course prepares it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..backends import asarray
from ..backends.protocol import Array
from ..data import DataError, read_cifar10_python

__all__ = ["get_CIFAR10_data", "load_CIFAR10"]

FOLDERS = ("cs231n/datasets/cifar-10-batches-py", "datasets/cifar-10-batches-py", "cifar-10-batches-py")


def load_CIFAR10(ROOT: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read all of CIFAR-10 in its Python layout, without running what the pickles name.

    Parameters
    ----------
    ROOT
        The folder cifar-10-batches-py, the one above it, or ``cifar-10-python.tar.gz``.

    Returns
    -------
    Xtr, Ytr, Xte, Yte : numpy.ndarray
        Images (N, 32, 32, 3) of float64 from 0 to 255, the channels last, and labels (N,), for training and testing.

    Raises
    ------
    DataError
        A file is missing or damaged.
    """
    train, test = read_cifar10_python(ROOT)
    images = [part.images.transpose(0, 2, 3, 1).astype(np.float64) for part in (train, test)]
    return images[0], train.labels, images[1], test.labels


def _find() -> Path:
    for folder in FOLDERS:
        if Path(folder).is_dir():
            return Path(folder)
    raise DataError(
        f"CIFAR-10 is in none of {', '.join(FOLDERS)} below {Path.cwd()}; say where with "
        "get_CIFAR10_data(cifar10_dir=...), or download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/"
    )


def get_CIFAR10_data(
    num_training: int = 49000,
    num_validation: int = 1000,
    num_test: int = 1000,
    subtract_mean: bool = True,
    *,
    cifar10_dir: str | os.PathLike[str] | None = None,
    dtype: str = "float64",
) -> dict[str, Array]:
    """CIFAR-10, split and centred as the course trains on it.

    Parameters
    ----------
    num_training, num_validation
        The first ``num_training`` images of the training set, and the ``num_validation`` that follow them.
    num_test
        The first images of the test set.
    subtract_mean
        Subtract the mean training image from all images.
    cifar10_dir
        As ``ROOT`` of `load_CIFAR10`; None: where the course puts it, below the working directory.
    dtype
        Of the images; the course has float64.

    Returns
    -------
    dict
        X_train (N, 3, 32, 32), y_train (N,), X_val, y_val, X_test, y_test: arrays of the default backend.

    Raises
    ------
    DataError
        A file is missing or damaged.
    ValueError
        More images than there are.
    """
    train, test = read_cifar10_python(_find() if cifar10_dir is None else cifar10_dir)
    wanted = {"training": num_training + num_validation, "test": num_test}
    for (name, count), part in zip(wanted.items(), (train, test), strict=True):
        if count > len(part.images):
            total = f"num_training {num_training} + num_validation {num_validation}"
            asked = total if name == "training" else f"num_test {num_test}"
            raise ValueError(f"{asked}: the {name} set has {len(part.images)} images")
    end = num_training + num_validation
    parts = {
        "train": (train.images[:num_training], train.labels[:num_training]),
        "val": (train.images[num_training:end], train.labels[num_training:end]),
        "test": (test.images[:num_test], test.labels[:num_test]),
    }
    mean = parts["train"][0].mean(axis=0, dtype=np.float64) if subtract_mean else np.zeros((1, 1, 1))
    data = {}
    for name, (images, labels) in parts.items():
        data[f"X_{name}"] = asarray((images - mean).astype(dtype))
        data[f"y_{name}"] = asarray(np.array(labels))
    return data
