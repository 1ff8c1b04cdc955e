"""Layers that shrink images."""

from __future__ import annotations

from .. import functional
from .._geometry import IntOrPair, Padding, check_layout, pool_window, to_pair
from ..backends.protocol import Array
from .base import Layer

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "GlobalAvgPool2d", "MaxPool2d"]


def _check_window(kernel: IntOrPair, stride: IntOrPair, padding: Padding, dilation: IntOrPair) -> None:
    """Raise for what no image could be pooled with, here and not at the first batch."""
    sizes = zip(to_pair("kernel_size", kernel), to_pair("dilation", dilation), strict=True)
    pool_window([(k - 1) * d + 1 for k, d in sizes], kernel, stride, padding, dilation, False)


class MaxPool2d(Layer):
    """Largest value of each window; see `xpconv.functional.max_pool2d`.

    Parameters
    ----------
    kernel_size, stride, dilation : int or pair
        In pixels, (vertical, horizontal); stride is kernel_size if None.
    padding : int, pair, two pairs, "valid" or "same"
        Pixels around the image that are smaller than any value.
    ceil_mode : bool
        Whether a last partial window counts.
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC".

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, a padding larger than half of the window, an unknown padding or layout.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        *,
        ceil_mode: bool = False,
        layout: str = "NCHW",
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        _check_window(kernel_size, self.stride, padding, dilation)
        self.ceil_mode = bool(ceil_mode)
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, C, out_h, out_w), channels last in the other layout."""
        y, cache = functional.max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            layout=self.layout,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Each gradient goes to the first maximum of its window."""
        return functional.max_pool2d_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Layer):
    """Mean of each window; see `xpconv.functional.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride : int or pair
        In pixels, (vertical, horizontal); stride is kernel_size if None.
    padding : int, pair, two pairs, "valid" or "same"
        Zeros around the image.
    ceil_mode : bool
        Whether a last partial window counts.
    count_include_pad : bool
        Whether the zeros count in the divisor; with "same" too: False is TensorFlow's mean.
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC".

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, a padding larger than half of the window, an unknown padding or layout.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        layout: str = "NCHW",
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        _check_window(kernel_size, self.stride, padding, 1)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, C, out_h, out_w), channels last in the other layout."""
        y, cache = functional.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            layout=self.layout,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Each gradient is shared by the pixels of its window."""
        return functional.avg_pool2d_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class GlobalAvgPool2d(Layer):
    """Mean of each channel: (N, C, H, W) to (N, C).

    Parameters
    ----------
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC".

    Raises
    ------
    ValueError
        Unknown layout.
    """

    def __init__(self, *, layout: str = "NCHW") -> None:
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))

    def forward(self, x: Array) -> Array:
        """(N, C, H, W), or (N, H, W, C), to (N, C)."""
        y, cache = functional.global_avg_pool2d(x, layout=self.layout)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Each gradient is shared by the pixels of its channel."""
        return functional.global_avg_pool2d_backward(dy, self.pop())


class AdaptiveAvgPool2d(Layer):
    """Means of as many regions as asked for; see `xpconv.functional.adaptive_avg_pool2d`.

    Parameters
    ----------
    output_size : int or pair
        (out_h, out_w).
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC".

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, or an unknown layout.
    """

    def __init__(self, output_size: IntOrPair, *, layout: str = "NCHW") -> None:
        to_pair("output_size", output_size)
        self.output_size = output_size
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, C, out_h, out_w), channels last in the other layout."""
        y, cache = functional.adaptive_avg_pool2d(x, self.output_size, layout=self.layout)
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Each gradient is shared by the pixels of its region."""
        return functional.adaptive_avg_pool2d_backward(dy, self.pop())

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"output_size={self.output_size}"
