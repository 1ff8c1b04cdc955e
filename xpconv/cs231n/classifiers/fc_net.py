"""Fully connected networks: two layers, or as many as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backends.protocol import Array
from .._random import randn
from ..layer_utils import affine_relu_backward, affine_relu_forward, generic_backward, generic_forward
from ..layers import affine_backward, affine_forward, softmax_loss
from ._parameters import as_inputs, born, penalized

__all__ = ["FullyConnectedNet", "TwoLayerNet"]


class TwoLayerNet:
    """affine - ReLU - affine - softmax.

    Parameters
    ----------
    input_dim, hidden_dim, num_classes : int
        Numbers of an example, hidden units, classes.
    weight_scale : float
        Standard deviation of the initial weights; biases begin at zero.
    reg : float
        Strength of the penalty ``reg / 2 * (sum(W1**2) + sum(W2**2))``.
    dtype
        Of all computations.

    Attributes
    ----------
    params : dict
        W1 (input_dim, hidden_dim), b1, W2 (hidden_dim, num_classes), b2: arrays of the default backend.
    """

    def __init__(
        self,
        input_dim: int = 3 * 32 * 32,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
        dtype: Any = np.float64,
    ) -> None:
        self.reg = reg
        self.dtype = dtype
        params = {
            "W1": weight_scale * randn(input_dim, hidden_dim),
            "b1": np.zeros(hidden_dim),
            "W2": weight_scale * randn(hidden_dim, num_classes),
            "b2": np.zeros(num_classes),
        }
        self.params: dict[str, Array] = born(params, dtype)

    def loss(self, X: Array, y: Array | None = None) -> Any:
        """Scores (N, C) of X (N, d_1, ..., d_k); with labels y (N,) the loss and the gradients by parameter name.

        Parameters
        ----------
        X : array (N, d_1, ..., d_k)
            Examples.
        y : array (N,), optional
            Labels, integers from 0 to the number of classes - 1.

        Returns
        -------
        scores : array (N, num_classes), without y
        loss, grads : scalar and dict, with y
            The loss with its penalty, and the gradients in the shapes of the parameters, by their names.

        Raises
        ------
        TypeError, ValueError
            Arrays of several backends, or shapes and labels that do not fit.
        """
        params = self.params
        X = as_inputs(X, params, self.dtype)
        hidden, hidden_cache = affine_relu_forward(X, params["W1"], params["b1"])
        scores, cache = affine_forward(hidden, params["W2"], params["b2"])
        if y is None:
            return scores
        loss, dscores = softmax_loss(scores, y)
        grads = {}
        dhidden, grads["W2"], grads["b2"] = affine_backward(dscores, cache)
        _, grads["W1"], grads["b1"] = affine_relu_backward(dhidden, hidden_cache)
        return penalized(loss, grads, params, ("W1", "W2"), self.reg), grads


class FullyConnectedNet:
    """{affine - [batch or layer norm] - ReLU - [dropout]} x (L - 1) - affine - softmax.

    Parameters
    ----------
    hidden_dims : sequence of int
        Units of each hidden layer.
    input_dim, num_classes : int
        Numbers of an example, classes.
    dropout_keep_ratio : float
        Probability of keeping a unit, in (0, 1]; 1 means no dropout.
    normalization : str, optional
        "batchnorm", "layernorm" or None.
    reg : float
        Strength of the L2 penalty on weights, ``reg / 2 * sum(W**2)`` each; scales and shifts are not penalised.
    weight_scale : float
        Standard deviation of the initial weights; biases and shifts begin at zero, scales at one.
    dtype
        Of all computations; float64 for gradient checks.
    seed : int, optional
        Makes dropout repeatable.
    dropout : float, optional
        The older name of ``dropout_keep_ratio``; as in the oldest version 0 means no dropout, too.

    Attributes
    ----------
    params : dict
        W1, b1, [gamma1, beta1], W2, ...: arrays of the default backend.

    Raises
    ------
    ValueError
        A normalization or a probability that is none of these.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int],
        input_dim: int = 3 * 32 * 32,
        num_classes: int = 10,
        dropout_keep_ratio: float = 1,
        normalization: str | None = None,
        reg: float = 0.0,
        weight_scale: float = 1e-2,
        dtype: Any = np.float32,
        seed: int | None = None,
        *,
        dropout: float | None = None,
    ) -> None:
        if normalization not in (None, "batchnorm", "layernorm"):
            raise ValueError(f'normalization: expected "batchnorm", "layernorm" or None, got {normalization!r}')
        if dropout is not None:
            dropout_keep_ratio = dropout or 1
        if not 0 < dropout_keep_ratio <= 1:
            raise ValueError(f"dropout_keep_ratio: expected a probability in (0, 1], got {dropout_keep_ratio!r}")
        self.normalization = normalization
        self.use_dropout = dropout_keep_ratio != 1
        self.reg = reg
        self.num_layers = 1 + len(hidden_dims)
        self.dtype = dtype

        params = {}
        dims = [input_dim, *hidden_dims, num_classes]
        for layer in range(1, self.num_layers + 1):
            inputs, outputs = dims[layer - 1], dims[layer]
            params[f"W{layer}"] = weight_scale * randn(inputs, outputs)
            params[f"b{layer}"] = np.zeros(outputs)
            if normalization and layer < self.num_layers:
                params[f"gamma{layer}"] = np.ones(outputs)
                params[f"beta{layer}"] = np.zeros(outputs)
        self.params: dict[str, Array] = born(params, dtype)

        self.dropout_param: dict[str, Any] = {}
        if self.use_dropout:
            self.dropout_param = {"mode": "train", "p": dropout_keep_ratio}
            if seed is not None:
                self.dropout_param["seed"] = seed
        self.bn_params: list[dict[str, Any]] = []
        if normalization:
            start: dict[str, Any] = {"mode": "train"} if normalization == "batchnorm" else {}
            self.bn_params = [dict(start) for _ in hidden_dims]

    def loss(self, X: Array, y: Array | None = None) -> Any:
        """Scores (N, C) of X (N, d_1, ..., d_k) in test mode; with labels y (N,) the loss and the gradients by name.

        Parameters
        ----------
        X : array (N, d_1, ..., d_k)
            Examples.
        y : array (N,), optional
            Labels, integers from 0 to the number of classes - 1.

        Returns
        -------
        scores : array (N, num_classes), without y
        loss, grads : scalar and dict, with y
            The loss with its penalty, and the gradients in the shapes of the parameters, by their names.

        Raises
        ------
        TypeError, ValueError
            Arrays of several backends, or shapes and labels that do not fit.
        """
        X = as_inputs(X, self.params, self.dtype)
        mode = "test" if y is None else "train"
        if self.use_dropout:
            self.dropout_param["mode"] = mode
        if self.normalization == "batchnorm":
            for bn_param in self.bn_params:
                bn_param["mode"] = mode

        out, caches = X, []
        for layer in range(1, self.num_layers + 1):
            w, b, gamma, beta = (self.params.get(f"{name}{layer}") for name in ("W", "b", "gamma", "beta"))
            last = layer == self.num_layers
            norm_param = self.bn_params[layer - 1] if self.normalization and not last else None
            dropout_param = self.dropout_param if self.use_dropout else None
            out, cache = generic_forward(out, w, b, gamma, beta, norm_param, dropout_param, last)
            caches.append(cache)
        if y is None:
            return out

        loss, dout = softmax_loss(out, y)
        grads: dict[str, Array] = {}
        for layer in range(self.num_layers, 0, -1):
            dout, *gradients = generic_backward(dout, caches.pop())
            for name, gradient in zip(("W", "b", "gamma", "beta"), gradients, strict=True):
                if gradient is not None:
                    grads[f"{name}{layer}"] = gradient
        weights = [f"W{layer}" for layer in range(1, self.num_layers + 1)]
        return penalized(loss, grads, self.params, weights, self.reg), grads
