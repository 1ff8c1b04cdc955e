"""``xpconv predict``."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import asarray, to_numpy
from .._text import printable
from ..data import read_image
from ..functional import softmax_cross_entropy
from ..training import Trainer, load_trained
from .config import add_options, flags_of
from .output import emit, result
from .run import build_model, choose_weights, class_names, machine, open_run
from .status import DONE

__all__ = ["add_command"]

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
        epilog="  example: xpconv predict --run runs/small-cnn-fashion-mnist-small-1 shoe.png",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files (PNG, JPEG, ...)")
    parser.add_argument(
        "--run", dest="folder", required=True, metavar="RUN_FOLDER", help="folder of a run of xpconv train"
    )
    parser.add_argument(
        "--weights", choices=("best", "last"), help="which checkpoint (default: best, or last without one)"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="swap black and white: for dark things on a light ground, MNIST and Fashion-MNIST are light on black",
    )
    add_options(parser, only=("backend", "threads"), defaults=False)
    parser.set_defaults(run=run)


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
        path = choose_weights(folder, options.weights)
        classes = class_names(path, load_trained(model, path), info)
        trainer = Trainer(model, softmax_cross_entropy, None)
        normalize, rng = info.normalize(config.dtype), np.random.default_rng()  # which nothing is drawn from
        for start in range(0, len(options.images), _BATCH):
            paths = options.images[start : start + _BATCH]
            pixels = np.stack([read_image(path, info.image_shape, invert=options.invert) for path in paths])
            scores = to_numpy(trainer.predict(normalize(asarray(pixels), rng, False))).astype(np.float64)
            for image, row in zip(paths, scores, strict=True):
                odds = np.exp(row - row.max())
                odds /= odds.sum()
                best = np.argsort(-odds, kind="stable")[:_SHOWN]
                # a name with the end of a line in it must not look like the answer for another image
                result(printable(f"{image}: {', '.join(f'{classes[k]} {odds[k]:.3f}' for k in best)}"))
                emit(
                    "prediction",
                    image=image,
                    classes=[{"name": classes[k], "probability": round(float(odds[k]), 6)} for k in best],
                )
    return DONE
