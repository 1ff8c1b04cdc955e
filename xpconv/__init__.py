"""Convolutional networks on the array library you already have.

Layers, losses and optimizers written once against the Python array API; NumPy runs them on compiled CPU kernels,
other array libraries on generic operators. See `xpconv.functional` for the operators, `xpconv.layers` for networks,
`xpconv.Trainer` for training, `set_backend` for the place where new arrays are born.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import backends
from ._algorithm import get_conv_algorithm, set_conv_algorithm, use_conv_algorithm
from ._precision import get_matmul_precision, set_matmul_precision, use_matmul_precision
from ._workspace import get_workspace_mb, set_workspace_mb
from .backends import (
    BackendMismatchError,
    BackendUnavailableError,
    DeviceMemoryError,
    asarray,
    available_backends,
    free_memory,
    get_backend,
    register_backend,
    set_backend,
    to_numpy,
    use_backend,
)

if TYPE_CHECKING:
    from . import cs231n, data, distributed, functional, layers, models, onnx, optim, plot, testing, training
    from ._config import show_config
    from ._explain import explain_convolution
    from ._random import manual_seed
    from ._threads import get_num_threads, set_num_threads
    from .layers import Parameter
    from .training import Trainer
    from .weights import load_weights, save_weights

__version__ = "0.1.0"

# loaded when first used, which keeps `import xpconv` about as fast as `import numpy`
_SUBPACKAGES = (
    "cs231n",
    "data",
    "distributed",
    "functional",
    "layers",
    "models",
    "onnx",
    "optim",
    "plot",
    "sklearn",
    "testing",
    "training",
)
_LATE_NAMES = {
    "Parameter": "layers",
    "Trainer": "training",
    "explain_convolution": "_explain",
    "get_num_threads": "_threads",
    "load_weights": "weights",
    "manual_seed": "_random",
    "save_weights": "weights",
    "set_num_threads": "_threads",
    "show_config": "_config",
}

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "DeviceMemoryError",
    "Parameter",
    "Trainer",
    "asarray",
    "available_backends",
    "backends",
    "cs231n",
    "data",
    "distributed",
    "explain_convolution",
    "free_memory",
    "functional",
    "get_backend",
    "get_conv_algorithm",
    "get_matmul_precision",
    "get_num_threads",
    "get_workspace_mb",
    "layers",
    "load_weights",
    "manual_seed",
    "models",
    "onnx",
    "optim",
    "plot",
    "register_backend",
    "save_weights",
    "set_backend",
    "set_conv_algorithm",
    "set_matmul_precision",
    "set_num_threads",
    "set_workspace_mb",
    "show_config",
    "testing",
    "to_numpy",
    "training",
    "use_backend",
    "use_conv_algorithm",
    "use_matmul_precision",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LATE_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_LATE_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
