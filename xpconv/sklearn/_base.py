"""What the classifier and the regressor have in common: images, training, early stopping, pickling."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import optim
from .._checks import check_integer, check_number
from ..backends import Backend, get_backend, load_backend, to_numpy, use_backend
from ..layers import Layer
from ..training import Callback, Trainer
from ._images import ImageShape, Standardizer, as_rows, choose_shape, refuse_masked
from ._network import DTYPES, build_network, copy_network, dtype_of, frozen_layers, network_backend

__all__ = ["ConvNetEstimator"]

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}

# Examples in a batch of "auto", and at most in one forward of `predict`.
_BATCH = 128
_PREDICTED_AT_ONCE = 256

_SEEDS = 2**31 - 1

# Two threads that predict with one estimator must not both move its network to another backend.
_moving = threading.Lock()


class ConvNetEstimator(BaseEstimator, ABC):
    """Base of `ConvNetClassifier` and `ConvNetRegressor`, where the parameters are described.

    A subclass turns its targets into rows in which every example has its weight, and says what the loss of scores and
    rows is and how good scores are.
    """

    _target_checks: ClassVar[dict[str, Any]]  # what validate_data is told about y

    model_: Layer
    image_shape_: ImageShape
    n_outputs_: int
    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: Any  # a number, or None with early stopping
    validation_scores_: Any  # a list of numbers with early stopping, else None
    best_validation_score_: Any
    _images: Standardizer
    _frozen: list[str]  # names of the layers that stay in evaluation mode
    _training: dict[str, Any]  # where the next partial_fit goes on: seed, step, epoch, state of the optimizer

    def __init__(
        self,
        model: Any = None,
        *,
        image_shape: Any = None,
        optimizer: Any = "adamw",
        learning_rate_init: float = 1e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.9,
        clip_norm: float | None = None,
        batch_size: int | str = "auto",
        max_iter: int = 200,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        standardize: bool = True,
        dtype: str | None = None,
        backend: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.image_shape = image_shape
        self.optimizer = optimizer
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.clip_norm = clip_norm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.standardize = standardize
        self.dtype = dtype
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    # ---- what subclasses define -----------------------------------------------------------------------------

    @abstractmethod
    def _loss(self, scores: Any, rows: Any) -> tuple[Any, Any]:
        """Loss and its gradient to the scores."""

    @abstractmethod
    def _rows(self, y: np.ndarray, weights: np.ndarray, dtype: str) -> np.ndarray:
        """Targets and weights as the loss takes them."""

    @abstractmethod
    def _validation_score(self, y: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
        """What early stopping looks at: accuracy or R²."""

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        """What the validation set must have in the same proportions."""
        return None

    # ---- arguments ------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        for name in ("max_iter", "n_iter_no_change"):
            check_integer(name, getattr(self, name), 1)
        if not isinstance(self.batch_size, str) or self.batch_size != "auto":
            check_integer("batch_size", self.batch_size, 1, takes="an integer or 'auto'")
        check_number("learning_rate_init", self.learning_rate_init, 0, above=True)
        for name in ("weight_decay", "momentum", "tol"):
            check_number(name, getattr(self, name), 0)
        if check_number("validation_fraction", self.validation_fraction, 0, 1, above=True) == 1:
            raise ValueError("validation_fraction: must be below 1, got 1")
        for name in ("early_stopping", "standardize", "verbose"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r:.200}")
        if self.dtype is not None and (not isinstance(self.dtype, str) or self.dtype not in DTYPES):
            raise ValueError(f"dtype: expected {', '.join(map(repr, DTYPES))} or None, got {self.dtype!r:.200}")
        named = isinstance(self.optimizer, str) and self.optimizer in OPTIMIZERS
        if not named and not callable(self.optimizer):
            raise ValueError(
                f"optimizer: expected one of {', '.join(OPTIMIZERS)} or a callable, got {self.optimizer!r:.200}"
            )

    def _backend(self) -> Backend:
        return get_backend() if self.backend is None else load_backend(self.backend)

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, C, pixels) and targets, as `validate_data` has checked them."""
        refuse_masked(X=X, y=y)
        if issparse(y):
            raise TypeError(f"y: expected a dense array, got {type(y).__name__}; y.toarray() makes one")
        rows, found = as_rows(X)
        if not reset and found is not None and found != self.image_shape_:
            raise ValueError(f"X: expected images of shape {self.image_shape_}, as in fit, got {found}")
        # any kind of number stays as it is: it is converted some examples at a time
        rows, y = validate_data(self, rows, y, reset=reset, dtype="numeric", **self._target_checks)
        if reset:
            self.image_shape_ = choose_shape(rows.shape[1], found, self.image_shape)
        return self._as_images(rows), y

    def _as_images(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype.kind not in "fiub":
            raise ValueError(f"X: expected numbers, got {rows.dtype}")
        return rows.reshape(len(rows), self.image_shape_[0], -1)

    def _checked_weights(self, sample_weight: Any, images: np.ndarray) -> np.ndarray:
        refuse_masked(sample_weight=sample_weight)
        weights = _check_sample_weight(sample_weight, images[:, :, 0], dtype=np.float64)
        if (weights < 0).any():
            index = int((weights < 0).argmax())
            raise ValueError(f"sample_weight: must not be negative, got {weights[index]} at index {index}")
        if not weights.any():
            raise ValueError("sample_weight: all are zero, which leaves nothing to learn from")
        with np.errstate(over="ignore"):
            total = weights.sum()
        if not np.isfinite(total):
            raise ValueError("sample_weight: too large, their sum is beyond the range of float64")
        return weights

    # ---- training -------------------------------------------------------------------------------------------

    def _fit(self, images: np.ndarray, y: np.ndarray, weights: np.ndarray, outputs: int) -> None:
        """All epochs, of a new network."""
        used = np.flatnonzero(weights)  # as if the others were not there
        random = self._random()
        if self.early_stopping:
            strata = self._strata(y[used])
            used, held_out = train_test_split(
                used, test_size=self.validation_fraction, random_state=random, stratify=strata
            )
            if len(held_out) < 2:
                raise ValueError(
                    f"validation_fraction: {self.validation_fraction} of {len(used) + len(held_out)} examples is fewer "
                    "than 2"
                )
        else:
            held_out = used[:0]
        # what has no weight or is held out is left out of the copy that is standardised
        if len(used) < len(images):
            kept = images[held_out], y[held_out], weights[held_out]
            images, y, weights = images[used], y[used], weights[used]
        network = self._begin(images, y, weights, outputs, random)
        progress = _Progress(self, len(images), stops=True)
        if self.early_stopping:
            progress.hold_out(self._images.apply(kept[0], dtype_of(network), "X"), kept[1], kept[2])
        self._train(network, images, y, weights, self.max_iter, progress)
        if progress.best is not None:
            network.load_state_dict(progress.best)
        # the momentum of a run that has ended is worth little, and twice as large as the network
        self._training["optimizer"] = None
        self.model_ = network

    def _check_parts(self) -> None:
        if self.early_stopping:
            raise ValueError("early_stopping: partial_fit does not support it, since it sees a part of the data only")

    def _fit_part(self, images: np.ndarray, y: np.ndarray, weights: np.ndarray, outputs: int) -> None:
        """One epoch more, of a new network if there is none."""
        used = weights > 0
        if not used.all():
            images, y, weights = images[used], y[used], weights[used]
        if hasattr(self, "model_"):
            network = copy_network(self.model_, self._backend())  # it stays as it is if something goes wrong
        else:
            network = self._begin(images, y, weights, outputs, self._random())
        self._train(network, images, y, weights, 1, _Progress(self, len(images), stops=False))
        self.model_ = network

    def _random(self) -> np.random.RandomState:
        # scikit-learn takes NumPy's global state for None, which others may rely on
        return np.random.RandomState() if self.random_state is None else check_random_state(self.random_state)

    def _begin(
        self, images: np.ndarray, y: np.ndarray, weights: np.ndarray, outputs: int, random: np.random.RandomState
    ) -> Layer:
        """A new network, and all that goes with it."""
        channels = self.image_shape_[0]
        self._images = Standardizer.of(images, weights, "X") if self.standardize else Standardizer.identity(channels)
        generator = np.random.default_rng(random.randint(_SEEDS))
        with use_backend(self._backend()) as backend:
            own = "float64" if images.dtype == np.float64 and backend.on_host and _has_float64(backend) else "float32"
            network = build_network(self.model, self.image_shape_, outputs, generator, backend, self.dtype, own)
        self._frozen = frozen_layers(network)
        self._training = {"seed": random.randint(_SEEDS), "step": 0, "epoch": 0, "optimizer": None}
        self.n_outputs_ = outputs
        self.n_iter_ = self.t_ = 0
        self.loss_curve_ = []
        self.best_loss_ = None if self.early_stopping else np.inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        return network

    def _train(
        self,
        network: Layer,
        images: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        epochs: int,
        progress: _Progress,
    ) -> None:
        """Train for so many epochs more; the network is in evaluation mode then."""
        state, dtype = self._training, dtype_of(network)
        x = self._images.apply(images, dtype, "X").reshape(len(images), *self.image_shape_)
        # of mean 1: how large weights are makes no difference, only how they differ
        rows = self._rows(y, weights / weights.mean(), dtype)
        network.train()
        for name, layer in network.named_layers():
            if name in self._frozen:
                layer.training = False
        optimizer = self._optimizer(network)
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
            if not callable(self.optimizer):
                optimizer.lr = self.learning_rate_init  # which may have been set anew
        trainer = Trainer(
            network, self._loss, optimizer, callbacks=[progress], seed=state["seed"], clip_norm=self.clip_norm
        )
        trainer.step, trainer.epoch = state["step"], state["epoch"]
        size = _BATCH if isinstance(self.batch_size, str) else self.batch_size
        try:
            trainer.fit((x, rows), epochs=trainer.epoch + epochs, batch_size=size)
        finally:
            network.clear_cache()
            network.zero_grad()
            network.eval()
        state.update(step=trainer.step, epoch=trainer.epoch, optimizer=optimizer.state_dict())

    def _optimizer(self, network: Layer) -> Any:
        parameters = list(network.parameters())
        if callable(self.optimizer):
            optimizer = self.optimizer(parameters)
            if not isinstance(optimizer, optim.Optimizer):
                raise TypeError(f"optimizer: expected a callable that returns an Optimizer, got {optimizer!r:.200}")
            return optimizer
        settings = {"lr": self.learning_rate_init, "weight_decay": self.weight_decay}
        if self.optimizer in ("rmsprop", "sgd"):
            settings["momentum"] = self.momentum
        return OPTIMIZERS[self.optimizer](parameters, **settings)

    # ---- prediction -----------------------------------------------------------------------------------------

    def _scores(self, X: Any) -> np.ndarray:
        """What the network makes of images: (n, outputs), float64."""
        check_is_fitted(self)
        refuse_masked(X=X)
        rows, found = as_rows(X)
        if found is not None and found != self.image_shape_:
            raise ValueError(f"X: expected images of shape {self.image_shape_}, as in fit, got {found}")
        images = self._as_images(validate_data(self, rows, reset=False, dtype="numeric"))
        network, dtype = self._network(), dtype_of(self.model_)
        parts = []
        for start in range(0, len(images), _PREDICTED_AT_ONCE):
            x = self._images.apply(images[start : start + _PREDICTED_AT_ONCE], dtype, "X")
            parts.append(self._forward(Trainer(network, self._loss, None), x))
        return np.concatenate(parts)

    def _forward(self, trainer: Trainer, x: np.ndarray) -> np.ndarray:
        scores = trainer.predict(x.reshape(len(x), *self.image_shape_), batch_size=_PREDICTED_AT_ONCE)
        scores = to_numpy(scores).astype(np.float64)
        if not np.isfinite(scores).all():
            raise ValueError("X: the network's result is not finite; look for values far from those it was trained on")
        return scores

    def _network(self) -> Layer:
        """The network, on the backend asked for: it may come from a pickle, or the backend be another one now."""
        backend = self._backend()
        with _moving:
            if network_backend(self.model_) is not backend:
                self.model_.to(backend)
        return self.model_

    # ---- scikit-learn ---------------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # arrays of NumPy, so that a pickle can be read where the backend is not installed
        state = dict(super().__getstate__())
        for name in ("model", "model_"):
            if isinstance(state.get(name), Layer):
                state[name] = copy_network(state[name], "numpy")
        return state


def _has_float64(backend: Backend) -> bool:
    try:
        backend.asarray(np.zeros(1), "float64")
    except TypeError:
        return False
    return True


class _Progress(Callback):
    """Keeps the curves of an estimator, and stops its training when they do not get better any more.

    Parameters
    ----------
    estimator
        Whose attributes to fill.
    examples
        How many there are in an epoch.
    stops
        Whether to stop.
    """

    def __init__(self, estimator: ConvNetEstimator, examples: int, *, stops: bool) -> None:
        self.estimator, self.examples, self.stops = estimator, examples, stops
        self.held_out: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.best: dict[str, Any] | None = None
        self.idle = 0  # epochs without an improvement

    def hold_out(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
        """Look at the score on these instead of the loss; x is standardised."""
        self.held_out = x, y, weights

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Take down the loss, measure the score."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.t_ += self.examples
        estimator.loss_ = record["loss"]
        estimator.loss_curve_.append(estimator.loss_)
        text = f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}"
        if self.held_out is None:
            improved = self._look_at_loss()
        else:
            improved = self._look_at_score(trainer, *self.held_out)
            text += f", validation score = {estimator.validation_scores_[-1]:f}"
        if estimator.verbose:
            print(text)
        self.idle = 0 if improved else self.idle + 1
        if self.stops and self.idle > estimator.n_iter_no_change:
            if estimator.verbose:
                print(f"No improvement by more than tol={estimator.tol:g} for {self.idle} epochs: stopping.")
            trainer.stop()

    def _look_at_loss(self) -> bool:
        estimator = self.estimator
        improved = estimator.loss_ <= estimator.best_loss_ - estimator.tol
        estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
        return improved

    def _look_at_score(self, trainer: Trainer, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> bool:
        estimator = self.estimator
        scores = np.concatenate(
            [
                estimator._forward(trainer, x[start : start + _PREDICTED_AT_ONCE])
                for start in range(0, len(x), _PREDICTED_AT_ONCE)
            ]
        )
        score = estimator._validation_score(y, scores, weights)
        estimator.validation_scores_.append(score)
        improved = score >= estimator.best_validation_score_ + estimator.tol
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self.best = trainer.model.state_dict()
        return improved
