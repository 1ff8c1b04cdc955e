"""``xpconv predict --data``: a whole set, by one process or by several ranks.

The set is cut into batches, as one process does it, and every rank takes its share of them: so each image goes through
the network beside the same others, whatever the number of ranks, and the file is the same to the last bit. A rank
writes the rows of its images to a file of its own beside the result, and rank 0 puts these together, in the order of
the ranks, which is that of the images. Nothing but a batch has to fit into memory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data
from .._files import write_atomically
from ..backends import to_numpy
from ..data.order import count_steps, share
from ..data.unlabelled import UnlabelledFiles, is_image_folder, read_unlabelled_npy
from ..distributed import Communicator, DistributedError
from ..distributed.communicator import gather_json
from ..training import Trainer, TrainingError
from .output import transient
from .ranks import check_same, first_does

__all__ = ["SUFFIXES", "Images", "check_out", "open_images", "predict_set"]

_CHUNK = 1 << 20


class Images(NamedTuple):
    """What is predicted.

    Attributes
    ----------
    dataset
        The images; nobody looks at their labels.
    files
        Their paths in the folder that they are from; None for those of an array.
    """

    dataset: data.Dataset
    files: Sequence[str] | None

    def name(self, index: int) -> str:
        """The first column of a table."""
        return str(index) if self.files is None else self.files[index]


def open_images(
    source: str, image_shape: tuple[int, int, int], test_part: Callable[[], data.Dataset], *, allow_outside: bool
) -> Images:
    """The images of a folder of image files, of a ``.npy`` file, or of what else has a test part.

    Parameters
    ----------
    source
        What ``--data`` names.
    image_shape
        (C, H, W) that image files are brought to, and that arrays have to be of.
    test_part
        Opens the test part, if it is that.
    allow_outside
        Whether links may lead out of the folder.

    Returns
    -------
    Images

    Raises
    ------
    DataError, OSError
        There are no images, they cannot be read, or they are of another shape.
    """
    path = Path(source).expanduser()
    known = source in data.data_sets()
    if not known and is_image_folder(path):
        files = UnlabelledFiles.below(path, image_shape, allow_outside=allow_outside)
        return Images(files, files.names)
    dataset = read_unlabelled_npy(path) if not known and path.suffix.lower() == ".npy" else test_part()
    if dataset.image_shape != image_shape:
        raise data.DataError(f"{source}: images are {dataset.image_shape}, the network takes {image_shape} (C, H, W)")
    return Images(dataset, None)


# ---- formats ------------------------------------------------------------------------------------------------------


class _Table:
    """Comma-separated values: image, likeliest class, its probability."""

    def __init__(self, images: Images, classes: Sequence[str]) -> None:
        self._images, self._classes = images, classes

    def head(self) -> bytes:
        return b"image,class,probability\n"

    def rows(self, first: int, odds: np.ndarray) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for index, row in enumerate(odds, first):
            best = int(np.argmax(row))
            writer.writerow((self._images.name(index), self._classes[best], f"{row[best]:.6f}"))
        return text.getvalue().encode("utf-8", "surrogateescape")  # a path that is no text stays what it is


class _Array:
    """An array of NumPy's (N, K) of the probabilities of all classes, float32."""

    def __init__(self, images: Images, classes: Sequence[str]) -> None:
        self._shape = len(images.dataset), len(classes)

    def head(self) -> bytes:
        head = io.BytesIO()
        form = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(head, form)
        return head.getvalue()

    def rows(self, first: int, odds: np.ndarray) -> bytes:
        return odds.astype("<f4").tobytes()


SUFFIXES: dict[str, Any] = {".csv": _Table, ".npy": _Array}


def check_out(out: str) -> None:
    """Raise ValueError unless the file's ending tells its format, and OSError unless its folder is there."""
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"--out: expected a file .csv (image, class, probability) or .npy (all probabilities), got {out!r}"
        )
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.absolute().parent}: no such folder for {path.name}")


# ---- ranks --------------------------------------------------------------------------------------------------------


def predict_set(
    comm: Communicator, trainer: Trainer, images: Images, classes: Sequence[str], out: str, **options: Any
) -> None:
    """Write what the network says of all images to a file; all ranks call this together.

    Parameters
    ----------
    comm, trainer
        The ranks; the network, on each of them, of which nothing is shared.
    images, classes
        What is predicted, and the names of the network's classes.
    out
        The file; its ending tells the format. An earlier one is replaced when all is done.
    options
        For `xpconv.data.Batches`: ``batch_size``, ``transform``, ``dtype``, ``workers``.

    Raises
    ------
    DistributedError
        The ranks do not see the same images.
    DataError, OSError
        An image cannot be read, the file cannot be written; or rank 0 does not see what another has written.
    """
    target, batch_size, count = Path(out), int(options["batch_size"]), len(images.dataset)
    form = SUFFIXES[target.suffix.lower()](images, classes)
    if comm.size == 1:
        steps = range(count_steps(count, batch_size))
        write_atomically(target, itertools.chain([form.head()], _rows(form, trainer, images, steps, options)))
        return
    names = "\0".join(images.files or ()).encode("utf-8", "surrogateescape")
    facts = {"the number of images": count, "what their files are called": hashlib.sha256(names).hexdigest()[:12]}
    check_same(comm, {**facts, "--out": out, "--batch-size": batch_size})
    mine = share(count_steps(count, batch_size), comm.rank, comm.size)
    parts = [target.with_name(f".{target.name[:100]}.rank-{rank}.part") for rank in range(comm.size)]
    first_does(comm, lambda: _remove_leftovers(target))  # of ranks that there are none of today
    try:
        with open(parts[comm.rank], "wb") as file:
            comm.barrier()  # all have theirs: who fails removes them all
            rows = _rows(form, trainer, images, range(mine.start, mine.stop), options)
            size = sum(file.write(chunk) for chunk in rows)
        sizes = gather_json(comm, size)
        first_does(comm, lambda: write_atomically(target, itertools.chain([form.head()], _whole(parts, sizes))))
    except BaseException:
        for part in parts:  # those of the others too, whom the end of the job leaves no time for it
            _remove(part)
        raise
    _remove(parts[comm.rank])


def _rows(form: Any, trainer: Trainer, images: Images, steps: range, options: dict[str, Any]) -> Iterator[bytes]:
    """What is written of the images of these batches."""
    if not steps:  # more ranks than batches
        return
    batch_size = int(options["batch_size"])
    first, stop = steps.start * batch_size, min(steps.stop * batch_size, len(images.dataset))
    part = images.dataset.subset(slice(first, stop))
    at = first
    for x, _ in data.Batches(part, shuffle=False, training=False, **options):
        scores = to_numpy(trainer.predict(x, batch_size=batch_size)).astype(np.float64)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        if not np.isfinite(odds).all():
            wrong = at + int(np.argmin(np.isfinite(odds).all(axis=1)))
            raise TrainingError(f"image {images.name(wrong)}: the scores are not finite; it or the weights are no use")
        yield form.rows(at, odds)
        at += len(odds)
        transient(f"predicted {at - first} of {stop - first} images")


def _whole(parts: Sequence[Path], sizes: Sequence[int]) -> Iterator[bytes]:
    """What all ranks have written, in their order."""
    for rank, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        try:
            with open(part, "rb") as file:
                left = size
                while left and (chunk := file.read(min(left, _CHUNK))):
                    left -= len(chunk)
                    yield chunk
        except FileNotFoundError:
            left = max(size, 1)
        if left:
            raise DistributedError(
                f"rank 0 does not see the {size} bytes that rank {rank} has written to {part}: the folder of --out "
                "has to be one that all machines share"
            )


def _remove(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def _remove_leftovers(target: Path) -> None:
    """Of ranks that were killed."""
    pattern = re.compile(rf"\.{re.escape(target.name[:100])}\.rank-\d+\.part")
    for found in list(target.absolute().parent.iterdir()):
        if pattern.fullmatch(found.name):
            found.unlink()
