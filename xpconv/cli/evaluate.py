"""``xpconv evaluate``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, get_backend
from .._text import printable
from ..distributed import Communicator
from ..functional import softmax_cross_entropy
from ..training import ClassReport, Trainer, TrainingError, class_report, load_trained, top_k_accuracy
from ..training.ranks import broadcast_state
from .config import TrainConfig, add_options, flags_of
from .output import emit, result, say, show
from .ranks import check_same, communicator, transport_of
from .run import DataInfo, build_model, choose_weights, class_names, compared_place, machine, open_data, open_run
from .status import DONE

__all__ = ["add_command"]

_TOP = 5


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained network on test images",
        description='Evaluate the network of a run folder on test images. The last line is "test accuracy 0.xxxx".',
        epilog="  example: xpconv evaluate runs/small-cnn-fashion-mnist-small-1 --report",
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a run of xpconv train")
    parser.add_argument(
        "--weights", choices=("best", "last"), help="which checkpoint (default: best, or last without one)"
    )
    own = ("data", "data_dir", "labels", "bad_files", "allow_outside", "workers", "backend", "batch_size", "threads")
    parser.add_argument(
        "--report",
        action="store_true",
        help="also print precision, recall and F1 of each class, and the share of images with the right class among "
        "the first 5",
    )
    add_options(parser, only=own, defaults=False)
    parser.set_defaults(run=run, over_ranks=True)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    changes = flags_of(options)
    if "data" in changes:
        # those of the run belong to its own data
        changes = {"data_dir": None, "labels": None, "bad_files": "refuse", "allow_outside": False, **changes}
    folder, config, info = open_run(options.folder, changes)
    comm = communicator()
    check_same(comm, {"RUN_FOLDER": options.folder, "--weights": options.weights, "--report": options.report})
    place = compared_place(config, comm)
    with machine(config, place):
        transport = transport_of(comm, place, get_backend())
        return _evaluate(config, info, choose_weights(folder, options.weights), transport, report=options.report)


def _evaluate(config: TrainConfig, info: DataInfo, path: Path, comm: Communicator, *, report: bool) -> int:
    test = open_data(config, info.image_shape).test
    if test.image_shape != info.image_shape:
        raise data.DataError(
            f"{config.data}: images are {test.image_shape}, the network takes {info.image_shape} (C, H, W)"
        )
    if test.num_classes > len(info.classes):
        raise data.DataError(f"{config.data}: {test.num_classes} classes, the network knows {len(info.classes)}")
    model = build_model(config, info)
    loaded = load_trained(model, path)
    broadcast_state(comm, model)  # another machine may still see an earlier file
    epoch = loaded["epoch"]
    names = class_names(path, loaded, info)
    # another folder may have fewer of them; names may be digits, and then only the checkpoint tells that they are names
    if loaded["classes"] is not None or names != tuple(map(str, range(len(names)))):
        test = test.renumbered(names)
    say("weights", f"{path}, after {epoch} epochs")
    say("data", f"{config.data}: {len(test)} test images")
    transform = info.normalize(config.dtype)
    batches = data.Batches(
        test, config.batch_size, shuffle=False, transform=transform, dtype=config.dtype, workers=config.workers
    )
    reports: list[ClassReport] = []

    def of_classes(scores: np.ndarray, labels: np.ndarray) -> float:
        reports.append(class_report(scores, labels))
        return reports[0].accuracy

    more: dict[str, Any] = {}
    if report:
        more["classes"] = of_classes
        if len(info.classes) > _TOP:
            more["top"] = partial(top_k_accuracy, k=_TOP)
    metrics = Trainer(model, softmax_cross_entropy, None, metrics=more, comm=comm).report(batches)
    loss, accuracy = metrics["loss"], metrics["accuracy"]
    if not math.isfinite(loss):
        raise TrainingError(f"test loss is {loss} with the weights {path}; they or the test images are no use")
    if report:
        show(reports[0].table([printable(name) for name in names]))
    if "top" in metrics:
        say(f"top {_TOP}", f"{metrics['top']:.4f}")
    say("test loss", f"{loss:.4f}")
    result(f"test accuracy {accuracy:.4f}")
    emit(
        "test",
        weights=path,
        epoch=epoch,
        data=config.data,
        images=len(test),
        loss=loss,
        accuracy=accuracy,
        **({"top_5": metrics["top"]} if "top" in metrics else {}),
        **({"classes": _rows(reports[0], names)} if report else {}),
    )
    return DONE


def _rows(report: ClassReport, names: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(names, report.precision, report.recall, report.f1, report.support, strict=True)
    return [{"name": name, "precision": p, "recall": r, "f1": f, "images": n} for name, p, r, f, n in columns]
