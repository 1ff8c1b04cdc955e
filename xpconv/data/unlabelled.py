"""Images of which nobody knows the classes: files of a folder, the rows of a ``.npy`` file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import DataError, Dataset
from .images import is_inside, read_image
from .lazy import LazyDataset, open_npy
from .sources import has_arrays

__all__ = ["UnlabelledFiles", "is_image_folder", "read_unlabelled_npy"]

_ENDINGS = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class UnlabelledFiles(Dataset):
    """Image files, each read when a batch needs it and not before; the labels are all 0 and mean nothing.

    Parameters
    ----------
    folder : path
        That the names are relative to.
    names : sequence of N str
    image_shape : tuple (C, H, W)
        That images are brought to, see `read_image`.

    Attributes
    ----------
    names : tuple of str
    """

    def __init__(self, folder: Path, names: Sequence[str], image_shape: tuple[int, int, int]) -> None:
        self.folder, self.names, self._image_shape = Path(folder), tuple(names), image_shape
        self._set_labels(np.zeros(len(self.names), np.int64), len(self.names), None)

    @classmethod
    def below(cls, folder: Path, image_shape: tuple[int, int, int], *, allow_outside: bool = False) -> UnlabelledFiles:
        """The image files in a folder and in those below it, in the order of their names; none that begin with a dot.

        Parameters
        ----------
        folder : path
        image_shape : tuple (C, H, W)
        allow_outside : bool
            Whether links may lead out of the folder.

        Returns
        -------
        UnlabelledFiles

        Raises
        ------
        DataError
            There are none, or a link leads out of the folder.
        """
        names = sorted(_names_below(folder))
        if not names:
            raise DataError(f"{folder}: no image files; their names end in {', '.join(_ENDINGS)}")
        real = os.path.realpath(folder)
        for name in () if allow_outside else names:
            if (folder / name).is_symlink() and not is_inside(folder / name, real):
                raise DataError(
                    f"{folder / name}: leads to {os.path.realpath(folder / name)}, out of {real}; --allow-outside "
                    "takes it nevertheless"
                )
        return cls(folder, names, image_shape)

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
            image[...] = read_image(self.folder / self.names[index], self._image_shape)
        return images

    def _choose(self, indices: Any) -> None:
        self.names = tuple(self.names[k] for k in np.arange(len(self.names))[indices])

    def identity(self) -> bytes:
        """Of the files' names."""
        return "\0".join(self.names).encode("utf-8", "surrogateescape")


def _names_below(folder: Path) -> Iterator[str]:
    for below, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(_ENDINGS):
                yield Path(below, name).relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder, and not one of IDX files or of CIFAR-10's."""
    return path.is_dir() and not has_arrays(path)


def read_unlabelled_npy(path: Path) -> LazyDataset:
    """The images of a ``.npy`` file as a memory map, see `read_npy`; the labels are all 0 and mean nothing.

    Raises
    ------
    DataError
        The file is missing, damaged, has Python objects, or an array that is no images.
    """
    images = open_npy(path)
    try:
        return LazyDataset(images, np.zeros(len(images) if images.ndim else 0, np.int64), source=str(path))
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from error
