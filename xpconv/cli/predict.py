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
from ..training.ranks import broadcast_state
from .config import add_options, flags_of
from .output import emit, result, say
from .parser import UsageError
from .predict_set import check_out, open_images, predict_set
from .ranks import check_same, communicator, first_does, refuse_ranks
from .run import DataInfo, build_model, choose_weights, class_names, compared_place, machine, open_data, open_run
from .status import DONE

__all__ = ["add_command"]

_SHOWN = 3
_BATCH = 256

# Of options that are not those of the run, or mean something else here.
_HELPS = {
    "data": "a whole set: a folder of image files, in folders or not, a .npy file of images, or what xpconv evaluate "
    "takes, of which the test part is predicted (default: none, the images are named one by one)",
    "data_dir": "of a data set by name: folder with its files; no other place is looked at (default: XPCONV_DATA and "
    "some usual places)",
    "allow_outside": "follow paths and links that lead out of the folder of --data (default: off)",
    "batch_size": "images that go through the network at once (default: as in the run)",
}


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "predict",
        help="the likeliest classes of image files, or of a whole set",
        description="Print the three likeliest classes of each image, with their probabilities. Images are made grey "
        "or coloured and as large as those that the network was trained on, and filled up with black where the shape "
        "differs.\n\n"
        "With --data and --out a whole set is predicted into a file: all image files in a folder and below it, the "
        "images of a .npy file, or the test part of what xpconv evaluate takes. With mpiexec several processes share "
        "the work; the file is the same.",
        epilog="  example: xpconv predict --run runs/small-cnn-fashion-mnist-small-1 shoe.png\n"
        "  example: mpiexec -n 4 xpconv predict --run runs/lenet-mnist-1 --data scans --out scans.csv",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files (PNG, JPEG, ...)")
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
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="of --data: .csv for a line of each image (image, class, probability), .npy for the probabilities of all "
        "classes (default: no file, what is predicted is printed)",
    )
    own = ("data", "data_dir", "allow_outside", "workers", "backend", "batch_size", "threads")
    add_options(parser, only=own, defaults=False, helps=_HELPS)
    parser.set_defaults(run=run, over_ranks=True)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    given = flags_of(options)
    if "data" in given:
        return _predict_set(options, given)
    if not options.images:
        raise UsageError("the following arguments are required: IMAGE, or --data and --out; see xpconv predict --help")
    if options.out is not None:
        raise UsageError("--out: is for the images of --data; those of files are printed")
    refuse_ranks(communicator(), "xpconv predict with image files")
    return _predict_files(options, given)


def _check_pixels(folder: str, info: DataInfo) -> None:
    if info.pixel_range[0] < 0 or info.pixel_range[1] > 1:
        raise ValueError(
            f"{folder}: trained on images with pixels from {info.pixel_range[0]:g} to {info.pixel_range[1]:g}; "
            "only where they are bytes, or from 0 to 1, it is known how those of a file correspond to them"
        )


def _predict_set(options: argparse.Namespace, given: dict[str, Any]) -> int:
    for name, there in (("IMAGE", options.images), ("--invert", options.invert)):
        if there:
            raise UsageError(f"{name}: is for single files, not for --data")
    if options.out is None:
        raise UsageError("--data: needs --out, a file .csv or .npy that is written")
    comm = communicator()
    check_same(comm, {"--run": options.folder, "--weights": options.weights})
    first_does(comm, lambda: check_out(options.out))
    # what the run says of its data belongs to those alone; every image has its place in the file
    given = {"data_dir": None, "labels": None, "bad_files": "refuse", "allow_outside": False, **given}
    folder, config, info = open_run(options.folder, given)
    with machine(config, compared_place(config, comm)):
        images = open_images(
            config.data,
            info.image_shape,
            lambda: open_data(config, info.image_shape).test,
            allow_outside=config.allow_outside,
        )
        if images.files is not None:
            _check_pixels(options.folder, info)
        model = build_model(config, info)
        path = choose_weights(folder, options.weights)
        loaded = load_trained(model, path)
        broadcast_state(comm, model)  # another machine may still see an earlier file
        count, ranks = len(images.dataset), f", on {comm.size} ranks" if comm.size > 1 else ""
        say("weights", f"{path}, after {loaded['epoch']} epochs")
        say("data", f"{config.data}: {count} {'image files' if images.files is not None else 'images'}{ranks}")
        predict_set(
            comm,
            Trainer(model, softmax_cross_entropy, None),
            images,
            class_names(path, loaded, info),
            options.out,
            batch_size=config.batch_size,
            transform=info.normalize(config.dtype),
            dtype=config.dtype,
            workers=config.workers,
        )
    result(f"{options.out}: predictions of {count} images")
    emit("predictions", weights=path, data=config.data, images=count, out=options.out, ranks=comm.size)
    return DONE


def _predict_files(options: argparse.Namespace, given: dict[str, Any]) -> int:
    folder, config, info = open_run(options.folder, given)
    _check_pixels(options.folder, info)
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
