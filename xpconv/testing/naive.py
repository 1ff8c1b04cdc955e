"""Oracles in plain loops, straight from the definitions, on NumPy arrays, in float64.

They share nothing with xpconv: neither its shape arithmetic nor im2col nor padded copies. A window is the list of its
pixels, those outside the image left out. Slow by design.

All arguments are written out: pairs (vertical, horizontal), padding ((top, bottom), (left, right)).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = [
    "avg_pool2d",
    "avg_pool2d_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "im2col",
    "max_pool2d",
    "max_pool2d_backward",
    "starts",
]

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]

_NONE: Pads = ((0, 0), (0, 0))


def starts(size: int, kernel: int, stride: int, pads: Pair, dilation: int, ceil_mode: bool = False) -> list[int]:
    """Where the windows along one axis begin, in pixels of the image; those that begin in the padding are negative.

    Window after window is laid down as long as it ends within the padded image. With ``ceil_mode`` one more follows if
    it overshoots by less than a stride, unless it would begin behind the image.

    Parameters
    ----------
    size
        Of the image along the axis.
    kernel, stride
        In pixels.
    pads
        (before, after).
    dilation
        In pixels.
    ceil_mode
        Whether a last partial window counts.

    Returns
    -------
    list of int
        In order.
    """
    before, after = pads
    extent = (kernel - 1) * dilation + 1
    found = []
    start = -before
    while start + extent <= size + after:
        found.append(start)
        start += stride
    if ceil_mode and start + extent - (size + after) < stride and start < size:
        found.append(start)
    return found


def _windows(
    image_size: Pair, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair, ceil_mode: bool = False
) -> Iterator[tuple[Pair, list[tuple[int, int, int, int]]]]:
    """For each output pixel (p, q): the taps (i, j) that fall on pixels (r, s) of the image, row by row."""
    height, width = image_size
    rows = starts(height, kernel[0], stride[0], padding[0], dilation[0], ceil_mode)
    columns = starts(width, kernel[1], stride[1], padding[1], dilation[1], ceil_mode)
    for p, top in enumerate(rows):
        for q, left in enumerate(columns):
            pixels = []
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    r, s = top + i * dilation[0], left + j * dilation[1]
                    if 0 <= r < height and 0 <= s < width:
                        pixels.append((i, j, r, s))
            yield (p, q), pixels


def _out_size(
    image_size: Pair, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair, ceil_mode: bool = False
) -> Pair:
    axes = zip(image_size, kernel, stride, padding, dilation, strict=True)
    height, width = (len(starts(n, k, s, p, d, ceil_mode)) for n, k, s, p, d in axes)
    return height, width


def im2col(
    x: np.ndarray, kernel: Pair, stride: Pair = (1, 1), padding: Pads = _NONE, dilation: Pair = (1, 1)
) -> np.ndarray:
    """Columns (N, C * kh * kw, out_h * out_w) of images (N, C, H, W).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).

    Returns
    -------
    array (N, C * kh * kw, out_h * out_w)
        float64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    n, c, height, width = x.shape
    out_h, out_w = _out_size((height, width), kernel, stride, padding, dilation)
    cols = np.zeros((n, c, kernel[0], kernel[1], out_h, out_w))
    for (p, q), pixels in _windows((height, width), kernel, stride, padding, dilation):
        for i, j, r, s in pixels:
            cols[:, :, i, j, p, q] = x[:, :, r, s]
    return cols.reshape(n, c * kernel[0] * kernel[1], out_h * out_w)


def col2im(
    cols: np.ndarray,
    image_size: Pair,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pads = _NONE,
    dilation: Pair = (1, 1),
) -> np.ndarray:
    """Images (N, C, H, W) from columns (N, C * kh * kw, out_h * out_w).

    Parameters
    ----------
    cols : array (N, C * kh * kw, out_h * out_w)
        Columns.
    image_size
        (H, W).
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).

    Returns
    -------
    array (N, C, H, W)
        float64: what lies on one pixel is added up.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    n, c = cols.shape[0], cols.shape[1] // (kernel[0] * kernel[1])
    out_h, out_w = _out_size(image_size, kernel, stride, padding, dilation)
    parts = cols.reshape(n, c, kernel[0], kernel[1], out_h, out_w)
    x = np.zeros((n, c, *image_size))
    for (p, q), pixels in _windows(image_size, kernel, stride, padding, dilation):
        for i, j, r, s in pixels:
            x[:, :, r, s] += parts[:, :, i, j, p, q]
    return x


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    stride: Pair = (1, 1),
    padding: Pads = _NONE,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw): (N, F, out_h, out_w).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    w : array (F, C / groups, kh, kw)
        Filters.
    b : array (F,), optional
        Bias.
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).
    groups
        Into how many groups the channels are cut.

    Returns
    -------
    array (N, F, out_h, out_w)
        float64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    x, w = x.astype(np.float64), w.astype(np.float64)
    (n, _, *image_size), (filters, per_group, *kernel) = x.shape, w.shape
    geometry = (tuple(image_size), tuple(kernel), stride, padding, dilation)
    y = np.zeros((n, filters, *_out_size(*geometry)))
    for (p, q), pixels in _windows(*geometry):
        for f in range(filters):
            first = f // (filters // groups) * per_group  # channel that the filter's group begins with
            total = np.zeros(n)
            for i, j, r, s in pixels:
                for c in range(per_group):
                    total += x[:, first + c, r, s] * w[f, c, i, j]
            y[:, f, p, q] = total if b is None else total + float(b[f])
    return y


def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    stride: Pair = (1, 1),
    padding: Pads = _NONE,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients (dx, dw, db) of `conv2d`.

    Parameters
    ----------
    dy : array (N, F, out_h, out_w)
        Gradient of the loss to the result.
    x : array (N, C, H, W)
        Images.
    w : array (F, C / groups, kh, kw)
        Filters.
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).
    groups
        Into how many groups the channels are cut.

    Returns
    -------
    dx : array (N, C, H, W)
    dw : array (F, C / groups, kh, kw)
    db : array (F,)

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    dy, x, w = dy.astype(np.float64), x.astype(np.float64), w.astype(np.float64)
    (filters, per_group, *kernel) = w.shape
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(filters)
    for (p, q), pixels in _windows(x.shape[2:], (kernel[0], kernel[1]), stride, padding, dilation):
        for f in range(filters):
            first = f // (filters // groups) * per_group
            g = dy[:, f, p, q]
            db[f] += g.sum()
            for i, j, r, s in pixels:
                for c in range(per_group):
                    dx[:, first + c, r, s] += g * w[f, c, i, j]
                    dw[f, c, i, j] += (g * x[:, first + c, r, s]).sum()
    return dx, dw, db


def max_pool2d(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pads = _NONE,
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Largest pixel of every window of x (N, C, H, W), and its tap ``i * kw + j``; both (N, C, out_h, out_w).

    Of equal pixels the first, row by row, counts; a NaN is the largest.

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).
    ceil_mode
        Whether a last partial window counts.

    Returns
    -------
    y : array (N, C, out_h, out_w)
        float64.
    argmax : array (N, C, out_h, out_w)
        int64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    n, channels, height, width = x.shape
    size = _out_size((height, width), kernel, stride, padding, dilation, ceil_mode)
    y, argmax = np.zeros((n, channels, *size)), np.zeros((n, channels, *size), dtype=np.int64)
    for (p, q), pixels in _windows((height, width), kernel, stride, padding, dilation, ceil_mode):
        for image in range(n):
            for c in range(channels):
                best, tap = -np.inf, -1
                for i, j, r, s in pixels:
                    value = x[image, c, r, s]
                    if tap < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                        best, tap = value, i * kernel[1] + j
                y[image, c, p, q], argmax[image, c, p, q] = best, tap
    return y, argmax


def max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    image_size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pads = _NONE,
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> np.ndarray:
    """Gradient (N, C, H, W) of `max_pool2d`, which goes to the tap that was the largest.

    Parameters
    ----------
    dy : array (N, C, out_h, out_w)
        Gradient of the loss to the result.
    argmax : array (N, C, out_h, out_w)
        From `max_pool2d`.
    image_size
        (H, W).
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    dilation
        (vertical, horizontal).
    ceil_mode
        As of `max_pool2d`.

    Returns
    -------
    array (N, C, H, W)
        float64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    dx = np.zeros((*dy.shape[:2], *image_size))
    for (p, q), pixels in _windows(image_size, kernel, stride, padding, dilation, ceil_mode):
        for image in range(dy.shape[0]):
            for c in range(dy.shape[1]):
                for i, j, r, s in pixels:
                    if argmax[image, c, p, q] == i * kernel[1] + j:
                        dx[image, c, r, s] += dy[image, c, p, q]
    return dx


def _divisors(
    image_size: Pair, kernel: Pair, stride: Pair, padding: Pads, ceil_mode: bool, count_include_pad: bool
) -> np.ndarray:
    """How many pixels each window (out_h, out_w) is the mean of.

    Those in the image, and with ``count_include_pad`` also those in the padding; never what lies beyond the padding,
    where ``ceil_mode`` can reach.
    """
    counts = []
    for size, k, step, (before, after) in zip(image_size, kernel, stride, padding, strict=True):
        low, high = (-before, size + after) if count_include_pad else (0, size)
        counts.append(
            [
                sum(low <= t < high for t in range(at, at + k))
                for at in starts(size, k, step, (before, after), 1, ceil_mode)
            ]
        )
    return np.multiply.outer(counts[0], counts[1])


def avg_pool2d(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pads = _NONE,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Mean of every window of x (N, C, H, W): (N, C, out_h, out_w).

    Parameters
    ----------
    x : array (N, C, H, W)
        Images.
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    ceil_mode
        Whether a last partial window counts.
    count_include_pad
        Whether the zeros count in the divisor.

    Returns
    -------
    array (N, C, out_h, out_w)
        float64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    n, channels, height, width = x.shape
    divisors = _divisors((height, width), kernel, stride, padding, ceil_mode, count_include_pad)
    y = np.zeros((n, channels, *divisors.shape))
    for (p, q), pixels in _windows((height, width), kernel, stride, padding, (1, 1), ceil_mode):
        for _, _, r, s in pixels:
            y[:, :, p, q] += x[:, :, r, s]
    return y / divisors


def avg_pool2d_backward(
    dy: np.ndarray,
    image_size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pads = _NONE,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """Gradient (N, C, H, W) of `avg_pool2d`.

    Parameters
    ----------
    dy : array (N, C, out_h, out_w)
        Gradient of the loss to the result.
    image_size
        (H, W).
    kernel
        (kh, kw).
    stride
        (vertical, horizontal).
    padding
        ((top, bottom), (left, right)).
    ceil_mode, count_include_pad
        As of `avg_pool2d`.

    Returns
    -------
    array (N, C, H, W)
        float64.

    Raises
    ------
    IndexError, ValueError
        Shapes that do not fit; nothing is checked beforehand.
    """
    divisors = _divisors(image_size, kernel, stride, padding, ceil_mode, count_include_pad)
    dx = np.zeros((*dy.shape[:2], *image_size))
    for (p, q), pixels in _windows(image_size, kernel, stride, padding, (1, 1), ceil_mode):
        for _, _, r, s in pixels:
            dx[:, :, r, s] += dy[:, :, p, q] / divisors[p, q]
    return dx
