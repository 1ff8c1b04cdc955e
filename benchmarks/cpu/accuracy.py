"""The largest error of a convolution against float64, by engine and shape; once, as it does not depend on the speed.

Numbers are drawn from the standard normal distribution. The error is the largest difference to the result in float64,
as a fraction of the largest value of that. `xpconv` is what the automatic choice gives; the engines are called
directly, those that cannot do a shape are left out of its row. The result in float64 is PyTorch's where it is
installed, else that of the im2col engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import xpconv
from xpconv._cpu.conv.choice import candidates
from xpconv._geometry import ConvGeometry

from ..command import Options
from ..peers import FORWARD, optional_torch
from ..report import Row, left_out
from ..timing import Ratio, allocator, threads_set
from .convolution import (
    DW,
    DX,
    SHAPES,
    TOLERANCE,
    Functions,
    chosen,
    geometry_of,
    tiny,
    torch_functions,
    with_algorithm,
    xpconv_functions,
)

__all__ = ["engines_of", "largest_error", "measure"]

ALGORITHMS = ("winograd", "direct", "im2col")
QUICK_BATCH = 8
OPERATIONS = {FORWARD: "forward", DX: "input_gradient", DW: "weight_gradient"}


def largest_error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """The largest difference as a fraction of the largest value, over all arrays."""
    return max(
        float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-300) for a, b in zip(got, want, strict=True)
    )


def _arrays(functions: Functions, operation: str) -> list[np.ndarray]:
    return [np.asarray(array) for array in functions[operation]()]


def engines_of(
    operation: str, arrays: Sequence[np.ndarray], geometry: ConvGeometry
) -> dict[str, Callable[[], Sequence[np.ndarray]]]:
    """A function for every engine that can do the operation, by name."""
    dy, x, w, b = arrays

    def call(engine: Any) -> Sequence[np.ndarray]:
        if operation == "forward":
            return (engine.forward(x, w, b, geometry, False),)
        if operation == "input_gradient":
            return (engine.input_gradient(dy, w, geometry),)
        return engine.weight_gradient(dy, x, geometry, True)

    found = {}
    for algorithm in ALGORITHMS:
        with xpconv.use_conv_algorithm(algorithm):
            for candidate in candidates(operation, x.dtype.name, geometry):
                if candidate.engine.possible(operation, x.dtype.name, geometry) is None:
                    found[candidate.name] = partial(call, candidate.engine)
    return found


def measure(options: Options) -> Iterator[Row]:
    """A row for each shape and operation."""
    torch = optional_torch()
    for case, full in SHAPES.items():
        if not options.wants(case):
            continue
        if options.late:
            yield left_out("accuracy", case, 1)
            continue
        shape = tiny(full) if options.size == "tiny" else full
        if options.size == "quick":
            shape = shape._replace(batch=QUICK_BATCH)
        arrays = shape.arrays(np.random.default_rng(0))
        wide = [array.astype(np.float64) for array in arrays]
        exact = torch_functions(torch, wide, shape) if torch else with_algorithm(
            "im2col", xpconv_functions(*wide, shape)
        )  # fmt: skip
        ours = xpconv_functions(*arrays, shape)
        geometry, engines = geometry_of(arrays, shape), chosen(arrays, shape)
        with threads_set(max(options.threads)):
            for operation in (FORWARD, DX, DW):
                want = _arrays(exact, operation)
                errors = {}
                if torch:
                    errors["torch"] = largest_error(_arrays(torch_functions(torch, arrays, shape), operation), want)
                for name, run in engines_of(OPERATIONS[operation], arrays, geometry).items():
                    errors[name] = largest_error(run(), want)
                errors["xpconv"] = largest_error(_arrays(ours, operation), want)
                wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
                if wrong:
                    raise AssertionError(f"{case}, {operation}: errors against float64 {wrong}, {TOLERANCE:.0e} taken")
                ratio = None
                if "torch" in errors and errors["xpconv"] > 0:
                    value = errors["torch"] / errors["xpconv"]
                    ratio = Ratio(value, value, value)
                yield Row(
                    "accuracy", case, operation, 1, allocator(), "", errors, "torch", "xpconv", ratio,
                    engine=engines[operation],
                )  # fmt: skip
