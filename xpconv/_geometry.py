"""Shape arithmetic of sliding windows: padding modes, output sizes, and the messages when they do not fit.

Every convolution and pooling call turns its arguments into one `Window` here, once; kernels and generic
operators read the numbers from it and never compute a size of their own.

One axis of a window, here with kernel 3, dilation 2, stride 2, padding 1 and input size 6::

    input            .  a  b  c  d  e  f  .        '.' is padding
    window 0         x     x     x                 start = 0 * stride - pad_before
    window 1               x     x     x           extent = (kernel - 1) * dilation + 1

    output size = (size + pad_before + pad_after - extent) // stride + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from ._checks import check_integer

__all__ = [
    "ConvGeometry",
    "IntOrPair",
    "Padding",
    "Window",
    "check_layout",
    "check_output_padding",
    "conv1d_arguments",
    "conv_geometry",
    "conv_transpose_geometry",
    "conv_window",
    "pool_window",
    "to_pair",
]

_LARGEST = 1 << 62  # kernels take 64-bit integers
_MOST_PIXELS = 1 << 40  # of a padded image, so that offsets into a batch of them are such integers too

IntOrPair = int | tuple[int, int] | Sequence[int]
Padding = Literal["valid", "same"] | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | Sequence


class Window(NamedTuple):
    """A two-dimensional sliding window over images of one size; all lengths in pixels."""

    height: int
    width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    out_h: int
    out_w: int

    @property
    def taps(self) -> int:
        """Number of kernel positions, ``kernel_h * kernel_w``."""
        return self.kernel_h * self.kernel_w

    @property
    def positions(self) -> int:
        """Number of output pixels of one image, ``out_h * out_w``."""
        return self.out_h * self.out_w

    def rows(self, i: int) -> slice:
        """Rows of the padded image that tap row ``i`` reads, one for each output row."""
        start = i * self.dilation_h
        return slice(start, start + self.stride_h * (self.out_h - 1) + 1, self.stride_h)

    def columns(self, j: int) -> slice:
        """Columns of the padded image that tap column ``j`` reads, one for each output column."""
        start = j * self.dilation_w
        return slice(start, start + self.stride_w * (self.out_w - 1) + 1, self.stride_w)

    @property
    def reach(self) -> tuple[int, int]:
        """Height and width of the padded image that covers every window.

        With ``ceil_mode`` the last window may reach beyond the nominal padding, hence the maximum.
        """
        last_row = self.stride_h * (self.out_h - 1) + (self.kernel_h - 1) * self.dilation_h + 1
        last_column = self.stride_w * (self.out_w - 1) + (self.kernel_w - 1) * self.dilation_w + 1
        return (
            max(self.pad_top + self.height + self.pad_bottom, last_row),
            max(self.pad_left + self.width + self.pad_right, last_column),
        )


class ConvGeometry(NamedTuple):
    """Everything a convolution kernel needs to know besides the numbers in the arrays."""

    window: Window
    batch: int
    in_channels: int
    out_channels: int
    groups: int


def _integer(name: str, value: object, minimum: int, takes: str = "an integer") -> int:
    number = check_integer(name, value, minimum, takes=takes)
    if number > _LARGEST:
        raise ValueError(f"{name}: too large, must be at most 2**62, got {number}")
    return number


def _is_plain_pair(value: object, minimum: int) -> bool:
    """Whether ``value`` is a tuple of two ints in range, as most are: nothing is to be converted or refused then."""
    if type(value) is not tuple or len(value) != 2:
        return False
    first, second = value
    # neither True nor 1.0, which are equal to 1
    return type(first) is int and type(second) is int and minimum <= first <= _LARGEST and minimum <= second <= _LARGEST


def to_pair(name: str, value: IntOrPair, *, minimum: int = 1) -> tuple[int, int]:
    """Return ``value`` as ``(vertical, horizontal)``.

    Raises
    ------
    TypeError
        If it is neither an integer nor a pair of integers.
    ValueError
        If it has another length than two, or an entry is below ``minimum``.
    """
    if type(value) is int and minimum <= value <= _LARGEST:
        return value, value
    if _is_plain_pair(value, minimum):
        return value  # type: ignore[return-value]
    takes = "an integer or a pair of integers"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ValueError(f"{name}: expected {takes}, got {value!r}")
        return _integer(name, value[0], minimum, takes), _integer(name, value[1], minimum, takes)
    number = _integer(name, value, minimum, takes)  # type: ignore[arg-type]
    return number, number


def _same(size: int, extent: int, stride: int) -> tuple[int, int]:
    """Padding before and after of TensorFlow's SAME: ceil(size / stride) outputs, the odd pixel goes behind."""
    out = -(-size // stride)
    total = max((out - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _normal_padding(padding: Padding) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """``"valid"``, ``"same"`` or ``((top, bottom), (left, right))`` from any accepted form."""
    if type(padding) is int and 0 <= padding <= _LARGEST:
        return (padding, padding), (padding, padding)
    if _is_plain_pair(padding, 0):
        vertical, horizontal = padding  # type: ignore[misc,str-unpack]
        return (vertical, vertical), (horizontal, horizontal)  # type: ignore[return-value]
    takes = "'valid', 'same', an integer, a pair or two pairs of integers"
    if isinstance(padding, str):
        if padding.lower() not in ("valid", "same"):
            raise ValueError(f"padding: expected {takes}, got {padding!r}")
        return padding.lower()
    if isinstance(padding, np.ndarray):
        padding = padding.tolist()
    sides = padding if isinstance(padding, (list, tuple)) else (padding, padding)
    if not any(isinstance(side, (list, tuple)) for side in sides):
        sides = [(side, side) for side in sides]
    elif not all(isinstance(side, (list, tuple)) for side in sides):
        raise ValueError(f"padding: expected {takes}, got {padding!r}")
    if len(sides) != 2 or any(len(side) != 2 for side in sides):  # type: ignore[arg-type]
        raise ValueError(f"padding: expected {takes}, got {padding!r}")
    (top, bottom), (left, right) = ([_integer("padding", p, 0, takes) for p in s] for s in sides)  # type: ignore
    return (top, bottom), (left, right)


@lru_cache(maxsize=4096)
def _window(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str | tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    ceil_mode: bool,
    kernel_name: str = "kernel_size",
) -> Window:
    if 0 in size:
        raise ValueError(f"x: images need at least one pixel, got height {size[0]} and width {size[1]}")
    extent = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
    if padding == "same":
        pads = (_same(size[0], extent[0], stride[0]), _same(size[1], extent[1], stride[1]))
    elif padding == "valid":
        pads = ((0, 0), (0, 0))
    else:
        pads = padding  # type: ignore[assignment]
    out = []
    for axis, name in enumerate(("height", "width")):
        room = size[axis] + sum(pads[axis]) - extent[axis]
        count = room // stride[axis] + 1
        # ceil_mode adds one partial window, unless it would start behind the image (PyTorch's rule)
        if ceil_mode and room % stride[axis] and count * stride[axis] < size[axis] + pads[axis][0]:
            count += 1
        if count < 1:
            spread = f" (spread to {extent[axis]} by dilation {dilation[axis]})" if dilation[axis] > 1 else ""
            raise ValueError(
                f"{kernel_name}: kernel {name} {kernel[axis]}{spread} is larger than the padded input's, "
                f"{size[axis]} + padding {pads[axis][0]} + {pads[axis][1]}"
            )
        out.append(count)
    (top, bottom), (left, right) = pads
    padded = (top + size[0] + bottom, left + size[1] + right)
    if padded[0] * padded[1] > max(_MOST_PIXELS, size[0] * size[1]):
        raise ValueError(
            f"padding: too large, the padded image would have {padded[0]} x {padded[1]} pixels, more than 2**40 "
            f"(size {size[0]} x {size[1]}, padding {padding!r}, kernel spread to {extent[0]} x {extent[1]})"
        )
    return Window(*size, *kernel, *stride, top, bottom, left, right, *dilation, *out)


def conv_window(
    image_size: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    *,
    kernel_name: str = "kernel_size",
) -> Window:
    """Window of a convolution or of `im2col` over images of ``image_size`` (height, width).

    Parameters
    ----------
    padding
        An integer, a pair (vertical, horizontal), two pairs ((top, bottom), (left, right)), ``"valid"``, or
        ``"same"``, which is TensorFlow's rule: ``ceil(size / stride)`` outputs, an odd pixel of padding goes behind.
    kernel_name
        The argument that the kernel's size comes from, for messages.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong and its value.
    """
    # normalised before the cache: 1, 1.0 and True would be the same key
    return _window(
        to_pair("image_size", image_size, minimum=0),
        to_pair(kernel_name, kernel_size),
        to_pair("stride", stride),
        _normal_padding(padding),
        to_pair("dilation", dilation),
        False,
        kernel_name,
    )


def pool_window(
    image_size: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: Padding,
    dilation: IntOrPair,
    ceil_mode: bool,
) -> Window:
    """Window of a pooling; ``stride=None`` means ``kernel_size``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong and its value; also where a window would lie wholly in the padding.
    """
    kernel = to_pair("kernel_size", kernel_size)
    return _pool_window(
        to_pair("image_size", image_size, minimum=0),
        kernel,
        kernel if stride is None else to_pair("stride", stride),
        _normal_padding(padding),
        to_pair("dilation", dilation),
        bool(ceil_mode),
    )


@lru_cache(maxsize=4096)
def _pool_window(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str | tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    ceil_mode: bool,
) -> Window:
    window = _window(size, kernel, stride, padding, dilation, ceil_mode)
    _check_overlap(window)
    return window


def _check_overlap(window: Window) -> None:
    axes = (
        ("height", window.height, window.kernel_h, window.stride_h, window.pad_top, window.dilation_h, window.out_h),
        ("width", window.width, window.kernel_w, window.stride_w, window.pad_left, window.dilation_w, window.out_w),
    )
    for name, size, kernel, stride, pad, dilation, out in axes:
        # the others see the pixel that they start on
        before, behind = min(-(-pad // stride), out), -(-(size + pad) // stride)
        if dilation == 1:
            before = min(before, 1)  # the first reaches least far into the image
        for o in chain(range(before), range(behind, out)):
            start = o * stride - pad
            tap = max(0, -(start // dilation))  # the first that is not before the image
            if tap >= kernel or start + tap * dilation >= size:
                raise ValueError(
                    f"padding: window {o} along the {name} would see nothing but padding "
                    f"(size {size}, kernel {kernel}, stride {stride}, padding {pad}, dilation {dilation})"
                )


def conv1d_arguments(
    stride: int, padding: int | Sequence[int] | str, dilation: int
) -> tuple[tuple[int, int], Padding, tuple[int, int]]:
    """Stride, padding and dilation of the two-dimensional convolution of images of height one.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, its value and what it takes along one axis.
    """
    across: Padding
    takes = "'valid', 'same', an integer or a pair (before, behind)"
    if isinstance(padding, str):
        if padding.lower() not in ("valid", "same"):
            raise ValueError(f"padding: expected {takes}, got {padding!r}")
        across = padding
    else:
        sides = padding.tolist() if isinstance(padding, np.ndarray) else padding
        pair = sides if isinstance(sides, (list, tuple)) else (sides, sides)
        if len(pair) != 2 or any(isinstance(side, (list, tuple)) for side in pair):
            raise ValueError(f"padding: expected {takes}, got {padding!r}")
        before, behind = (_integer("padding", side, 0, takes) for side in pair)
        across = ((0, 0), (before, behind))
    return (1, _integer("stride", stride, 1)), across, (1, _integer("dilation", dilation, 1))


def check_layout(name: str, layout: str, allowed: tuple[str, ...]) -> str:
    """Return ``layout`` if it is one of ``allowed``; raise ValueError naming the argument otherwise."""
    if layout not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {layout!r}")
    return layout


@lru_cache(maxsize=4096)
def _conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: str | tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    groups: int,
) -> ConvGeometry:
    if 0 in w_shape:
        raise ValueError(f"w: needs at least one filter, one channel and one tap, got shape {w_shape}")
    size, kernel = to_pair("image_size", x_shape[2:], minimum=0), to_pair("w", w_shape[2:])
    window = _window(size, kernel, stride, padding, dilation, False, "w")
    batch, in_channels = x_shape[:2]
    out_channels, channels_per_group = w_shape[:2]
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups: {groups} must divide the input channels and the filters, got {in_channels} and {out_channels}"
        )
    if channels_per_group * groups != in_channels:
        raise ValueError(
            f"w: has {channels_per_group} channels a filter and groups is {groups}, which takes "
            f"{channels_per_group * groups} input channels, but x has {in_channels} (x {x_shape}, w {w_shape})"
            + ("; channels last are layout='NHWC'" if channels_per_group * groups == x_shape[3] else "")
        )
    return ConvGeometry(window, batch, in_channels, out_channels, groups)


def conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> ConvGeometry:
    """Geometry of a convolution of x (N, C, H, W) with w (F, C / groups, kh, kw).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, what it is and what it must be.
    """
    if type(stride) is type(padding) is type(dilation) is type(groups) is int:
        return _conv_geometry_of_integers(tuple(x_shape), tuple(w_shape), stride, padding, dilation, groups)
    return _checked_conv_geometry(x_shape, w_shape, stride, padding, dilation, groups)


def _checked_conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> ConvGeometry:
    # normalised before the cache: 1, 1.0 and True would be the same key
    groups = _integer("groups", groups, 1)
    return _conv_geometry(
        tuple(x_shape),
        tuple(w_shape),
        to_pair("stride", stride),
        _normal_padding(padding),
        to_pair("dilation", dilation),
        groups,
    )


# most calls: remembered as they come, which saves the normal forms
_conv_geometry_of_integers = lru_cache(maxsize=4096)(_checked_conv_geometry)


def check_output_padding(
    output_padding: tuple[int, int], stride: tuple[int, int], padding: Padding, dilation: tuple[int, int]
) -> None:
    """Raise ValueError for an output padding that no image could have in a transposed convolution."""
    if isinstance(padding, str) and padding.lower() == "same" and any(output_padding):
        raise ValueError(f"output_padding: padding='same' gives size * stride outputs, got {output_padding} besides")
    for name, more, step, spread in zip(("height", "width"), output_padding, stride, dilation, strict=True):
        if more >= max(step, spread):
            raise ValueError(
                f"output_padding: must be smaller than stride or dilation, got {more} for the {name}, "
                f"with stride {step} and dilation {spread}"
            )


@lru_cache(maxsize=4096)
def _transposed_window(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str | tuple[tuple[int, int], tuple[int, int]],
    output_padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Window:
    if 0 in size:
        raise ValueError(f"x: images need at least one pixel, got height {size[0]} and width {size[1]}")
    check_output_padding(output_padding, stride, padding, dilation)
    sizes, pads = [], []
    for axis, name in enumerate(("height", "width")):
        extent, more = (kernel[axis] - 1) * dilation[axis] + 1, output_padding[axis]
        if padding == "same":
            out = size[axis] * stride[axis]
            sides = _same(out, extent, stride[axis])
        else:
            sides = (0, 0) if padding == "valid" else padding[axis]  # type: ignore[assignment]
            out = (size[axis] - 1) * stride[axis] + extent + more - sum(sides)
        if out < 1:
            raise ValueError(
                f"padding: leaves no output, the {name} would be ({size[axis]} - 1) * {stride[axis]} + {extent} + "
                f"{more} - {sides[0]} - {sides[1]} = {out}"
            )
        sizes.append(out)
        pads.append(sides)
    (top, bottom), (left, right) = pads
    padded = (top + sizes[0] + bottom, left + sizes[1] + right)
    if padded[0] * padded[1] > _MOST_PIXELS:
        raise ValueError(
            f"x: the result would have {padded[0]} x {padded[1]} pixels with its padding, more than 2**40 "
            f"(size {size[0]} x {size[1]}, kernel {kernel}, stride {stride}, padding {padding!r}, dilation {dilation})"
        )
    return Window(*sizes, *kernel, *stride, top, bottom, left, right, *dilation, *size)  # type: ignore[call-arg]


def conv_transpose_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: IntOrPair,
    padding: Padding,
    output_padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
) -> ConvGeometry:
    """Geometry of the transposed convolution of x (N, C, H, W) with w (C, F / groups, kh, kw).

    It is that of the convolution whose gradient it is, which goes the other way: its images are those of the result,
    (N, F, out_h, out_w), its filters w, and its results x. ``in_channels`` is F and ``out_channels`` is C.

    Parameters
    ----------
    padding
        As for `conv_window`: what is cut off the result. ``"same"`` gives ``size * stride`` outputs.
    output_padding
        Pixels behind the last that a whole window needs.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong, what it is and what it must be.
    """
    groups = _integer("groups", groups, 1)
    if 0 in w_shape:
        raise ValueError(f"w: needs at least one filter, one channel and one tap, got shape {tuple(w_shape)}")
    batch, channels, *size = x_shape
    if w_shape[0] != channels:
        raise ValueError(
            f"w: has filters for {w_shape[0]} input channels, but x has {channels} (x {tuple(x_shape)}, "
            f"w {tuple(w_shape)})"
        )
    if channels % groups:
        raise ValueError(f"groups: {groups} must divide the input channels, got {channels}")
    window = _transposed_window(
        (size[0], size[1]),
        (w_shape[2], w_shape[3]),
        to_pair("stride", stride),
        _normal_padding(padding),
        to_pair("output_padding", output_padding, minimum=0),
        to_pair("dilation", dilation),
    )
    return ConvGeometry(window, batch, w_shape[1] * groups, channels, groups)
