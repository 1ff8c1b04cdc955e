"""Backends: which array library runs a call, where new arrays are born, and which kernel serves an operator.

`registry` finds the backend of an array and holds the default one; `protocol` says what a backend must give;
`dispatch` picks the kernel, and takes those of others; `cuda` compiles and launches CUDA kernels of one's own. One
module per array library: `numpy`, `cupy`, `torch`, `jax`, `array_api_strict`.
"""

from .dispatch import (
    DeviceMemoryError,
    Engine,
    KernelUnavailableError,
    compute,
    get_kernels,
    operators,
    register_kernel,
    register_operator,
    run,
    serving,
    set_kernels,
    use_kernels,
)
from .protocol import Backend, CaptureError
from .registry import (
    BackendMismatchError,
    BackendUnavailableError,
    asarray,
    available_backends,
    backend_of,
    free_memory,
    get_backend,
    load_backend,
    register_backend,
    registered_backends,
    set_backend,
    to_numpy,
    use_backend,
)

__all__ = [
    "Backend",
    "BackendMismatchError",
    "BackendUnavailableError",
    "CaptureError",
    "DeviceMemoryError",
    "Engine",
    "KernelUnavailableError",
    "asarray",
    "available_backends",
    "backend_of",
    "compute",
    "free_memory",
    "get_backend",
    "get_kernels",
    "load_backend",
    "operators",
    "register_backend",
    "register_kernel",
    "register_operator",
    "registered_backends",
    "run",
    "serving",
    "set_backend",
    "set_kernels",
    "to_numpy",
    "use_backend",
    "use_kernels",
]
