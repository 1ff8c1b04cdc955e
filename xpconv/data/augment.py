"""Augmentation and normalisation on the device, in the pure array API.

A transform is called as ``transform(images, rng, training)`` with images (N, C, H, W) of any backend. Random numbers
come from the host generator ``rng``, so that all backends make the same choices. Shifts and flips come first, on the
bytes; `Normalize` makes floating-point numbers of them at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._geometry import IntOrPair, to_pair
from ..backends import backend_of
from ..backends.protocol import Array, Backend
from .batches import Transform, check_dtype
from .dataset import ArrayDataset

__all__ = ["Compose", "Normalize", "RandomFlip", "ShiftCrop", "standard_transform"]


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
            values = tuple(float(v) for v in np.atleast_1d(np.asarray(getattr(self, name), np.float64)))
            if not values or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name}: expected finite numbers, one a channel, got {getattr(self, name)!r}")
            setattr(self, name, values)
        if len(self.mean) != len(self.std):  # type: ignore[arg-type]
            raise ValueError(f"std: expected as many numbers as mean, got {self.std} for {self.mean}")
        if min(self.std) <= 0:  # type: ignore[arg-type]
            raise ValueError(f"std: must be positive, got {self.std}")
        check_dtype(self.dtype)

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape, floating-point; ``rng`` and ``training`` are not used."""
        backend = _checked(images)
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        if len(mean) not in (1, images.shape[1]):
            raise ValueError(f"images: expected {len(mean)} channels, got {images.shape[1]}")
        is_bytes = backend.dtype_name(images) == "uint8"
        if not is_bytes and not backend.is_floating(images):
            raise TypeError(f"images: expected uint8 or floating-point, got {backend.dtype_name(images)}")
        # one multiplication and one addition, x / std - mean / std; shorter floats are rounded once, at the end
        dtype = self.dtype if is_bytes else backend.dtype_name(images)
        work = "float64" if dtype == "float64" else "float32"
        scale, shift = (
            backend.asarray(np.reshape(values, (1, -1, 1, 1)).astype(work))
            for values in (1 / (255 * std) if is_bytes else 1 / std, -mean / std)
        )
        x = backend.astype(images, work) * scale
        x += shift
        return backend.astype(x, dtype)


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
        far_y, far_x = to_pair("padding", self.padding, minimum=0)
        if far_y >= height or far_x >= width:
            raise ValueError(f"padding: must be smaller than the images, {height} x {width}, got {self.padding}")
        if not training or count == 0 or far_y == far_x == 0:
            return images
        xp = backend.xp
        dy = rng.integers(-far_y, far_y + 1, count)
        dx = rng.integers(-far_x, far_x + 1, count)
        # Pixel (y, x) of the result is pixel (y + dy, x + dx): in memory one step of dy * width + dx for all pixels of
        # an image, so that each result is one slice of the batch laid out in a line. Pixels that the slice takes from
        # another row, channel or image are exactly those from outside: a mask sets them to zero.
        margin = far_y * width + far_x
        ends = backend.zeros((margin,), images.dtype)
        line = xp.concat([ends, xp.reshape(images, (-1,)), ends])
        size = channels * height * width
        starts = (margin + np.arange(count) * size + dy * width + dx).tolist()
        shifted = xp.reshape(xp.stack([line[start : start + size] for start in starts]), images.shape)
        rows, columns = np.arange(height) + dy[:, None], np.arange(width) + dx[:, None]
        row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]
        return shifted * backend.astype(backend.asarray(inside.astype(np.uint8)), images.dtype)


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
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability: expected 0 to 1, got {self.probability!r}")

    def __call__(self, images: Array, rng: np.random.Generator, training: bool) -> Array:
        """Images of the same shape and dtype."""
        backend = _checked(images)
        count = images.shape[0]
        if not training or count == 0:
            return images
        xp = backend.xp
        flipped = rng.random(count) < self.probability
        # choosing whole images from both versions copies memory in large pieces, unlike `where`
        both = xp.concat([images, xp.flip(images, axis=-1)], axis=0)
        return xp.take(both, backend.asarray(np.arange(count) + count * flipped), axis=0)


# ---- what suits a data set --------------------------------------------------------------------------------------

# name -> (largest shift, mirrored images are of the same class)
_AUGMENTATION = {
    "fashion-mnist": (2, True),
    "fashion-mnist-small": (2, True),
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
        The training set. Its name decides: shifts by up to 2 pixels and mirroring for Fashion-MNIST, shifts by up to
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
