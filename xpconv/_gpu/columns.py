"""Images to columns and back, by CUDA kernels."""

from __future__ import annotations

from .._geometry import Window
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import Index, Strided, index_for, launch, planes, struct_of_window
from .module import INT32, UNROLLED

__all__ = ["col2im", "col2im_into", "im2col", "im2col_into"]


def _template(window: Window, index: Index) -> tuple[str, str, str]:
    """Template arguments of a kernel over windows: an unrolled instance if there is one for the size."""
    if window.kernel_h == window.kernel_w and window.kernel_h in UNROLLED and index.name == INT32:
        return index.name, str(window.kernel_h), str(window.kernel_w)
    return index.name, "0", "0"


def im2col_into(backend: GpuBackend, x: Array, columns: Array, window: Window, row: int, image: int) -> None:
    """Write the columns of images (N, C, H, W) to ``columns``, at the steps of ``columns.cu``."""
    n, c = x.shape[:2]
    source = planes(backend, x)
    index = index_for(source.extent, columns.size)
    count = n * c * window.positions
    arguments = (
        Strided(source.array),
        columns,
        struct_of_window(window),
        index.struct(source.image, source.channel),
        index.struct(row, image),
        index.scalar(n),
        index.scalar(c),
    )
    launch(backend, "columns", "im2col", backend.dtype_name(x), _template(window, index), count, arguments)


def col2im_into(backend: GpuBackend, columns: Array, x: Array, window: Window, row: int, image: int) -> None:
    """Write the sums of columns to images ``x`` (N, C, H, W), whose planes are contiguous."""
    n, c = x.shape[:2]
    target = planes(backend, x)
    assert target.array is x
    index = index_for(target.extent, columns.size)
    arguments = (
        columns,
        Strided(x),
        struct_of_window(window),
        index.struct(target.image, target.channel),
        index.struct(row, image),
        index.scalar(n),
        index.scalar(c),
    )
    count = n * c * window.height * window.width
    launch(backend, "columns", "col2im", backend.dtype_name(x), _template(window, index), count, arguments)


def im2col(backend: GpuBackend, x: Array, window: Window) -> Array:
    """Columns (N, C * kh * kw, out_h * out_w) of images (N, C, H, W)."""
    n, rows = x.shape[0], x.shape[1] * window.taps
    columns = backend.empty((n, rows, window.positions), x.dtype)
    im2col_into(backend, x, columns, window, window.positions, rows * window.positions)
    return columns


def col2im(backend: GpuBackend, cols: Array, window: Window) -> Array:
    """Images (N, C, H, W) from columns (N, C * kh * kw, out_h * out_w), summed where windows overlap."""
    n, rows = cols.shape[:2]
    x = backend.empty((n, rows // window.taps, window.height, window.width), cols.dtype)
    col2im_into(backend, backend.contiguous(cols), x, window, window.positions, rows * window.positions)
    return x
