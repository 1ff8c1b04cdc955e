"""Weights in files: safetensors with PyTorch's names and layouts, and PyTorch's own files.

A file of `save_weights` is one that ``safetensors.torch.load_file`` reads into the same network of PyTorch. Reading
runs no code of a file, and a file that does not fit changes nothing in the model.
"""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _safetensors
from ._extras import MissingExtraError
from ._files import write_atomically
from .backends import backend_of, to_numpy
from .layers import Layer

__all__ = ["LoadedWeights", "WeightsError", "load_weights", "save_weights"]

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# where checkpoints of PyTorch keep the weights, in the order in which they are looked for
_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights")
# conversions that keep every value exactly
_EXACT = {
    ("float16", "float32"),
    ("float16", "float64"),
    ("bfloat16", "float32"),
    ("bfloat16", "float64"),
    ("float32", "float64"),
}
_MOST_NAMES = 20  # in one line of a message


class WeightsError(ValueError):
    """A file that holds no weights, or weights that do not fit the model; the message names the file and the reason."""


class LoadedWeights(NamedTuple):
    """What `load_weights` did; ``str`` of it is a readable report.

    Attributes
    ----------
    loaded
        Names of the parameters and buffers that now have the values of the file.
    missing
        Names that the model has and the file has not.
    unexpected
        Names that the file has and the model has not.
    mismatched
        Names that both have with different shapes, and both shapes in words.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, str]

    def __str__(self) -> str:
        return "\n".join([f"loaded: {len(self.loaded)}", *_report(self)])


class _Entry(NamedTuple):
    """An array of a file that is not read yet; shape None for something else than an array."""

    dtype: str
    shape: tuple[int, ...] | None
    read: Callable[[], np.ndarray]


def _shown(name: object) -> str:
    """A name out of a file: no control characters on a terminal, and not without end."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 200 else f"{text!r:.200}"


def _listed(names: Iterable[object]) -> str:
    shown = [_shown(name) for name in names]
    more = len(shown) - _MOST_NAMES
    return ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _report(result: LoadedWeights) -> list[str]:
    lines = []
    if result.missing:
        lines.append(f"missing: {_listed(result.missing)}")
    if result.unexpected:
        lines.append(f"unexpected: {_listed(result.unexpected)}")
    if result.mismatched:
        lines.append("of another shape:")
        shown = list(result.mismatched.items())
        lines.extend(f"  {_shown(name)}: {why}" for name, why in shown[:_MOST_NAMES])
        if len(shown) > _MOST_NAMES:
            lines.append(f"  and {len(shown) - _MOST_NAMES} more")
    return lines


# ---- writing ----------------------------------------------------------------------------------------------------


def save_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write all parameters and buffers of ``model`` to a safetensors file, atomically.

    Names, shapes and order of axes are those of `Layer.state_dict`, which are PyTorch's; each array has the dtype that
    it has in the model, bfloat16 too. What is shared is written under each of its names.

    Parameters
    ----------
    model
        A layer or network, on any backend.
    path
        The file; its folder must exist. An earlier file is replaced once the new one is complete.

    Raises
    ------
    ValueError
        The name ends like those of PyTorch's own format, which this is not.
    OSError
        It cannot be written: a full disk, a folder that is missing or not writable. An earlier file stays whole.
    TypeError
        Not a layer.
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    if Path(path).suffix.lower() in _TORCH_SUFFIXES:
        raise ValueError(
            f"path: weights are written as safetensors, which {os.fspath(path)!r} does not look like; "
            "name the file .safetensors"
        )
    arrays, halves = {}, set()
    for name, array, _ in model._state():
        if backend_of(array=array).dtype_name(array) == "bfloat16":
            halves.add(name)
        arrays[name] = to_numpy(array)
    write_atomically(path, _safetensors.encode(arrays, {"format": "pt"}, bfloat16=frozenset(halves)))


# ---- reading ----------------------------------------------------------------------------------------------------


def load_weights(
    model: Layer,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    cast: bool = False,
    prefix: str = "",
    key: str | None = None,
) -> LoadedWeights:
    """Read the weights of a file into ``model``. If anything is wrong, nothing of the model is changed.

    The file may come from any backend, and the model may be on any. A number is taken over exactly or not at all, if
    not asked otherwise: float16, bfloat16 and float32 go into a wider floating-point dtype of the model, but into a
    narrower one only with ``cast``. Integer buffers take any integer dtype that their values fit.

    Parameters
    ----------
    model
        A layer or network.
    path
        A safetensors file, or one that PyTorch has saved (.pt, .pth), for which torch must be installed: a state_dict,
        or a dictionary that holds one under ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``weights``.
        Which of the two it is shows in its contents, not in its name.
    strict
        Whether names that only one side has, and shapes that differ, are an error. If not, what fits is loaded and the
        rest is in the result.
    cast
        Whether floating-point numbers may be rounded to the dtype of the model.
    prefix
        What the names in the file begin with, before those of the model: ``"module."`` for a network that PyTorch
        saved from within DataParallel, ``"model."`` for a checkpoint of `Trainer`. Other names are passed over.
    key
        Name of the state_dict within a dictionary that PyTorch has saved, if it is another one than above.

    Returns
    -------
    LoadedWeights
        What was loaded, missing, unexpected and of another shape.

    Raises
    ------
    WeightsError
        The file is damaged, or of another kind; it holds Python objects other than tensors; it does not fit; with
        ``strict=False``, nothing of it fits.
    MissingExtraError
        A file of PyTorch, and torch is not installed.
    OSError
        It cannot be read.
    TypeError
        Not a layer, or a prefix or key that is no string.
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {prefix!r:.200}")
    with _entries(path, key) as everything:
        entries = {name[len(prefix) :]: entry for name, entry in everything.items() if name.startswith(prefix)}
        return _load(model, os.fspath(path), entries, strict=strict, cast=cast, everything=list(everything))


def _load(
    model: Layer, file: str, entries: Mapping[str, _Entry], *, strict: bool, cast: bool, everything: list[str]
) -> LoadedWeights:
    slots = {name: array for name, array, _ in model._state()}
    result = LoadedWeights([], [], [name for name in entries if name not in slots], {})
    problems = []
    for name, array in slots.items():
        entry, shape = entries.get(name), tuple(array.shape)
        want = backend_of(array=array).dtype_name(array)
        if entry is None:
            result.missing.append(name)
        elif entry.shape is None:
            problems.append(f"{name}: expected an array, got {_shown(entry.dtype)}")
        elif entry.shape != shape:
            result.mismatched[name] = f"{entry.shape} in the file, {shape} in the model"
        elif problem := _dtype_problem(entry.dtype, want, cast):
            problems.append(f"{name}: {problem}")
        else:
            result.loaded.append(name)
    lines = _report(result) if strict else []
    if problems:
        lines += problems[:_MOST_NAMES] + ([f"and {len(problems) - _MOST_NAMES} more"] * (len(problems) > _MOST_NAMES))
    if not strict and not lines and slots and not result.loaded:
        lines = ["nothing of it fits", *_report(result)]
    if lines:
        lines += _hint(result.missing, everything)
        raise WeightsError(f"{file}: does not fit {type(model).__name__}:\n  " + "\n  ".join(lines))
    state = {}
    for name in result.loaded:
        array = slots[name]
        try:
            state[name] = _converted(entries[name].read(), backend_of(array=array).dtype_name(array))
        except (ValueError, TypeError, RuntimeError) as error:
            raise WeightsError(f"{file}: {_shown(name)}: {error}") from error
    model.load_state_dict(state, strict=False)
    return result


def _dtype_problem(got: str, want: str, cast: bool) -> str:
    """Why an array of dtype ``got`` cannot go into one of ``want``, or nothing."""
    if got == want or ("int" in got and "int" in want):
        return ""
    if "float" not in got or "float" not in want:
        return f"expected {want}, got {got}"
    if cast or (got, want) in _EXACT:
        return ""
    return f"{got} would be rounded to {want}, the model's dtype; cast=True does so"


def _converted(values: np.ndarray, want: str) -> np.ndarray:
    """``values`` in the dtype ``want``, which `_dtype_problem` allows; bfloat16 as float32."""
    dtype = np.dtype("float32" if want == "bfloat16" else want)
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
            raise ValueError(f"its values are out of the range of {want}")
        return values.astype(dtype)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    if not np.array_equal(np.isfinite(rounded), np.isfinite(values)):
        raise ValueError(f"its values are out of the range of {want}")
    return rounded


def _hint(missing: list[str], names: list[str]) -> list[str]:
    """What to do where the file has every missing name behind one and the same prefix."""
    known = set(names)
    for name in names if missing else ():
        if name.endswith(f".{missing[0]}"):
            prefix = name[: -len(missing[0])]
            if all(prefix + other in known for other in missing):
                return [
                    f"the file has the missing names behind {_shown(prefix)!r}: prefix={_shown(prefix)!r} takes it off"
                ]
    return []


@contextmanager
def _entries(path: str | os.PathLike[str], key: str | None) -> Iterator[dict[str, _Entry]]:
    """What the file at ``path`` holds, by name, while it is open."""
    file = os.fspath(path)
    with open(path, "rb") as opened:
        first = opened.read(9)
    # a zip archive, or a pickle and not the header of a safetensors file that happens to be so long
    if first[:2] == b"PK" or (first[:1] == b"\x80" and first[1:2] in b"\2\3\4\5" and first[8:] != b"{"):
        yield _torch_entries(path, key)
        return
    if key is not None:
        raise WeightsError(f"{file}: is not a file of PyTorch, which key={key!r} is for")
    try:
        reader = _safetensors.Reader(path)
    except _safetensors.FormatError as error:
        raise WeightsError(f"{file}: not a safetensors file, truncated or damaged: {error}") from error
    with reader:
        yield {
            name: _Entry(tensor.dtype, tensor.shape, lambda name=name: reader.read(name))  # type: ignore[misc]
            for name, tensor in reader.tensors.items()
        }


# ---- PyTorch's own files ----------------------------------------------------------------------------------------


def _torch_entries(path: str | os.PathLike[str], key: str | None) -> dict[str, _Entry]:
    file = os.fspath(path)
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError(
            f"{file}: a file of PyTorch takes the package torch, which is not installed: pip install torch; or save it "
            "as safetensors where it comes from"
        ) from None
    _check_archive(file)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged or hostile file it may be any
        text = str(error)
        found = re.search(r"GLOBAL (\w+\.[\w.]+)", text)
        if "weights_only" in text or "Unsupported" in text:
            what = f"such as {found.group(1)}" if found else "which are not named"
            raise WeightsError(
                f"{file}: holds Python objects other than tensors, {what}; reading them could run code, so it is "
                "refused. Save the state_dict of the model alone"
            ) from None
        reason = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
        raise WeightsError(f"{file}: not a file of weights of PyTorch, truncated or damaged: {reason}") from None
    state = _find_state(torch, file, contents, key)
    return {str(name): _torch_entry(torch, value) for name, value in state.items()}


def _check_archive(file: str) -> None:
    """Raise for a zip archive that would take more memory than its length says: PyTorch's are not compressed."""
    try:
        if not zipfile.is_zipfile(file):
            return  # of the format before 2020, or damaged: torch says so
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{file}: not a file of weights of PyTorch, truncated or damaged: {error}") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(f"{file}: a compressed archive, which PyTorch's files are not")
    if sum(member.file_size for member in members) > os.path.getsize(file):
        raise WeightsError(f"{file}: the parts of the archive take more room than it has")


def _find_state(torch: Any, file: str, contents: Any, key: str | None) -> Mapping[Any, Any]:
    """The state_dict in what was saved."""

    def is_state(value: object) -> bool:
        return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values())

    if not isinstance(contents, Mapping):
        raise WeightsError(f"{file}: expected a state_dict, which is a dictionary, got {type(contents).__name__}")
    if key is not None:
        if not is_state(contents.get(key)):
            raise WeightsError(f"{file}: no state_dict under {key!r}; there are {_listed(contents)}")
        return contents[key]
    for name in _KEYS:
        if is_state(contents.get(name)):
            return contents[name]
    if is_state(contents):
        return contents
    candidates = [name for name, value in contents.items() if is_state(value)]
    advice = f"; key={_shown(candidates[0])!r} takes the one there" if candidates else ""
    raise WeightsError(
        f"{file}: no state_dict in it, nor under {', '.join(_KEYS)}; there are {_listed(contents)}{advice}"
    )


def _torch_entry(torch: Any, value: Any) -> _Entry:
    if not isinstance(value, torch.Tensor):
        return _Entry(f"an object of type {type(value).__name__}", None, lambda: np.empty(0))
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        return _Entry(f"a tensor of {value.layout}, {dtype}, on {value.device}", None, lambda: np.empty(0))

    def read() -> np.ndarray:
        tensor = value.detach()
        return (tensor.float() if dtype == "bfloat16" else tensor).numpy()

    return _Entry(dtype, tuple(value.shape), read)
