"""Layers of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional
from .._checks import check_integer
from .._geometry import (
    IntOrPair,
    Padding,
    check_layout,
    check_output_padding,
    conv1d_arguments,
    conv_window,
    to_pair,
)
from .._random import as_generator
from ..backends.protocol import Array
from ..functional.conv import conv2d_relu
from ._fusion import runs_as
from ._initial import uniform
from .base import Layer, Parameter

__all__ = ["Conv1d", "Conv2d", "ConvTranspose2d"]


def _check_window(
    kernel: tuple[int, int], stride: tuple[int, int], padding: Padding, dilation: tuple[int, int]
) -> None:
    """Raise for what no image could be convolved with, here and not at the first batch."""
    conv_window([(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)], kernel, stride, padding, dilation)


def _channels(in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    in_channels = check_integer("in_channels", in_channels, 1)
    out_channels = check_integer("out_channels", out_channels, 1)
    groups = check_integer("groups", groups, 1)
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups: {groups} must divide in_channels and out_channels, got {in_channels} and {out_channels}"
        )
    return in_channels, out_channels, groups


class Conv2d(Layer):
    """Two-dimensional convolution; see `xpconv.functional.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F.
    kernel_size, stride, dilation : int or pair
        In pixels, (vertical, horizontal).
    padding : int, pair, two pairs, "valid" or "same"
        Zeros around the image.
    groups : int
        Divides both C and F.
    bias : bool
        Whether to add a number to each output channel.
    rng : numpy.random.Generator or int, optional
        Where the initial weights come from; the process-wide generator if None.
    dtype : str
        Of the weights, and so of the images.
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC"; the weights have the same shape in both.

    Attributes
    ----------
    weight : Parameter (F, C / groups, kh, kw)
    bias : Parameter (F,) or None
    need_dx : bool
        False makes backward return None instead of the gradient to the input, which saves a third of its work: for the
        first layer of a network.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, groups that do not divide both numbers of channels, an unknown padding,
        layout or dtype. The message names the argument.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: str = "float32",
        layout: str = "NCHW",
    ) -> None:
        self.in_channels, self.out_channels, self.groups = _channels(in_channels, out_channels, groups)
        self.kernel_size = to_pair("kernel_size", kernel_size)
        self.stride = to_pair("stride", stride)
        self.padding = padding
        self.dilation = to_pair("dilation", dilation)
        _check_window(self.kernel_size, self.stride, padding, self.dilation)
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))
        self.need_dx = True
        generator = as_generator(rng)
        per_group = self.in_channels // self.groups
        fan_in = per_group * self.kernel_size[0] * self.kernel_size[1]
        self.weight = uniform(generator, (self.out_channels, per_group, *self.kernel_size), fan_in, dtype)
        self.bias = uniform(generator, (self.out_channels,), fan_in, dtype) if bias else None

    def filters(self) -> Array:
        """What images are convolved with, (F, C / groups, kh, kw): the weight, or what a subclass makes of it.

        Returns
        -------
        array (F, C / groups, kh, kw)
            Of the dtype of the weight.
        """
        return self.weight.data

    def weight_gradient(self, dw: Array) -> Array:
        """Gradient to the weight, from that to the filters.

        Parameters
        ----------
        dw : array (F, C / groups, kh, kw)
            Gradient of the loss to what `filters` gave.

        Returns
        -------
        array like the weight
            Gradient of the loss to the weight.

        Raises
        ------
        TypeError, ValueError
            From what a subclass computes; here nothing is computed.
        """
        return dw

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, F, out_h, out_w), channels last in the other layout."""
        return self._forward(functional.conv2d, x)

    def _forward_relu(self, x: Array) -> Array | None:
        return self._forward(conv2d_relu, x) if runs_as(self, Conv2d) else None

    def _forward(self, operator: Callable[..., Any], x: Array) -> Array:
        """The result of ``operator``, `functional.conv2d` or one of its signature and cache."""
        y, cache = operator(
            x,
            self.filters(),
            None if self.bias is None else self.bias.data,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            layout=self.layout,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input, or None with ``need_dx = False``; adds to the gradients of the parameters."""
        dx, dw, db = functional.conv2d_backward(dy, self.pop(), need_dx=self.need_dx)
        self.weight.accumulate_grad(self.weight_gradient(dw))
        if self.bias is not None:
            self.bias.accumulate_grad(db)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch: what differs from the default."""
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        if self.padding not in (0, (0, 0)):
            padding = (self.padding, self.padding) if isinstance(self.padding, int) else self.padding
            parts.append(f"padding={padding!r}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.layout != "NCHW":
            parts.append(f"layout={self.layout!r}")
        return ", ".join(parts)


class ConvTranspose2d(Layer):
    """Transposed convolution, to images that are larger; see `xpconv.functional.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F.
    kernel_size, stride, dilation : int or pair
        Of the windows in the result, in pixels, (vertical, horizontal).
    padding : int, pair, two pairs, "valid" or "same"
        How much is cut off the result.
    output_padding : int or pair
        Pixels appended at the bottom and on the right; smaller than stride or dilation.
    groups : int
        Divides both C and F.
    bias : bool
        Whether to add a number to each output channel.
    rng, dtype, layout
        As for `Conv2d`. The initial weights are PyTorch's too: uniform, bounded by 1 / sqrt(F / groups * kh * kw).

    Attributes
    ----------
    weight : Parameter (C, F / groups, kh, kw)
    bias : Parameter (F,) or None
    need_dx : bool
        As for `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        As for `Conv2d`; also for an output_padding as large as stride and dilation.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: str = "float32",
        layout: str = "NCHW",
    ) -> None:
        self.in_channels, self.out_channels, self.groups = _channels(in_channels, out_channels, groups)
        self.kernel_size = to_pair("kernel_size", kernel_size)
        self.stride = to_pair("stride", stride)
        self.padding = padding
        self.output_padding = to_pair("output_padding", output_padding, minimum=0)
        self.dilation = to_pair("dilation", dilation)
        _check_window(self.kernel_size, self.stride, padding, self.dilation)
        check_output_padding(self.output_padding, self.stride, padding, self.dilation)
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))
        self.need_dx = True
        generator = as_generator(rng)
        per_group = self.out_channels // self.groups
        # PyTorch's, which counts the second axis, whatever its meaning
        fan_in = per_group * self.kernel_size[0] * self.kernel_size[1]
        self.weight = uniform(generator, (self.in_channels, per_group, *self.kernel_size), fan_in, dtype)
        self.bias = uniform(generator, (self.out_channels,), fan_in, dtype) if bias else None

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, F, out_h, out_w), channels last in the other layout."""
        y, cache = functional.conv_transpose2d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
            layout=self.layout,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input, or None with ``need_dx = False``; adds to the gradients of the parameters."""
        dx, dw, db = functional.conv_transpose2d_backward(dy, self.pop(), need_dx=self.need_dx)
        self.weight.accumulate_grad(dw)
        if self.bias is not None:
            self.bias.accumulate_grad(db)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch: what differs from the default."""
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        if self.padding not in (0, (0, 0)):
            padding = (self.padding, self.padding) if isinstance(self.padding, int) else self.padding
            parts.append(f"padding={padding!r}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != (0, 0):
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.layout != "NCHW":
            parts.append(f"layout={self.layout!r}")
        return ", ".join(parts)


class Conv1d(Layer):
    """One-dimensional convolution; see `xpconv.functional.conv1d`.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F.
    kernel_size, stride, dilation : int
        In samples.
    padding : int, pair (before, behind), "valid" or "same"
        Zeros around the signal.
    groups, bias, rng, dtype
        As for `Conv2d`.

    Attributes
    ----------
    weight : Parameter (F, C / groups, k)
    bias : Parameter (F,) or None
    need_dx : bool
        As for `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        As for `Conv2d`.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.in_channels, self.out_channels, self.groups = _channels(in_channels, out_channels, groups)
        self.kernel_size = check_integer("kernel_size", kernel_size, 1)
        self.stride = check_integer("stride", stride, 1)
        self.padding = padding
        self.dilation = check_integer("dilation", dilation, 1)
        steps, pads, spread = conv1d_arguments(stride, padding, dilation)
        _check_window((1, self.kernel_size), steps, pads, spread)
        self.need_dx = True
        generator = as_generator(rng)
        per_group = self.in_channels // self.groups
        fan_in = per_group * self.kernel_size
        self.weight = uniform(generator, (self.out_channels, per_group, self.kernel_size), fan_in, dtype)
        self.bias = uniform(generator, (self.out_channels,), fan_in, dtype) if bias else None

    def forward(self, x: Array) -> Array:
        """(N, C, L) to (N, F, out_l)."""
        y, cache = functional.conv1d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input, or None with ``need_dx = False``; adds to the gradients of the parameters."""
        dx, dw, db = functional.conv1d_backward(dy, self.pop(), need_dx=self.need_dx)
        self.weight.accumulate_grad(dw)
        if self.bias is not None:
            self.bias.accumulate_grad(db)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch: what differs from the default."""
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        if self.padding != 0:
            parts.append(f"padding={self.padding!r}")
        if self.dilation != 1:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)
