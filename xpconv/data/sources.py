"""The known data sets: what their files are, where they are looked for, and where they are published.

Folders are searched in this order: ``data_dir`` alone where it is given; else ``XPCONV_DATA``, the system's folders
(Debian's package dataset-fashion-mnist fills one), the cache; what is found nowhere is downloaded to the cache.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from .._geometry import IntOrPair
from .cifar import (
    BINARY_FILES,
    BINARY_FOLDER,
    CIFAR10_CLASSES,
    PYTHON_FILES,
    PYTHON_FOLDER,
    read_cifar10_binary,
    read_cifar10_python,
)
from .dataset import ArrayDataset, DataError, Dataset, Splits, checked_dataset, same_classes
from .download import fetch
from .idx import read_idx, sha256_of_content
from .images import read_image_folder
from .lazy import read_hdf5, read_npy
from .manifest import read_manifest
from .npz import read_npz

__all__ = ["FASHION_CLASSES", "data_sets", "has_arrays", "has_image_files", "load"]

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

BUNDLED = "fashion-mnist-small"


class _Source(NamedTuple):
    """A published set.

    Attributes
    ----------
    folders
        Subfolders of a data folder that it may be in: xpconv's own first, then torchvision's.
    url
        Folder on the web.
    sha256
        File name on the web -> SHA-256 of its decompressed bytes (IDX) or of the file itself (an archive).
    """

    name: str
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    url: str
    sha256: Mapping[str, str]


# hashes of the decompressed files: whoever packs them again gets other .gz files
_SOURCES: dict[str, _Source] = {
    "fashion-mnist": _Source(
        "fashion-mnist",
        FASHION_CLASSES,
        ("fashion-mnist", "FashionMNIST/raw"),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    "mnist": _Source(
        "mnist",
        tuple("0123456789"),
        ("mnist", "MNIST/raw"),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "cifar10": _Source(
        "cifar10",
        CIFAR10_CLASSES,
        ("cifar10", "cifar-10"),
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
}
_CIFAR_LAYOUTS = (
    (BINARY_FOLDER, BINARY_FILES, "cifar-10-binary.tar.gz", read_cifar10_binary),
    (PYTHON_FOLDER, PYTHON_FILES, "cifar-10-python.tar.gz", read_cifar10_python),
)


def data_sets() -> tuple[str, ...]:
    """Names of the sets that `load` knows."""
    return BUNDLED, *_SOURCES


@overload
def load(
    name: Literal["fashion-mnist-small", "fashion-mnist", "mnist", "cifar10"],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool | None = None,
    progress: bool = True,
) -> Splits[ArrayDataset]: ...


@overload
def load(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool | None = None,
    progress: bool = True,
    labels: str | os.PathLike[str] | None = None,
    image_size: IntOrPair | None = None,
    channels: int | None = None,
    bad: str | None = None,
    allow_outside: bool | None = None,
    workers: int | None = None,
) -> Splits[Dataset]: ...


def load(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool | None = None,
    progress: bool = True,
    labels: str | os.PathLike[str] | None = None,
    image_size: IntOrPair | None = None,
    channels: int | None = None,
    bad: str | None = None,
    allow_outside: bool | None = None,
    workers: int | None = None,
) -> Splits[Any]:
    """Load a data set, or open one whose images stay in its files.

    Parameters
    ----------
    name
        ``"fashion-mnist-small"`` (part of the package: 6000 and 1000 images in eight greys), ``"fashion-mnist"``,
        ``"mnist"``, ``"cifar10"``; or the path of a ``.npz`` file (`read_npz`), of a ``.npy`` file (`read_npy`), of an
        HDF5 file (``.h5``; `read_hdf5`), of a CSV file that lists images (``.csv``, ``.tsv``; `read_manifest`), of an
        archive of CIFAR-10, or of a folder that holds IDX files, CIFAR-10, or a folder of images for each class
        (`read_image_folder`).
    data_dir
        Folder with the files of a named set, or with a subfolder of its name; no other place is looked at then.
        Without it: the folder in ``XPCONV_DATA``, the system's, the cache.
    download
        Whether to download what is missing, into ``data_dir`` or the cache; None means only where no ``data_dir`` is
        given.
    progress
        Show on standard error how a download goes on.
    labels
        Of a ``.npy`` file: the file with its labels.
    image_size, channels, bad, allow_outside, workers
        Of image files: see `read_image_folder`.

    Returns
    -------
    Splits
        The training and the test set; images (N, C, H, W) uint8. Files of fashion-mnist and mnist are compared with
        the SHA-256 of the published ones; a folder of other IDX files is loaded by its path.

    Raises
    ------
    ValueError
        Neither a known name nor a path; an option that such a set does not have.
    DataError
        Files missing (it lists where they were looked for), damaged, or not those that were published.
    """
    options = {
        "labels": labels,
        "image_size": image_size,
        "channels": channels,
        "bad": bad,
        "allow_outside": allow_outside,
        "workers": workers,
    }
    given = {option: value for option, value in options.items() if value is not None}
    if name in data_sets():
        _check_options(os.fspath(name), given, ())
    if name == BUNDLED:
        if data_dir is not None:
            raise ValueError(
                f"data_dir: {BUNDLED} is part of the package and is not looked for in {os.fspath(data_dir)!r}; "
                "the full set is 'fashion-mnist'"
            )
        return _load_bundled()
    source = _SOURCES.get(name) if isinstance(name, str) else None
    if source is not None:
        return _load_named(source, data_dir, download, progress)
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(
            f"data set {os.fspath(name)!r}: no set, file or folder of that name; the sets are {', '.join(data_sets())}"
        )
    if data_dir is not None:
        raise ValueError(f"data_dir: is for the sets {', '.join(_SOURCES)}, not for the path {os.fspath(name)!r}")
    return _load_path(path, given)


_OF_IMAGE_FILES = ("image_size", "channels", "bad", "allow_outside", "workers")


def _check_options(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for option, value in given.items():
        if option not in known and option != "workers":  # which changes no result
            kind = "a .npy file" if option == "labels" else "image files"
            raise ValueError(f"{option}: is for {kind}, not for {name!r}, got {value!r}")


def _load_bundled() -> Splits[ArrayDataset]:
    from importlib.resources import files

    from ._greys import unpack

    # all images in one, their columns as rows: see tools/make_fashion_subset.py
    greys = np.rint(np.arange(8) * (255 / 7)).astype(np.uint8)
    resource = files("xpconv.data").joinpath("bundled", f"{BUNDLED}.npz")
    parts = []
    with resource.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        packed = unpack(file["states"], file["words"], 28, 28)
        for part in ("train", "test"):
            labels = file[f"{part}_labels"]
            images, packed = np.split(packed, [len(labels)])
            images = np.ascontiguousarray(greys[images.transpose(0, 2, 1)][:, None])
            parts.append(checked_dataset(resource, images, labels, classes=FASHION_CLASSES, name=BUNDLED))
    return Splits(*parts)


# ---- sets by name -----------------------------------------------------------------------------------------------


def _load_named(source: _Source, data_dir: Any, download: bool | None, progress: bool) -> Splits[ArrayDataset]:
    places = _places(source, data_dir)
    for folder in places:
        splits = _read_folder(folder, source)
        if splits is not None:
            return splits
    allowed = data_dir is None if download is None else download
    target = _download_folder(source, data_dir)
    if not allowed or target is None:
        raise DataError(_not_found(source, places, data_dir, "", allowed))
    try:
        _download(source, target, progress)
    except DataError as error:
        failure = f", and the download failed: {error}"
        # None: the message has it all, and four tracebacks of the network would bury it
        raise DataError(_not_found(source, places, data_dir, failure, allowed)) from None
    splits = _read_folder(target, source)
    if splits is None:
        raise DataError(f"{target}: the files of {source.name} were put there but are gone")
    return splits


def _cache() -> Path | None:
    """Folder of the downloaded sets; None where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification's rule
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            return None
    return Path(base, "xpconv", "datasets")


def _system_folders() -> list[Path]:
    bases = ("/usr/local/share", "/usr/share", os.path.join(sys.prefix, "share"))
    return [Path(base, "datasets") for base in dict.fromkeys(bases)]


def _places(source: _Source, data_dir: Any) -> list[Path]:
    """Folders to look at for a set, in order."""
    if data_dir is not None:
        base = Path(data_dir).expanduser()
        return [base, *(base / folder for folder in source.folders)]
    places = []
    if os.environ.get("XPCONV_DATA"):
        base = Path(os.environ["XPCONV_DATA"]).expanduser()
        places += [*(base / folder for folder in source.folders), base]
    places += [base / source.name for base in _system_folders()]
    cache = _cache()
    return places if cache is None else [*places, cache / source.name]


def _download_folder(source: _Source, data_dir: Any) -> Path | None:
    if data_dir is None:
        cache = _cache()
        return None if cache is None else cache / source.name
    base = Path(data_dir).expanduser()
    # several sets have files of the same names, so each gets its folder
    return base if base.name == source.name else base / source.name


def _expected(source: _Source) -> tuple[str, ...]:
    """The names to look for, as they are put into messages."""
    if source.name == "cifar10":
        return tuple(name for folder, _, archive, _ in _CIFAR_LAYOUTS for name in (f"{folder}/", archive))
    return tuple(name.removesuffix(".gz") + "[.gz]" for name in source.sha256)


def _listing(folder: Path) -> str:
    """What is in a folder, in a few words."""
    if not os.path.isdir(folder):
        return "no such folder"
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return str(error.strerror)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"has {', '.join(names[:8]) or 'nothing'}{more}"


def _not_found(source: _Source, places: list[Path], data_dir: Any, failure: str, downloading: bool) -> str:
    lines = [f"{source.name}: not found{failure}. Expected {', '.join(_expected(source))} in"]
    lines += [f"  {folder}: {_listing(folder)}" for folder in places]
    if data_dir is not None:
        remedy = "." if downloading else ", or let download=True fetch them into it."
        lines.append(f"Put the files there{remedy}")
    else:
        debian = " On Debian and Ubuntu the package dataset-fashion-mnist has them." if "fashion" in source.name else ""
        named = "or name their folder by data_dir (--data-dir) or XPCONV_DATA."
        lines.append(f"Put the files into one of these, {named}{debian}")
    lines.append(f"{BUNDLED!r} comes with xpconv and needs no download.")
    return "\n".join(lines)


def _download(source: _Source, folder: Path, progress: bool) -> None:
    for name, sha256 in source.sha256.items():
        if source.name != "cifar10" and _find_idx(folder, name.removesuffix(".gz")) is not None:
            continue

        def check(path: Path, name: str = name, sha256: str = sha256) -> None:
            _check_download(path, source.url + name, sha256, packed=source.name == "cifar10")

        fetch(source.url + name, folder / name, check=check, progress=progress)


def _check_download(path: Path, url: str, sha256: str, *, packed: bool) -> None:
    if packed:
        import hashlib

        with open(path, "rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        got = sha256_of_content(path)
    if got != sha256:
        what = "" if packed else " of the decompressed file"
        raise DataError(
            f"{url}: got {path.stat().st_size} bytes that are not the published ones: SHA-256{what}: "
            f"expected {sha256}, got {got}; they were deleted"
        )


# ---- what a folder or file holds --------------------------------------------------------------------------------


def _find_idx(folder: Path, name: str) -> Path | None:
    """The file of that name, with a dot or a hyphen, packed or not."""
    for stem in (name, name.replace("-idx", ".idx")):
        for path in (folder / stem, folder / f"{stem}.gz"):
            if os.path.isfile(path):  # unlike Path.is_file, False for a folder that must not be looked into
                return path
    return None


def _stems(part: str) -> tuple[str, str]:
    """Names of the files of a part (train, t10k, test) as they are published, unpacked."""
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _find_pair(folder: Path, part: str) -> tuple[Path, Path] | None:
    """Files of the images and the labels of a part; None if they are not both there."""
    images, labels = (_find_idx(folder, stem) for stem in _stems(part))
    return None if images is None or labels is None else (images, labels)


def _read_pair(paths: tuple[Path, Path], part: str, sha256: Mapping[str, str]) -> tuple[str, np.ndarray, np.ndarray]:
    """What to call the files in messages, the images (N, C, H, W) and the labels."""
    images, labels = (
        read_idx(path, sha256=sha256.get(f"{stem}.gz")) for path, stem in zip(paths, _stems(part), strict=True)
    )
    return f"{paths[0]} and {paths[1].name}", images[:, None] if images.ndim == 3 else images, labels


def _read_idx_folder(folder: Path, source: _Source | None) -> Splits[ArrayDataset] | None:
    """The four IDX files of a folder; None if they are not all there."""
    train = _find_pair(folder, "train")
    test_part = "t10k" if source is not None or _find_pair(folder, "t10k") else "test"
    test = _find_pair(folder, test_part)
    if train is None or test is None:
        return None
    sha256 = {} if source is None else source.sha256
    parts = [_read_pair(train, "train", sha256), _read_pair(test, test_part, sha256)]
    if source is not None:
        return Splits(*(checked_dataset(*part, classes=source.classes, name=source.name) for part in parts))
    return same_classes(folder, *(checked_dataset(*part, classes=None, name="") for part in parts))


def _read_cifar(path: Path) -> Splits[ArrayDataset] | None:
    """CIFAR-10 in a folder (or the folder above, or an archive in it); None if it is not there."""
    for folder, names, archive, read in _CIFAR_LAYOUTS:
        if os.path.isdir(path / folder) or os.path.isfile(path / names[0]):
            return read(path)
        if os.path.isfile(path / archive):
            return read(path / archive)
    return None


def _has_cifar(path: Path) -> bool:
    return any(
        os.path.isdir(path / folder) or os.path.isfile(path / names[0]) or os.path.isfile(path / archive)
        for folder, names, archive, _ in _CIFAR_LAYOUTS
    )


def _read_folder(folder: Path, source: _Source) -> Splits[ArrayDataset] | None:
    return _read_cifar(folder) if source.name == "cifar10" else _read_idx_folder(folder, source)


def _load_path(path: Path, given: Mapping[str, Any]) -> Splits[Any]:
    kind = path.suffix.lower()
    if path.is_dir():
        if has_image_files(path):
            _check_options(str(path), given, _OF_IMAGE_FILES)
            return read_image_folder(path, **given)
        splits = _read_cifar(path) or _read_idx_folder(path, None)
        if splits is None:
            raise DataError(
                f"{path}: expected a folder of images for each class, IDX files (train-images-idx3-ubyte[.gz], "
                "train-labels-idx1-ubyte[.gz], and t10k- or test- likewise) or CIFAR-10 "
                f"({', '.join(_expected(_SOURCES['cifar10']))}); it {_listing(path)}"
            )
        _check_options(str(path), given, ())
        return splits
    if not path.is_file():  # opening a pipe would wait for ever
        raise DataError(f"{path}: expected a file or a folder, got a device or a pipe")
    if kind in (".csv", ".tsv"):
        _check_options(str(path), given, _OF_IMAGE_FILES)
        return read_manifest(path, **given)
    if kind == ".npy":
        _check_options(str(path), given, ("labels",))
        return read_npy(path, given.get("labels"))
    _check_options(str(path), given, ())
    with open(path, "rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n" or kind in (".h5", ".hdf5"):
        return read_hdf5(path)
    if start[:4] == b"PK\x03\x04" or kind == ".npz":
        return read_npz(path)
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        return (read_cifar10_python if "python" in path.name else read_cifar10_binary)(path)
    raise DataError(f"{path}: expected a .npz, .npy, .h5 or .csv file, an archive of CIFAR-10 (.tar.gz) or a folder")


def has_arrays(folder: Path) -> bool:
    """Whether a folder has IDX files or CIFAR-10's: the sets that are arrays."""
    return _has_cifar(folder) or _find_pair(folder, "train") is not None


def has_image_files(name: str | os.PathLike[str]) -> bool:
    """Whether `load` would read image files, listed or in folders."""
    path = Path(name).expanduser()
    if name in data_sets() or not path.is_dir():
        return name not in data_sets() and path.suffix.lower() in (".csv", ".tsv")
    if has_arrays(path):
        return False
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
