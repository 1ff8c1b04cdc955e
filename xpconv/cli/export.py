"""``xpconv export``."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np

from .. import asarray, onnx
from ..layers import Layer, Sequential
from ..onnx._emit import does_as
from ..onnx.layers import Arithmetic
from ..training import load_trained
from .config import add_options, flags_of
from .output import emit, result, say
from .run import DataInfo, build_model, choose_weights, machine, open_run
from .status import DONE

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "export",
        help="the network of a run as an ONNX file",
        description="Write the network of a run folder as an ONNX file, for onnxruntime and other programs. The file "
        "takes float32 images (N, C, H, W) of any number, normalised as in training, and gives a score for each class. "
        "The names of the classes, the mean and the standard deviation of the pixels are in its metadata.",
        epilog="  example: xpconv export runs/small-cnn-fashion-mnist-small-1 --out net.onnx --normalize",
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a run of xpconv train")
    parser.add_argument(
        "--out", required=True, metavar="FILE.onnx", help="the file to write; an earlier one is replaced"
    )
    parser.add_argument(
        "--weights", choices=("best", "last"), help="which checkpoint (default: best, or last without one)"
    )
    parser.add_argument(
        "--normalize",
        action="store_true",
        help="put the normalisation into the file, which then takes pixels from 0 to 1 (bytes divided by 255)",
    )
    parser.add_argument(
        "--fold-batch-norm",
        action="store_true",
        help="put batch normalisation into the weights of the convolutions: faster, and equal but for rounding",
    )
    add_options(parser, only=("backend",), defaults=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    folder, config, info = open_run(options.folder, flags_of(options))
    path = choose_weights(folder, options.weights)
    with machine(config):
        model = build_model(config, info)
        epoch = load_trained(model, path)["epoch"]
        if options.normalize:
            model = _with_normalization(model, info, config.dtype)
        onnx.export(
            model,
            options.out,
            info.image_shape,
            fold_batch_norm=options.fold_batch_norm,
            dtype="float32",
            output_name="scores",
            metadata={
                "classes": json.dumps(info.classes),
                "mean": json.dumps(info.mean),
                "std": json.dumps(info.std),
                "normalized": json.dumps(bool(options.normalize)),
            },
        )
    say("weights", f"{path}, after {epoch} epochs")
    say("input", f"images (N, {', '.join(map(str, info.image_shape))}) in float32, {_pixels(options.normalize, info)}")
    size = os.path.getsize(options.out)
    result(f"{options.out}: {size / 2**20:.2f} MiB, {len(info.classes)} classes")
    emit(
        "export",
        file=options.out,
        bytes=size,
        weights=path,
        epoch=epoch,
        image_shape=info.image_shape,
        classes=info.classes,
        normalized=bool(options.normalize),
        mean=info.mean,
        std=info.std,
    )
    return DONE


def _pixels(normalized: bool, info: DataInfo) -> str:
    if normalized:
        return f"pixels from {info.pixel_range[0]:g} to {info.pixel_range[1]:g}"
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (info.mean, info.std))
    return f"pixels less the mean {mean}, divided by {std}"


def _with_normalization(model: Layer, info: DataInfo, dtype: str) -> Layer:
    """``model`` behind the normalisation of its images; its own layers keep their names."""
    mean, std = (asarray(np.array(values).reshape(-1, 1, 1), dtype=dtype) for values in (info.mean, info.std))
    # a subclass may do more than its layers one after the other
    parts = dict(model.named_children()) if does_as(model, Sequential) else {"network": model}
    return Sequential({"less_mean": Arithmetic("Sub", mean), "by_std": Arithmetic("Div", std), **parts})
