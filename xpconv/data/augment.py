"""Augmentation and normalisation on the device, in the pure array API.

A transform is called as ``transform(images, rng, training)`` with images (N, C, H, W) of any backend. Random numbers
come from the host generator ``rng``, so that all backends make the same choices; that of a batch has numbers for each
image, which do not depend on the batch (`uniforms`). Shifts and flips come first, on the
bytes; `Normalize` makes floating-point numbers of them at the end. `Batches` takes the three together where an array
library computes on a device: see `Recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

import numpy as np

from .._checks import check_number
from .._geometry import IntOrPair, to_pair
from ..backends import backend_of
from ..backends.protocol import Array, Backend
from .dataset import Dataset
from .order import ImageRandom, uniforms
from .statistics import Statistics, compute_statistics

__all__ = [
    "Compose",
    "Cutout",
    "Normalize",
    "Random",
    "RandomFlip",
    "Recipe",
    "ShiftCrop",
    "Transform",
    "check_dtype",
    "checked_images",
    "standard_transform",
    "work_dtype",
]

# the name in quotes: looking it up would import numpy.random, a fifth of what importing NumPy takes
Transform = Callable[[Array, "np.random.Generator", bool], Array]
Random = Union["np.random.Generator", ImageRandom]


def check_dtype(dtype: object) -> None:
    """Raise ValueError unless ``dtype`` is the name of a floating-point one."""
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype: expected float16, bfloat16, float32 or float64, got {dtype!r}")


def checked_images(images: Array) -> Backend:
    """The backend of images (N, C, H, W)."""
    backend = backend_of(images=images)
    if images.ndim != 4:
        raise ValueError(
            f"images: expected 4 dimensions (N, C, H, W), got {images.ndim} with shape {tuple(images.shape)}"
        )
    return backend


class Compose:
    """One transform after the other.

    Parameters
    ----------
    transforms : sequence of callables

    Raises
    ------
    TypeError
        Something that cannot be called.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"transforms: expected callables, got {transform!r}")

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """The images after all transforms."""
        for transform in self.transforms:
            images = transform(images, rng, training)
        return images

    def __repr__(self) -> str:
        return f"Compose([{', '.join(repr(t) for t in self.transforms)}])"


@dataclass
class Normalize:
    """Subtracts the mean of each channel and divides by its standard deviation, in training and otherwise.

    Parameters
    ----------
    mean, std : sequence of C floats
        Of pixels between 0 and 1: uint8 images are divided by 255 first. One number stands for all channels.
    dtype : str
        What uint8 images become; floating-point images keep their dtype.

    Raises
    ------
    TypeError, ValueError
        Not finite numbers, of different lengths, a std that is not positive, or an unknown dtype.
    """

    mean: Sequence[float] | float
    std: Sequence[float] | float
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                array = np.atleast_1d(np.asarray(given))
            except ValueError:  # rows of several lengths
                array = np.empty((0, 0), object)
            if array.ndim != 1 or (array.dtype.kind not in "iuf" and array.size):
                raise TypeError(f"{name}: expected a number or a sequence of numbers, one a channel, got {given!r}")
            values = tuple(float(v) for v in array)
            if not values or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name}: expected finite numbers, one a channel, got {given!r}")
            setattr(self, name, values)
        if len(self.mean) != len(self.std):  # type: ignore[arg-type]
            raise ValueError(f"std: expected as many numbers as mean, got {self.std} for {self.mean}")
        if min(self.std) <= 0:  # type: ignore[arg-type]
            raise ValueError(f"std: must be positive, got {self.std}")
        check_dtype(self.dtype)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape, floating-point; ``rng`` and ``training`` are not used."""
        backend = checked_images(images)
        is_bytes = backend.dtype_name(images) == "uint8"
        if not is_bytes and not backend.is_floating(images):
            raise TypeError(f"images: expected uint8 or floating-point, got {backend.dtype_name(images)}")
        dtype = self.dtype if is_bytes else backend.dtype_name(images)
        work = work_dtype(dtype)  # shorter floats are rounded once, at the end
        scale, shift = (
            backend.asarray(np.reshape(values, (1, -1, 1, 1)).astype(work))
            for values in self.constants(images.shape[1], is_bytes)
        )
        with backend.running():
            x = backend.astype(images, work) * scale
            x += shift
        return backend.astype(x, dtype)

    def constants(self, channels: int, is_bytes: bool) -> tuple[np.ndarray, np.ndarray]:
        """The numbers, one a channel or one for all, of one product and one sum: ``x / std - mean / std``.

        Parameters
        ----------
        channels
            C of the images.
        is_bytes
            Whether they are uint8, 0 to 255.

        Returns
        -------
        scale, shift : numpy.ndarray (C,) or (1,)
            In float64.

        Raises
        ------
        ValueError
            There are numbers for another count of channels.
        """
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        if len(mean) not in (1, channels):
            raise ValueError(f"images: expected {len(mean)} channels, got {channels}")
        return 1 / (255 * std) if is_bytes else 1 / std, -mean / std


@dataclass
class ShiftCrop:
    """Shifts each image by a random number of pixels; what comes in from outside is zero.

    The same as padding with zeros and cropping at random. Without ``training`` the images stay as they are.

    Parameters
    ----------
    padding : int or pair
        Largest shift (vertical, horizontal), smaller than the image.

    Raises
    ------
    TypeError, ValueError
        Not integers, or negative.
    """

    padding: IntOrPair

    def __post_init__(self) -> None:
        self.padding = to_pair("padding", self.padding, minimum=0)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = checked_images(images)
        count, channels, height, width = images.shape
        far_y, far_x = self.limits((height, width))
        if not training or count == 0 or far_y == far_x == 0:
            return images
        xp = backend.xp
        dy, dx = self.draw(rng, count).T
        # Pixel (y, x) of the result is pixel (y + dy, x + dx): in memory one step of dy * width + dx for all pixels of
        # an image, so that each result is one slice of the batch laid out in a line. Pixels that the slice takes from
        # another row, channel or image are exactly those from outside: a mask sets them to zero.
        margin = far_y * width + far_x
        ends = backend.zeros((margin,), images.dtype)
        size = channels * height * width
        starts = (margin + np.arange(count) * size + dy * width + dx).tolist()
        with backend.running():
            line = xp.concat([ends, xp.reshape(images, (-1,)), ends])
            shifted = xp.reshape(xp.stack([line[start : start + size] for start in starts]), images.shape)
        rows, columns = np.arange(height) + dy[:, None], np.arange(width) + dx[:, None]
        row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
        with backend.running():
            return shifted * backend.astype(backend.asarray(inside.astype(np.uint8)), images.dtype)

    def limits(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Largest shifts of images (H, W).

        Parameters
        ----------
        image_size
            (H, W).

        Returns
        -------
        pair of int
            Vertical and horizontal.

        Raises
        ------
        ValueError
            A shift that is not smaller than the image.
        """
        far_y, far_x = to_pair("padding", self.padding, minimum=0)
        height, width = image_size
        if far_y >= height or far_x >= width:
            raise ValueError(f"padding: must be smaller than the images, {height} x {width}, got {self.padding}")
        return far_y, far_x

    def draw(self, rng: Random, count: int) -> np.ndarray:
        """Shifts (count, 2).

        Parameters
        ----------
        rng
            Of the batch, or a generator.
        count
            How many images.

        Returns
        -------
        numpy.ndarray (count, 2)
            Integers, vertical and horizontal.

        Raises
        ------
        TypeError, ValueError
            The padding was changed to what it must not be.
        """
        far = np.asarray(to_pair("padding", self.padding, minimum=0))
        return np.floor(uniforms(rng, count, 2) * (2 * far + 1)).astype(np.int64) - far


@dataclass
class RandomFlip:
    """Mirrors images left to right, each with the given probability; without ``training`` they stay as they are.

    Parameters
    ----------
    probability : float
        0 to 1.

    Raises
    ------
    TypeError, ValueError
        Not a number, or not in 0 to 1.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        self.probability = check_number("probability", self.probability, 0, 1)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = checked_images(images)
        count = images.shape[0]
        if not training or count == 0:
            return images
        xp = backend.xp
        chosen = backend.asarray(np.arange(count) + count * self.draw(rng, count))
        with backend.running():
            # choosing whole images from both versions copies memory in large pieces, unlike `where`
            both = xp.concat([images, xp.flip(images, axis=-1)], axis=0)
            return xp.take(both, chosen, axis=0)

    def draw(self, rng: Random, count: int) -> np.ndarray:
        """Which of so many images are mirrored.

        Parameters
        ----------
        rng
            Of the batch, or a generator.
        count
            How many images.

        Returns
        -------
        numpy.ndarray (count,)
            Booleans.
        """
        return uniforms(rng, count, 1)[:, 0] < self.probability


@dataclass
class Cutout:
    """Sets a square of each image to zero, the same in all channels; without ``training`` images stay as they are.

    T. DeVries, G. W. Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017: the centre
    is any pixel, so that a part of the square may be outside. Behind `Normalize` zero is the mean.

    Parameters
    ----------
    size : int or pair
        Height and width of the square.

    Raises
    ------
    TypeError, ValueError
        Not positive integers.
    """

    size: IntOrPair

    def __post_init__(self) -> None:
        self.size = to_pair("size", self.size, minimum=1)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = checked_images(images)
        count, _, *sides = images.shape
        if not training or count == 0:
            return images
        lengths = to_pair("size", self.size, minimum=1)
        centres = np.floor(uniforms(rng, count, 2) * sides)
        hidden = []
        for axis, (side, length) in enumerate(zip(sides, lengths, strict=True)):
            first = centres[:, axis, None] - length // 2
            places = np.arange(side)
            hidden.append((places >= first) & (places < first + length))
        seen = ~(hidden[0][:, None, :, None] & hidden[1][:, None, None, :])
        with backend.running():
            return images * backend.astype(backend.asarray(seen.astype(np.uint8)), images.dtype)


# ---- crop, flip and normalisation together ----------------------------------------------------------------------


class Recipe(NamedTuple):
    """A transform of bytes that the operator ``crop_flip_normalize`` can do: any of the three parts, in this order."""

    crop: ShiftCrop | None
    flip: RandomFlip | None
    normalize: Normalize | None

    @classmethod
    def of(cls, transform: Transform | None) -> Recipe | None:
        """The recipe of a transform that is made of nothing else, None for any other."""
        steps = list(transform.transforms) if type(transform) is Compose else [] if transform is None else [transform]
        # of these very types: a subclass may do something else
        kinds = (ShiftCrop, RandomFlip, Normalize)
        parts: list[Any] = [steps.pop(0) if steps and type(steps[0]) is kind else None for kind in kinds]
        return None if steps else cls(*parts)

    @property
    def is_random(self) -> bool:
        """Whether it augments, in training."""
        return self.crop is not None or self.flip is not None

    def draw(self, rng: Random, image_size: tuple[int, int], choices: np.ndarray) -> None:
        """Draw what the transform would draw for images, into the last columns (dy, dx, mirrored) of their choices."""
        if self.crop is not None and any(self.crop.limits(image_size)):
            choices[:, 1:3] = self.crop.draw(rng, len(choices))
        if self.flip is not None:
            choices[:, 3] = self.flip.draw(rng, len(choices))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raise what the transform would raise for such images (C, H, W), whether or not they are augmented."""
        if self.crop is not None:
            self.crop.limits(image_shape[1:])
        if self.normalize is not None:
            self.normalize.constants(image_shape[0], True)

    def constants(self, channels: int, dtype: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Scale and shift (C,) of each channel, and the dtype of the result: ``dtype`` where nothing is normalised."""
        if self.normalize is None:
            scale, shift = np.asarray(1 / 255), np.asarray(0.0)
        else:
            scale, shift = self.normalize.constants(channels, True)
            dtype = self.normalize.dtype
        scale, shift = (np.broadcast_to(a, (channels,)).astype(work_dtype(dtype)) for a in (scale, shift))
        return scale, shift, dtype


def work_dtype(dtype: str) -> str:
    """In which to compute what has ``dtype`` in the end."""
    return "float64" if dtype == "float64" else "float32"


# ---- what suits a data set --------------------------------------------------------------------------------------

# name -> (largest shift, mirrored images are of the same class)
_AUGMENTATION = {
    "fashion-mnist": (1, True),
    "fashion-mnist-small": (1, True),
    "mnist": (2, False),
    "cifar10": (4, True),
}


def standard_transform(
    dataset: Dataset, augment: bool = True, *, dtype: str = "float32", statistics: Statistics | None = None
) -> Compose:
    """Augmentation that suits the data set, then normalisation by the mean and deviation of its pixels.

    Parameters
    ----------
    dataset : Dataset
        The training set. Its name decides: shifts by up to 1 pixel and mirroring for Fashion-MNIST, shifts by up to
        2 for MNIST, shifts by up to 4 and mirroring for CIFAR-10. Other sets: shifts by up to an eighth of the shorter
        side; whether mirroring keeps the class is for you to know.
    augment : bool
        False normalises only.
    dtype : str
        Of the result, for uint8 images.
    statistics : Statistics, optional
        What `compute_statistics` has found earlier; without it all images are read once.

    Returns
    -------
    Compose
        For `Batches`, of the training set and of the test set: it augments in training only.
    """
    known = compute_statistics(dataset) if statistics is None else statistics
    steps: list[Transform] = []
    if augment:
        shift, mirror = _AUGMENTATION.get(dataset.name, (min(dataset.image_shape[1:]) // 8, False))
        if shift:
            steps.append(ShiftCrop(shift))
        if mirror:
            steps.append(RandomFlip())
    return Compose([*steps, Normalize(known.mean, known.std, dtype)])
