"""Layers: parameters, state and containers around the operators of `xpconv.functional`."""

from .activation import GELU, Hardtanh, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from .base import Layer, LoadResult, Parameter, RandomLayer
from .binary import BinaryConv2d
from .containers import Concat, Residual, Sequential
from .conv import Conv1d, Conv2d, ConvTranspose2d
from .dropout import Dropout
from .linear import Flatten, Identity, Linear
from .norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .summary import Operations, Summary, SummaryRow, count_operations

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BinaryConv2d",
    "Concat",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Hardtanh",
    "Identity",
    "InstanceNorm2d",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LoadResult",
    "MaxPool2d",
    "Operations",
    "Parameter",
    "RandomLayer",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Summary",
    "SummaryRow",
    "Tanh",
    "count_operations",
]
