"""How convolutions cut a batch into slices, and the matrices of a slice; see `im2col` for what is done with them."""

from __future__ import annotations

from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from ..._geometry import ConvGeometry, Window
from ..._workspace import get_workspace_mb
from .. import _kernels

__all__ = [
    "SHARES",
    "Slice",
    "as_matrices",
    "channel_major",
    "columns_view",
    "copied",
    "is_pointwise",
    "multiply",
    "runs_of",
    "slices",
    "threads_for",
    "window_of",
]

_CACHE_BYTES = 2 << 20  # columns of one slice: about a core's second-level cache; 1 and 4 MiB are hardly slower
_ALIASING, _APART = 1024, 64  # bytes; see `channel_major`
SHARES = 16  # as many slices or more, so that every thread gets some,
_LEAST_WORK = 1 << 20  # unless a slice's product would have fewer multiplications than this


class Slice(NamedTuple):
    """Some images, or where one image is too large, some output rows of one image."""

    first: int
    last: int
    row_first: int
    row_last: int
    begin: int  # columns of y that the slice covers
    end: int

    @property
    def images(self) -> slice:
        return slice(self.first, self.last)


def slices(geometry: ConvGeometry, rows: int, itemsize: int) -> list[Slice]:
    """Cut the batch so that a matrix of ``rows`` rows and one slice of columns stays within the target."""
    window, batch = geometry.window, geometry.batch
    target = min(_CACHE_BYTES, get_workspace_mb() << 20)
    line = rows * window.out_w * itemsize
    fitting = target // (line * window.out_h)
    if fitting >= 1:
        weights = geometry.out_channels * geometry.in_channels // geometry.groups * window.taps
        worthwhile = -(-_LEAST_WORK // (weights * window.positions))
        images = min(fitting, max(worthwhile, -(-batch // SHARES)))
        # equal slices rather than a small one at the end
        images = -(-batch // -(-batch // images))
        ranges = [(first, min(first + images, batch)) for first in range(0, batch, images)]
        return [
            Slice(first, last, 0, window.out_h, first * window.positions, last * window.positions)
            for first, last in ranges
        ]
    lines = max(1, target // line)
    lines = -(-window.out_h // -(-window.out_h // lines))
    parts = []
    for image in range(batch):
        for row in range(0, window.out_h, lines):
            end = min(row + lines, window.out_h)
            begin = image * window.positions
            parts.append(Slice(image, image + 1, row, end, begin + row * window.out_w, begin + end * window.out_w))
    return parts


def runs_of(parts: list[Slice], most: int) -> list[list[Slice]]:
    """At most ``most`` runs of successive slices, about equally long; slices of one image stay together."""
    images = [list(group) for _, group in groupby(parts, key=lambda part: part.first)]
    length = -(-len(images) // max(1, min(most, len(images))))
    return [list(chain(*images[start : start + length])) for start in range(0, len(images), length)]


def threads_for(slice_bytes: int) -> int:
    """How many threads may have a workspace of that size under the cap."""
    return max(1, (get_workspace_mb() << 20) // slice_bytes)


def window_of(window: Window, part: Slice) -> Window:
    """The window of a slice: fewer output rows, further down in the image."""
    return window._replace(
        pad_top=window.pad_top - part.row_first * window.stride_h, out_h=part.row_last - part.row_first
    )


def channel_major(channels: int, images: int, height: int, width: int, dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory (channels, images, height, width), whose channels do not start a power of two apart.

    Otherwise the rows of a product fall into the same few lines of the cache, which halves its speed.
    """
    row = images * height * width
    pitch = row + _APART // dtype.itemsize if row * dtype.itemsize % _ALIASING == 0 else row
    return np.empty((channels, pitch), dtype)[:, :row].reshape(channels, images, height, width)


def columns_view(buffer: np.ndarray, geometry: ConvGeometry, part: Slice, ones: int) -> tuple[np.ndarray, np.ndarray]:
    """The start of the workspace as matrices (groups, K + ones, columns), and without the ones, which are set here,
    as (n, C, kh, kw, rows, out_w).
    """
    window = geometry.window
    shape = (
        geometry.in_channels, window.kernel_h, window.kernel_w,
        part.last - part.first, part.row_last - part.row_first, window.out_w,
    )  # fmt: skip
    rows, columns = geometry.in_channels // geometry.groups * window.taps, part.end - part.begin
    count = geometry.groups * rows * columns
    buffer[count : count + ones * columns] = 1
    matrices = buffer[: count + ones * columns].reshape(geometry.groups, rows + ones, columns)
    return matrices, buffer[:count].reshape(shape).transpose(3, 0, 1, 2, 4, 5)


def is_pointwise(window: Window) -> bool:
    """Whether the columns of an image are the image itself."""
    return window == Window(
        window.height, window.width, 1, 1, 1, 1, 0, 0, 0, 0, window.dilation_h, window.dilation_w,
        window.height, window.width,
    )  # fmt: skip


def as_matrices(images: np.ndarray, groups: int) -> np.ndarray | None:
    """Images (N, C, H, W) as matrices (groups, C / groups, N * H * W) where BLAS can read them in place."""
    n, c, h, w = images.shape
    try:
        matrices = np.reshape(images.transpose(1, 0, 2, 3), (groups, c // groups, n * h * w), copy=False)
    except ValueError:
        return None
    _, row, column = matrices.strides
    unit = images.itemsize
    readable = (column == unit and row >= n * h * w * unit) or (row == unit and column >= c // groups * unit)
    return matrices if readable else None


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Matrix product for each group; one group is one plain product."""
    if a.shape[0] == 1:
        np.matmul(a[0], b[0], out=out[0])
    elif a.shape[2] == 1:  # one filter a group: no sums, and matmul would call no BLAS
        np.multiply(a, b, out=out)
    else:
        np.matmul(a, b, out=out)


def copied(buffer: np.ndarray, dy: np.ndarray, geometry: ConvGeometry, part: Slice) -> np.ndarray:
    """A slice of dy (N, F, out_h, out_w) copied into channel-major matrices (groups, F / groups, columns)."""
    count = part.end - part.begin
    matrix = buffer[: geometry.out_channels * count]
    source = dy[part.images, :, part.row_first : part.row_last]
    n, f, height, width = source.shape
    target = matrix.reshape(f, 1, 1, n, height, width).transpose(3, 0, 1, 2, 4, 5)
    _kernels.im2col(source, target, 1, 1, 0, 0, 1, 1)  # a kernel of one pixel: a copy between any two layouts
    return matrix.reshape(geometry.groups, -1, count)
