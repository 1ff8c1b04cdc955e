"""Hypothesis strategies for what breaks convolutions: odd geometries and odd memory. Needs Hypothesis."""

from __future__ import annotations

from typing import Any, NamedTuple

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("xpconv.testing.strategies needs Hypothesis: pip install hypothesis") from error

from .._geometry import pool_window
from .layouts import LAYOUTS

__all__ = ["ConvCase", "PoolCase", "convolutions", "layouts", "poolings"]

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


class ConvCase(NamedTuple):
    """Shapes and arguments of a convolution that is possible.

    Attributes
    ----------
    x_shape
        (N, C, H, W).
    w_shape
        (F, C / groups, kh, kw).
    stride, dilation
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    groups
        Divides C and F.
    """

    x_shape: tuple[int, int, int, int]
    w_shape: tuple[int, int, int, int]
    stride: Pair
    padding: Pads
    dilation: Pair
    groups: int

    @property
    def kernel_size(self) -> Pair:
        """(kh, kw)."""
        return self.w_shape[2:]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `xpconv.functional.conv2d` and of `xpconv.testing.naive.conv2d`."""
        return {**self.window_arguments, "groups": self.groups}

    @property
    def window_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `xpconv.functional.im2col` and of `xpconv.testing.naive.im2col`."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}


class PoolCase(NamedTuple):
    """Shape and arguments of a pooling that is possible; every window sees at least one pixel.

    Attributes
    ----------
    x_shape
        (N, C, H, W).
    kernel_size, stride, dilation
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    ceil_mode
        Whether a last partial window counts.
    """

    x_shape: tuple[int, int, int, int]
    kernel_size: Pair
    stride: Pair
    padding: Pads
    dilation: Pair
    ceil_mode: bool


def _pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def _pads(high: int) -> st.SearchStrategy[Pads]:
    return st.tuples(_pairs(0, high), _pairs(0, high))


@st.composite
def _image_sizes(draw: st.DrawFn, kernel: Pair, padding: Pads, dilation: Pair) -> Pair:
    """Sizes from the smallest that the kernel fits into; up to seven more leave pixels over for most strides."""
    height, width = (
        max(1, (k - 1) * d + 1 - sum(p)) + draw(st.integers(0, 7))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    )
    return height, width


@st.composite
def convolutions(draw: st.DrawFn, *, max_batch: int = 3, max_channels: int = 3) -> ConvCase:
    """Small convolutions of every kind.

    Kernels and images are mostly not square, strides may be larger than the kernel and leave pixels over, padding
    differs on all sides, batches may be empty, groups may leave one channel each.

    Parameters
    ----------
    max_batch
        Batches have 0 to that many images.
    max_channels
        Each group has 1 to that many channels and filters; there are at most 3 groups.

    Returns
    -------
    strategy
        Of `ConvCase`.
    """
    kernel = draw(_pairs(1, 4))
    dilation = draw(_pairs(1, 3))
    padding = draw(_pads(3))
    groups = draw(st.integers(1, 3))
    channels, filters = draw(_pairs(1, max_channels))
    size = draw(_image_sizes(kernel, padding, dilation))
    batch = draw(st.integers(0, max_batch))
    return ConvCase(
        x_shape=(batch, channels * groups, *size),
        w_shape=(filters * groups, channels, *kernel),
        stride=draw(_pairs(1, 5)),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@st.composite
def _any_poolings(draw: st.DrawFn, max_batch: int, max_channels: int, max_dilation: int) -> PoolCase:
    kernel = draw(_pairs(1, 4))
    dilation = draw(_pairs(1, max_dilation))
    padding = draw(_pads(2))
    size = draw(_image_sizes(kernel, padding, dilation))
    shape = (draw(st.integers(0, max_batch)), draw(st.integers(1, max_channels)), *size)
    return PoolCase(shape, kernel, draw(_pairs(1, 5)), padding, dilation, draw(st.booleans()))


def _possible(case: PoolCase) -> bool:
    try:
        pool_window(case.x_shape[2:], *case[1:])
    except ValueError:
        return False
    return True


def poolings(*, max_batch: int = 3, max_channels: int = 3, max_dilation: int = 3) -> st.SearchStrategy[PoolCase]:
    """Small poolings of every kind, as `convolutions`.

    Parameters
    ----------
    max_batch, max_channels
        There are 0 to that many images, 1 to that many channels.
    max_dilation
        1 for average pooling, which has none.

    Returns
    -------
    strategy
        Of `PoolCase`.
    """
    return _any_poolings(max_batch, max_channels, max_dilation).filter(_possible)


def layouts() -> st.SearchStrategy[str]:
    """Names of `xpconv.testing.LAYOUTS`."""
    return st.sampled_from(list(LAYOUTS))
