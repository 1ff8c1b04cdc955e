"""What a run leaves for its report: measured while data and network are there, kept in the run folder."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, get_conv_algorithm, get_matmul_precision, get_num_threads
from .._config import _blas, processor
from .._extras import require
from .._files import write_atomically
from ..backends import get_backend, get_kernels, to_numpy
from ..training import RunFolder
from .collect import MEASURED_VERSION

if TYPE_CHECKING:
    from ..data import Batches, Dataset
    from ..layers import Layer
    from ..training import Profile, Trainer

__all__ = ["NoRecording", "Recording", "environment"]

_MISTAKES = 24
_FILTERS = 64
_PICTURE_SIZE = 112  # height and width of a picture at most
_PROFILE_STEPS, _WARM_UP = 3, 2
_JPEG_FROM = 64 * 64  # pixels of a coloured picture from which on it is kept as JPEG, a fifth of a PNG


def environment(seed: int | None = None, ranks: int = 1) -> dict[str, str]:
    """Versions, processor and settings that a run depends on, by name.

    Parameters
    ----------
    seed : int, optional
        Of the run.
    ranks : int
        Processes that run it together.
    """
    backend = get_backend()
    facts = {
        "xpconv": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "NumPy": f"{np.__version__}{_blas()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "CPUs": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "backend": f"{backend.name} ({backend.describe()})",
        "threads": str(get_num_threads()),
        "kernels": get_kernels(),
        "convolution": get_conv_algorithm(),
        "matmul precision": get_matmul_precision(),
    }
    if ranks > 1:
        facts["ranks"] = str(ranks)
        facts["threads"] += " on rank 0"
    if seed is not None:
        facts["seed"] = str(seed)
    commit = _commit()
    if commit:
        facts["commit"] = commit
    return facts


def _commit() -> str:
    """The commit of the working folder, if it is one of a git repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=2, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}{', with changes' if git('status', '--porcelain', '--untracked-files=no') else ''}"
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""


class Recording:
    """Keeps ``report.json`` of a run folder, and makes the page when the run ends.

    No error in here ends a run: the first one is told as a RuntimeWarning.

    Parameters
    ----------
    folder : RunFolder
    model : Layer
    seed : int
    ranks : int
        Processes that run it together.
    """

    def __init__(self, folder: RunFolder, model: Layer, seed: int, ranks: int = 1) -> None:
        self.folder = folder
        self._warned = False
        self._values: dict[str, Any] = {"version": MEASURED_VERSION, "xpconv": __version__, "status": "running"}
        with self._careful():
            self._values["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
            self._values["environment"] = environment(seed, ranks)
            self._values["parameters"] = sum(math.prod(p.data.shape) for p in model.parameters())
            self._write()

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, no page is worth a run
            if not self._warned:
                self._warned = True
                reason = " ".join(f"{error}".split()) or type(error).__name__
                message = f"the report in {self.folder.path} lacks a part: {reason}"
                warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _write(self) -> None:
        write_atomically(self.folder.measured, [json.dumps(self._values, allow_nan=False).encode()])

    def end(self, status: str, message: str = "") -> None:
        """Note how the run ended, and write the page.

        Parameters
        ----------
        status : str
            ``"finished"``, ``"interrupted"`` or ``"failed"``.
        message : str
            Why it failed.
        """
        self._values |= {"status": status, "message": message}
        with self._careful():
            self._write()
        with self._careful():
            from . import write_report

            write_report(self.folder)

    # ---- what takes data and network --------------------------------------------------------------------------

    def predictions(
        self, part: str, dataset: Dataset, scores: np.ndarray, targets: Any = None, *, weights: str
    ) -> float:
        """Keep the confusion matrix and the worst mistakes.

        Parameters
        ----------
        part : str
            ``"test"`` or ``"validation"``.
        dataset : Dataset
            The images.
        scores : array (n, K)
            Those of the network for the first n images.
        targets
            Not used: with it this is a metric of a `Trainer`.
        weights : str
            Which weights, in words.

        Returns
        -------
        float
            0.
        """
        with self._careful():
            self._values["predictions"] = _predictions(part, dataset, np.asarray(scores, np.float64), weights)
        return 0.0

    def first_predictions(self, part: str, trainer: Trainer, batches: Batches, seconds: float) -> None:
        """The same with the weights of now, for as many images of ``batches`` as there is time for."""
        with self._careful():
            until = time.monotonic() + seconds
            parts = []
            for x, _ in batches.epoch(0):
                parts.append(to_numpy(trainer.predict(x, batch_size=x.shape[0])))
                if time.monotonic() > until:
                    break
            weights = f"the weights after step {trainer.step:,}"
            self.predictions(part, batches.dataset, np.concatenate(parts), weights=weights)

    def filters(self, model: Layer, image_shape: tuple[int, int, int]) -> None:
        """Keep the weights of the first layer as pictures, if it sees images; of shape (C, H, W)."""
        with self._careful():
            self._values["filters"] = _filters(model, image_shape)

    def layers(self, trainer: Trainer, make_batches: Callable[[int], Batches], batch_size: int, seconds: float) -> None:
        """Measure where the time of a step goes, in about so many seconds: with smaller batches if need be.

        Parameters
        ----------
        trainer : Trainer
        make_batches : callable
            ``make_batches(batch_size)`` gives the training batches.
        batch_size : int
            That of the run.
        seconds : float
        """
        with self._careful():
            if "layers" in self._values or not trainer.history:
                return
            epochs = [record for record in trainer.history if record.get("seconds")]
            step = epochs[-1]["seconds"] / max(trainer.epoch_steps, 1) if epochs else 0.0
            budget = seconds / (_WARM_UP + _PROFILE_STEPS)
            images = batch_size
            if step > budget:  # two at least in every part of a batch: normalisation takes them
                images = min(batch_size, max(2 * trainer.accumulate, int(batch_size * budget / step)))
            self.profile(trainer.profile(make_batches(images), steps=_PROFILE_STEPS), images)

    def profile(self, profile: Profile, images: int) -> None:
        """Keep a profile of steps of so many images."""
        with self._careful():
            self._values["layers"] = {
                "steps": profile.steps,
                "images": images,
                "seconds": profile.seconds,
                "rows": [list(row) for row in profile.layers],
            }


class NoRecording(Recording):
    """What all ranks but the first have for a `Recording`: it keeps nothing, and touches no file."""

    def __init__(self) -> None:
        pass

    def end(self, status: str, message: str = "") -> None:
        """Nothing."""

    def predictions(
        self, part: str, dataset: Dataset, scores: np.ndarray, targets: Any = None, *, weights: str
    ) -> float:
        """0."""
        return 0.0

    def first_predictions(self, part: str, trainer: Trainer, batches: Batches, seconds: float) -> None:
        """Nothing."""

    def filters(self, model: Layer, image_shape: tuple[int, int, int]) -> None:
        """Nothing."""

    def layers(self, trainer: Trainer, make_batches: Callable[[int], Batches], batch_size: int, seconds: float) -> None:
        """Nothing."""

    def profile(self, profile: Profile, images: int) -> None:
        """Nothing."""


# ---- mistakes ---------------------------------------------------------------------------------------------------


def _predictions(part: str, dataset: Dataset, scores: np.ndarray, weights: str) -> dict[str, Any] | None:
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        return None
    labels = np.asarray(dataset.labels[: len(scores)])
    guesses = scores.argmax(axis=1)
    pairs, counts = np.unique(np.stack([labels, guesses], axis=1), axis=0, return_counts=True)
    return {
        "part": part,
        "images": len(scores),
        "total": len(dataset),
        "weights": weights,
        "confusion": [[int(r), int(c), int(n)] for (r, c), n in zip(pairs, counts, strict=True)],
        "mistakes": _mistakes(dataset, scores, labels, guesses),
    }


def _mistakes(dataset: Dataset, scores: np.ndarray, labels: np.ndarray, guesses: np.ndarray) -> list[dict[str, Any]]:
    wrong = np.flatnonzero(guesses != labels)
    shifted = scores[wrong] - scores[wrong].max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(wrong))
    right, chosen = logs[rows, labels[wrong]], logs[rows, guesses[wrong]]
    worst = np.argsort(right, kind="stable")[:_MISTAKES]
    pictures = _pictures(dataset, wrong[worst])
    paths = getattr(dataset, "paths", None)
    return [
        {
            "number": int(wrong[k]),
            "file": "" if paths is None else os.fspath(paths[wrong[k]]).encode(errors="replace").decode(),
            "label": int(labels[wrong[k]]),
            "predicted": int(guesses[wrong[k]]),
            "label_probability": float(np.exp(right[k])),
            "probability": float(np.exp(chosen[k])),
            "picture": picture,
        }
        for k, picture in zip(worst, pictures, strict=True)
    ]


def _pictures(dataset: Dataset, indices: np.ndarray) -> list[str]:
    if not len(indices):
        return []
    images = dataset.read(indices)
    if not dataset.is_bytes:
        low, high = float(images.min()), float(images.max())
        scaled = (images.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
        images = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return [_encode(image) for image in images]


def _encode(image: np.ndarray) -> str:
    """An image (C, H, W) of bytes as a PNG or JPEG in base 64; of other than 1 or 3 channels their mean."""
    pil = require("PIL.Image", "pictures of mistakes and filters")
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = np.round(image.mean(axis=0)).astype(np.uint8)
    picture = pil.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
    buffer = io.BytesIO()
    if picture.mode == "RGB" and picture.width * picture.height > _JPEG_FROM:
        picture.save(buffer, "JPEG", quality=88)
    else:
        picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# ---- filters ----------------------------------------------------------------------------------------------------


def _filters(model: Layer, image_shape: tuple[int, int, int]) -> dict[str, Any] | None:
    """Pictures of the weights of the first layer that has any, each scaled to its own largest one.

    None where it is neither a convolution nor a linear layer of whole images.
    """
    from ..layers import Conv2d, Linear

    weighted = ((name, layer) for name, layer in model.named_layers() if layer._own(layer._parameter_names))
    name, layer = next(weighted, ("", None))
    if not isinstance(layer, (Conv2d, Linear)):
        return None
    weight = np.asarray(to_numpy(layer.weight.data), np.float64)  # (out, in, kh, kw), or (out, in)
    if weight.ndim == 2:
        if weight.shape[1] != math.prod(image_shape):
            return None
        weight = weight.reshape(-1, *image_shape)
    if not np.isfinite(weight).all():
        return None
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.round(127.5 + 127.5 * weight / np.where(largest > 0, largest, 1)).astype(np.uint8)
    return {
        "layer": name,
        "kind": type(layer).__name__,
        "total": len(weight),
        "size": list(weight.shape[2:]),
        "channels": weight.shape[1],
        "pictures": [_encode(image) for image in pixels[:_FILTERS]],
    }
