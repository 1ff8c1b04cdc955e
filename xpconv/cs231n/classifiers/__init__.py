"""The networks of the course: ``loss(X)`` gives scores, ``loss(X, y)`` the loss and the gradients by name."""

from .cnn import ThreeLayerConvNet
from .fc_net import FullyConnectedNet, TwoLayerNet

__all__ = ["FullyConnectedNet", "ThreeLayerConvNet", "TwoLayerNet"]
