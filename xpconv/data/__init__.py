"""Image data: sets in memory, readers of the usual files, batches in a reproducible order, augmentation.

`load` finds a known set or reads a path; `Batches` cuts it into batches on the default backend.
"""

from .augment import Compose, Normalize, RandomFlip, ShiftCrop, standard_transform
from .batches import Batches
from .cifar import read_cifar10_binary, read_cifar10_python
from .dataset import ArrayDataset, DataError, Splits
from .idx import read_idx
from .npz import read_npz
from .sources import data_sets, load

__all__ = [
    "ArrayDataset",
    "Batches",
    "Compose",
    "DataError",
    "Normalize",
    "RandomFlip",
    "ShiftCrop",
    "Splits",
    "data_sets",
    "load",
    "read_cifar10_binary",
    "read_cifar10_python",
    "read_idx",
    "read_npz",
    "standard_transform",
]
