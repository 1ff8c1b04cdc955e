"""``xpconv train``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import io
import math
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, data, get_backend, get_matmul_precision, get_num_threads, optim
from .._extras import require
from .._files import write_atomically
from ..distributed import Communicator, DistributedError
from ..functional import softmax_cross_entropy
from ..layers import Layer
from ..report.record import NoRecording, Recording
from ..training import (
    Callback,
    EarlyStopping,
    Preempted,
    Profile,
    RunFolder,
    RunFolderError,
    RunRecorder,
    Trainer,
    TrainingError,
    load_trained,
)
from ..training.mixed import check_half_type
from ..training.ranks import broadcast_state
from .config import TrainConfig, add_options, collect, flags_of, key_of, read_toml
from .output import complain, emit, result, say, show
from .progress import progress_for
from .ranks import Place, check_same, communicator, first_does, transport_of
from .run import DataInfo, build_model, compared_place, machine, open_data, open_run
from .status import DONE, INTERRUPTED, PREEMPTED

if TYPE_CHECKING:
    from ..report.serve import LiveReport

__all__ = ["add_command", "load_data", "make_batches", "make_loss", "make_optimizer"]

_RUNS = "runs"
_PROFILE_STEPS = 10
_PORT = 8417

# Seconds that the report may take, about: for the times of the layers, and after Ctrl-C for predictions too.
_MEASURING, _MEASURING_INTERRUPTED = 2.0, 1.0

# What may differ when a run goes on: the rest would make it another run.
_RESUMABLE = ("epochs", "data_dir", "workers", "backend", "threads", "capture", "early_stopping", "save_every")

_DESCRIPTION = """\
Train a network on images and test it.

Without options: a small network on a part of Fashion-MNIST that ships with the package. A tenth of the training images
is held out; after every epoch the network is evaluated on them, and at the end the weights of the epoch that did best
there are tested once on the test images. The last line printed is "test accuracy 0.xxxx".

Everything is kept in a run folder: config.json, log.jsonl, last.safetensors, best.safetensors, and report.html, a page
with the curves, the mistakes and more. Ctrl-C finishes the step, saves and stops; a second one stops at once.

mpiexec -n 4 xpconv train shares the work of every batch among four processes, here or on several machines.
"""


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "train",
        usage="xpconv train [OPTION ...]",
        help="train a network on images and test it",
        description=_DESCRIPTION,
        epilog="  example: xpconv train --data fashion-mnist --model resnet20 --epochs 10",
    )
    group = add_options(parser)["run folder"]
    group.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with the same keys as these options, such as batch-size = 64; options given here win over it "
        "(default: none)",
    )
    group.add_argument(
        "--out",
        metavar="FOLDER",
        help=f"run folder, new or empty (default: {_RUNS}/MODEL-DATA-N with the first free number)",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN_FOLDER",
        help=f"continue the run in this folder (the latest one in {_RUNS} if none is named), bit for bit; of the other "
        f"options only {', '.join('--' + key_of(n) for n in _RESUMABLE)} may be given, and a schedule that ends with "
        "the last epoch is stretched to a new number of epochs (default: a new run)",
    )
    group.add_argument(
        "--profile",
        action="store_true",
        help=f"before the run, measure {_PROFILE_STEPS} steps layer by layer, print a table, and put trace.json for "
        "chrome://tracing into the run folder; the run is the same",
    )
    group.add_argument(
        "--watch",
        nargs="?",
        type=int,
        const=_PORT,
        metavar="PORT",
        help=f"serve the page of the run while it goes on, for browsers on this machine; on port {_PORT} if none is "
        "named, 0 takes a free one (default: not served)",
    )
    parser.set_defaults(run=run, over_ranks=True)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    require("threadpoolctl", "training runs")  # now, not after the data are read
    given = flags_of(options)
    file = read_toml(options.config) if options.config else {}
    comm = communicator()
    out = options.out or file.get("out")
    check_same(comm, {"--resume": options.resume, "--out": out, "--watch": options.watch, "--profile": options.profile})
    with contextlib.ExitStack() as stack:
        live = None

        def watch() -> None:
            nonlocal live
            from ..report.serve import LiveReport

            live = stack.enter_context(LiveReport(options.watch))  # a port that is taken is told now

        if options.watch is not None:
            first_does(comm, watch)
        if options.resume is not None:
            return _resume(options, {**file, **given}, comm, live)
        return _start(options, out, collect(file, given), comm, live)


def _start(
    options: argparse.Namespace, out: str | None, config: TrainConfig, comm: Communicator, live: LiveReport | None
) -> int:
    if out is not None:
        first_does(comm, functools.partial(RunFolder.check_free, out))
    place = compared_place(config, comm)
    with machine(config, place):
        parts, transform, info = load_data(config)
        _check_data(config, parts, info, comm)
        model = build_model(config, info)
        check_half_type(model, config.mixed_precision)

        def create() -> str:
            stored = _stored(config, info, comm)
            if out is not None:
                return str(RunFolder.create(out, stored).path)
            return str(RunFolder.create_numbered(_RUNS, f"{config.model}-{_stem(config.data)}", stored).path)

        folder = RunFolder(first_does(comm, create))
        return _train(config, info, folder, model, parts, transform, place, profile=options.profile, live=live)


def _check_data(config: TrainConfig, parts: data.Splits, info: DataInfo, comm: Communicator) -> None:
    """Raise DistributedError on all ranks if they have different data, or too few; before anything is written."""
    names = {"images": "the number of images (training, validation, test)", "image_shape": "the shape of the images"}
    facts = {"the list of classes": info.classes, **{text: getattr(info, name) for name, text in names.items()}}
    check_same(comm, {name: list(value) for name, value in facts.items()})
    images = len(parts.train)
    if config.batch_size < comm.size:
        raise DistributedError(
            f"--batch-size: it is that of all ranks together, and each of the {comm.size} needs an image at least, "
            f"got {config.batch_size}"
        )
    if images < comm.size:
        raise DistributedError(f"--data: {config.data} has {images} training images for {comm.size} ranks")


def _resume(options: argparse.Namespace, changes: dict[str, Any], comm: Communicator, live: LiveReport | None) -> int:
    path = options.resume or options.out or first_does(comm, _latest_run)
    if options.out and Path(options.out) != Path(path):
        raise ValueError(f"--out: a resumed run stays in its folder {path}, got {options.out}")
    changes.pop("out", None)
    folder, before, known = open_run(path)
    for name, value in changes.items():
        was = getattr(before, name)
        if name not in _RESUMABLE and value != was:
            raise ValueError(
                f"--{key_of(name)}: the run in {folder.path} has {was}, got {value}; start a new run for it"
            )
    changes = {name: value for name, value in changes.items() if name in _RESUMABLE}
    config = dataclasses.replace(before, **changes)
    place = compared_place(config, comm)
    with machine(config, place):
        parts, transform, info = load_data(config, known)
        if info != known:
            raise ValueError(f"--data: {config.data} is not what the run in {folder.path} was started with")
        _check_data(config, parts, info, comm)
        if config != before:  # all ranks have read it by now
            first_does(comm, lambda: folder.write_config(_stored(config, info, comm)))
        model = build_model(config, info)
        return _train(config, info, folder, model, parts, transform, place, profile=options.profile, live=live)


def _stored(config: TrainConfig, info: DataInfo, comm: Communicator) -> dict[str, Any]:
    backend = get_backend().name
    if comm.size > 1 and config.backend != backend:  # each rank has its own GPU
        backend = backend.partition(":")[0]
    values = {**dataclasses.asdict(config), "backend": backend}
    # as seen from everywhere: a run may be evaluated or resumed from another folder than this one
    if config.data not in data.data_sets():
        values["data"] = os.path.abspath(config.data)
    for name in ("data_dir", "labels", "statistics"):
        if values[name] is not None:
            values[name] = os.path.abspath(values[name])
    return {"xpconv": __version__, "config": values, "data": dataclasses.asdict(info)}


def _stem(name: str) -> str:
    """A data set's name, or the last part of its path, fit for the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-.") or "data"


def _latest_run() -> str:
    found = [path.parent for path in Path(_RUNS).glob("*/config.json")]
    if not found:
        raise RunFolderError(f"--resume: no run in the folder {_RUNS} here; name the folder of the run")

    def changed(folder: Path) -> float:
        return max(path.stat().st_mtime for path in folder.iterdir())

    return str(max(found, key=changed))


# ---- the parts of a run -----------------------------------------------------------------------------------------

Transform = Callable[..., Any]


def load_data(config: TrainConfig, known: DataInfo | None = None) -> tuple[data.Splits, data.Compose, DataInfo]:
    """The data in three parts, what is done to the images of the first, and what to know of it all.

    ``known`` is what a run that goes on has found earlier: images that are not in memory are not all read again.
    """
    whole = open_data(config)
    train, test, held_out = whole.train, whole.test, whole.validation
    if test.image_shape != train.image_shape:
        raise data.DataError(
            f"{config.data}: training images are {train.image_shape}, test images {test.image_shape} (C, H, W)"
        )
    if test.num_classes > train.num_classes:
        raise data.DataError(
            f"{config.data}: the test set has {test.num_classes} classes, the training set {train.num_classes}"
        )
    count = round(len(train) * config.validation)
    if count and held_out is None:
        order = np.random.default_rng((config.seed, _SPLIT)).permutation(len(train))
        # sorted: the images stay in the order of the file, whichever they are
        held_out, train = train.subset(np.sort(order[:count])), train.subset(np.sort(order[count:]))
    if known is not None and not isinstance(train, data.ArrayDataset):
        statistics = data.Statistics(known.mean, known.std, *known.pixel_range)
    else:
        found = first_does(
            communicator(),
            lambda: data.compute_statistics(train, workers=config.workers, keep_in=config.statistics),
        )
        statistics = data.Statistics(tuple(found[0]), tuple(found[1]), *found[2:])
    if config.early_stopping is not None and held_out is None:
        raise ValueError(
            f"--early-stopping: needs validation images, and --validation {config.validation:g} of {len(train)} "
            "training images is none"
        )
    parts = data.Splits(train, test, held_out)
    return parts, _transform(config, train, statistics), _describe(parts, statistics)


_SPLIT = 0x5EED  # keeps the draw of the split apart from those of epochs, which start from (seed, epoch)


def _transform(config: TrainConfig, train: data.Dataset, statistics: data.Statistics) -> data.Compose:
    standard = data.standard_transform(train, config.augment, dtype=config.dtype, statistics=statistics)
    *steps, normalize = standard.transforms
    if config.mirror and not any(isinstance(step, data.RandomFlip) for step in steps):
        steps.append(data.RandomFlip())
    if config.jitter:
        steps.append(data.ColorJitter(config.jitter, config.jitter, config.jitter, config.jitter / 4))
    steps.append(normalize)
    if config.cutout:
        steps.append(data.Cutout(config.cutout))
    return data.Compose(steps)


def _describe(parts: data.Splits, statistics: data.Statistics) -> DataInfo:
    train, test, held_out = parts.train, parts.test, parts.validation
    return DataInfo(
        tuple(train.classes),
        train.image_shape,
        statistics.mean,
        statistics.std,
        (statistics.low, statistics.high),
        (len(train), len(held_out) if held_out is not None else 0, len(test)),
    )


def _skipped(parts: data.Splits) -> list[data.BadFile]:
    """What the parts were made without; parts of one set have it in common."""
    sets = [part for part in (*parts, parts.validation) if part is not None]
    return list(dict.fromkeys(file for part in sets for file in part.skipped))


def _write_skipped(folder: RunFolder, skipped: list[data.BadFile]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(data.BadFile._fields)
    writer.writerows(skipped)
    write_atomically(folder.skipped, [text.getvalue().encode(errors="surrogateescape")])


def make_batches(config: TrainConfig, train: data.Dataset, transform: data.Compose) -> data.Batches:
    """The batches of the training images."""
    return data.Batches(
        train,
        config.batch_size,
        seed=config.seed,
        transform=transform,
        dtype=config.dtype,
        workers=config.workers,
        mixup=config.mixup,
    )


def make_loss(config: TrainConfig, train: data.Dataset) -> Callable[..., Any]:
    """The loss, with the weights of the classes that were asked for."""
    if config.class_weights == "none":
        return softmax_cross_entropy
    return functools.partial(softmax_cross_entropy, weight=data.class_weights(train).tolist())


def make_optimizer(config: TrainConfig, model: Layer) -> Any:
    """The optimizer of the model's parameters."""
    parameters, lr, decay = model.parameters(), config.lr, config.weight_decay
    assert lr is not None  # TrainConfig has put in what suits the optimizer
    assert decay is not None
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop}[config.optimizer]
    return kind(parameters, lr=lr, weight_decay=decay)


def _schedule(config: TrainConfig, steps: int) -> optim.Schedule:
    lr = config.lr
    assert lr is not None
    if config.schedule == "one-cycle":
        return optim.OneCycleSchedule(lr, steps)
    if config.schedule == "cosine":
        return optim.CosineSchedule(lr, steps)
    if config.schedule == "step":
        return optim.StepSchedule(lr, [steps // 2, steps * 3 // 4])
    return optim.ConstantSchedule(lr)


def _trainer_options(config: TrainConfig, folder: RunFolder, progress: Callback, comm: Communicator) -> dict[str, Any]:
    """What a Trainer is given besides model, loss, optimizer and schedule."""
    callbacks: list[Callback] = []
    if comm.rank == 0:
        # the progress before what saves: its line of an epoch should not wait for the checkpoint
        callbacks = [progress, RunRecorder(folder, save_every=config.save_every)]
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(config.early_stopping, "val_accuracy"))
    names = ("clip_norm", "accumulate", "ema", "mixed_precision", "capture", "sync_batch_norm", "check_ranks")
    return {"callbacks": callbacks, "comm": comm, **{name: getattr(config, name) for name in names}}


def _train(
    config: TrainConfig,
    info: DataInfo,
    folder: RunFolder,
    model: Layer,
    parts: data.Splits,
    transform: data.Compose,
    place: Place | None,
    *,
    profile: bool,
    live: LiveReport | None,
) -> int:
    comm = communicator()
    recording = Recording(folder, model, config.seed, comm.size) if comm.rank == 0 else NoRecording()
    if live is not None:
        live.start(folder)
    try:
        return _train_and_test(
            config, info, folder, model, parts, transform, comm, place, recording, profile=profile, live=live
        )
    except (KeyboardInterrupt, Preempted):
        recording.end("interrupted")
        raise
    except Exception as error:
        recording.end("failed", str(error) or type(error).__name__)
        raise


def _train_and_test(
    config: TrainConfig,
    info: DataInfo,
    folder: RunFolder,
    model: Layer,
    parts: data.Splits,
    transform: data.Compose,
    comm: Communicator,
    place: Place | None,
    recording: Recording,
    *,
    profile: bool,
    live: LiveReport | None,
) -> int:
    skipped = _skipped(parts)
    if skipped and comm.rank == 0:
        _write_skipped(folder, skipped)
    batches = make_batches(config, parts.train, transform)
    loss = make_loss(config, parts.train)
    progress = progress_for()
    optimizer, schedule = make_optimizer(config, model), _schedule(config, config.epochs * len(batches))
    transport = transport_of(comm, place, get_backend())
    options = {"schedule": schedule, **_trainer_options(config, folder, progress, transport)}
    if first_does(comm, folder.last.exists):
        trainer = Trainer.resume(folder.last, model, loss, optimizer, **options)
    else:
        trainer = Trainer(model, loss, optimizer, seed=config.seed, **options)
    _announce(config, info, folder, trainer, batches, parts, skipped, place)
    if live is not None:
        say("watch", live.address)
        emit("watch", address=live.address)
    of_size = functools.partial(_batches_of_size, config, parts.train, transform)
    images = math.ceil(config.batch_size / comm.size)  # of a step on one rank
    if profile and comm.rank == 0:  # the others wait for it at the first step
        recording.profile(_profile(folder, trainer, of_size(images), comm.size), images)

    def measure(seconds: float) -> None:
        recording.layers(trainer, of_size, images, seconds)
        recording.filters(trainer.model, parts.train.image_shape)

    validation = None if parts.validation is None else _in_order(config, parts.validation, transform)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="capture: ")  # said below
            trainer.fit(batches, epochs=config.epochs, validation=validation)
    except Preempted:  # whoever sent it will not wait for a measurement
        progress.close()
        if comm.rank == 0:
            _say_how_to_go_on(folder, trainer, comm)
        recording.end("interrupted")
        return PREEMPTED
    except KeyboardInterrupt:
        progress.close()
        if comm.rank == 0:
            _say_how_to_go_on(folder, trainer, comm)
        with trainer.averaged_weights():
            measure(_MEASURING_INTERRUPTED)
            if validation is not None:
                alone = Trainer(trainer.model, trainer.loss, None)  # the other ranks do not take part
                alone.step = trainer.step
                recording.first_predictions("validation", alone, validation, _MEASURING_INTERRUPTED)
        recording.end("interrupted")
        return INTERRUPTED
    finally:
        progress.close()
    if trainer.epoch < config.epochs:
        say("stopped", f"early, after epoch {trainer.epoch}: the validation accuracy has not become better any more")
        emit("stopped", epoch=trainer.epoch, reason="the validation accuracy has not become better any more")
    if trainer.capture_reason is not None:
        say("capture", f"steps were not recorded: {trainer.capture_reason}")
        emit("not_captured", reason=trainer.capture_reason)
    found = _test(folder, trainer, _in_order(config, parts.test, transform), comm, recording)
    measure(_MEASURING)
    recording.end("finished")
    say("report", str(folder.report))
    emit("report", file=folder.report)
    result(f"test accuracy {found['accuracy']:.4f}")
    emit("test", **found)
    return DONE


def _profile(folder: RunFolder, trainer: Trainer, batches: data.Batches, ranks: int) -> Profile:
    measured = trainer.profile(batches, steps=_PROFILE_STEPS)
    trace = folder.path / "trace.json"
    measured.write_trace(trace)
    show(measured.table())
    whose = f" of rank 0 alone, with its {batches.batch_size} images of a batch" if ranks > 1 else ""
    say("profile", f"{measured.steps} steps{whose}; {trace} is for chrome://tracing")
    emit(
        "profile",
        steps=measured.steps,
        seconds=measured.seconds,
        trace=trace,
        layers=[layer._asdict() for layer in measured.layers],
    )
    return measured


def _announce(
    config: TrainConfig,
    info: DataInfo,
    folder: RunFolder,
    trainer: Trainer,
    batches: data.Batches,
    parts: data.Splits,
    skipped: list[data.BadFile],
    place: Place | None,
) -> None:
    train, test, held_out = parts.train, parts.test, parts.validation
    shape = "x".join(str(size) for size in train.image_shape)
    held = f"{len(held_out)} validation and " if held_out is not None else ""
    say(
        "data",
        f"{config.data}: {len(train)} training, {held}{len(test)} test images of {shape}, {train.num_classes} classes",
    )
    if skipped:
        say("skipped", f"{len(skipped)} files, listed in {folder.skipped}")
        emit("skipped", files=len(skipped), listed_in=folder.skipped)
    size = sum(parameter.size for parameter in trainer.model.parameters())
    say("model", f"{config.model}, {size:,} parameters, {config.dtype}")
    backend, threads = get_backend(), get_num_threads()
    if backend.on_host:
        how = f"{threads} {'threads' if threads > 1 else 'thread'}"
    else:
        how = "images on the device" if batches.is_resident() else "images are sent batch by batch"
        if get_matmul_precision() == "tf32":
            how += f", {get_matmul_precision()}"
    say("backend", f"{backend.name} ({backend.describe()}; {how})")
    ranks = 1 if trainer.comm is None else trainer.comm.size
    if place is not None:
        for line in place.lines(ranks, config.batch_size, threads if backend.on_host else None):
            say("ranks", line)
    say(
        "training",
        f"{config.epochs} epoch{'s' * (config.epochs != 1)} of {len(batches)} steps, {config.optimizer}, "
        f"{config.schedule} with learning rate {config.lr:g}, seed {config.seed}",
    )
    extras = []
    if config.mixed_precision is not None:
        extras.append(f"forward and backward in {config.mixed_precision}")
    if config.accumulate > 1:
        extras.append(f"batches in {config.accumulate} parts")
    if config.ema is not None:
        extras.append(f"weights averaged with decay {config.ema:g}")
    if extras:
        say("", ", ".join(extras))
    say("folder", str(folder.path))
    if trainer.step:
        say(
            "resumed",
            f"after step {trainer.step}, in epoch {trainer.epoch + 1}"
            if trainer.epoch < config.epochs
            else f"after step {trainer.step}, all epochs done",
        )
    emit(
        "run",
        folder=folder.path,
        step=trainer.step,
        model=config.model,
        parameters=size,
        backend=backend.name,
        device=backend.describe(),
        threads=threads if backend.on_host else None,
        ranks=ranks,
        data=dataclasses.asdict(info),
        config=dataclasses.asdict(config),
    )


def _say_how_to_go_on(folder: RunFolder, trainer: Trainer, comm: Communicator) -> None:
    where = f"step {trainer.step} (epoch {trainer.epoch + 1}, step {trainer.epoch_step} of {trainer.epoch_steps})"
    how = f"saved after {where}" if trainer.interrupted else f"at once, after the last checkpoint and before {where}"
    command = ["xpconv", "train", "--resume", str(folder.path)]
    on_ranks = f"mpiexec -n {comm.size} " if comm.size > 1 else ""
    complain("", f"interrupted, {how}; to go on: {on_ranks}{shlex.join(command)}")
    emit("interrupted", saved=trainer.interrupted, step=trainer.step, folder=folder.path, resume=command)


def _in_order(config: TrainConfig, part: data.Dataset, transform: data.Compose) -> data.Batches:
    return data.Batches(part, 256, shuffle=False, transform=transform, dtype=config.dtype, workers=config.workers)


def _batches_of_size(config: TrainConfig, train: data.Dataset, transform: data.Compose, size: int) -> data.Batches:
    return make_batches(dataclasses.replace(config, batch_size=size), train, transform)


def _of_best(loaded: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": loaded["epoch"], "val_accuracy": loaded["best"]["val_accuracy"]}


def _test(
    folder: RunFolder, trainer: Trainer, batches: data.Batches, comm: Communicator, recording: Recording
) -> dict[str, Any]:
    """What the best weights there are reach on the test images."""
    if trainer.best is None:
        weights, epoch, text = "last", trainer.epoch, "the weights of the last epoch"
    else:
        # read by rank 0, and sent: a file that one machine has just written another one may see late, or not at all
        loaded = first_does(comm, lambda: _of_best(load_trained(trainer.model, folder.best)))
        if comm.size > 1:
            broadcast_state(comm, trainer.model)
        weights, epoch = "best", loaded["epoch"]
        text = f"the weights of epoch {epoch}, the best on the validation images: {loaded['val_accuracy']:.4f}"
    # without the average of the last epoch, where there is one: the weights that were loaded are averaged ones
    tester = trainer if weights == "last" else Trainer(trainer.model, trainer.loss, None, comm=trainer.comm)
    tester.metrics["predictions"] = functools.partial(recording.predictions, "test", batches.dataset, weights=text)
    metrics = tester.report(batches)
    if not math.isfinite(metrics["loss"]):
        raise TrainingError(
            f"test loss is {metrics['loss']} with {text}; look for NaN and huge values in the test images"
        )
    found = {"weights": weights, "epoch": epoch, "loss": metrics["loss"], "accuracy": metrics["accuracy"]}
    if comm.rank == 0:
        folder.append({"kind": "test", **found})
    say("tested", text)
    say("test loss", f"{metrics['loss']:.4f}")
    return found
