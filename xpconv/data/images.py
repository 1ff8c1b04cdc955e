"""Image files: one of them as an array, many of them as a set, folders with one for each class."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer
from .._extras import require
from .._geometry import IntOrPair, to_pair
from .background import in_background
from .dataset import BadFile, DataError, Dataset, Splits, check_classes, checked_labels, hold_out

__all__ = ["BAD", "MAX_PIXELS", "ImageFiles", "is_inside", "read_image", "read_image_folder", "refuse_or_skip"]

# Of Pillow's formats those that are only data: EPS, for one, is a program, which Pillow has Ghostscript run.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own limit for images that it does not warn of: a quarter of a gigabyte in RGB
BAD = ("refuse", "skip")
_SHOWN = 20

_TRAIN, _TEST, _VALIDATION = ("train", "training"), ("test",), ("validation", "val", "valid")


# ---- one file ---------------------------------------------------------------------------------------------------


def _open(path: Path, max_pixels: int) -> Any:
    """The image in a file, of which only the header is read."""
    image_module = require("PIL.Image", "pictures")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        kind = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise DataError(f"{path}: cannot be read as an image: it is {kind}")
    opened = image_module.open(path, formats=FORMATS)
    width, height = opened.size
    if width * height > max_pixels:
        opened.close()
        raise DataError(f"{path}: has {width} x {height} pixels, more than {max_pixels}; refused before it is unpacked")
    return opened


def read_image(
    path: str | os.PathLike[str],
    image_shape: tuple[int, int, int],
    *,
    invert: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """An image file as uint8 array of ``image_shape`` (C, H, W).

    An image of just this size and kind keeps its pixels; others are scaled to fit and filled up with black. What is
    transparent becomes black. Of an animation it is the first picture. A JPEG at least four times as large as asked
    for is unpacked at a half, a quarter or an eighth of its size.

    Parameters
    ----------
    path
        A PNG, JPEG, BMP, GIF, WebP, TIFF or PPM file. Other formats are refused.
    image_shape
        With 1 channel (grey) or 3.
    invert
        Swap black and white.
    max_pixels
        Images with more are refused before they are unpacked.

    Returns
    -------
    numpy.ndarray (C, H, W)
        uint8.

    Raises
    ------
    DataError
        It cannot be read as an image, or is too large; the message names it.
    ValueError
        Neither 1 nor 3 channels.
    MissingExtraError
        Pillow is not installed.
    """
    image_module, operations = require("PIL.Image", "pictures"), require("PIL.ImageOps", "pictures")
    channels, height, width = image_shape
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"the network takes images of {channels} channels, an image file has 1 or 3")
    try:
        with _open(Path(path), max_pixels) as opened:
            if opened.format == "JPEG":
                side = 2 * max(height, width)  # it may be turned yet
                opened.draft(None, (side, side))
            image = operations.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                # Pillow would cut off all above 255 instead of scaling
                image = image_module.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise DataError(f"{path}: pixels of 32 bits have no known range; save it with 8 or 16 bits")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = image_module.alpha_composite(image_module.new("RGBA", image.size, (0, 0, 0, 255)), image)
            image = image.convert(mode)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way, SyntaxError and struct.error among them
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if invert:
        image = operations.invert(image)
    if image.size != (width, height):
        image = operations.pad(image, (width, height), method=image_module.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


class _Found(NamedTuple):
    """What a file has: channels and size as it is seen, or what is wrong with it."""

    channels: int
    size: tuple[int, int]
    wrong: str


def _examine(path: Path, image_shape: tuple[int, int, int] | None, max_pixels: int) -> _Found:
    """Read a file to its end, as it will be read for a batch."""
    try:
        with _open(path, max_pixels) as opened:
            grey = opened.mode in ("1", "L", "LA") or opened.mode.startswith("I;16")
            width, height = opened.size
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        channels, size = 1 if grey else 3, (width, height) if turned else (height, width)
        read_image(path, (channels, *size) if image_shape is None else image_shape, max_pixels=max_pixels)
        return _Found(channels, size, "")
    except FileNotFoundError:
        return _Found(0, (0, 0), "no such file")
    except DataError as error:
        return _Found(0, (0, 0), str(error).removeprefix(f"{path}: "))
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # as in `read_image`
        return _Found(0, (0, 0), f"cannot be read as an image: {error}")


# ---- many -------------------------------------------------------------------------------------------------------


def refuse_or_skip(source: object, bad: str, found: Sequence[BadFile], total: int) -> tuple[BadFile, ...]:
    """What is to be left out; DataError with a list where nothing may be, or where nothing is left."""
    if found and (bad == "refuse" or len(found) == total):
        lines = [f"  {file.source}: {file.reason}" for file in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more")
        advice = "" if len(found) == total else "; bad='skip' (--bad-files skip) goes on without them"
        raise DataError(f"{source}: {len(found)} of {total} files are no use{advice}\n" + "\n".join(lines))
    return tuple(found)


class ImageFiles(Dataset):
    """A set of image files, each read when a batch needs it.

    Every file is read once, to its end, when the set is made.

    Parameters
    ----------
    paths : sequence of N paths
    labels : sequence of N integers
    classes : sequence of str, optional
        As of `ArrayDataset`.
    image_size : int or pair, optional
        (H, W) that images are brought to: scaled to fit, the rest black. Without it they must all be of one size.
    channels : int, optional
        1 (grey) or 3; without it 1 if all files are grey.
    bad : str
        ``"refuse"``: a file that cannot be read is an error, which lists them all; ``"skip"``: it is left out, and
        listed in ``skipped``.
    max_pixels : int
        Files with more pixels count as bad; they are not unpacked.
    workers : int, optional
        Threads that read the files; None: one for each processor.
    name : str
        For messages and `standard_transform`.

    Attributes
    ----------
    paths : tuple of pathlib.Path

    Raises
    ------
    DataError
        Files that cannot be read or are of several sizes.
    TypeError, ValueError
        Naming the argument that is wrong and its value.
    MissingExtraError
        Pillow is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Any,
        *,
        classes: Sequence[str] | None = None,
        image_size: IntOrPair | None = None,
        channels: int | None = None,
        bad: str = "refuse",
        max_pixels: int = MAX_PIXELS,
        workers: int | None = None,
        name: str = "",
    ) -> None:
        if bad not in BAD:
            raise ValueError(f"bad: expected one of {', '.join(BAD)}, got {bad!r}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1, 3 or None, got {channels!r}")
        size = None if image_size is None else to_pair("image_size", image_size, minimum=1)
        self.max_pixels = check_integer("max_pixels", max_pixels, 1)
        workers = (os.cpu_count() or 1) if workers is None else check_integer("workers", workers, 0, 1024)
        files = [Path(path) for path in paths]
        if not files:
            raise ValueError("paths: the set is empty")
        values = checked_labels(labels, len(files))
        self.name = name
        require("PIL.Image", "pictures")  # before any thread asks for it
        shape = None if size is None else (channels or 3, *size)
        found = list(in_background(lambda path: _examine(path, shape, self.max_pixels), files, workers, 2 * workers))
        wrong = [BadFile(str(p), f.wrong) for p, f in zip(files, found, strict=True) if f.wrong]
        self.skipped = refuse_or_skip(name or "images", bad, wrong, len(files))
        good = [k for k, f in enumerate(found) if not f.wrong]
        if size is None:
            size = _common_size(name or "images", [(files[k], found[k].size) for k in good])
        if channels is None:
            channels = max(found[k].channels for k in good)
        self._image_shape = channels, *size
        self.paths = tuple(files[k] for k in good)
        self._set_labels(values[good], len(good), classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self._image_shape

    @property
    def is_bytes(self) -> bool:
        """They are."""
        return True

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images (n, C, H, W) uint8 of these indices (n,)."""
        images = np.empty((len(indices), *self._image_shape), np.uint8)
        for image, index in zip(images, indices, strict=True):
            image[...] = read_image(self.paths[index], self._image_shape, max_pixels=self.max_pixels)
        return images

    def _choose(self, indices: Any) -> None:
        self.paths = tuple(self.paths[k] for k in np.arange(len(self.paths))[indices])

    def identity(self) -> bytes:
        """Of the files, their sizes and times."""
        import hashlib

        digest = hashlib.sha256()
        for path in self.paths:
            status = os.stat(path)
            digest.update(f"{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.digest()


def _common_size(source: str, sizes: list[tuple[Path, tuple[int, int]]]) -> tuple[int, int]:
    first_path, first = sizes[0]
    for path, size in sizes:
        if size != first:
            raise DataError(
                f"{source}: images of several sizes: {first[0]} x {first[1]} in {first_path}, {size[0]} x {size[1]} in "
                f"{path} (H x W); image_size (--image-size) brings them to one"
            )
    return first


# ---- folders ----------------------------------------------------------------------------------------------------


def read_image_folder(
    path: str | os.PathLike[str],
    *,
    image_size: IntOrPair | None = None,
    channels: int | None = None,
    bad: str = "refuse",
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Splits[Dataset]:
    """Read a folder that has a folder of images for each class.

    ::

        FOLDER/cat/1.jpg          FOLDER/train/cat/1.jpg
        FOLDER/dog/a.png    or    FOLDER/test/cat/7.jpg
                                  FOLDER/val/cat/9.jpg

    Classes are numbered in the order of their names. Folders within a class are searched too; what begins with a dot is
    not looked at. Without ``test`` the images of ``val`` are the test part, without both every fifth image is.

    Parameters
    ----------
    path
        The folder.
    image_size, channels, bad, max_pixels, workers
        As of `ImageFiles`.
    allow_outside
        Whether links may lead to files outside of the folder; else these count as bad.

    Returns
    -------
    Splits
        Of `ImageFiles`.

    Raises
    ------
    DataError
        No such folders; files that cannot be read; a class of the test part that the training part does not have, or
        one without images.
    TypeError, ValueError, MissingExtraError
        As `ImageFiles`.
    """
    path = Path(path)
    options: dict[str, Any] = {"bad": bad, "max_pixels": max_pixels, "workers": workers}
    folders = _parts(path)
    if not folders:
        raise DataError(f"{path}: expected a folder of images for each class")
    inside = None if allow_outside else os.path.realpath(path)
    train_folder = folders.pop("train")
    classes = tuple(folder.name for folder in _folders(train_folder))
    train = _folder_set(train_folder, classes, inside, image_size=image_size, channels=channels, **options)
    counts = np.bincount(train.labels, minlength=len(classes))
    if not counts.all():
        raise DataError(f"{train_folder / classes[int(counts.argmin())]}: no images of this class")
    like: dict[str, Any] = {"image_size": train.image_shape[1:], "channels": train.image_shape[0]}
    others = {part: _folder_set(folder, classes, inside, **like, **options) for part, folder in folders.items()}
    if "test" in others:
        return Splits(train, others["test"], others.get("validation"))
    return Splits(train, others["validation"]) if others else hold_out(path, train)


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _parts(path: Path) -> dict[str, Path]:
    """The folders of the parts of a set, that of the training part at least; nothing if it is no such set."""
    below = {folder.name.lower(): folder for folder in _folders(path)}
    found: dict[str, Path] = {}
    for part, names in (("train", _TRAIN), ("test", _TEST), ("validation", _VALIDATION)):
        folder = next((below[name] for name in names if name in below), None)
        if folder is not None and _folders(folder):  # else it is a class of that name
            found[part] = folder
    if "train" in found:
        return found
    return {"train": path} if below else {}


def _folder_set(folder: Path, classes: tuple[str, ...], inside: str | None, **options: Any) -> ImageFiles:
    paths: list[Path] = []
    labels: list[int] = []
    numbers = {name: k for k, name in enumerate(classes)}
    for class_folder in _folders(folder):
        if class_folder.name not in numbers:
            raise DataError(f"{class_folder}: the training part has no such class; it has {', '.join(classes)}")
        for below, folders, names in os.walk(class_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found = [Path(below, name) for name in sorted(names) if not name.startswith(".")]
            paths += found
            labels += [numbers[class_folder.name]] * len(found)
    outside = [] if inside is None else [k for k, path in enumerate(paths) if not is_inside(path, inside)]
    total = len(paths)
    if not total:
        raise DataError(f"{folder}: no images in its folders {', '.join(classes)}")
    wrong = [BadFile(str(paths[k]), f"leads to {os.path.realpath(paths[k])}, out of {inside}") for k in outside]
    skipped = refuse_or_skip(folder, options["bad"], wrong, total)
    for k in reversed(outside):
        del paths[k], labels[k]
    files = ImageFiles(paths, labels, classes=check_classes(classes), name=str(folder), **options)
    files.name = ""
    files.skipped = skipped + files.skipped
    return files


def is_inside(path: str | os.PathLike[str], folder: str) -> bool:
    """Whether a path leads into the folder, given as a real path, links followed."""
    real = os.path.realpath(path)
    return os.path.commonpath([real, folder]) == folder
