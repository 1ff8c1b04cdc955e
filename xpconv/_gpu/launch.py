"""How kernels are launched: geometry of the grid, width of indices, and arguments in the very types of the kernels.

`cupy.RawKernel` checks nothing: it ignores strides, and takes a Python int for 64 bits and a float for a double,
whatever the kernel declares. Hence all launches go through `launch`, which takes NumPy scalars only, and arrays only if
they are contiguous or said to be `Strided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import _geometry
from ..backends.protocol import Array
from .backend import GpuBackend
from .module import INT32, INT64

__all__ = [
    "THREADS",
    "Flat",
    "Index",
    "Planes",
    "Strided",
    "ceil_div",
    "checked",
    "empty_planes",
    "flat",
    "index_for",
    "launch",
    "planes",
    "struct_of_window",
    "waves",
    "wide_scalar",
]

THREADS = 256  # of common.cuh

# Blocks of a grid-stride kernel for each multiprocessor: 8 * 256 threads are all that one holds at a time.
BLOCKS_PER_MULTIPROCESSOR = 8
MAX_BLOCKS = 1 << 16

# A 32-bit index runs at most one stride of the grid beyond the last element.
INT32_LIMIT = 2**31 - MAX_BLOCKS * THREADS


class Index(NamedTuple):
    """The type of a kernel's indices: its name there, and the NumPy scalar that has it."""

    name: str
    scalar: Any

    def struct(self, *members: int) -> np.ndarray:
        """A structure of indices, to be passed by value."""
        return np.array(members, self.scalar).view([("members", self.scalar, len(members))])


_INDEX32, _INDEX64 = Index(INT32, np.int32), Index(INT64, np.int64)


def index_for(*extents: int) -> Index:
    """32-bit indices if all ``extents`` (numbers of elements, offsets) fit, else 64-bit ones."""
    return _INDEX32 if max(extents) <= INT32_LIMIT else _INDEX64


class Strided(NamedTuple):
    """An array argument that is not contiguous, for a kernel that is told its strides by other arguments."""

    array: Array


class Planes(NamedTuple):
    """Images whose planes (H, W) are contiguous, and how many elements it is to the next image and the next channel.

    Channel-major memory and slices of it are such images as well as the usual order (N, C, H, W).
    """

    array: Array
    image: int
    channel: int

    @property
    def extent(self) -> int:
        """Elements from the first to behind the last."""
        n, c, *plane = self.array.shape
        return max(n - 1, 0) * self.image + max(c - 1, 0) * self.channel + prod(plane)

    @property
    def is_channel_major(self) -> bool:
        """Whether the images of a channel lie together."""
        return self.channel > self.image


def planes(backend: GpuBackend, x: Array) -> Planes:
    """Images (N, C, H, W) or (N, C, L) as `Planes`; a copy in C order unless their planes are contiguous."""
    n, c, *plane = x.shape
    size = x.dtype.itemsize
    image, channel, *steps = x.strides
    dense, run = image >= 0 and channel >= 0, size
    for length, step in zip(plane[::-1], steps[::-1], strict=True):
        dense &= length == 1 or step == run
        run *= length
    if not dense:
        x = backend.contiguous(x)
        return Planes(x, c * prod(plane), prod(plane))
    return Planes(x, image // size if n > 1 else 0, channel // size if c > 1 else 0)


def empty_planes(backend: GpuBackend, like: Planes, plane: Sequence[int], dtype: Any) -> Planes:
    """Fresh images of planes of another size, in the memory order of ``like``."""
    n, c = like.array.shape[:2]
    if like.is_channel_major:
        memory = backend.empty((c, n, *plane), dtype)
        axes = (1, 0, *range(2, memory.ndim))
        return Planes(backend.xp.permute_dims(memory, axes), prod(plane), n * prod(plane))
    return Planes(backend.empty((n, c, *plane), dtype), c * prod(plane), prod(plane))


class Flat(NamedTuple):
    """Arrays of one shape as C-contiguous memory in the same order of axes, that of the first array."""

    arrays: tuple[Array, ...]
    axes: tuple[int, ...] | None

    def restore(self, backend: GpuBackend, array: Array) -> Array:
        """A result in that order of axes, in the order of the shape."""
        if self.axes is None:
            return array
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return backend.xp.permute_dims(array, tuple(inverse))


def flat(backend: GpuBackend, *arrays: Array) -> Flat:
    """``arrays`` for a kernel that treats every element by itself; copied only where there is no common dense order."""
    first = arrays[0]
    if first.flags.c_contiguous:
        return Flat(tuple(map(backend.contiguous, arrays)), None)
    axes = tuple(sorted(range(first.ndim), key=lambda axis: (-first.strides[axis], axis)))
    permuted = [backend.contiguous(backend.xp.permute_dims(a, axes)) for a in arrays]
    return Flat(tuple(permuted), axes)


@lru_cache(maxsize=4096)
def struct_of_window(window: _geometry.Window) -> np.ndarray:
    """The structure ``Window`` of common.cuh.

    Raises
    ------
    ValueError
        A length is beyond the 32 bits that it has there.
    """
    # steps that are never made may be of any length
    steps = {
        "stride_h": window.stride_h if window.out_h > 1 else 1,
        "stride_w": window.stride_w if window.out_w > 1 else 1,
        "dilation_h": window.dilation_h if window.kernel_h > 1 else 1,
        "dilation_w": window.dilation_w if window.kernel_w > 1 else 1,
    }
    window = window._replace(**steps)
    if max(window) >= 2**31:
        raise ValueError(f"x: images and windows must be shorter than 2**31 pixels for CUDA kernels, got {window}")
    numbers = [
        window.height, window.width, window.kernel_h, window.kernel_w, window.stride_h, window.stride_w,
        window.pad_top, window.pad_bottom, window.pad_left, window.pad_right,
        window.dilation_h, window.dilation_w, window.out_h, window.out_w,
    ]  # fmt: skip
    return np.array(numbers, np.int32).view([("members", np.int32, len(numbers))])


def wide_scalar(backend: GpuBackend, like: Array) -> Any:
    """The NumPy scalar type of ``Wide<T>``: float64 for float64, else float32."""
    return np.float64 if backend.dtype_name(like) == "float64" else np.float32


def ceil_div(number: int, divisor: int) -> int:
    """``number / divisor``, rounded up."""
    return -(-number // divisor)


def waves(backend: GpuBackend, count: int, threads: int = THREADS) -> int:
    """Blocks for a grid-stride loop over ``count`` elements: as many as fill the device, no more than there is work."""
    full = backend.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
    return max(1, min(ceil_div(count, threads), full, MAX_BLOCKS))


def checked(value: Any, position: int) -> Any:
    """A kernel argument as it is passed on; raises if the kernel would misread it."""
    if isinstance(value, Strided):
        return value.array
    if value is None or isinstance(value, np.generic):
        return value
    if isinstance(value, (bool, int, float)):
        raise TypeError(f"kernel argument {position}: a Python number {value!r}, whose size the kernel cannot know")
    if not value.flags.c_contiguous:
        raise ValueError(f"kernel argument {position}: strides {value.strides} of shape {value.shape} would be ignored")
    return value


def launch(
    backend: GpuBackend,
    file: str,
    kernel: str,
    dtype: str,
    template: Sequence[str],
    grid: int | tuple[int, ...],
    arguments: Sequence[Any],
) -> None:
    """Start a kernel on the current device, which must be the backend's, and on the current stream.

    Parameters
    ----------
    file, kernel, dtype, template
        The kernel ``kernel<dtype, *template>`` of ``file``.cu.
    grid
        The number of elements of a grid-stride kernel, nothing being done for none; or blocks (x, y, z).
    arguments
        Arrays of the backend, NumPy scalars of the very types of the parameters, structures, None for a null pointer.
    """
    if isinstance(grid, int):
        grid = (waves(backend, grid),) if grid else ()
    if not prod(grid) or not grid:
        return
    function = backend.kernels.get(file, kernel, dtype, *template)
    function(grid, (THREADS,), tuple(checked(a, i) for i, a in enumerate(arguments)))
