"""Lists of image files and their labels: CSV files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._geometry import IntOrPair
from .dataset import BadFile, DataError, Dataset, Splits, hold_out
from .images import BAD, MAX_PIXELS, ImageFiles, is_inside, refuse_or_skip

__all__ = ["read_manifest"]

_PATHS = ("path", "file", "filename", "image")
_NUMBERS = ("label",)
_NAMES = ("class", "class_name")
_SPLITS = ("split",)
_PART_OF = {
    "train": "train", "training": "train", "": "train",
    "test": "test", "testing": "test",
    "validation": "validation", "val": "validation", "valid": "validation",
}  # fmt: skip
_MAX_LABEL = 65535


class _Row(NamedTuple):
    line: int
    path: Path
    number: int | None
    name: str
    part: str


def read_manifest(
    path: str | os.PathLike[str],
    *,
    image_size: IntOrPair | None = None,
    channels: int | None = None,
    bad: str = "refuse",
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Splits[Dataset]:
    """Read the images that a CSV file lists.

    ::

        path,label,split              path,class
        scans/001.png,0,train         scans/001.png,healthy
        scans/002.png,1,test          scans/002.png,ill

    Parameters
    ----------
    path
        A CSV file in UTF-8 with a line of column names; ``.tsv``: separated by tabs. Columns are ``path`` (or file,
        filename, image): relative to the folder of the manifest; ``label``: whole numbers from 0 on; or ``class`` (or
        class_name): names, numbered in the order of the alphabet. With both, each number has one name. ``split``, if
        it is there: train, test or validation (val); without any test row the validation rows are the test part,
        without both every fifth image of each class is. Other columns are not looked at.
    image_size, channels, bad, max_pixels, workers
        As of `ImageFiles`; rows without a path, or with a label that is no number, count as bad files.
    allow_outside
        Whether paths may be absolute or lead out of the manifest's folder; else these count as bad.

    Returns
    -------
    Splits
        Of `ImageFiles`.

    Raises
    ------
    DataError
        No such file or columns; or rows that are no use, which are listed with the number of their line.
    TypeError, ValueError, MissingExtraError
        As `ImageFiles`.
    """
    path = Path(path)
    if bad not in BAD:
        raise ValueError(f"bad: expected one of {', '.join(BAD)}, got {bad!r}")
    rows, wrong = _read_rows(path, allow_outside)
    skipped = refuse_or_skip(path, bad, wrong, len(rows) + len(wrong))
    if not rows:
        raise DataError(f"{path}: lists no images")
    labels, classes = _labels(path, rows)
    options: dict[str, Any] = {"bad": bad, "max_pixels": max_pixels, "workers": workers}
    options |= {"image_size": image_size, "channels": channels}
    sets: dict[str, ImageFiles] = {}
    for part in ("train", "test", "validation"):
        chosen = [k for k, row in enumerate(rows) if row.part == part]
        if not chosen:
            if part == "train":
                raise DataError(f"{path}: lists no images of the split train")
            continue
        files = ImageFiles([rows[k].path for k in chosen], labels[chosen], classes=classes, name=str(path), **options)
        files.name = ""
        options |= {"image_size": files.image_shape[1:], "channels": files.image_shape[0]}
        sets[part] = files
    train = sets["train"]
    train.skipped = skipped + train.skipped
    if classes is None:  # numbers: a part may lack the last ones
        count = int(labels.max()) + 1
        for files in sets.values():
            files.num_classes = count
    if "test" in sets:
        return Splits(train, sets["test"], sets.get("validation"))
    if "validation" in sets:
        return Splits(train, sets["validation"])
    # in the order of the classes, so that every fifth image is of each
    return hold_out(path, train.subset(np.argsort(train.labels, kind="stable")))


def _read_rows(path: Path, allow_outside: bool) -> tuple[list[_Row], list[BadFile]]:
    rows: list[_Row] = []
    wrong: list[BadFile] = []
    folder = Path(os.path.realpath(path.parent))
    for line, fields in _table(path):
        try:
            rows.append(_row(line, fields, folder, allow_outside))
        except ValueError as error:
            wrong.append(BadFile(f"{path}, line {line}", str(error)))
    return rows, wrong


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of the line and the fields of each row, under the names that this module gives them."""
    import csv

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            columns = {
                what: _column(path, header, names)
                for what, names in (("path", _PATHS), ("label", _NUMBERS), ("class", _NAMES), ("split", _SPLITS))
            }
            if columns["path"] is None or (columns["label"] is None and columns["class"] is None):
                raise DataError(
                    f"{path}: expected a line of column names with path ({', '.join(_PATHS[1:])}) and label (numbers) "
                    f"or class (names), got {', '.join(header[:10]) or 'nothing'}"
                )
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {len(header)} fields, as many as there are column "
                        f"names, got {len(fields)}"
                    )
                yield reader.line_num, {what: fields[k].strip() for what, k in columns.items() if k is not None}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}") from error


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int | None:
    found = [k for k, name in enumerate(header) if name in names]
    if len(found) > 1:
        raise DataError(f"{path}: expected one column of {', '.join(names)}, got {', '.join(header[k] for k in found)}")
    return found[0] if found else None


def _row(line: int, fields: dict[str, str], folder: Path, allow_outside: bool) -> _Row:
    """A row; ValueError says what is wrong with it."""
    given = fields["path"]
    if not given or "\0" in given:
        raise ValueError(f"path: expected the path of an image, got {given!r}")
    if not allow_outside:
        advice = "; allow_outside (--allow-outside) permits it"
        if Path(given).is_absolute():
            raise ValueError(f"path: expected one relative to the folder of the manifest, got {given!r}{advice}")
        if not is_inside(folder / given, str(folder)):
            raise ValueError(f"path: leads out of the folder of the manifest: {given!r}{advice}")
    number = None
    if "label" in fields:
        text = fields["label"]
        if not (text.isascii() and text.isdecimal()) or int(text[:6]) > _MAX_LABEL or len(text) > 6:
            advice = "; names belong into a column called class" if text and not _is_number(text) else ""
            raise ValueError(f"label: expected a whole number from 0 to {_MAX_LABEL}, got {text!r}{advice}")
        number = int(text)
    if "class" in fields and not fields["class"]:
        raise ValueError("class: expected a name, got ''")
    part = _PART_OF.get(fields.get("split", "").lower())
    if part is None:
        raise ValueError(f"split: expected train, test or validation, got {fields['split']!r}")
    return _Row(line, folder / given, number, fields.get("class", ""), part)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _labels(path: Path, rows: Sequence[_Row]) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels (N,), and the names of the classes if there are any."""
    if rows[0].number is None:
        names = sorted({row.name for row in rows})
        numbers = {name: k for k, name in enumerate(names)}
        return np.asarray([numbers[row.name] for row in rows]), tuple(names)
    labels = np.asarray([row.number for row in rows])
    if not rows[0].name:
        return labels, None
    first: dict[int, _Row] = {}
    for row in rows:
        assert row.number is not None
        known = first.setdefault(row.number, row)
        if known.name != row.name:
            raise DataError(
                f"{path}, line {row.line}: label {row.number} is called {row.name!r} here and {known.name!r} in line "
                f"{known.line}"
            )
    names = [first[k].name if k in first else str(k) for k in range(max(first) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: several labels are called {twice!r}")
    return labels, tuple(names)
