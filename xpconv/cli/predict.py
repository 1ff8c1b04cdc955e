"""``xpconv predict``."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import asarray, to_numpy
from ..data import read_image
from ..functional import softmax_cross_entropy
from ..training import Trainer, load_trained
from .config import add_options, flags_of
from .run import build_model, choose_weights, class_names, machine, open_run

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
                print(f"{image}: {', '.join(f'{classes[k]} {odds[k]:.3f}' for k in best)}", flush=True)
    return 0
