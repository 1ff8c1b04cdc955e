"""A regressor."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from ._base import ConvNetEstimator
from ._images import Standardizer
from ._losses import weighted_squared_error

__all__ = ["ConvNetRegressor"]


class ConvNetRegressor(RegressorMixin, ConvNetEstimator):
    """A convolutional network as a regressor of scikit-learn: one number for each image, or several.

    Images come as an array (n, C, H, W), as grey images (n, H, W), or as rows (n, features), which the parameter
    ``image_shape`` makes images of. They may be of any numeric dtype; values are standardised. Inputs and results are
    NumPy's arrays, whatever the backend.

    Parameters
    ----------
    model : None, str, Layer or callable
        The network. None: two convolutions with pooling and two linear layers, for images of any size. A name:
        one of `xpconv.models.NAMES`. A layer: each fit starts from a copy of it, its weights included; layers that are
        in evaluation mode on their own stay frozen. A callable: ``model(image_shape, outputs, rng)`` returns a
        layer; ``image_shape`` is (C, H, W), ``outputs`` how many numbers it must give, one for each target, and
        ``rng`` a `numpy.random.Generator` to draw weights from, so that they depend on ``random_state``.
    image_shape : tuple, optional
        (C, H, W) or (H, W) of the images that come as rows, in C order. None: rows with a square number of features
        are square grey images, any others are images (1, 1, features).
    optimizer : str or callable
        ``"adamw"``, ``"adam"``, ``"rmsprop"``, ``"sgd"``; or ``optimizer(parameters)``, which returns one of
        `xpconv.optim`. The next three parameters are for those by name.
    learning_rate_init : float
        Learning rate, which stays as it is.
    weight_decay : float
        Decay of the parameters.
    momentum : float
        Of ``"sgd"`` and ``"rmsprop"``.
    clip_norm : float, optional
        Gradients are scaled down together to at most this norm.
    batch_size : int or "auto"
        Examples in a batch; "auto" is 128. The whole set where that is smaller.
    max_iter : int
        Epochs at most. That they are used up is no warning.
    tol, n_iter_no_change : float, int
        Training ends where for more than ``n_iter_no_change`` epochs running the loss has not become smaller than the
        least one so far by ``tol``; with early stopping, where the validation score has not become larger by ``tol``.
    early_stopping : bool
        Hold out a part of the data, measure the score on it after every epoch, end as ``tol`` says, and take the
        weights of the best epoch.
    validation_fraction : float
        The part that is held out.
    standardize : bool
        Take away the mean of each channel and divide by its deviation, the targets likewise. Both are measured on the
        data that is trained on, in `partial_fit` on those of the first call.
    dtype : str, optional
        ``"float32"`` or ``"float64"``, of the network and its arithmetic. None: that of a model given as a layer or a
        callable. A network that is made here has float32, but float64 where X is float64 and the backend has that and
        computes on the host, as scikit-learn's own networks do: about half as fast.
    backend : str, optional
        Where to compute: ``"numpy"``, ``"cupy"``, ``"torch"`` and so on. None: the default backend, in `predict` the
        one that is the default then.
    random_state : int, numpy.random.RandomState or None
        Of the weights, the order of the examples, dropout, and the validation set. An integer gives the same result
        every time. None is another one each time; NumPy's global state is neither used nor changed.
    verbose : bool
        Print a line for every epoch.

    Attributes
    ----------
    model_ : Layer
        The trained network, in evaluation mode. It takes standardised images.
    image_shape_ : tuple
        (C, H, W).
    n_features_in_ : int
        Numbers in an image.
    feature_names_in_ : array (n_features,)
        Where X was a data frame whose columns all have strings as names.
    n_outputs_ : int
        Columns of the network's result.
    n_iter_ : int
        Epochs done.
    t_ : int
        Examples seen.
    loss_ : float
        Mean loss of the last epoch, while the weights were changing: the mean squared error of standardised targets.
    loss_curve_ : list of float
        Of every epoch.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_ : list of float or None
        With early stopping the R² (weighted, the mean over the targets) on the held-out part, after every epoch.
    best_validation_score_ : float or None
        The best of them, of whose epoch the weights are.

    Notes
    -----
    A weight of 2 is the same as an example that is there twice, and one of 0 the same as one that is not there: in the
    loss, in its gradient and in what standardises. (Exactly so while a batch holds all examples, the network does not
    mix them, as batch normalisation does, and draws no random numbers. Only the ratios of the weights within one
    call matter.)

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from xpconv.sklearn import ConvNetRegressor
    >>> X, y = load_digits(return_X_y=True)
    >>> ConvNetRegressor(max_iter=30, random_state=0).fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) > 0.7
    True
    """

    _target_checks: ClassVar[dict[str, Any]] = {"multi_output": True, "y_numeric": True}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array (n, C, H, W), (n, H, W) or (n, features)
            Images.
        y : array (n,) or (n, targets)
            A number for each, or several.
        sample_weight : array (n,), optional
            How much each example counts, at least 0.

        Returns
        -------
        ConvNetRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            Naming the parameter or argument that is wrong.
        TrainingError
            The loss is not finite any more.
        """
        self.__dict__.pop("model_", None)  # whatever goes wrong, no network of an earlier fit is left
        self._check_parameters()
        images, y = self._checked(X, y, reset=True)
        weights = self._checked_weights(sample_weight, images)
        self._one_target = y.ndim == 1
        targets = _as_columns(y)
        self._fit(images, targets, weights, targets.shape[1])
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on these images, from where the last call, or `fit`, has left the network.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        ConvNetRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError, TrainingError
            As `fit`; with ``early_stopping``, which needs all data at once.
        """
        first = not hasattr(self, "model_")
        self._check_parameters()
        self._check_parts()
        images, y = self._checked(X, y, reset=first)
        targets = _as_columns(y)
        if not first and targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y: expected {self.n_outputs_} targets for each image, as before, got {targets.shape[1]}")
        if first:
            self._one_target = y.ndim == 1
        self._fit_part(images, targets, self._checked_weights(sample_weight, images), targets.shape[1])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The numbers of each image.

        Parameters
        ----------
        X : array (n, C, H, W), (n, H, W) or (n, features)
            Images of the shape of those in `fit`.

        Returns
        -------
        array (n,) or (n, targets)
            float64, of the form of y in `fit`.

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        TypeError, ValueError
            X is not of numbers, or not of the shape of that in `fit`.
        """
        scores = self._scores(X)
        numbers = self._targets.invert(scores)
        return numbers[:, 0] if self._one_target else numbers

    def _begin(self, images: np.ndarray, y: np.ndarray, weights: np.ndarray, outputs: int, random: Any) -> Any:
        standardizer = Standardizer.of(y[:, :, None], weights, "y") if self.standardize else None
        self._targets = standardizer or Standardizer.identity(outputs)
        return super()._begin(images, y, weights, outputs, random)

    def _loss(self, scores: Any, rows: Any) -> tuple[Any, Any]:
        return weighted_squared_error(scores, rows)

    def _rows(self, y: np.ndarray, weights: np.ndarray, dtype: str) -> np.ndarray:
        targets = self._targets.apply(y[:, :, None], dtype, "y")[:, :, 0]
        return np.concatenate([targets, weights.astype(dtype)[:, None]], axis=1)

    def _validation_score(self, y: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
        return float(r2_score(y, self._targets.invert(scores), sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _as_columns(y: np.ndarray) -> np.ndarray:
    """Targets (n, targets) as float64."""
    if y.dtype.kind not in "fiub":
        raise ValueError(f"y: expected numbers, got {y.dtype}")
    return y.reshape(len(y), -1).astype(np.float64)
