"""`explain_convolution`: which engine a convolution on NumPy arrays gets, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from ._algorithm import get_conv_algorithm
from ._checks import check_integer
from ._geometry import ConvGeometry, IntOrPair, Padding, conv_geometry
from ._precision import get_matmul_precision

__all__ = ["explain_convolution"]

_DTYPES = ("float32", "float64")


def explain_convolution(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    dtype: str = "float32",
    file: TextIO | None = None,
) -> None:
    """Print which compiled engine a convolution on NumPy arrays gets, forward and backward, and why no other.

    Parameters
    ----------
    x_shape : sequence of four int
        Shape of the images, (N, C, H, W).
    w_shape : sequence of four int
        Shape of the filters, (F, C / groups, kh, kw).
    stride, padding, dilation, groups
        As for `xpconv.functional.conv2d`.
    dtype : str
        ``"float32"`` or ``"float64"``.
    file
        Where to; the standard output if None.

    Raises
    ------
    TypeError, ValueError
        Arguments that `xpconv.functional.conv2d` would not take.
    ImportError
        The compiled kernels are missing.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype: expected {' or '.join(_DTYPES)}, got {dtype!r}")
    geometry = conv_geometry(
        _shape("x_shape", x_shape),
        _shape("w_shape", w_shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    for line in _lines(dtype, geometry):
        print(line, file=sys.stdout if file is None else file)


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"{name}: expected four integers, got {shape!r}") from None
    if len(sizes) != 4:
        raise ValueError(f"{name}: expected four integers, got {shape!r}")
    return tuple(check_integer(name, size, 0) for size in sizes)


def _lines(dtype: str, geometry: ConvGeometry) -> Iterator[str]:
    from ._cpu import _kernels  # here, since `import xpconv` does without them
    from ._cpu.conv.choice import OPERATIONS, candidates

    window = geometry.window
    shape = (geometry.batch, geometry.out_channels, window.out_h, window.out_w)
    products = geometry.batch * geometry.out_channels * window.positions
    products *= geometry.in_channels // geometry.groups * window.taps
    yield f"y {shape}, {dtype}, {2 * products / 1e9:.3g} GFLOP each for y, dx and dw"
    yield (
        f"instruction set {_kernels.instruction_set() or 'none'}, algorithm {get_conv_algorithm()}, "
        f"matmul precision {get_matmul_precision()}; estimates are for one thread"
    )
    for operation in OPERATIONS:
        yield ""
        yield operation.replace("_", " ")
        found = candidates(operation, dtype, geometry)
        width = max(len(candidate.name) for candidate in found)
        for number, candidate in enumerate(found):
            if candidate.reason is not None:
                text = f"no: {candidate.reason}"
            elif candidate.seconds is None:
                text = "no estimate"
            else:
                text = f"{candidate.seconds * 1e3:10.3f} ms"
            mark = "->" if number == 0 and candidate.reason is None else "  "
            yield f"  {mark} {candidate.name.ljust(width)}  {text}"
