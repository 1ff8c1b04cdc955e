"""Stateless operators: each returns its result and a cache, and has a ``_backward`` that takes the cache."""

from .columns import col2im, im2col
from .conv import conv2d, conv2d_backward

__all__ = ["col2im", "conv2d", "conv2d_backward", "im2col"]
