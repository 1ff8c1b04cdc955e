"""``xpconv evaluate``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from .. import data
from ..functional import softmax_cross_entropy
from ..training import Trainer, TrainingError, load_weights
from .config import TrainConfig, add_options, flags_of
from .run import DataInfo, build_model, choose_weights, machine, open_data, open_run, say

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained network on test images",
        description='Evaluate the network of a run folder on test images. The last line is "test accuracy 0.xxxx".',
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a run of xpconv train")
    parser.add_argument(
        "--weights", choices=("best", "last"), help="which checkpoint (default: the best, if there is one)"
    )
    own = ("data", "data_dir", "labels", "bad_files", "allow_outside", "workers", "backend", "batch_size", "threads")
    add_options(parser, only=own, defaults=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    changes = flags_of(options)
    if "data" in changes:
        # those of the run belong to its own data
        changes = {"data_dir": None, "labels": None, "bad_files": "refuse", "allow_outside": False, **changes}
    folder, config, info = open_run(options.folder, changes)
    with machine(config):
        return _evaluate(config, info, choose_weights(folder, options.weights))


def _evaluate(config: TrainConfig, info: DataInfo, path: Path) -> int:
    test = open_data(config, info.image_shape).test
    if test.image_shape != info.image_shape:
        raise data.DataError(
            f"{config.data}: images are {test.image_shape}, the network takes {info.image_shape} (C, H, W)"
        )
    if test.num_classes > len(info.classes):
        raise data.DataError(f"{config.data}: {test.num_classes} classes, the network knows {len(info.classes)}")
    test = test.renumbered(info.classes)  # another folder may have fewer of them
    model = build_model(config, info)
    epoch = load_weights(path, model)["epoch"]
    say("weights", f"{path}, after {epoch} epochs")
    say("data", f"{config.data}: {len(test)} test images")
    transform = info.normalize(config.dtype)
    batches = data.Batches(
        test, config.batch_size, shuffle=False, transform=transform, dtype=config.dtype, workers=config.workers
    )
    metrics = Trainer(model, softmax_cross_entropy, None).evaluate(batches)
    if not math.isfinite(metrics.loss):
        raise TrainingError(f"test loss is {metrics.loss} with the weights {path}; they or the test images are no use")
    say("test loss", f"{metrics.loss:.4f}")
    print(f"test accuracy {metrics.accuracy:.4f}", flush=True)
    return 0
