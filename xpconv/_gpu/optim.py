"""Steps of optimizers and clipping of gradients, by CUDA kernels, one launch for many parameters.

``lr`` (and Adam's ``step``) may be a number, or an array of one element on the device: float64 for float64 parameters,
else float32; int64 for the step. Then nothing of a step comes from the host, and a captured graph can be replayed.

Kernels find the tensors through tables of addresses that are passed by value, so the arrays need not lie together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import _generic
from ..backends.protocol import Array
from .backend import GpuBackend
from .launch import BLOCKS_PER_MULTIPROCESSOR, THREADS, Index, ceil_div, index_for, launch, wide_scalar
from .module import CTYPES

__all__ = ["adam_steps", "clip_gradients", "copy_tensors", "rmsprop_steps", "sgd_steps", "squared_norm"]

# of optim.cu
_ROLES = 4
_TENSORS = 88
_TABLE = np.dtype(
    [
        ("data", np.uint64, (_ROLES, _TENSORS)),
        ("size", np.int64, _TENSORS),
        ("first_block", np.int32, _TENSORS),
        ("count", np.int32),
        ("chunk", np.int32),
    ],
    align=True,
)

# A chunk is so many elements, or up to four times as many where there are more chunks than the device holds blocks:
# 8 for each thread, one vector of 16 bytes in half precision. So vectors that start in a chunk end in it.
_CHUNK = 8 * THREADS
_LARGEST_CHUNK = 4 * _CHUNK

_WRITTEN = (0, 2, 3)  # the roles whose arrays are written: all but the gradient

_Roles = Sequence[Sequence[Array] | None]  # parameters, gradients, and at most two of state; None where there are none


def _tables(backend: GpuBackend, roles: _Roles) -> Iterator[tuple[np.ndarray, int, Index]]:
    """The structures ``Tensors`` of optim.cu for contiguous arrays, with the blocks and the index type of each launch.

    Raises
    ------
    ValueError
        The arrays of a tensor differ in size or dtype, or are not contiguous: the kernel could not know.
    """
    present = [(role, arrays) for role, arrays in enumerate(roles) if arrays is not None]
    leading = present[0][1]
    numbers = [number for number, array in enumerate(leading) if array.size]
    for start in range(0, len(numbers), _TENSORS):
        some = numbers[start : start + _TENSORS]
        sizes = [leading[number].size for number in some]
        table = np.zeros(1, _TABLE)
        addresses = table["data"][0]
        for role, arrays in present:
            for place, number in enumerate(some):
                array, like = arrays[number], leading[number]
                if array.size != like.size or array.dtype != like.dtype or not array.flags.c_contiguous:
                    raise ValueError(
                        f"tensor {number}: {array.dtype} of shape {array.shape} and strides {array.strides} beside "
                        f"contiguous {like.dtype} of shape {like.shape}"
                    )
                addresses[role, place] = backend.address(array, written=role in _WRITTEN)
        room = backend.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
        chunk = min(_CHUNK * max(1, ceil_div(sum(sizes), _CHUNK * room)), _LARGEST_CHUNK)
        ends = np.cumsum([ceil_div(size, chunk) for size in sizes])
        table["size"][0, : len(some)] = sizes
        table["first_block"][0, 1 : len(some)] = ends[:-1]
        table["count"], table["chunk"] = len(some), chunk
        yield table, int(ends[-1]), index_for(*sizes)


def _contiguous(backend: GpuBackend, arrays: Sequence[Array]) -> list[Array]:
    return [array if array.flags.c_contiguous else backend.contiguous(array) for array in arrays]


def _updated(
    backend: GpuBackend,
    kernel: str,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[Sequence[Array] | None],
    numbers: tuple[Any, ...],
) -> None:
    """Run a ``kernel`` that takes tables and ``numbers``; parameters and up to two of state are updated in place."""
    roles = (params, grads, *states)
    memory = [None if arrays is None else _contiguous(backend, arrays) for arrays in roles]
    dtype = backend.dtype_name(params[0])
    for table, blocks, index in _tables(backend, memory):
        launch(backend, "optim", kernel, dtype, (index.name,), (blocks,), (table, *numbers))
    for role, (arrays, copies) in enumerate(zip(roles, memory, strict=True)):
        if role in _WRITTEN:
            for array, copy in zip(arrays or (), copies or (), strict=True):
                if copy is not array:  # it was not contiguous
                    array[...] = copy


def _empty_like(backend: GpuBackend, arrays: Sequence[Array]) -> list[Array]:
    return [backend.empty(array.shape, array.dtype) for array in arrays]


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and not isinstance(value, np.generic)


def _device_or_value(value: Any, scalar: Any) -> tuple[Array | None, np.generic]:
    """Arguments for a number that is read through a pointer unless that is null."""
    return (value, scalar(0)) if _is_array(value) else (None, scalar(value))


def sgd_steps(
    backend: GpuBackend,
    params: list[Array],
    grads: list[Array],
    velocities: list[Array] | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> tuple[list[Array], list[Array] | None]:
    """Gradient descent with momentum; returns (params, velocities)."""
    number = wide_scalar(backend, params[0])
    first = velocities is None
    if first and momentum:
        velocities = _empty_like(backend, params)
    numbers = (
        np.bool_(first),
        *_device_or_value(lr, number),
        number(momentum),
        number(1 - dampening),
        np.bool_(nesterov),
        number(weight_decay),
    )
    _updated(backend, "sgd_steps", params, grads, (velocities if momentum else None,), numbers)
    return params, velocities


def rmsprop_steps(
    backend: GpuBackend,
    params: list[Array],
    grads: list[Array],
    square_avgs: list[Array],
    momentum_buffers: list[Array] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> tuple[list[Array], list[Array], list[Array] | None]:
    """RMSprop; returns (params, square_avgs, momentum_buffers)."""
    number = wide_scalar(backend, params[0])
    first = momentum_buffers is None
    if first and momentum:
        momentum_buffers = _empty_like(backend, params)
    numbers = (
        np.bool_(first),
        *_device_or_value(lr, number),
        *map(number, (alpha, 1 - alpha, eps, momentum, weight_decay)),
    )
    _updated(backend, "rmsprop_steps", params, grads, (square_avgs, momentum_buffers if momentum else None), numbers)
    return params, square_avgs, momentum_buffers


def _decay(beta: float, number: Any) -> np.ndarray:
    """The structure ``Decay`` of ``optim.cu``."""
    log = math.log(beta) if beta else -math.inf
    return np.array([beta, 1 - beta, log], number).view([("members", number, 3)])


def adam_steps(
    backend: GpuBackend,
    params: list[Array],
    grads: list[Array],
    ms: list[Array],
    vs: list[Array],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Adam, or AdamW if decoupled; returns (params, ms, vs).

    A ``step`` on the device is the number of the step before, and is counted up here.
    """
    number, dtype = wide_scalar(backend, params[0]), backend.dtype_name(params[0])
    if _is_array(step):
        launch(backend, "optim", "count_step", dtype, (index_for(0).name,), (1,), (step,))
    numbers = (
        *_device_or_value(step, np.int64),
        *_device_or_value(lr, number),
        _decay(beta1, number),
        _decay(beta2, number),
        number(eps),
        number(weight_decay),
        np.bool_(decoupled),
    )
    _updated(backend, "adam_steps", params, grads, (ms, vs), numbers)
    return params, ms, vs


def squared_norm(backend: GpuBackend, grads: list[Array]) -> Array:
    """Sum of the squares of all numbers, without axes; the same bits in every run."""
    number, dtype = wide_scalar(backend, grads[0]), backend.dtype_name(grads[0])
    memory = _contiguous(backend, grads)
    tables = list(_tables(backend, (None, memory)))
    chunks = sum(blocks for _, blocks, _ in tables)
    partial, square = backend.empty((chunks,), number), backend.empty((), number)
    first = 0
    for table, blocks, index in tables:
        arguments = (table, partial, index.scalar(first))
        launch(backend, "optim", "partial_squares", dtype, (index.name,), (blocks,), arguments)
        first += blocks
    index = index_for(chunks)
    launch(backend, "optim", "finish_squares", dtype, (index.name,), (1,), (partial, square, index.scalar(chunks)))
    return square


def clip_gradients(
    backend: GpuBackend, grads: list[Array], square: Array, max_norm: float
) -> tuple[list[Array], Array]:
    """Gradients scaled down together; returns (fresh gradients, norm)."""
    number, dtype = wide_scalar(backend, grads[0]), backend.dtype_name(grads[0])
    clipped, norm = _empty_like(backend, grads), backend.empty((), number)
    square = backend.astype(square, number)
    memory = _contiguous(backend, grads)  # held until all is launched
    tables = list(_tables(backend, (clipped, memory)))
    if not tables:  # the norm is written all the same
        tables.append((np.zeros(1, _TABLE), 1, index_for(0)))
    for table, blocks, index in tables:
        arguments = (table, square, norm, number(max_norm))
        launch(backend, "optim", "clip_gradients", dtype, (index.name,), (blocks,), arguments)
    return clipped, norm


def copy_tensors(backend: GpuBackend, targets: list[Array], sources: list[Array]) -> list[Array]:
    """Copy each source into its target of the same shape and dtype, of any dtype; returns the targets."""
    dtype = backend.dtype_name(targets[0])
    if dtype not in CTYPES and targets[0].dtype.itemsize % 4:
        return _generic.copy_tensors(backend, targets, sources)
    copies, memory = (_contiguous(backend, arrays) for arrays in (targets, sources))  # held until all is launched
    roles = [copies, memory]
    if dtype not in CTYPES:  # integers, which pass for numbers that there are kernels for in most runs anyway
        roles, dtype = [[array.reshape(-1).view(np.float32) for array in arrays] for arrays in roles], "float32"
    for table, blocks, index in _tables(backend, roles):
        launch(backend, "optim", "copy_tensors", dtype, (index.name,), (blocks,), (table,))
    for target, copy in zip(targets, copies, strict=True):
        if copy is not target:  # it was not contiguous
            target[...] = copy
    return targets
