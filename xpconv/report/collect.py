"""What a run folder tells, read and checked: a file that is half-written or damaged costs its own part and no more."""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..training import RunFolder

__all__ = ["MEASURED_VERSION", "Filters", "LayerTimes", "Mistake", "Predictions", "Run", "read_run"]

MEASURED_VERSION = 1

STATUSES = ("running", "finished", "interrupted", "failed")

_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_T = TypeVar("_T")


class Mistake(NamedTuple):
    """An image that the network took for another class.

    Attributes
    ----------
    number
        Its place in the set, from 0.
    file
        Its file; empty where images have none of their own.
    label, predicted
        Class numbers.
    label_probability, probability
        What the network gave to the right class, and to the one that it chose.
    picture
        Address of the picture, ``data:image/...``; empty if there is none.
    """

    number: int
    file: str
    label: int
    predicted: int
    label_probability: float
    probability: float
    picture: str


class Predictions(NamedTuple):
    """What the network says to images that it was not trained on.

    Attributes
    ----------
    part
        ``"test"`` or ``"validation"``.
    images, total
        How many were looked at, and how many the part has.
    weights
        Which weights, in words.
    confusion
        For pairs (label, predicted class) that occur, how often.
    mistakes
        Those with the highest loss, the worst first.
    """

    part: str
    images: int
    total: int
    weights: str
    confusion: dict[tuple[int, int], int]
    mistakes: tuple[Mistake, ...]


class Filters(NamedTuple):
    """Weights of the first layer as pictures.

    Attributes
    ----------
    layer, kind
        Name of the layer in the model, and its class.
    total
        Filters of the layer; of many only the first are pictured.
    size
        Height and width.
    channels
        Of the input.
    pictures
        Addresses ``data:image/...``.
    """

    layer: str
    kind: str
    total: int
    size: tuple[int, int]
    channels: int
    pictures: tuple[str, ...]


class LayerTimes(NamedTuple):
    """Where the time of a step goes.

    Attributes
    ----------
    steps, images
        Steps measured, and images in each.
    seconds
        Of a step.
    rows
        (name, kind, calls, seconds forward, seconds backward), see `xpconv.training.LayerTime`.
    """

    steps: int
    images: int
    seconds: float
    rows: tuple[tuple[str, str, float, float, float], ...]


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Attributes
    ----------
    path : Path
    name : str
        Of the folder.
    version : str
        Of the xpconv that made it; empty if unknown.
    config : dict
        Options by name.
    classes : tuple of str
        Names of the classes; empty if unknown.
    image_shape : tuple of int
        (C, H, W); empty if unknown.
    images : tuple of int
        Images for training, for validation and for the test; empty if unknown.
    epochs, steps : list of dict
        Numbers by name; None where one is not finite.
    test : dict or None
        ``loss``, ``accuracy`` and ``epoch`` of the weights that were tested.
    status : str
        ``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"``, or ``""``: not known.
    message : str
        Why it failed.
    started : str
        Date and time.
    environment : dict of str
    parameters : int or None
    predictions : Predictions or None
    filters : Filters or None
    layers : LayerTimes or None
    notes : tuple of str
        What could not be read.
    """

    path: Path
    name: str
    version: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    images: tuple[int, ...] = ()
    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, Any] | None = None
    status: str = ""
    message: str = ""
    started: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    parameters: int | None = None
    predictions: Predictions | None = None
    filters: Filters | None = None
    layers: LayerTimes | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of all finished epochs, their validation included."""
        return sum(record["seconds"] or 0.0 for record in self.epochs)

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch of the best validation accuracy, or where there is none of the lowest validation loss."""
        rated = [record for record in self.epochs if record["val_loss"] is not None]
        if not rated:
            return None
        return max(rated, key=lambda r: (-math.inf if r["val_accuracy"] is None else r["val_accuracy"], -r["val_loss"]))

    def class_name(self, number: int) -> str:
        """Name of a class, or its number where it has none.

        Parameters
        ----------
        number : int

        Returns
        -------
        str
        """
        return self.classes[number] if number < len(self.classes) else str(number)


def read_run(path: str | os.PathLike[str]) -> Run:
    """The run in the folder ``path``; what is damaged is left out and told in ``notes``.

    Parameters
    ----------
    path : str or path-like
        Of the folder.

    Returns
    -------
    Run

    Raises
    ------
    RunFolderError
        It is no run folder, or its configuration is damaged or of a newer version of xpconv.
    OSError
        It cannot be read.
    """
    folder = RunFolder.open(path)
    stored = folder.read_config()
    notes: list[str] = []
    described = stored.get("data")
    described = described if isinstance(described, dict) else {}
    config = stored.get("config")
    epochs, steps, test = _read_log(folder, notes)
    measured = _read_measured(folder, notes)

    def part(name: str, read: Callable[[Any], _T]) -> _T | None:
        value = measured.get(name)
        if value is None:
            return None
        try:
            return read(value)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError):
            notes.append(f"{folder.measured.name}: the part {name!r} is damaged and left out")
            return None

    return Run(
        path=folder.path,
        name=folder.path.resolve().name,
        version=_text(stored.get("xpconv")),
        config=dict(config if isinstance(config, dict) else {k: v for k, v in stored.items() if k != "data"}),
        classes=tuple(map(str, _sequence(described.get("classes")))),
        image_shape=_counts(described.get("image_shape")),
        images=_counts(described.get("images")),
        epochs=epochs,
        steps=steps,
        test=test,
        status=_text(measured.get("status")) if measured.get("status") in STATUSES else "",
        message=_text(measured.get("message")),
        started=_text(measured.get("started")),
        environment=part("environment", lambda v: {str(k): str(w) for k, w in v.items()}) or {},
        parameters=part("parameters", _count),
        predictions=part("predictions", _predictions),
        filters=part("filters", _filters),
        layers=part("layers", _layers),
        notes=tuple(notes),
    )


# ---- the log ----------------------------------------------------------------------------------------------------

_EPOCH = ("step", "loss", "accuracy", "lr", "val_loss", "val_accuracy", "seconds")
_STEP = ("batch_loss", "loss", "accuracy", "lr", "images_per_second")


def _read_log(folder: RunFolder, notes: list[str]) -> tuple[list[Any], list[Any], dict[str, Any] | None]:
    """Epochs by number, steps by position, and the last test."""
    epochs: dict[float, dict[str, Any]] = {}
    steps: dict[float, dict[str, Any]] = {}
    test, strange = None, 0
    for record in folder.records():
        kind, epoch, position = record.get("kind"), _number(record.get("epoch")), _number(record.get("position"))
        if kind == "epoch" and epoch is not None and epoch >= 1 and epoch == int(epoch):
            more = {k: _number(v) for k, v in record.items() if isinstance(k, str) and k.startswith("val_")}
            epochs[epoch] = {"epoch": int(epoch), **more, **{name: _number(record.get(name)) for name in _EPOCH}}
        elif kind == "step" and position is not None and position >= 0:
            steps[position] = {"position": position, **{name: _number(record.get(name)) for name in _STEP}}
        elif kind == "test":
            test = {name: _number(record.get(name)) for name in ("loss", "accuracy", "epoch")}
        else:
            strange += 1
    if strange:
        notes.append(f"{folder.log.name}: {strange} lines make no sense and are left out")
    return [epochs[k] for k in sorted(epochs)], [steps[k] for k in sorted(steps)], test


# ---- what was measured ------------------------------------------------------------------------------------------


def _read_measured(folder: RunFolder, notes: list[str]) -> dict[str, Any]:
    name = folder.measured.name
    try:
        values = json.loads(folder.measured.read_text(encoding="utf-8"))
        version = values["version"]
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, KeyError, TypeError):
        notes.append(f"{name}: damaged, left out")
        return {}
    if version != MEASURED_VERSION:
        notes.append(f"{name}: format {version!r:.20}, this xpconv reads {MEASURED_VERSION}; update xpconv to see it")
        return {}
    return values


def _predictions(values: Mapping[str, Any]) -> Predictions:
    confusion = {(_count(r), _count(c)): _count(n) for r, c, n in values["confusion"]}
    mistakes = [
        Mistake(
            _count(m["number"]),
            _text(m.get("file")),
            _count(m["label"]),
            _count(m["predicted"]),
            _share(m["label_probability"]),
            _share(m["probability"]),
            _picture(m["picture"]) if m.get("picture") else "",
        )
        for m in values["mistakes"]
    ]
    part = values["part"]
    if part not in ("test", "validation"):
        raise ValueError(part)
    images, total = _count(values["images"]), _count(values["total"])
    return Predictions(part, images, total, _text(values.get("weights")), confusion, tuple(mistakes))


def _filters(values: Mapping[str, Any]) -> Filters:
    height, width = map(_count, values["size"])
    pictures = tuple(map(_picture, values["pictures"]))
    layer, kind = _text(values["layer"]), _text(values["kind"])
    return Filters(layer, kind, _count(values["total"]), (height, width), _count(values["channels"]), pictures)


def _layers(values: Mapping[str, Any]) -> LayerTimes:
    rows = [(_text(n), _text(k), _finite(c), _finite(f), _finite(b)) for n, k, c, f, b in values["rows"]]
    seconds = _finite(values["seconds"])
    if not seconds > 0:
        raise ValueError(seconds)
    return LayerTimes(_count(values["steps"]), _count(values["images"]), seconds, tuple(rows))


# ---- values -----------------------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floating-point numbers
        return None


def _finite(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise ValueError(value)
    return float(number)


def _share(value: Any) -> float:
    number = _finite(value)
    if not 0 <= number <= 1:
        raise ValueError(value)
    return number


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(value: Any) -> tuple[int, ...]:
    try:
        return tuple(map(_count, _sequence(value)))
    except ValueError:
        return ()


def _picture(text: str) -> str:
    """Address of the picture with these bytes in base 64; nothing but a picture passes."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    for start, kind in _PICTURES.items():
        if data.startswith(start):
            return f"data:{kind};base64,{text}"
    raise ValueError("not a picture")
