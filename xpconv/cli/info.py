"""``xpconv info``."""

from __future__ import annotations

import argparse
from typing import Any

import xpconv

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
    return text if text in ("same", "valid") else int(text)


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "info",
        help="backends, devices, threads, and which kernel serves each operator",
        description="Print the backends with their devices, the instruction sets, the threads, and which kernel serves "
        "each operator. With --conv: which engine one convolution on NumPy arrays gets, and why.",
        epilog="example: xpconv info --conv 128,64,32,32 64,64,3,3 --padding 1",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--conv", nargs=2, type=_shape, metavar=("N,C,H,W", "F,C,KH,KW"), help="shapes of images and of filters"
    )
    numbers = parser.add_argument_group("of the convolution")
    numbers.add_argument("--stride", type=int, default=1, metavar="PIXELS", help="(default: 1)")
    numbers.add_argument(
        "--padding", type=_padding, default=0, metavar="PIXELS", help='or "same", "valid" (default: 0)'
    )
    numbers.add_argument("--dilation", type=int, default=1, metavar="PIXELS", help="(default: 1)")
    numbers.add_argument("--groups", type=int, default=1, metavar="COUNT", help="(default: 1)")
    numbers.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print it; returns the exit status."""
    if options.conv is None:
        if (options.stride, options.padding, options.dilation, options.groups, options.dtype) != (
            1,
            0,
            1,
            1,
            "float32",
        ):
            raise ValueError(
                "--stride, --padding, --dilation, --groups and --dtype are those of --conv, which is missing"
            )
        xpconv.show_config()
        return 0
    xpconv.explain_convolution(
        *options.conv,
        stride=options.stride,
        padding=options.padding,
        dilation=options.dilation,
        groups=options.groups,
        dtype=options.dtype,
    )
    return 0
