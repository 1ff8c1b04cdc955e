"""The CUDA sources, and their kernels compiled on first use.

A source is compiled once for each dtype, with all its instances for that dtype: `INSTANCES` lists them, and is what the
compile tests go through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from ..backends.dispatch import KernelUnavailableError

__all__ = [
    "ARGMAX",
    "CTYPES",
    "INSTANCES",
    "INT32",
    "INT64",
    "TILED",
    "UNROLLED",
    "Kernels",
    "instances",
    "options",
    "source",
]

CTYPES = {"float32": "float", "float64": "double", "float16": "__half", "bfloat16": "__nv_bfloat16"}
INT32, INT64 = "int", "int64"  # the index types of common.cuh

_DEFINITIONS = {"float16": ("-DXPCONV_HALF",), "bfloat16": ("-DXPCONV_BFLOAT16",)}

# sizes of the windows that have unrolled instances; (0, 0) is any size. They are for 32-bit indices only: arrays of
# 2**31 elements take the general one.
UNROLLED = (1, 3, 5, 7)
TILED = (3, 5, 7)  # those that im2col also has through shared memory


class _Template(NamedTuple):
    """A kernel and the template arguments behind its type."""

    kernel: str
    arguments: tuple[str, ...] = (INT32, INT64)


def _windowed(kernel: str) -> _Template:
    unrolled = tuple(f"{INT32}, {k}, {k}" for k in UNROLLED)
    return _Template(kernel, (f"{INT32}, 0, 0", f"{INT64}, 0, 0", *unrolled))


def _indexed(kernel: str, *more: str) -> _Template:
    """A kernel for both index types and each of the arguments behind them."""
    if not more:
        return _Template(kernel)
    return _Template(kernel, tuple(f"{index}, {argument}" for index in (INT32, INT64) for argument in more))


ACTIVATIONS = ("Relu", "LeakyRelu", "Tanh", "Sigmoid", "Silu", "Gelu")
ARGMAX = {"uint8": "uint8", "int32": "int"}  # dtype of the argmax of max pooling -> its C type

INSTANCES: dict[str, tuple[_Template, ...]] = {
    "augment": (_indexed("crop_flip_normalize", "1", "4"),),  # pixels that a thread makes
    "columns": (
        _windowed("im2col"),
        _Template("im2col_tiled", tuple(f"{INT32}, {k}" for k in TILED)),
        _windowed("col2im"),
    ),
    "dropout": (_indexed("dropout_mask"),),
    "elementwise": (
        _indexed("add_bias"),
        _indexed("add_bias_to_rows"),
        _indexed("activate", *ACTIVATIONS),
        _indexed("activate_backward", *ACTIVATIONS),
    ),
    "loss": (_indexed("softmax_cross_entropy"), _indexed("multiclass_hinge"), _indexed("mse")),
    "norm": (
        _indexed("batch_moments"),
        _indexed("finish_batch_moments"),
        _indexed("batch_normalise"),
        _indexed("batch_gradient_sums"),
        _indexed("finish_gradient_sums"),
        _indexed("batch_normalise_backward"),
        _indexed("row_norm"),
        _indexed("row_norm_backward"),
        _indexed("row_parameter_sums"),
        _indexed("plane_parameter_sums"),
    ),
    "optim": (
        _indexed("sgd_steps"),
        _indexed("rmsprop_steps"),
        _indexed("adam_steps"),
        _indexed("count_step"),
        _indexed("partial_squares"),
        _indexed("finish_squares"),
        _indexed("clip_gradients"),
        _indexed("copy_tensors"),
    ),
    "pool": (
        _indexed("max_pool", *ARGMAX.values()),
        _indexed("max_pool_backward", *ARGMAX.values()),
        _indexed("max_pool_backward_tiled", *ARGMAX.values()),
        _indexed("avg_pool"),
        _indexed("avg_pool_backward"),
        _indexed("adaptive_avg_pool"),
        _indexed("adaptive_avg_pool_backward"),
    ),
    "reduce": (_indexed("partial_row_sums"), _indexed("partial_column_sums"), _indexed("finish_row_sums")),
}


def instances(file: str, dtype: str) -> Iterator[str]:
    """Name expressions of all kernels of ``file`` for ``dtype``."""
    for kernel, arguments in INSTANCES[file]:
        for argument in arguments:
            yield f"{kernel}<{CTYPES[dtype]}, {argument}>"


def options(dtype: str) -> tuple[str, ...]:
    """Compiler options of an instance for ``dtype``: what headers it needs."""
    return _DEFINITIONS.get(dtype, ())


@cache
def _read(name: str) -> str:
    return resources.files("xpconv._cuda").joinpath(name).read_text(encoding="utf-8")


def _lines(name: str, included: set[str]) -> Iterator[str]:
    yield f'#line 1 "{name}"'
    for number, line in enumerate(_read(name).splitlines(), start=1):
        if line == "#pragma once":  # means nothing in the middle of a text; `included` does it
            yield ""
        elif line.startswith('#include "'):
            other = line.split('"')[1]
            if other not in included:
                included.add(other)
                yield from _lines(other, included)
                yield f'#line {number + 1} "{name}"'
            else:
                yield ""
        else:
            yield line


@cache
def source(file: str) -> str:
    """The text of ``file``.cu with its includes put in, line numbers kept for the compiler's messages."""
    return "\n".join(_lines(f"{file}.cu", set())) + "\n"


class Kernels:
    """The kernels of one device.

    Parameters
    ----------
    raw_module
        ``raw_module(code, options, name_expressions)`` gives an object with ``get_function(name_expression)``, such as
        `cupy.RawModule`.
    """

    def __init__(self, raw_module: Callable[[str, Sequence[str], Sequence[str]], Any]) -> None:
        self._raw_module = raw_module
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str, str, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()

    def get(self, file: str, kernel: str, dtype: str, *arguments: str) -> Any:
        """The kernel ``kernel<type of dtype, arguments>`` of ``file``.cu; compiles the file if need be.

        Raises
        ------
        KernelUnavailableError
            It does not compile; the message has the kernel's name and the compiler's log.
        """
        key = (file, kernel, dtype, arguments)
        function = self._functions.get(key)
        if function is None:
            expression = f"{kernel}<{', '.join((CTYPES[dtype], *arguments))}>"
            try:
                function = self._module(file, dtype).get_function(expression)
            except KernelUnavailableError as error:
                raise KernelUnavailableError(
                    f"{expression}: the kernels of {file}.cu for {dtype} cannot be compiled; {error}"
                ) from error
            self._functions[key] = function
        return function

    def _module(self, file: str, dtype: str) -> Any:
        with self._lock:
            module = self._modules.get((file, dtype))
            if module is None:
                module = self._raw_module(source(file), options(dtype), tuple(instances(file, dtype)))
                self._modules[file, dtype] = module
            return module
