"""Arrays of the stand-in device: NumPy's memory, CuPy's manners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .recording import check_read, check_transfer, perform, recording

__all__ = ["HostArray", "call"]

# what tells about arrays, not about values
_OF_ARRAYS = ("shares_memory", "may_share_memory", "iscomplexobj", "isrealobj", "can_cast", "shape", "ndim", "size")

# functions whose result has a shape that depends on values, so that a device must be waited for
_DATA_DEPENDENT = (
    *("nonzero", "flatnonzero", "argwhere", "unique", "unique_all", "unique_counts", "unique_inverse"),
    *("unique_values", "extract", "compress", "trim_zeros", "union1d", "intersect1d", "setdiff1d", "setxor1d"),
)

_TRANSFERS = ("asarray", "array", "ascontiguousarray", "asfortranarray", "require", "from_dlpack", "copy")


def plain(value: Any) -> Any:
    """``value`` with NumPy's own arrays in place of `HostArray`, also inside of sequences and mappings."""
    if isinstance(value, HostArray):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(plain(v) for v in value)
    if type(value) is dict:
        return {k: plain(v) for k, v in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """All arrays and numbers inside of (nested) sequences and mappings."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _to_device(result: Any) -> Any:
    """Arrays and NumPy's scalars as `HostArray`; a GPU library has no scalars."""
    if isinstance(result, (np.ndarray, np.generic)):
        return np.asarray(result).view(HostArray)
    if isinstance(result, (tuple, list)) and any(isinstance(item, (np.ndarray, np.generic)) for item in result):
        items = [_to_device(item) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    return result


def call(function: Callable[..., Any], args: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None) -> Any:
    """``function(*args, **options)`` of NumPy on the memory of device arrays, with device arrays for results.

    While this thread is recording it becomes an operation of the recording, unless the result is a view.

    Raises
    ------
    CaptureError
        While recording: an array of the host among the arguments, or a result that the device must be waited for.
    """
    options = dict(options or {})
    name = getattr(function, "__name__", str(function))
    now = recording()
    out = options.get("out")
    arguments, settings = plain(args), plain(options)
    if now is None:
        result = function(*arguments, **settings)
        return _to_device(result) if out is None else out
    inputs = list(_leaves((args, options)))
    if any(isinstance(a, np.ndarray) and not isinstance(a, HostArray) for a in inputs):
        check_transfer(f"{name} of an array of the host")
    if name in _DATA_DEPENDENT or (name == "where" and len(args) == 1):
        check_read(name)
    if name in _TRANSFERS and not isinstance(args[0], HostArray):
        check_transfer(name)
    if out is not None:
        outs = [a for a in _leaves(out) if a is not None]
        perform(lambda: function(*arguments, **settings), writes=outs)
        return out
    result = function(*arguments, **settings)
    # numbers of Python: NumPy's own become arrays of the device
    if type(result) in (bool, float, complex) and name not in _OF_ARRAYS:
        check_read(name)
    result = _to_device(result)
    memory = [a.view(np.ndarray) for a in _leaves(result) if isinstance(a, HostArray)]
    sources = [a.view(np.ndarray) for a in inputs if isinstance(a, HostArray)]
    fresh = [(i, a) for i, a in enumerate(memory) if not any(np.may_share_memory(a, s) for s in sources)]
    for _, array in fresh:
        now.made(array)
    if fresh and name not in ("empty", "empty_like"):

        def again() -> None:
            values = [a for a in _leaves(function(*arguments, **settings)) if isinstance(a, (np.ndarray, np.generic))]
            for i, array in fresh:
                array[...] = values[i]

        now.add(again)
    return result


def _item(memory: np.ndarray, key: Any) -> Any:
    """``memory[key]``, a view without axes in place of a scalar."""
    result = memory[key]
    if isinstance(result, np.generic):
        return memory[(*key, ...) if isinstance(key, tuple) else (key, ...)]
    return result


class HostArray(np.ndarray):
    """NumPy memory in the role of a device's: a type of its own, so that no backend takes it for a host array.

    As with CuPy's arrays, results are arrays of the device even without axes, and a value comes to the host only where
    it is asked for: by `xpconv.to_numpy`, ``float``, ``int``, ``bool``, ``item`` or ``tolist``.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "at":
            target, *rest = plain(inputs)
            perform(lambda: ufunc.at(target, *rest), writes=inputs[:1])
            return None
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        out = options.get("out")
        result = call(function, inputs, options)
        return result[0] if isinstance(out, tuple) and len(out) == 1 else result

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return call(function, args, options)

    def __getitem__(self, key: Any) -> Any:
        if recording() is not None and any(getattr(k, "dtype", None) == np.bool_ for k in _leaves(key)):
            check_read("indexing by a mask")
        return call(_item, (self, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and not isinstance(value, HostArray):
            check_transfer("an assignment of an array of the host")
        memory, where, what = self.view(np.ndarray), plain(key), plain(value)

        def assign() -> None:
            memory[where] = what

        perform(assign, writes=(self,))

    def fill(self, value: Any) -> None:
        """Set all elements to ``value``.

        Parameters
        ----------
        value
            A number.
        """
        self[...] = value


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: HostArray, *args: Any, **options: Any) -> Any:
        return call(function, (self, *args), options)

    method.__name__, method.__doc__ = name, function.__doc__
    return method


def _reading(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: HostArray, *args: Any, **options: Any) -> Any:
        check_read(f"{name}()".replace("_", ""))
        return function(self.view(np.ndarray), *args, **options)

    method.__name__, method.__doc__ = name, function.__doc__
    return method


# methods that may copy and are no ufuncs underneath
for _name in (
    *("argmax", "argmin", "argsort", "astype", "choose", "clip", "compress", "copy", "cumprod", "cumsum", "dot"),
    *("flatten", "mean", "nonzero", "ravel", "repeat", "reshape", "round", "std", "take", "trace", "var"),
):
    setattr(HostArray, _name, _method(_name))
for _name in ("__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "tobytes", "tolist"):
    setattr(HostArray, _name, _reading(_name))
