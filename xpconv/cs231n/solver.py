"""Training of a network by mini-batches, as the course does it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..backends import backend_of, to_numpy
from ..backends.protocol import Array
from . import optim
from ._random import choice

__all__ = ["Solver"]


class Solver:
    """Trains a network with an update rule of `optim`, and keeps the parameters that did best on the validation set.

    Parameters
    ----------
    model
        Has ``params``, a dictionary of arrays, and ``loss``: ``loss(X)`` gives scores (N, C), ``loss(X, y)`` the loss
        and a dictionary of gradients with the keys of ``params``.
    data : dict
        X_train (N, ...), y_train (N,), X_val, y_val: arrays of the backend that the parameters are on.
    update_rule : str
        "sgd", "sgd_momentum", "rmsprop" or "adam"; or a function ``rule(w, dw, config) -> (next_w, config)``.
    optim_config : dict
        Settings of the rule; every parameter gets its own copy.
    lr_decay : float
        The learning rate is multiplied by it after every epoch.
    batch_size, num_epochs : int
        Images of a batch, drawn with replacement by NumPy's global generator; passes over as many as there are.
    num_train_samples, num_val_samples : int, optional
        Accuracies are measured on that many; None: on all.
    checkpoint_name : str, optional
        After every epoch parameters and histories go to ``<checkpoint_name>_epoch_<n>.npz``. (The course pickles the
        whole network there; reading a pickle runs code.)
    print_every : int
        Iterations between two lines of progress.
    verbose : bool
        Whether to print at all.

    Attributes
    ----------
    loss_history, train_acc_history, val_acc_history : list of float
        Of every iteration; before the first and after every epoch.
    best_params : dict
        Also the network's when `train` has ended.
    best_val_acc : float

    Raises
    ------
    ValueError
        An argument or an update rule that is none of these, or images and labels of different number; the message
        names them.
    """

    def __init__(self, model: Any, data: dict[str, Array], **kwargs: Any) -> None:
        self.model = model
        self.X_train = data["X_train"]
        self.y_train = data["y_train"]
        self.X_val = data["X_val"]
        self.y_val = data["y_val"]
        for part in ("train", "val"):
            _check_examples(f"X_{part}", data[f"X_{part}"], f"y_{part}", data[f"y_{part}"])

        self.update_rule = kwargs.pop("update_rule", "sgd")
        self.optim_config = kwargs.pop("optim_config", {})
        self.lr_decay = kwargs.pop("lr_decay", 1.0)
        self.batch_size = kwargs.pop("batch_size", 100)
        self.num_epochs = kwargs.pop("num_epochs", 10)
        self.num_train_samples = kwargs.pop("num_train_samples", 1000)
        self.num_val_samples = kwargs.pop("num_val_samples", None)
        self.checkpoint_name = kwargs.pop("checkpoint_name", None)
        self.print_every = kwargs.pop("print_every", 10)
        self.verbose = kwargs.pop("verbose", True)
        if kwargs:
            raise ValueError(f"Unrecognized arguments {', '.join(repr(name) for name in kwargs)}")
        if not callable(self.update_rule):
            if self.update_rule not in optim.__all__:
                raise ValueError(f"Invalid update_rule {self.update_rule!r}, expected {', '.join(optim.__all__)}")
            self.update_rule = getattr(optim, self.update_rule)
        for name in ("batch_size", "print_every", "num_train_samples", "num_val_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self._reset()

    def _reset(self) -> None:
        """Forget what training has found."""
        self.epoch = 0
        self.best_val_acc = 0.0
        self.best_params: dict[str, Array] = {}
        self.loss_history: list[float] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []
        self.optim_configs = {name: dict(self.optim_config) for name in self.model.params}

    def _step(self) -> None:
        """One update of all parameters."""
        batch = choice(self.X_train.shape[0], self.batch_size)
        loss, grads = self.model.loss(_rows(self.X_train, batch), _rows(self.y_train, batch))
        self.loss_history.append(float(loss))
        for name, w in self.model.params.items():
            self.model.params[name], self.optim_configs[name] = self.update_rule(
                w, grads[name], self.optim_configs[name]
            )

    def _save_checkpoint(self) -> None:
        if self.checkpoint_name is None:
            return
        filename = f"{os.fspath(self.checkpoint_name)}_epoch_{self.epoch}.npz"
        if self.verbose:
            print(f'Saving checkpoint to "{filename}"')
        params = {f"params/{name}": to_numpy(array) for name, array in self.model.params.items()}
        histories = {
            name: np.asarray(getattr(self, name), dtype=np.float64)
            for name in ("loss_history", "train_acc_history", "val_acc_history")
        }
        np.savez(filename, allow_pickle=False, epoch=np.asarray(self.epoch), **histories, **params)

    def check_accuracy(self, X: Array, y: Array, num_samples: int | None = None, batch_size: int = 100) -> float:
        """Part of the examples whose highest score is that of their label.

        Parameters
        ----------
        X : array (N, ...)
            Examples.
        y : array (N,)
            Labels.
        num_samples : int, optional
            Take that many at random if there are more.
        batch_size : int
            How many go through the network at once.

        Returns
        -------
        float
            0 to 1.

        Raises
        ------
        ValueError
            Not as many labels as examples, or none.
        """
        _check_examples("X", X, "y", y)
        count = X.shape[0]
        if num_samples is not None and count > num_samples:
            mask = choice(count, num_samples)
            count = num_samples
            X, y = _rows(X, mask), _rows(y, mask)
        right = 0
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            scores = self.model.loss(X[start:stop, ...])
            backend = backend_of(scores=scores, y=y)
            with backend.running():
                hits = backend.xp.argmax(scores, axis=1) == y[start:stop]
                right += int(backend.xp.count_nonzero(hits))
        return right / count

    def train(self) -> None:
        """Run all epochs; then the network has the parameters that did best on the validation set."""
        iterations_per_epoch = max(self.X_train.shape[0] // self.batch_size, 1)
        num_iterations = self.num_epochs * iterations_per_epoch
        for t in range(num_iterations):
            self._step()
            if self.verbose and t % self.print_every == 0:
                print(f"(Iteration {t + 1} / {num_iterations}) loss: {self.loss_history[-1]:f}")
            epoch_end = (t + 1) % iterations_per_epoch == 0
            if epoch_end:
                self.epoch += 1
                for config in self.optim_configs.values():
                    if "learning_rate" in config:  # a rule of one's own may have none
                        config["learning_rate"] *= self.lr_decay
            if t == 0 or t == num_iterations - 1 or epoch_end:
                self._measure()
        if self.best_params:
            self.model.params = self.best_params

    def _measure(self) -> None:
        """Accuracies now; keep the parameters if they are the best so far."""
        train_acc = self.check_accuracy(self.X_train, self.y_train, num_samples=self.num_train_samples)
        val_acc = self.check_accuracy(self.X_val, self.y_val, num_samples=self.num_val_samples)
        self.train_acc_history.append(train_acc)
        self.val_acc_history.append(val_acc)
        self._save_checkpoint()
        if self.verbose:
            print(f"(Epoch {self.epoch} / {self.num_epochs}) train acc: {train_acc:f}; val_acc: {val_acc:f}")
        if val_acc > self.best_val_acc or not self.best_params:
            self.best_val_acc = val_acc
            self.best_params = {name: backend_of(w=w).xp.asarray(w, copy=True) for name, w in self.model.params.items()}


def _check_examples(images: str, X: Array, labels: str, y: Array) -> None:
    """Raise unless the arrays of these names are examples and a label for each, which else might be broadcast."""
    for name, array in ((images, X), (labels, y)):
        backend_of(**{name: array})
    if not len(X.shape) or not X.shape[0] or tuple(y.shape) != (X.shape[0],):
        got = f"{tuple(X.shape)} and {tuple(y.shape)}"
        raise ValueError(f"expected {images} (N, ...) and {labels} (N,), N at least 1, got {got}")


def _rows(array: Array, indices: np.ndarray) -> Array:
    """The examples at ``indices``."""
    backend = backend_of(array=array)
    with backend.running():
        return backend.xp.take(array, backend.asarray(indices), axis=0)
