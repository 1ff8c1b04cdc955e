"""A classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from ..functional import softmax_cross_entropy
from ._base import ConvNetEstimator

__all__ = ["ConvNetClassifier"]


class ConvNetClassifier(ClassifierMixin, ConvNetEstimator):
    """A convolutional network as a classifier of scikit-learn.

    Images come as an array (n, C, H, W), as grey images (n, H, W), or as rows (n, features), which the parameter
    ``image_shape`` makes images of. They may be of any numeric dtype; values are standardised. Inputs and results are
    NumPy's arrays, whatever the backend.

    Parameters
    ----------
    model : None, str, Layer or callable
        The network. None: two convolutions with pooling and two linear layers, for images of any size. A name:
        one of `xpconv.models.NAMES`. A layer: each fit starts from a copy of it, its weights included; layers that are
        in evaluation mode on their own stay frozen. A callable: ``model(image_shape, outputs, rng)`` returns a
        layer; ``image_shape`` is (C, H, W), ``outputs`` how many scores it must give, one for each class, and
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
        The part that is held out; of every class the same part.
    class_weight : dict, "balanced" or None
        By how much the weights of the examples of each class are multiplied; a class that the dict lacks has 1.
        "balanced": all classes have the same sum of weights.
    standardize : bool
        Take away the mean of each channel and divide by its deviation. Both are measured on the
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
    classes_ : array (n_classes,)
        The labels, sorted.
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
        Mean loss of the last epoch, while the weights were changing.
    loss_curve_ : list of float
        Of every epoch.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_ : list of float or None
        With early stopping the accuracy, weighted like the loss, on the held-out part, after every epoch.
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
    >>> from xpconv.sklearn import ConvNetClassifier
    >>> X, y = load_digits(return_X_y=True)  # rows of 64 numbers, images of 8 x 8
    >>> ConvNetClassifier(max_iter=20, random_state=0).fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) > 0.9
    True
    """

    _target_checks: ClassVar[dict[str, Any]] = {}

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
        class_weight: Any = None,
        standardize: bool = True,
        dtype: str | None = None,
        backend: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            image_shape=image_shape,
            optimizer=optimizer,
            learning_rate_init=learning_rate_init,
            weight_decay=weight_decay,
            momentum=momentum,
            clip_norm=clip_norm,
            batch_size=batch_size,
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            standardize=standardize,
            dtype=dtype,
            backend=backend,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array (n, C, H, W), (n, H, W) or (n, features)
            Images.
        y : array (n,)
            Their labels, of any kind that can be sorted.
        sample_weight : array (n,), optional
            How much each example counts, at least 0.

        Returns
        -------
        ConvNetClassifier
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
        classes, labels = _sorted_labels(y)
        weights = self._checked_weights(sample_weight, images)
        self.classes_ = classes
        weights = weights * self._class_weights(y, labels, weights)
        self._fit(images, labels, weights, len(self.classes_))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on these images, from where the last call, or `fit`, has left the network.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array (n_classes,)
            All labels that there will ever be; needed in the first call.

        Returns
        -------
        ConvNetClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError, TrainingError
            As `fit`; with ``early_stopping``, or ``class_weight="balanced"``, which need all data at once.
        """
        first = not hasattr(self, "model_")
        self._check_parameters()
        self._check_parts()
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            raise ValueError("class_weight: 'balanced' needs all examples at once; give partial_fit a dict")
        if first and classes is None:
            raise ValueError("classes: must be passed on the first call to partial_fit")
        images, y = self._checked(X, y, reset=first)
        _sorted_labels(y)
        known = self.classes_ if classes is None else _checked_classes(classes)
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes: expected {self.classes_}, as in the first call, got {known}")
        strange = np.setdiff1d(y, known)
        if len(strange):
            raise ValueError(f"y: expected labels of the classes {known}, got {strange}")
        self.classes_ = known
        labels = np.searchsorted(known, y)
        weights = self._checked_weights(sample_weight, images)
        weights = weights * self._class_weights(y, labels, weights)
        self._fit_part(images, labels, weights, len(known))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each image.

        Parameters
        ----------
        X : array (n, C, H, W), (n, H, W) or (n, features)
            Images of the shape of those in `fit`.

        Returns
        -------
        array (n,)
            Of the dtype of `classes_`.

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        TypeError, ValueError
            X is not of numbers, or not of the shape of that in `fit`.
        """
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, by the softmax of the scores.

        Parameters
        ----------
        X : array
            As for `predict`.

        Returns
        -------
        array (n, n_classes)
            float64, in the order of `classes_`; rows sum to 1.

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        TypeError, ValueError
            As for `predict`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of `predict_proba`, exact also where that is 0.

        Parameters
        ----------
        X : array (n, C, H, W), (n, H, W) or (n, features)
            As for `predict`.

        Returns
        -------
        array (n, n_classes)
            float64, in the order of `classes_`.

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        TypeError, ValueError
            As for `predict`.
        """
        scores = self._scores(X)
        return scores - logsumexp(scores, axis=1, keepdims=True)

    def _class_weights(self, y: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The factor of each example."""
        wanted = self.class_weight
        if wanted is None:
            return np.ones(len(labels))
        if isinstance(wanted, Mapping):
            factors = compute_class_weight(dict(wanted), classes=self.classes_, y=y)
            if not (np.isfinite(factors).all() and (factors >= 0).all()):
                raise ValueError(f"class_weight: expected finite weights of at least 0, got {wanted!r:.200}")
        elif isinstance(wanted, str) and wanted == "balanced":
            sums = np.bincount(labels, weights, len(self.classes_))
            factors = sums.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1.0))
        else:
            raise ValueError(f"class_weight: expected a dict, 'balanced' or None, got {wanted!r:.200}")
        factors = factors[labels]
        with np.errstate(over="ignore"):
            total = (weights * factors).sum()
        if not total:
            raise ValueError("class_weight: leaves no example with a weight above 0")
        if not np.isfinite(total):
            raise ValueError("class_weight: too large, the sum of all weights is beyond the range of float64")
        return factors

    def _loss(self, scores: Any, rows: Any) -> tuple[Any, Any]:
        return softmax_cross_entropy(scores, rows)

    def _rows(self, y: np.ndarray, weights: np.ndarray, dtype: str) -> np.ndarray:
        # as if they were probabilities, which the loss multiplies by and need not add up to 1
        rows = np.zeros((len(y), self.n_outputs_), dtype)
        rows[np.arange(len(y)), y] = weights
        return rows

    def _validation_score(self, y: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
        return float(accuracy_score(y, scores.argmax(axis=1), sample_weight=weights))

    def _strata(self, y: np.ndarray) -> np.ndarray:
        return y


def _sorted_labels(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that there are, sorted, and for each example which it has."""
    try:
        check_classification_targets(y)
        return np.unique(y, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"y: expected labels that can be sorted, all of one kind ({error})") from error


def _checked_classes(classes: Any) -> np.ndarray:
    """The parameter ``classes``, sorted."""
    array = np.asarray(classes)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"classes: expected an array of all labels, got {classes!r:.200}")
    return _sorted_labels(array)[0]
