"""What `xpconv train` can be told: on the command line, in a TOML file with the same keys, or by default."""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..training.mixed import HALF_TYPES
from .parser import nearest

__all__ = [
    "DTYPES",
    "GROUPS",
    "MATMUL_PRECISIONS",
    "OPTIMIZERS",
    "SCHEDULES",
    "TrainConfig",
    "add_options",
    "choices_of",
    "collect",
    "flags_of",
    "key_of",
    "read_toml",
    "restore",
]

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SCHEDULES = ("one-cycle", "cosine", "step", "constant")
DTYPES = ("float32", "float64")
MATMUL_PRECISIONS = ("default", "highest", "tf32")

# what --lr and --weight-decay are where they are not given; peaks of the one-cycle schedule
_LR = {"adamw": 6e-3, "adam": 4e-3, "sgd": 0.05, "rmsprop": 2e-3}
_WEIGHT_DECAY = {"adamw": 1e-2, "adam": 0.0, "sgd": 5e-4, "rmsprop": 0.0}


def _option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    check: Callable[[Any], str | None] | None = None,
    choices: tuple[str, ...] | None = None,
    unset: str = "none",
) -> Any:
    """A field with what the parser and the checks need.

    ``check`` returns what is wrong, or None; ``choices`` are all the values there are; ``unset`` tells in the help what
    a default of None stands for.
    """
    if choices is not None:
        check = _one_of(choices)
    metadata = {"help": help, "metavar": metavar, "check": check, "choices": choices, "unset": unset}
    return field(default=default, metadata=metadata)


def _at_least(low: int, high: float = math.inf) -> Callable[[Any], str | None]:
    words = f"must be at least {low}" + (f" and below {high}" if high < math.inf else "")
    return lambda v: None if low <= v < high else words


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str | None]:
    return lambda v: None if v in names else f"must be one of {', '.join(names)}{nearest(v, names)}"


def _above_zero(value: float) -> str | None:
    return None if 0 < value < math.inf else "must be above 0"


def _model(name: str) -> str | None:
    from ..models import NAMES

    return _one_of(tuple(NAMES))(name)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes, besides the software and the machine."""

    data: str = _option(
        "fashion-mnist-small",
        "name of a data set (fashion-mnist-small, which is part of the package, fashion-mnist, mnist, cifar10), or "
        "path: a folder that has a folder of images for each class, a CSV file that lists images, an .npz, .npy or "
        "HDF5 file, a folder with IDX or CIFAR-10 files",
        metavar="NAME",
    )
    data_dir: str | None = _option(
        None,
        "folder with the files of the data set; no other place is looked at",
        metavar="DIR",
        unset="XPCONV_DATA and some usual places",
    )
    labels: str | None = _option(None, "file with the labels of an .npy file", metavar="FILE")
    image_size: int | None = _option(
        None,
        "height and width that image files are brought to",
        metavar="N",
        check=_at_least(1),
        unset="all have one size",
    )
    channels: int | None = _option(
        None,
        "of image files: 1 (grey) or 3",
        metavar="N",
        unset="1 if all are grey",
        check=lambda v: None if v in (1, 3) else "must be 1 or 3",
    )
    bad_files: str = _option(
        "refuse",
        "image files that cannot be read: refuse ends with a list of them, skip goes on without them and lists them in "
        "the run folder",
        metavar="WHAT",
        choices=("refuse", "skip"),
    )
    allow_outside: bool = _option(False, "follow paths and links that lead out of the folder of the data")
    workers: int = _option(
        1,
        "threads that read and augment images ahead; the batches are the same for any number, 0 is without",
        metavar="N",
        check=_at_least(0, 1025),
    )
    statistics: str | None = _option(
        None,
        "JSON file where mean and deviation of the training images are kept, so that they are computed once for "
        "several runs",
        metavar="FILE",
    )
    model: str = _option("small-cnn", "network: {models}", metavar="NAME", check=_model)
    backend: str | None = _option(
        None, "where to compute: numpy, cupy, cupy:1, torch, jax, ...", metavar="NAME", unset="XPCONV_BACKEND or numpy"
    )
    epochs: int = _option(15, "passes over the training images", metavar="N", check=_at_least(1))
    batch_size: int = _option(64, "images in a step, of all ranks together", metavar="N", check=_at_least(1))
    lr: float | None = _option(
        None,
        "learning rate, for one-cycle the highest",
        metavar="RATE",
        check=_above_zero,
        unset=", ".join(f"{v:g} for {k}" for k, v in _LR.items()),
    )
    optimizer: str = _option(
        "adamw",
        f"one of {', '.join(OPTIMIZERS)}; sgd has Nesterov momentum 0.9",
        metavar="NAME",
        choices=OPTIMIZERS,
    )
    weight_decay: float | None = _option(
        None,
        "weight of the L2 penalty; adamw shrinks the weights apart from the gradient instead",
        metavar="X",
        unset=", ".join(f"{v:g} for {k}" for k, v in _WEIGHT_DECAY.items()),
        check=lambda v: None if 0 <= v < math.inf else "must be at least 0",
    )
    schedule: str = _option(
        "one-cycle",
        f"course of the learning rate: {', '.join(SCHEDULES)}; step divides it by 10 after half and after 3/4 of the "
        "steps",
        metavar="NAME",
        choices=SCHEDULES,
    )
    clip_norm: float | None = _option(
        None, "scale gradients down together to at most this norm", metavar="X", check=_above_zero
    )
    accumulate: int = _option(
        1,
        "a batch goes through the network in so many parts, one after the other: the same step in less memory, but for "
        "batch normalisation, which sees the parts",
        metavar="N",
        check=_at_least(1),
    )
    ema: float | None = _option(
        None,
        "validate, test and keep an exponential moving average of the weights, of this decay, such as 0.999",
        metavar="DECAY",
        check=_at_least(0, 1),
    )
    mixed_precision: str | None = _option(
        None,
        f"{' or '.join(HALF_TYPES)}: compute in this type, keep weights in float32; where the backend has it",
        metavar="TYPE",
        choices=HALF_TYPES,
    )
    early_stopping: int | None = _option(
        None,
        "stop when the validation accuracy has not become better for N epochs",
        metavar="N",
        check=_at_least(1),
    )
    save_every: int | None = _option(
        None,
        "save a checkpoint every N steps too, and not only after every epoch",
        metavar="N",
        check=_at_least(1),
    )
    augment: bool = _option(True, "shift and, where it keeps the class, mirror the training images at random")
    mirror: bool = _option(False, "mirror the training images at random, whatever the data set")
    jitter: float = _option(
        0.0,
        "change brightness, contrast and saturation of the training images at random by up to so much, and hue by up "
        "to a quarter of it",
        metavar="X",
        check=lambda v: None if 0 <= v <= 1 else "must be from 0 to 1",
    )
    cutout: int = _option(0, "hide a square of so many pixels in each training image", metavar="N", check=_at_least(0))
    mixup: float = _option(
        0.0,
        "mix each training image with another, in a ratio from Beta(X, X)",
        metavar="X",
        check=lambda v: None if 0 <= v < math.inf else "must be at least 0",
    )
    class_weights: str = _option(
        "none",
        "balanced: in the loss, images of rare classes count more",
        metavar="WHAT",
        choices=("none", "balanced"),
    )
    validation: float = _option(
        0.1,
        "part of the training images that is held out to choose the best epoch; with 0 the last epoch is tested",
        metavar="PART",
        check=lambda v: None if 0 <= v <= 0.5 else "must be from 0 to 0.5",
    )
    seed: int = _option(
        0,
        "of the initial weights, the order of the data, augmentation and dropout",
        metavar="N",
        check=_at_least(0, 2**63),
    )
    dtype: str = _option("float32", f"{' or '.join(DTYPES)}", metavar="NAME", choices=DTYPES)
    matmul_precision: str | None = _option(
        None,
        f"how matrices are multiplied: {', '.join(MATMUL_PRECISIONS)}; highest: no Winograd convolutions; tf32: a GPU "
        "rounds factors",
        metavar="NAME",
        unset="XPCONV_MATMUL_PRECISION or default",
        choices=MATMUL_PRECISIONS,
    )
    capture: bool = _option(
        False, "record a training step on the GPU once, as a CUDA graph, and replay it: the same numbers, sooner"
    )
    threads: int | None = _option(
        None,
        "threads of the compiled CPU kernels",
        metavar="N",
        unset="XPCONV_NUM_THREADS or all cores, which the ranks on a machine share",
        check=_at_least(1, 1025),
    )
    sync_batch_norm: bool = _option(
        False, "batch normalisation by the statistics of the whole batch, as in one process, not by those of each share"
    )
    check_ranks: int = _option(
        0,
        "after every N steps compare hashes of the weights, and end if they are not the same on all ranks; 0: never",
        metavar="N",
        check=_at_least(0),
    )

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", _LR[self.optimizer])
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", _WEIGHT_DECAY[self.optimizer])


_FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}

# the order in which the help shows them
GROUPS: Mapping[str, tuple[str, ...]] = {
    "data": (
        *("data", "data_dir", "labels", "image_size", "channels", "bad_files", "allow_outside", "workers"),
        *("statistics", "validation"),
    ),
    "network": ("model",),
    "optimisation": (
        *("epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "clip_norm", "accumulate", "ema"),
        *("early_stopping", "class_weights", "seed"),
    ),
    "augmentation": ("augment", "mirror", "jitter", "cutout", "mixup"),
    "computing": ("backend", "threads", "dtype", "mixed_precision", "matmul_precision", "capture"),
    "several ranks": ("sync_batch_norm", "check_ranks"),
    "run folder": ("save_every",),
}


def _kind(name: str) -> type:
    """The Python type of an option's value."""
    return {"int": int, "float": float, "str": str, "bool": bool}[str(_FIELDS[name].type).partition(" ")[0]]


def key_of(name: str) -> str:
    """How the field is called in a TOML file, and after ``--`` on the command line."""
    return name.replace("_", "-")


def add_options(
    parser: argparse.ArgumentParser,
    *,
    only: Sequence[str] = (),
    defaults: bool = True,
    helps: Mapping[str, str] | None = None,
) -> dict[str, argparse._ArgumentGroup]:
    """Give ``parser`` an option for each field, in the groups that are returned by title.

    Options that are not on the command line are absent from its result.

    Parameters
    ----------
    only
        Names of the fields, all if empty.
    defaults
        Whether the help tells the defaults; if not, they are those of a run folder.
    helps
        The help of fields that mean something else to this command, with their defaults.
    """
    groups = {}
    for title, names in GROUPS.items():
        wanted = [name for name in names if not only or name in only]
        if wanted:
            groups[title] = parser.add_argument_group(title)
            for name in wanted:
                _add_option(groups[title], name, (helps or {}).get(name) or _help_of(name, defaults=defaults))
    return groups


def _help_of(name: str, *, defaults: bool) -> str:
    from ..models import NAMES

    option = _FIELDS[name]
    default = option.metadata["unset"] if option.default is None else option.default
    if _kind(name) is bool:
        default = "on" if default else "off"
    text: str = option.metadata["help"].replace("{models}", ", ".join(NAMES))
    return text + (f" (default: {default})" if defaults else " (default: as in the run)")


def _add_option(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    option, kind, flag = _FIELDS[name], _kind(name), f"--{key_of(name)}"
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    else:
        group.add_argument(
            flag, type=kind, default=argparse.SUPPRESS, metavar=option.metadata["metavar"], help=text.replace("%", "%%")
        )


def choices_of(name: str) -> tuple[str, ...]:
    """The values that the field can have, or its usual ones; none if they cannot be listed."""
    from ..backends import registered_backends
    from ..data import data_sets
    from ..models import NAMES

    if name not in _FIELDS:
        return ()
    listed = {"model": NAMES, "data": data_sets(), "backend": registered_backends()}
    return tuple(listed.get(name) or _FIELDS[name].metadata["choices"] or ())


def _checked(source: str, name: str, value: Any) -> Any:
    """``value`` in the type of the option; ValueError names ``source`` where it is wrong."""
    kind = _kind(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}[kind]
        raise ValueError(f"{source}: expected {words}, got {value!r}")
    check = _FIELDS[name].metadata["check"]
    wrong = check(value) if check else None
    if wrong:
        raise ValueError(f"{source}: {wrong}, got {value}")
    return value


def read_toml(path: str) -> dict[str, Any]:
    """The options in a TOML file, by field name.

    Raises
    ------
    ValueError
        Not TOML, a key that is no option (the message names the nearest), or a wrong value.
    OSError
        It cannot be read.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    known = (*map(key_of, _FIELDS), "out")
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if key_of(name) not in known:
            raise ValueError(f"{path}: unknown key {key!r}{nearest(key, known)}; known are {', '.join(known)}")
        if name in values:
            raise ValueError(f"{path}: {key_of(name)} is given twice")
        if name == "out":
            if not isinstance(value, str):
                raise ValueError(f"{path}: out: expected a text in quotes, got {value!r}")
            values[name] = value
        else:
            values[name] = _checked(f"{path}: {key}", name, value)
    return values


def flags_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options on the command line, checked, by field name."""
    return {n: _checked(f"--{key_of(n)}", n, v) for n, v in vars(namespace).items() if n in _FIELDS}


def collect(*sources: Mapping[str, Any]) -> TrainConfig:
    """The configuration that these options make, later sources overriding earlier ones."""
    merged: dict[str, Any] = {}
    for source in sources:
        merged |= {name: value for name, value in source.items() if name in _FIELDS}
    return TrainConfig(**merged)


def restore(source: str, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run folder; ValueError if it is not one that this xpconv can have written."""
    unknown = [name for name in values if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{source}: unknown option {unknown[0]!r}; the run is of another version of xpconv")
    given = {n: _checked(f"{source}: {n}", n, v) for n, v in values.items() if v is not None}
    return TrainConfig(**given)
