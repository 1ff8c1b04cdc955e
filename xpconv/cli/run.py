"""What the commands share: the data, the network and the weights of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, get_num_threads, models, set_num_threads, use_matmul_precision
from .._extras import require
from ..backends import Backend, get_backend, use_backend
from ..data.sources import has_image_files
from ..distributed import Communicator
from ..layers import Layer
from ..training import CheckpointError, RunFolder, RunFolderError
from .config import TrainConfig, key_of, restore
from .ranks import Place, check_same, place_of

__all__ = [
    "DataInfo",
    "build_model",
    "choose_weights",
    "class_names",
    "compared_place",
    "machine",
    "open_data",
    "open_run",
]

_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a trained network must know about its data.

    Attributes
    ----------
    classes
        Their names.
    image_shape
        (C, H, W).
    mean, std
        Of the pixels of the training images, for each channel; bytes count from 0 to 1.
    pixel_range
        Lowest and highest pixel of the training images.
    images
        How many there are in training, in validation and in the test set.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float]
    images: tuple[int, int, int]

    @classmethod
    def from_json(cls, source: object, values: Any) -> DataInfo:
        """From the config.json ``source``; RunFolderError where it is damaged."""
        try:
            shape = [int(v) for v in values["image_shape"]]
            low, high = (float(v) for v in values["pixel_range"])
            counts = [int(v) for v in values["images"]]
            info = cls(
                tuple(map(str, values["classes"])),
                (shape[0], shape[1], shape[2]),
                tuple(map(float, values["mean"])),
                tuple(map(float, values["std"])),
                (low, high),
                (counts[0], counts[1], counts[2]),
            )
        except KeyError as error:
            raise RunFolderError(f"{source}: damaged: the description of the data lacks {error}") from error
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise RunFolderError(f"{source}: damaged: the description of the data makes no sense: {error}") from error
        return info

    def normalize(self, dtype: str) -> data.Normalize:
        """The normalisation of the training images, without their augmentation."""
        return data.Normalize(self.mean, self.std, dtype)


def open_data(config: TrainConfig, image_shape: tuple[int, int, int] | None = None) -> data.Splits:
    """The data of a run, with what it has been told about them; image files in a shape (C, H, W), if one is given."""
    image_size: Any = config.image_size
    channels = config.channels
    if image_shape is not None and has_image_files(config.data):
        image_size, channels = image_shape[1:], image_shape[0]
    return data.load(
        config.data,
        config.data_dir,
        labels=config.labels,
        image_size=image_size,
        channels=channels,
        bad=None if config.bad_files == "refuse" else config.bad_files,
        allow_outside=config.allow_outside or None,
    )


def build_model(config: TrainConfig, info: DataInfo) -> Layer:
    """The network, its initial weights drawn from the seed, on the default backend."""
    channels, height, width = info.image_shape
    return models.build(
        config.model,
        in_channels=channels,
        image_size=(height, width),
        num_classes=len(info.classes),
        rng=np.random.default_rng(config.seed),
        dtype=config.dtype,
    )


@contextlib.contextmanager
def machine(config: TrainConfig, place: Place | None = None) -> Iterator[Backend]:
    """Inside the block the backend, the threads and the precision of products are those of ``config``.

    With several ranks ``place`` is where this one runs: the cores of a machine are shared by its ranks, and the backend
    ``cupy`` is the GPU with the number of the rank on its machine.

    NumPy's BLAS gets one thread, unless a variable of its own says otherwise: convolutions run it in several threads of
    xpconv at once, and what is left to it are small products. Its threads wait in busy loops, so that on a machine that
    does something else too every product would wait for the slowest of them (measured: ten times slower).
    """
    threadpoolctl = require("threadpoolctl", "runs of the command line")
    with contextlib.ExitStack() as stack:
        threads, backend = config.threads, config.backend
        if place is not None:
            if threads is None and not os.environ.get("XPCONV_NUM_THREADS"):
                threads = place.threads
            if (backend or os.environ.get("XPCONV_BACKEND")) == "cupy":
                backend = f"cupy:{place.local_rank}"
        if threads is not None:
            stack.callback(set_num_threads, get_num_threads())
            set_num_threads(threads)
        if config.matmul_precision is not None:
            stack.enter_context(use_matmul_precision(config.matmul_precision))
        if not any(name in os.environ for name in _BLAS_VARIABLES):
            stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))
        yield stack.enter_context(use_backend(get_backend() if backend is None else backend))


def compared_place(config: TrainConfig, comm: Communicator) -> Place | None:
    """Where this rank of several runs; DistributedError on all of them if they have not been told to do the same."""
    if comm.size == 1:
        return None
    own = ("threads", "workers", "data_dir")  # may be another one on every machine
    options = dataclasses.asdict(config).items()
    check_same(comm, {f"--{key_of(name)}": value for name, value in options if name not in own})
    return place_of(comm)


def open_run(path: str, changes: Mapping[str, Any] | None = None) -> tuple[RunFolder, TrainConfig, DataInfo]:
    """The run in a folder; ``changes`` override its configuration."""
    folder = RunFolder.open(path)
    stored = folder.read_config()
    if not isinstance(stored.get("config"), dict):
        raise RunFolderError(f"{folder.config}: damaged: it has no configuration")
    try:
        config = restore(str(folder.config), {**stored["config"], **(changes or {})})
    except ValueError as error:
        raise RunFolderError(str(error)) from error
    return folder, config, DataInfo.from_json(folder.config, stored.get("data"))


def choose_weights(folder: RunFolder, which: str | None) -> Path:
    """The checkpoint that is asked for: ``"best"``, ``"last"``, or for None the best one if there is one."""
    if which is None:
        which = "best" if folder.best.exists() else "last"
    return folder.best if which == "best" else folder.last


def class_names(path: Path, loaded: Mapping[str, Any], info: DataInfo) -> tuple[str, ...]:
    """The names that the weights were trained with, as `load_trained` found them; else those of the run's folder."""
    names = loaded["classes"] or info.classes
    if len(names) != len(info.classes):
        raise CheckpointError(f"{path}: names {len(names)} classes, its run has {len(info.classes)}")
    return names
