"""What the course writes as plain NumPy and other libraries say in another way."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .._checks import check_integer
from ..backends import backend_of
from ..backends.protocol import Array, Backend

__all__ = [
    "add",
    "check_axes",
    "check_divides",
    "check_gradient",
    "check_integers",
    "check_shape",
    "check_window",
    "conv_sizes",
    "on_its_device",
    "out_size",
    "pool_sizes",
    "promoted",
    "put",
    "scalar",
    "widest",
]

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
    dtype = widest(*dtypes.values())
    if dtype not in _WIDTH:
        got = ", ".join(f"{name} {own}" for name, own in dtypes.items())
        raise TypeError(f"expected floating-point arrays, got {got}; convert them first, as in x.astype(float)")
    return backend, *(backend.astype(array, dtype) for array in arrays.values())


def widest(*dtypes: str) -> str:
    """The widest floating-point dtype of some; one of the others if there is none."""
    return max(dtypes, key=lambda dtype: _WIDTH.get(dtype, 0))


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


# ---- checks: of shapes and of numbers on the host, so that nothing waits for a device ---------------------------


def check_axes(axes: str, **arrays: Array) -> None:
    """Raise ValueError unless the arrays have as many dimensions as ``axes`` names: ``"(N, C, H, W)"``."""
    count = axes.count(",") + 1
    for name, array in arrays.items():
        if len(array.shape) != count:
            raise ValueError(f"{name}: expected {count} dimensions {axes}, got shape {tuple(array.shape)}")


def check_shape(shape: tuple[int, ...], axes: str, **arrays: Array) -> None:
    """Raise ValueError unless the arrays have this shape; ``axes`` says what its sizes are: ``"(D,)"``."""
    for name, array in arrays.items():
        if tuple(array.shape) != tuple(shape):
            raise ValueError(f"{name}: expected shape {tuple(shape)} {axes}, got {tuple(array.shape)}")


def check_gradient(dout: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``dout`` has the shape of the forward result: another might be broadcast."""
    if tuple(dout.shape) != tuple(shape):
        raise ValueError(f"dout: expected shape {tuple(shape)}, that of the forward result, got {tuple(dout.shape)}")


def check_integers(low: int, **values: Any) -> tuple[int, ...]:
    """The named values as ints; TypeError if one is none, ValueError if it is below ``low``."""
    return tuple(check_integer(name, value, low) for name, value in values.items())


def check_divides(what: str, size: int, pad: int, kernel: int, stride: int) -> None:
    """Raise AssertionError, as the course does, unless windows end exactly where the padded image does."""
    if (size + 2 * pad - kernel) % stride != 0:
        raise AssertionError(
            f"{what} does not work: ({what} {size} + 2 * pad {pad} - kernel {kernel}) = {size + 2 * pad - kernel} is "
            f"no multiple of the stride {stride}"
        )


def out_size(what: str, size: int, pad: int, kernel: int, stride: int) -> int:
    """How many windows fit along one axis; ValueError if none."""
    if size + 2 * pad < kernel or kernel < 1:
        raise ValueError(f"{what}: a kernel of {kernel} does not fit into {size} pixels with padding {pad}")
    return 1 + (size + 2 * pad - kernel) // stride


def conv_sizes(x: Array, w: Array, b: Array, conv_param: dict, dout: Array | None = None) -> tuple[int, int, int, int]:
    """Check the arguments of a convolution of the course, and the gradient of its result if there is one.

    Returns
    -------
    stride, pad, out_h, out_w : int
        Sizes of the result are rounded down.

    Raises
    ------
    TypeError
        A stride or a padding that is no integer.
    ValueError
        Arrays whose shapes do not match, a stride below one, a negative padding, a filter larger than the padded image.
    """
    (stride,), (pad,) = check_integers(1, stride=conv_param["stride"]), check_integers(0, pad=conv_param["pad"])
    check_axes("(N, C, H, W)", x=x)
    check_axes("(F, C, HH, WW)", w=w)
    (n, c, height, width), (f, channels, kh, kw) = x.shape, w.shape
    if channels != c:
        raise ValueError(f"w: filters of {channels} channels, but x has {c} (x {tuple(x.shape)}, w {tuple(w.shape)})")
    check_shape((f,), "(F,)", b=b)
    out_h, out_w = out_size("height", height, pad, kh, stride), out_size("width", width, pad, kw, stride)
    if dout is not None:
        check_gradient(dout, (n, f, out_h, out_w))
    return stride, pad, out_h, out_w


def check_window(x: Array, pool_param: dict) -> tuple[int, int, int]:
    """The numbers pool_height, pool_width and stride, integers of at least one, for images x of four dimensions."""
    check_axes("(N, C, H, W)", x=x)
    names = ("stride", "pool_height", "pool_width")
    stride, height, width = check_integers(1, **{name: pool_param[name] for name in names})
    return height, width, stride


def pool_sizes(x: Array, pool_param: dict, dout: Array | None = None) -> tuple[int, int, int, int, int]:
    """Check the arguments of a pooling of the course, and the gradient of its result if there is one.

    Returns
    -------
    pool_height, pool_width, stride, out_h, out_w : int
        Sizes of the result are rounded down.

    Raises
    ------
    TypeError
        A size or a stride that is no integer.
    ValueError
        x or dout of another shape, a size or a stride below one, a window larger than the image.
    """
    kh, kw, stride = check_window(x, pool_param)
    n, c, height, width = x.shape
    out_h, out_w = out_size("height", height, 0, kh, stride), out_size("width", width, 0, kw, stride)
    if dout is not None:
        check_gradient(dout, (n, c, out_h, out_w))
    return kh, kw, stride, out_h, out_w
