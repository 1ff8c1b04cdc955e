"""Convolution of any shape by blocks that stay in the caches: no columns in memory, results straight into place.

What the kernels do is drawn in ``kernels/cpu/blocked.h``. Groups run one after the other.
"""

from __future__ import annotations

import numpy as np

from ..._geometry import ConvGeometry
from ..._workspace import get_workspace_mb
from .. import _kernels
from .._memory import empty
from .._planes import planes
from ..columns import steps

__all__ = ["features", "forward", "input_gradient", "possible", "weight_gradient"]


def possible(operation: str, dtype: str, geometry: ConvGeometry) -> str | None:
    """None unless a compiler without vectors built the kernels."""
    if not _kernels.instruction_sets():
        return "the kernels were built by a compiler without vectors"
    return None


def _pairs(size: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """How many pairs of a tap and an output of one axis meet a pixel, not padding."""
    pairs = 0
    for offset in range(-pad, kernel * dilation - pad, dilation):
        first = max(0, -(offset // stride))
        pairs += max(0, min(out - 1, (size - 1 - offset) // stride) - first + 1)
    return pairs


def features(operation: str, geometry: ConvGeometry, lanes: int) -> tuple[float, ...]:
    """Calls, products (of whole vectors), numbers gathered, numbers of images and results, weights.

    Rows of taps that only meet padding are left out, all such taps where images are the lanes (about as the kernels
    decide it) and in the gradient to the weights, which gathers nothing: rows that its tiles go through stand there.
    """
    window, groups, batch = geometry.window, geometry.groups, geometry.batch
    channels, filters = geometry.in_channels // groups, geometry.out_channels // groups
    pixels, positions = window.height * window.width, window.positions
    rows = _pairs(
        window.height, window.out_h, window.kernel_h, window.stride_h, window.pad_top, window.dilation_h
    )  # fmt: skip
    columns = _pairs(window.width, window.out_w, window.kernel_w, window.stride_w, window.pad_left, window.dilation_w)
    numbers = groups * batch * (channels * pixels + filters * positions)
    weights = float(groups * channels * filters * window.taps)
    forward = operation == "forward"
    if operation == "input_gradient":
        across, read, written = window.width * window.kernel_w / window.stride_w, filters, channels
    else:
        across, read, written = float(window.out_w * window.kernel_w), channels, filters
    if operation == "weight_gradient":
        # panels of rows by vectors of filters; each tap goes through the rows of the outputs that it sees
        height, walked, seen = channels, window.kernel_w, columns
        if channels <= 7 and window.dilation_w == 1:  # a row of taps at once, over all outputs
            height, walked, seen = channels * window.kernel_w, 1, window.out_w
        panels, vectors = -(-height // 14), -(-filters // lanes)
        pairs = panels * -(-vectors // 2)
        products = max(height * vectors, 8 * pairs) * lanes  # fewer than eight sums wait for each other
        walks = groups * batch * rows
        return 1.0, walks * seen * products, walks * walked * pairs, numbers, weights
    # fewer than four sums side by side leave multiply-adds waiting for each other
    sums = max(written, 4)
    down = window.out_h * window.kernel_h if forward else window.height * window.kernel_h / window.stride_h
    inputs, outputs = (pixels, positions) if forward else (positions, pixels)
    # what products cost with images as lanes, which have to be turned, and with pixels
    turned = 32 * (inputs * read + outputs * written) / (down * across * read * written)
    stacked = rows / down * columns / across * (-(-batch // lanes) * lanes) / batch
    runs = 3 * lanes / min(window.out_w if forward else -(-window.width // window.stride_w), lanes)
    small = window.taps > 1 and max(pixels, positions) <= 1024 and (read * inputs + 8 * outputs) * lanes <= 1 << 18
    if small and stacked * 1.1 + turned < (1 + rows / down) / 2 * (1 + runs / written):
        return 1.0, groups * batch * down * across * read * sums * stacked, 0.0, 8.0 * numbers, weights
    gathered = groups * batch * rows * across * read
    if forward and batch == 1 and positions <= 6 * lanes and filters % 8 == 0:
        weights *= 0.2  # they are read where they lie
    return 1.0, gathered * sums, gathered, numbers, weights


def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, geometry: ConvGeometry, relu: bool) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W) with w (F, C / groups, kh, kw); returns (N, F, out_h, out_w)."""
    window = geometry.window
    y = empty((geometry.batch, geometry.out_channels, window.out_h, window.out_w), x.dtype)
    w, b = np.ascontiguousarray(w), None if b is None else np.ascontiguousarray(b)
    _kernels.blocked_forward(planes(x), w, b, y, *steps(window), geometry.groups, relu, get_workspace_mb() << 20)
    return y


def input_gradient(dy: np.ndarray, w: np.ndarray, geometry: ConvGeometry, b: np.ndarray | None = None) -> np.ndarray:
    """Dx (N, C, H, W), plus b (C,): the forward pass of a transposed convolution."""
    window = geometry.window
    dx = empty((geometry.batch, geometry.in_channels, window.height, window.width), dy.dtype)
    b = None if b is None else np.ascontiguousarray(b)
    _kernels.blocked_input_gradient(
        planes(dy), np.ascontiguousarray(w), b, dx, *steps(window), geometry.groups, get_workspace_mb() << 20
    )
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, geometry: ConvGeometry, need_db: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dw (F, C / groups, kh, kw), and db (F,) if it is needed."""
    window = geometry.window
    shape = (geometry.out_channels, geometry.in_channels // geometry.groups, window.kernel_h, window.kernel_w)
    dw, db = empty(shape, x.dtype), empty(shape[:1], x.dtype) if need_db else None
    _kernels.blocked_weight_gradient(
        planes(dy), planes(x), dw, db, *steps(window), geometry.groups, get_workspace_mb() << 20
    )
    return dw, db
