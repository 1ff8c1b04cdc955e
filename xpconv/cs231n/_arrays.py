"""What the course writes as plain NumPy and other libraries say in another way."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..backends import backend_of
from ..backends.protocol import Array, Backend

__all__ = ["add", "check_divides", "check_positive", "on_its_device", "out_size", "promoted", "put", "scalar"]

_WIDTH = {"float64": 4, "float32": 3, "bfloat16": 2, "float16": 1}

Function = TypeVar("Function", bound=Callable)


def on_its_device(function: Function) -> Function:
    """Let a function compute on the device of its first argument, where a library computes on a current one."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        array = args[0] if args else kwargs.get(first)
        with backend_of(**{first: array}).running():
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def promoted(**arrays: Array) -> tuple[Any, ...]:
    """The backend of the named arrays, then the arrays in the widest of their floating-point dtypes, as in NumPy.

    Raises
    ------
    TypeError
        Something that is no array, arrays of several backends (`BackendMismatchError`), or none of floating point.
    """
    backend = backend_of(**arrays)
    for name, array in arrays.items():
        if array is None:
            raise TypeError(f"{name}: expected an array, got None")
    dtypes = {name: backend.dtype_name(array) for name, array in arrays.items()}
    widest = max(dtypes.values(), key=lambda dtype: _WIDTH.get(dtype, 0))
    if widest not in _WIDTH:
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"expected floating-point arrays, got {got}; convert them first, as in x.astype(float)")
    return backend, *(backend.astype(array, widest) for array in arrays.values())


def put(array: Array, index: Any, value: Any) -> Array:
    """``array[index] = value``; returns the array, a new one where a library's arrays cannot be written to."""
    if hasattr(array, "at"):  # JAX
        return array.at[index].set(value)
    array[index] = value
    return array


def add(array: Array, index: Any, value: Any) -> Array:
    """``array[index] += value``; returns the array, a new one where a library's arrays cannot be written to."""
    if hasattr(array, "at"):
        return array.at[index].add(value)
    array[index] += value
    return array


def scalar(backend: Backend, value: Array) -> Any:
    """A 0-d result as the course returns it: a NumPy scalar of NumPy arrays; else as it is, on its device."""
    return value[()] if backend.xp is np and isinstance(value, np.ndarray) else value


def check_divides(what: str, size: int, pad: int, kernel: int, stride: int) -> None:
    """Raise AssertionError, as the course does, unless windows end exactly where the padded image does."""
    check_positive("stride", stride)
    if (size + 2 * pad - kernel) % stride != 0:
        raise AssertionError(
            f"{what} does not work: ({what} {size} + 2 * pad {pad} - kernel {kernel}) = {size + 2 * pad - kernel} is "
            f"no multiple of the stride {stride}"
        )


def check_positive(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is at least one."""
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")


def out_size(what: str, size: int, pad: int, kernel: int, stride: int) -> int:
    """How many windows fit along one axis.

    Raises
    ------
    ValueError
        None, or a stride below one.
    """
    check_positive("stride", stride)
    if size + 2 * pad < kernel or kernel < 1 or pad < 0:
        raise ValueError(f"{what}: a kernel of {kernel} does not fit into {size} pixels with padding {pad}")
    return 1 + (size + 2 * pad - kernel) // stride
