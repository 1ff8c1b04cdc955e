"""``xpconv predict``."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import asarray, to_numpy
from .._extras import require
from ..data import DataError
from ..functional import softmax_cross_entropy
from ..training import Trainer, load_weights
from .config import add_options, flags_of
from .run import build_model, choose_weights, machine, open_run

__all__ = ["add_command", "read_image"]

_SHOWN = 3
_BATCH = 256


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "predict",
        help="the likeliest classes of image files",
        description="Print the three likeliest classes of each image, with their probabilities. Images are made grey "
        "or coloured and as large as those that the network was trained on, and filled up with black where the shape "
        "differs.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files (PNG, JPEG, ...)")
    parser.add_argument(
        "--run", dest="folder", required=True, metavar="RUN_FOLDER", help="folder of a run of xpconv train"
    )
    parser.add_argument(
        "--weights", choices=("best", "last"), help="which checkpoint (default: the best, if there is one)"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="swap black and white: for dark things on a light ground, MNIST and Fashion-MNIST are light on black",
    )
    add_options(parser, only=("backend", "threads"), defaults=False)
    parser.set_defaults(run=run)


def read_image(path: str, image_shape: tuple[int, int, int], *, invert: bool = False) -> np.ndarray:
    """An image file as uint8 array of ``image_shape`` (C, H, W).

    An image of just this size and kind keeps its pixels; others are scaled to fit and filled up with black. What is
    transparent becomes black.

    Raises
    ------
    DataError
        It cannot be read as an image; the message names it.
    ValueError
        The network takes neither grey nor coloured images.
    """
    image_module, operations = require("PIL.Image", "pictures"), require("PIL.ImageOps", "pictures")
    channels, height, width = image_shape
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"the network takes images of {channels} channels, an image file has 1 or 3")
    try:
        with image_module.open(path) as opened:
            image = operations.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                # Pillow would cut off all above 255 instead of scaling
                image = image_module.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise DataError(f"{path}: pixels of 32 bits have no known range; save it with 8 or 16 bits")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = image_module.alpha_composite(image_module.new("RGBA", image.size, (0, 0, 0, 255)), image)
            image = image.convert(mode)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        # SyntaxError is what Pillow raises for a broken PNG
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if invert:
        image = operations.invert(image)
    if image.size != (width, height):
        image = operations.pad(image, (width, height), method=image_module.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    folder, config, info = open_run(options.folder, flags_of(options))
    if info.pixel_range[0] < 0 or info.pixel_range[1] > 1:
        raise ValueError(
            f"{options.folder}: trained on images with pixels from {info.pixel_range[0]:g} to {info.pixel_range[1]:g}; "
            "only where they are bytes, or from 0 to 1, it is known how those of a file correspond to them"
        )
    with machine(config):
        model = build_model(config, info)
        load_weights(choose_weights(folder, options.weights), model)
        trainer = Trainer(model, softmax_cross_entropy, None)
        normalize, rng = info.normalize(config.dtype), np.random.default_rng()  # which nothing is drawn from
        for start in range(0, len(options.images), _BATCH):
            paths = options.images[start : start + _BATCH]
            pixels = np.stack([read_image(path, info.image_shape, invert=options.invert) for path in paths])
            scores = to_numpy(trainer.predict(normalize(asarray(pixels), rng, False))).astype(np.float64)
            for path, row in zip(paths, scores, strict=True):
                odds = np.exp(row - row.max())
                odds /= odds.sum()
                best = np.argsort(-odds, kind="stable")[:_SHOWN]
                print(f"{path}: {', '.join(f'{info.classes[k]} {odds[k]:.3f}' for k in best)}", flush=True)
    return 0
