"""Augmentation and normalisation on the device, in the pure array API.

A transform is called as ``transform(images, rng, training)`` with images (N, C, H, W) of any backend. Random numbers
come from the host generator ``rng``, so that all backends make the same choices. Shifts and flips come first, on the
bytes; `Normalize` makes floating-point numbers of them at the end. `Batches` takes the three together where an array
library computes on a device: see `Recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_number
from .._geometry import IntOrPair, to_pair
from ..backends import backend_of
from ..backends.protocol import Array, Backend
from .dataset import ArrayDataset

__all__ = [
    "Compose",
    "Normalize",
    "RandomFlip",
    "Recipe",
    "ShiftCrop",
    "Transform",
    "check_dtype",
    "standard_transform",
]

# the name in quotes: looking it up would import numpy.random, a fifth of what importing NumPy takes
Transform = Callable[[Array, "np.random.Generator", bool], Array]


def check_dtype(dtype: object) -> None:
    """Raise ValueError unless ``dtype`` is the name of a floating-point one."""
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype: expected float16, bfloat16, float32 or float64, got {dtype!r}")


def _checked(images: Array) -> Backend:
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
        backend = _checked(images)
        is_bytes = backend.dtype_name(images) == "uint8"
        if not is_bytes and not backend.is_floating(images):
            raise TypeError(f"images: expected uint8 or floating-point, got {backend.dtype_name(images)}")
        dtype = self.dtype if is_bytes else backend.dtype_name(images)
        work = _work_dtype(dtype)  # shorter floats are rounded once, at the end
        scale, shift = (
            backend.asarray(np.reshape(values, (1, -1, 1, 1)).astype(work))
            for values in self.constants(images.shape[1], is_bytes)
        )
        with backend.running():
            x = backend.astype(images, work) * scale
            x += shift
        return backend.astype(x, dtype)

    def constants(self, channels: int, is_bytes: bool) -> tuple[np.ndarray, np.ndarray]:
        """The numbers, one a channel or one for all, of one product and one sum: ``x / std - mean / std``."""
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
    """

    padding: IntOrPair

    def __post_init__(self) -> None:
        self.padding = to_pair("padding", self.padding, minimum=0)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = _checked(images)
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
        """Largest shifts of images (H, W)."""
        far_y, far_x = to_pair("padding", self.padding, minimum=0)
        height, width = image_size
        if far_y >= height or far_x >= width:
            raise ValueError(f"padding: must be smaller than the images, {height} x {width}, got {self.padding}")
        return far_y, far_x

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Shifts (count, 2)."""
        far = to_pair("padding", self.padding, minimum=0)
        return np.stack([rng.integers(-length, length + 1, count) for length in far], axis=1)


@dataclass
class RandomFlip:
    """Mirrors images left to right, each with the given probability; without ``training`` they stay as they are.

    Parameters
    ----------
    probability : float
        0 to 1.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        self.probability = check_number("probability", self.probability, 0, 1)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = _checked(images)
        count = images.shape[0]
        if not training or count == 0:
            return images
        xp = backend.xp
        chosen = backend.asarray(np.arange(count) + count * self.draw(rng, count))
        with backend.running():
            # choosing whole images from both versions copies memory in large pieces, unlike `where`
            both = xp.concat([images, xp.flip(images, axis=-1)], axis=0)
            return xp.take(both, chosen, axis=0)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Which of so many images are mirrored."""
        return rng.random(count) < self.probability


# ---- the three together -----------------------------------------------------------------------------------------


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

    def draw(self, rng: np.random.Generator, image_size: tuple[int, int], choices: np.ndarray) -> None:
        """Draw what the transform would draw for a batch, into the last columns (dy, dx, mirrored) of its choices."""
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
        scale, shift = (np.broadcast_to(a, (channels,)).astype(_work_dtype(dtype)) for a in (scale, shift))
        return scale, shift, dtype


def _work_dtype(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


# ---- what suits a data set --------------------------------------------------------------------------------------

# name -> (largest shift, mirrored images are of the same class)
_AUGMENTATION = {
    "fashion-mnist": (1, True),
    "fashion-mnist-small": (1, True),
    "mnist": (2, False),
    "cifar10": (4, True),
}
_CHUNK = 1000  # images


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of bytes as fractions of 255; a constant channel gets 1.

    Bytes are counted, value by value, and the rest goes over a thousand images at a time: no second copy of the set.
    """
    channels = images.shape[1]
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    if images.dtype == np.uint8:
        values = np.arange(256) / 255
        weights = np.zeros((channels, 256), np.int64)
        for chunk in chunks:
            for c in range(channels):
                weights[c] += np.bincount(np.ravel(chunk[:, c]), minlength=256)
        pixels = weights[0].sum()
        mean = weights @ values / pixels
        variance = np.sum(weights * (values - mean[:, None]) ** 2, axis=1) / pixels
    else:
        pixels = images.size // channels
        mean = sum(np.sum(chunk, axis=(0, 2, 3), dtype=np.float64) for chunk in chunks) / pixels
        centre = mean[:, None, None]
        variance = sum(np.sum((chunk - centre) ** 2, axis=(0, 2, 3)) for chunk in chunks) / pixels
    std = np.sqrt(variance)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def standard_transform(dataset: ArrayDataset, augment: bool = True, *, dtype: str = "float32") -> Compose:
    """Augmentation that suits the data set, then normalisation by the mean and deviation of its pixels.

    Parameters
    ----------
    dataset : ArrayDataset
        The training set. Its name decides: shifts by up to 1 pixel and mirroring for Fashion-MNIST, shifts by up to
        2 for MNIST, shifts by up to 4 and mirroring for CIFAR-10. Other sets: shifts by up to an eighth of the shorter
        side; whether mirroring keeps the class is for you to know.
    augment : bool
        False normalises only.
    dtype : str
        Of the result, for uint8 images.

    Returns
    -------
    Compose
        For `Batches`, of the training set and of the test set: it augments in training only.
    """
    mean, std = _channel_statistics(dataset.images)
    steps: list[Transform] = []
    if augment:
        shift, mirror = _AUGMENTATION.get(dataset.name, (min(dataset.image_shape[1:]) // 8, False))
        if shift:
            steps.append(ShiftCrop(shift))
        if mirror:
            steps.append(RandomFlip())
    return Compose([*steps, Normalize(mean, std, dtype)])
