"""Image data: sets in memory and in files, readers of the usual ones, batches in a reproducible order, augmentation.

`load` finds a known set or reads a path; `Batches` cuts it into batches on the default backend.
"""

from .augment import Compose, Cutout, Normalize, RandomFlip, ShiftCrop, standard_transform
from .batches import Batches
from .cifar import read_cifar10_binary, read_cifar10_python
from .color import ColorJitter
from .dataset import ArrayDataset, BadFile, DataError, Dataset, Splits
from .idx import read_idx
from .images import ImageFiles, read_image, read_image_folder
from .lazy import LazyDataset, read_hdf5, read_npy
from .manifest import read_manifest
from .npz import read_npz
from .sources import data_sets, load
from .statistics import Statistics, class_weights, compute_statistics

__all__ = [
    "ArrayDataset",
    "BadFile",
    "Batches",
    "ColorJitter",
    "Compose",
    "Cutout",
    "DataError",
    "Dataset",
    "ImageFiles",
    "LazyDataset",
    "Normalize",
    "RandomFlip",
    "ShiftCrop",
    "Splits",
    "Statistics",
    "class_weights",
    "compute_statistics",
    "data_sets",
    "load",
    "read_cifar10_binary",
    "read_cifar10_python",
    "read_hdf5",
    "read_idx",
    "read_image",
    "read_image_folder",
    "read_manifest",
    "read_npy",
    "read_npz",
    "standard_transform",
]
