"""CUDA kernels on the host, for tests without a GPU: the backend ``cuda-host``.

The same ``.cu`` files that run on a GPU are compiled by the host's C++ compiler against ``cuda_on_host.cuh`` and run on
NumPy memory: `HostModule` and `HostKernel` have the calling convention of `cupy.RawModule` and `cupy.RawKernel`.
Barriers, shared memory, launches and arguments are checked more strictly than a GPU does; see the header.

Arrays have the manners of CuPy's: no result is a scalar of the host, and `no_host_reads` makes every read of a value an
error. `HostCapture` plays a CUDA graph: it records what is done on the device, and refuses what CUDA would refuse.
"""

from .array import HostArray
from .backend import HostCudaBackend, load
from .module import HostKernel, HostModule, find_compiler, thread_schedule
from .recording import HostCapture, HostReadError, no_host_reads

__all__ = [
    "HostArray",
    "HostCapture",
    "HostCudaBackend",
    "HostKernel",
    "HostModule",
    "HostReadError",
    "find_compiler",
    "load",
    "no_host_reads",
    "thread_schedule",
]
