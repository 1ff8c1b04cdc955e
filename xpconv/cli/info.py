"""``xpconv info``."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

import xpconv

from .. import _config
from .._geometry import conv_geometry
from .output import emit, mode, result, width_of
from .status import DONE

__all__ = ["add_command"]


def _shape(text: str) -> tuple[int, ...]:
    """Four sizes out of ``"128,64,32,32"`` or ``"128x64x32x32"``."""
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4:
        raise argparse.ArgumentTypeError(f"expected four whole numbers such as 128,64,32,32, got {text!r}")
    return sizes


def _padding(text: str) -> int | str:
    try:
        return text if text in ("same", "valid") else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a whole number, "same" or "valid", got {text!r}') from None


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "info",
        help="what is installed, which kernel serves each operator, and what to install for a GPU",
        description="Print versions, the processor, settings, the backends with their devices, what each extra brings "
        "and lacks, what to install for a GPU, and which kernel serves each operator. With --conv: which engine one "
        "convolution on NumPy arrays gets, and why.",
        epilog="  example: xpconv info --conv 128,64,32,32 64,64,3,3 --padding 1",
    )
    group = parser.add_argument_group("one convolution")
    group.add_argument(
        "--conv",
        nargs=2,
        type=_shape,
        metavar=("N,C,H,W", "F,C,KH,KW"),
        help="shapes of images and of filters (default: none, and all operators are listed)",
    )
    group.add_argument("--stride", type=int, default=1, metavar="PIXELS", help="(default: 1)")
    group.add_argument("--padding", type=_padding, default=0, metavar="PIXELS", help='or "same", "valid" (default: 0)')
    group.add_argument("--dilation", type=int, default=1, metavar="PIXELS", help="(default: 1)")
    group.add_argument("--groups", type=int, default=1, metavar="COUNT", help="(default: 1)")
    group.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)")
    parser.set_defaults(run=run)


_OF_CONV = ("stride", "padding", "dilation", "groups", "dtype")
_DEFAULTS = (1, 0, 1, 1, "float32")


def run(options: argparse.Namespace) -> int:
    """Print it; returns the exit status."""
    values = {name: getattr(options, name) for name in _OF_CONV}
    if options.conv is None:
        if tuple(values.values()) != _DEFAULTS:
            raise ValueError(
                "--stride, --padding, --dilation, --groups and --dtype are those of --conv, which is missing"
            )
        if mode() == "json":
            emit("info", **_config.describe())
        else:
            width = width_of(sys.stdout) or _config.WIDTH
            result("\n".join(_config.config_lines(min(width, _config.WIDTH))), styled=False)
        return DONE
    text = io.StringIO()
    xpconv.explain_convolution(*options.conv, **values, file=text)
    result(text.getvalue().rstrip("\n"), styled=False)
    if mode() == "json":
        _emit_candidates(options, values)
    return DONE


def _emit_candidates(options: argparse.Namespace, values: dict[str, Any]) -> None:
    from .._cpu.conv.choice import OPERATIONS, candidates

    dtype = values.pop("dtype")
    geometry = conv_geometry(*options.conv, **values)
    for operation in OPERATIONS:
        found = candidates(operation, dtype, geometry)
        for number, candidate in enumerate(found):
            emit(
                "engine",
                operation=operation,
                name=candidate.name,
                chosen=number == 0 and candidate.reason is None,
                seconds=candidate.seconds,
                reason=candidate.reason,
            )
