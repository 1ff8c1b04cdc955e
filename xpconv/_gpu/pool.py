"""Pooling, by CUDA kernels. Results are in the memory order of the argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _generic
from .._geometry import Window
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import Planes, Strided, empty_planes, index_for, launch, planes, struct_of_window
from .module import ARGMAX
from .reduce import WARP
from .walk import walk

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]


def max_pool2d(backend: GpuBackend, x: Array, window: Window) -> tuple[Array, Array]:
    """Maxima (N, C, out_h, out_w) of the windows, and which tap ``i * kernel_w + j`` they are at.

    Of equal maxima the first counts. A NaN in the window is the maximum. Padding is never chosen.
    """
    n, c = x.shape[:2]
    source = planes(backend, x)
    argmax_dtype = "uint8" if window.taps <= 255 else "int32"
    y = empty_planes(backend, source, (window.out_h, window.out_w), x.dtype)
    argmax = empty_planes(backend, source, (window.out_h, window.out_w), argmax_dtype)
    index = index_for(source.extent, y.extent)
    arguments = (
        Strided(source.array),
        Strided(y.array),
        Strided(argmax.array),
        struct_of_window(window),
        index.struct(source.image, source.channel),
        index.struct(y.image, y.channel),
        walk(index, n, c, window.out_h, window.out_w),
    )
    template = (index.name, ARGMAX[argmax_dtype])
    launch(backend, "pool", "max_pool", backend.dtype_name(x), template, n * c * window.positions, arguments)
    return y.array, argmax.array


def max_pool2d_backward(backend: GpuBackend, dy: Array, argmax: Array, window: Window) -> Array:
    """Gradient (N, C, H, W): each dy goes to the pixel that was the maximum."""
    n, c = dy.shape[:2]
    source, chosen = planes(backend, dy), planes(backend, argmax)
    dx = empty_planes(backend, chosen, (window.height, window.width), dy.dtype)
    index = index_for(source.extent, chosen.extent, dx.extent)
    arguments: tuple[Any, ...] = (
        Strided(source.array),
        Strided(chosen.array),
        Strided(dx.array),
        struct_of_window(window),
        index.struct(source.image, source.channel),
        index.struct(chosen.image, chosen.channel),
        index.struct(dx.image, dx.channel),
    )
    if _tiles(window):
        kernel, (height, width) = "max_pool_backward_tiled", (window.out_h, window.out_w)
    else:
        kernel, (height, width) = "max_pool_backward", (window.height, window.width)
    template = (index.name, ARGMAX[backend.dtype_name(argmax)])
    arguments += (walk(index, n, c, height, width),)
    launch(backend, "pool", kernel, backend.dtype_name(dy), template, n * c * height * width, arguments)
    return dx.array


def _tiles(window: Window) -> bool:
    """Whether every pixel is in exactly one window."""
    sizes = (window.kernel_h, window.kernel_w)
    return (
        sizes == (window.stride_h, window.stride_w)
        and (window.dilation_h, window.dilation_w, window.pad_top, window.pad_left) == (1, 1, 0, 0)
        and (window.out_h * window.kernel_h, window.out_w * window.kernel_w) == (window.height, window.width)
    )


def _averaged(
    backend: GpuBackend, kernel: str, source: Planes, target: Planes, count_include_pad: bool, window: Window
) -> Array:
    n, c, *plane = target.array.shape
    index = index_for(source.extent, target.extent)
    arguments = (
        Strided(source.array),
        Strided(target.array),
        np.bool_(count_include_pad),
        struct_of_window(window),
        index.struct(source.image, source.channel),
        index.struct(target.image, target.channel),
        walk(index, n, c, *plane),
    )
    dtype = backend.dtype_name(source.array)
    launch(backend, "pool", kernel, dtype, (index.name,), n * c * plane[0] * plane[1], arguments)
    return target.array


def avg_pool2d(backend: GpuBackend, x: Array, count_include_pad: bool, window: Window) -> Array:
    """Means (N, C, out_h, out_w) of the windows."""
    source = planes(backend, x)
    y = empty_planes(backend, source, (window.out_h, window.out_w), x.dtype)
    return _averaged(backend, "avg_pool", source, y, count_include_pad, window)


def avg_pool2d_backward(backend: GpuBackend, dy: Array, count_include_pad: bool, window: Window) -> Array:
    """Gradient (N, C, H, W): every pixel of a window gets an equal share of its dy."""
    source = planes(backend, dy)
    dx = empty_planes(backend, source, (window.height, window.width), dy.dtype)
    return _averaged(backend, "avg_pool_backward", source, dx, count_include_pad, window)


def _fits(image_size: Sequence[int], output_size: Sequence[int]) -> bool:
    """Whether the kernels can compute the bins in 32 bits."""
    return all((size + 1) * (out + 1) < 2**31 for size, out in zip(image_size, output_size, strict=True))


def adaptive_avg_pool2d(backend: GpuBackend, x: Array, output_size: tuple[int, int]) -> Array:
    """Means (N, C, out_h, out_w) of as many bins as asked for."""
    n, c, height, width = x.shape
    if not _fits((height, width), output_size):
        return _generic.adaptive_avg_pool2d(backend, x, output_size)
    source = planes(backend, x)
    y = empty_planes(backend, source, output_size, x.dtype)
    index = index_for(source.extent, y.extent)
    arguments = (
        Strided(source.array),
        Strided(y.array),
        *map(np.int32, (height, width, *output_size)),
        index.struct(source.image, source.channel),
        index.struct(y.image, y.channel),
        walk(index, n, c, *output_size),
    )
    threads = n * c * output_size[0] * output_size[1] * WARP
    launch(backend, "pool", "adaptive_avg_pool", backend.dtype_name(x), (index.name,), threads, arguments)
    return y.array


def adaptive_avg_pool2d_backward(backend: GpuBackend, dy: Array, image_size: tuple[int, int]) -> Array:
    """Gradient (N, C, H, W): every pixel of a bin gets an equal share of its dy."""
    n, c, *output_size = dy.shape
    if not _fits(image_size, output_size):
        return _generic.adaptive_avg_pool2d_backward(backend, dy, image_size)
    source = planes(backend, dy)
    dx = empty_planes(backend, source, image_size, dy.dtype)
    index = index_for(source.extent, dx.extent)
    arguments = (
        Strided(source.array),
        Strided(dx.array),
        *map(np.int32, (*image_size, *output_size)),
        index.struct(source.image, source.channel),
        index.struct(dx.image, dx.channel),
        walk(index, n, c, *image_size),
    )
    count = n * c * image_size[0] * image_size[1]
    dtype = backend.dtype_name(dy)
    launch(backend, "pool", "adaptive_avg_pool_backward", dtype, (index.name,), count, arguments)
    return dx.array
