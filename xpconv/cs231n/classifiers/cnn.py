"""A small convolutional network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backends.protocol import Array
from .._random import randn
from ..layer_utils import (
    affine_relu_backward,
    affine_relu_forward,
    conv_relu_pool_backward,
    conv_relu_pool_forward,
)
from ..layers import affine_backward, affine_forward, softmax_loss
from ._parameters import as_inputs, born, penalized

__all__ = ["ThreeLayerConvNet"]


class ThreeLayerConvNet:
    """conv - ReLU - 2x2 max pool - affine - ReLU - affine - softmax, on images (N, C, H, W).

    Parameters
    ----------
    input_dim : tuple (C, H, W)
        Of one image.
    num_filters, filter_size : int
        Of the convolution, which keeps the size of the image where the filter size is odd.
    hidden_dim, num_classes : int
        Units of the hidden layer, classes.
    weight_scale : float
        Standard deviation of the initial weights; biases begin at zero.
    reg : float
        Strength of the penalty ``reg / 2 * sum(W**2)`` on W1, W2 and W3.
    dtype
        Of all computations; float64 for gradient checks.

    Attributes
    ----------
    params : dict
        W1 (num_filters, C, filter_size, filter_size), b1, W2, b2, W3, b3: arrays of the default backend.

    Raises
    ------
    ValueError
        Images of less than 2 x 2 pixels, or an even filter size: the padding of the course would not keep the size.
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (3, 32, 32),
        num_filters: int = 32,
        filter_size: int = 7,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        channels, height, width = input_dim
        if filter_size % 2 == 0:
            raise ValueError(f"filter_size: must be odd, so that the convolution keeps the size, got {filter_size}")
        if height < 2 or width < 2:
            raise ValueError(f"input_dim: images need at least 2 x 2 pixels, got {height} x {width}")
        self.reg = reg
        self.dtype = dtype
        self.conv_param = {"stride": 1, "pad": (filter_size - 1) // 2}
        self.pool_param = {"pool_height": 2, "pool_width": 2, "stride": 2}
        pooled = num_filters * (height // 2) * (width // 2)
        params = {
            "W1": weight_scale * randn(num_filters, channels, filter_size, filter_size),
            "b1": np.zeros(num_filters),
            "W2": weight_scale * randn(pooled, hidden_dim),
            "b2": np.zeros(hidden_dim),
            "W3": weight_scale * randn(hidden_dim, num_classes),
            "b3": np.zeros(num_classes),
        }
        self.params: dict[str, Array] = born(params, dtype)

    def loss(self, X: Array, y: Array | None = None) -> Any:
        """Scores (N, C) of images X; with labels y (N,) the loss and the gradients by parameter name.

        Parameters
        ----------
        X : array (N, C, H, W)
            Images.
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
        pooled, conv_cache = conv_relu_pool_forward(X, params["W1"], params["b1"], self.conv_param, self.pool_param)
        hidden, hidden_cache = affine_relu_forward(pooled, params["W2"], params["b2"])
        scores, cache = affine_forward(hidden, params["W3"], params["b3"])
        if y is None:
            return scores
        loss, dscores = softmax_loss(scores, y)
        grads = {}
        dhidden, grads["W3"], grads["b3"] = affine_backward(dscores, cache)
        dpooled, grads["W2"], grads["b2"] = affine_relu_backward(dhidden, hidden_cache)
        _, grads["W1"], grads["b1"] = conv_relu_pool_backward(dpooled, conv_cache)
        return penalized(loss, grads, params, ("W1", "W2", "W3"), self.reg), grads
