"""Matrix products by cuBLAS, called directly, as CuPy refuses its own cuBLAS while a CUDA graph is recorded.

cuBLAS sees every matrix column by column, with a step, the leading dimension, from one column to the next. A matrix in
C order is its own transpose then. So where ``out`` is in C order the factors change places::

    out = a @ b    <=>    out^T = b^T @ a^T        first factor b, second a, each transposed unless it is in C order

Every matrix with unit stride along one axis can be told to cuBLAS in this way: transposed ones, and slices of rows and
of columns.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._precision import get_matmul_precision
from ..backends.protocol import Array

if TYPE_CHECKING:
    from .backend import GpuBackend

__all__ = [
    "COMPUTE",
    "DATA_TYPES",
    "OUT_OF_MEMORY",
    "Cublas",
    "CublasError",
    "Product",
    "load_library",
    "multiply",
    "product_of",
]

# numbers of cudaDataType_t and cublasComputeType_t
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE = {"float32": 68, "float64": 70, "tf32": 77}

_DEFAULT_ALGORITHM = -1
_NO_REDUCED_PRECISION_REDUCTION = 16  # of cublasMath_t: partial sums of half precision are added up in float32 too
_INT_MAX = 2**31 - 1

# What NVIDIA recommends for compute capability 9.0, the most of all. Given beforehand, cuBLAS allocates nothing itself,
# which it could not while a graph is recorded.
_WORKSPACE_BYTES = 32 << 20

OUT_OF_MEMORY = 3  # CUBLAS_STATUS_ALLOC_FAILED
_STATUS = {
    1: "not initialised",
    OUT_OF_MEMORY: "out of memory",
    7: "invalid value",
    8: "not supported by this device",
    11: "device memory cannot be reached",
    13: "execution failed",
    14: "internal error",
    15: "not supported",
    16: "licence error",
}


class CublasError(RuntimeError):
    """A call that cuBLAS has refused or failed in; ``status`` is its number for that, 0 for none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


# ---- what cuBLAS is told ---------------------------------------------------------------------------------------------


class Product(NamedTuple):
    """Arguments of cublasGemmStridedBatchedEx for ``out = a @ b``, in elements.

    Attributes
    ----------
    exchanged
        Whether the first factor is ``b``.
    transpose_first, transpose_second
        Whether a factor is the transpose of what lies in memory, column by column.
    m, n, k
        The result as cuBLAS sees it is m x n; k is the length of the sums.
    ld_first, ld_second, ld_out
        From one column to the next.
    step_first, step_second, step_out
        From one matrix of the batch to the next.
    batch
        How many matrices.
    """

    exchanged: bool
    transpose_first: bool
    transpose_second: bool
    m: int
    n: int
    k: int
    ld_first: int
    ld_second: int
    ld_out: int
    step_first: int
    step_second: int
    step_out: int
    batch: int


def _steps(array: Array) -> tuple[int, ...] | None:
    """Strides in elements; None if they are no whole numbers of elements."""
    size = array.dtype.itemsize
    if any(stride % size for stride in array.strides):
        return None
    return tuple(stride // size for stride in array.strides)


def _order(array: Array) -> tuple[bool, int] | None:
    """Whether the columns of a matrix (the last two axes) are what lies together, and the step between them.

    False and the step between rows if the rows lie together; None if neither do, or if some overlap.
    """
    steps = _steps(array)
    if steps is None:
        return None
    (rows, columns), (down, right) = array.shape[-2:], steps[-2:]
    # the stride of an axis of one element says nothing
    if (right == 1 or columns == 1) and (rows == 1 or down >= columns):
        return False, down if rows > 1 else columns
    if (down == 1 or rows == 1) and (columns == 1 or right >= rows):
        return True, right if columns > 1 else rows
    return None


def _step(array: Array) -> int:
    steps = _steps(array)
    assert steps is not None
    return steps[0] if len(steps) == 3 and array.shape[0] > 1 else 0


def product_of(a: Array, b: Array, out: Array) -> Product:
    """How to ask cuBLAS for ``out = a @ b``.

    Parameters
    ----------
    a, b, out
        Matrices (M, K), (K, N), (M, N), not empty, or all with a leading axis of the same length. Only shapes and
        strides are looked at.

    Raises
    ------
    ValueError
        A matrix has unit stride along neither axis, or overlaps itself.
    """
    orders = []
    for name, array in (("a", a), ("b", b), ("out", out)):
        order = _order(array)
        if order is None:
            raise ValueError(f"{name}: cuBLAS cannot take strides {array.strides} of shape {array.shape}")
        orders.append(order)
    (a_turned, ld_a), (b_turned, ld_b), (out_turned, ld_out) = orders
    (rows, length), columns = a.shape[-2:], b.shape[-1]
    batch = out.shape[0] if len(out.shape) == 3 else 1
    if out_turned:
        return Product(
            False, not a_turned, not b_turned, rows, columns, length,
            ld_a, ld_b, ld_out, _step(a), _step(b), _step(out), batch,
        )  # fmt: skip
    return Product(
        True, b_turned, a_turned, columns, rows, length, ld_b, ld_a, ld_out, _step(b), _step(a), _step(out), batch
    )


def _check(a: Array, b: Array, out: Array | None) -> tuple[int, ...]:
    """The shape of the product; ValueError if the shapes do not fit."""
    shape = (*a.shape[:-1], b.shape[-1])
    if len(a.shape) not in (2, 3) or len(b.shape) != len(a.shape) or a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"b: expected a matrix, or as many matrices as in a {a.shape}, got shape {b.shape}")
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"b: expected {a.shape[-1]} rows, the columns of a {a.shape}, got shape {b.shape}")
    if out is not None and tuple(out.shape) != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if a.dtype != b.dtype:
        raise TypeError(f"b: expected {a.dtype} like a, got {b.dtype}")
    return shape


def multiply(backend: GpuBackend, a: Array, b: Array, out: Array | None = None, accumulate: bool = False) -> Array:
    """``a @ b`` of matrices, or of as many matrices (B, M, K) as (B, K, N); to be called inside ``backend.running()``.

    Half precision is added up in float32 and rounded once; how float32 is multiplied, `get_matmul_precision` says.

    Parameters
    ----------
    a, b
        Copied only if they have unit stride along neither of the last two axes.
    out
        Where the product goes: of the dtype of a, or float32 if that is half precision; with unit stride along one of
        the last two axes. A new array if None.
    accumulate
        Whether the product is added to ``out``.

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes that do not fit, an ``out`` that cannot be written.
    """
    shape = _check(a, b, out)
    dtype = backend.dtype_name(a)
    if out is None:
        if accumulate:
            raise ValueError("out: accumulate needs an array to add to, got None")
        out = backend.empty(shape, a.dtype)
    elif out.dtype not in (a.dtype, backend.accumulator(a)):
        raise TypeError(f"out: expected {a.dtype} or what it is added up in, got {out.dtype}")
    if 0 in shape:
        return out
    if not a.shape[-1]:  # sums of nothing
        if not accumulate:
            out[...] = 0
        return out
    if backend.blas is None:
        return _by_matmul(backend, a, b, out, accumulate)
    a, b = (array if _order(array) else backend.contiguous(array) for array in (a, b))
    product = product_of(a, b, out)
    compute = "float64" if dtype == "float64" else "float32"
    if dtype == "float32" and get_matmul_precision() == "tf32":
        compute = "tf32"
    factors = (b, a) if product.exchanged else (a, b)
    types = (dtype, backend.dtype_name(out))
    backend.blas.multiply(product, *factors, out, types, compute, 1.0, 1.0 if accumulate else 0.0)
    return out


def _by_matmul(backend: GpuBackend, a: Array, b: Array, out: Array, accumulate: bool) -> Array:
    """The same by the array library, where cuBLAS cannot be called directly; not for graphs, and float32 throughout."""
    wide = backend.accumulator(a)
    result = backend.xp.matmul(backend.astype(a, wide), backend.astype(b, wide))
    out[...] = backend.astype(backend.astype(out, wide) + result if accumulate else result, out.dtype)
    return out


# ---- the library -----------------------------------------------------------------------------------------------------


def _paths(major: int) -> Iterator[str]:
    """Where libcublas of that CUDA version may be: NVIDIA's wheels, then wherever the system looks."""
    name = f"libcublas.so.{major}"
    spec = importlib.util.find_spec("nvidia")
    for root in () if spec is None else spec.submodule_search_locations or ():
        for folder in (f"cu{major}", "cublas"):
            path = Path(root, folder, "lib", name)
            if path.exists():
                yield str(path)
    yield name


def load_library(major: int) -> ctypes.CDLL:
    """Load cuBLAS of a CUDA version, the one that CuPy uses.

    Raises
    ------
    OSError
        It cannot be loaded; the message says where it was looked for and what to install.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # which CuPy 14 brings

        path = load_nvidia_dynamic_lib("cublas").abs_path
        if path and f".so.{major}" in path:
            return ctypes.CDLL(path)
    except (ImportError, RuntimeError):  # not there, or it has found nothing
        pass
    problems = []
    for path in _paths(major):
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            problems.append(str(error))
    wheel = "nvidia-cublas" if major >= 13 else f"nvidia-cublas-cu{major}"
    raise OSError(f"cuBLAS of CUDA {major} cannot be loaded: {'; '.join(problems)}; pip install {wheel} brings it")


class _Handle:
    """A handle of cuBLAS, and its workspaces by stream."""

    def __init__(self) -> None:
        self.pointer = ctypes.c_void_p()
        self.stream: int | None = None
        self.workspaces: dict[int, Any] = {}


class Cublas:
    """cuBLAS on one device.

    Each thread has a handle of its own, as a handle is one stream's at a time; it is made at the first product of the
    thread and given to another thread when this one ends.

    Parameters
    ----------
    library
        libcublas, as `load_library` gives it.
    current_stream
        Gives the current stream of the thread, as a number.
    allocate
        ``allocate(bytes)`` gives memory of the device with its address in ``.ptr``.
    """

    def __init__(self, library: Any, current_stream: Callable[[], int], allocate: Callable[[int], Any]) -> None:
        self._library = library
        self._current_stream, self._allocate = current_stream, allocate
        self._local = threading.local()
        self._idle: list[_Handle] = []
        pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
        library.cublasSetStream_v2.argtypes = [pointer, pointer]
        library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        library.cublasSetMathMode.argtypes = [pointer, integer]
        self._functions = {}
        for suffix, size in (("", integer), ("_64", long)):
            one = getattr(library, f"cublasGemmEx{suffix}", None)
            many = getattr(library, f"cublasGemmStridedBatchedEx{suffix}", None)
            if one is None or many is None:  # CUDA 11 has no _64
                continue
            matrix = [pointer, integer, size]
            head = [pointer, integer, integer, size, size, size, pointer]
            one.argtypes = [*head, *matrix, *matrix, pointer, *matrix, integer, integer]
            matrix = [*matrix, long]
            many.argtypes = [*head, *matrix, *matrix, pointer, *matrix, size, integer, integer]
            self._functions[suffix] = (one, many)

    def multiply(
        self,
        product: Product,
        first: Array,
        second: Array,
        out: Array,
        types: tuple[str, str],
        compute: str,
        alpha: float,
        beta: float,
    ) -> None:
        """``out = alpha * first @ second + beta * out``, started on the current stream.

        Parameters
        ----------
        product
            From `product_of`.
        first, second, out
            In cuBLAS's order; only their addresses are looked at.
        types
            Names of the dtypes of the factors and of ``out``.
        compute
            A key of `COMPUTE`.
        """
        p = product
        suffix = "_64" if max(p.m, p.n, p.k, p.ld_first, p.ld_second, p.ld_out, p.batch) > _INT_MAX else ""
        if suffix not in self._functions:
            raise CublasError(f"a product of {p.m} x {p.k} by {p.k} x {p.n} needs cuBLAS of CUDA 12 or newer")
        one, many = self._functions[suffix]
        factor, result = DATA_TYPES[types[0]], DATA_TYPES[types[1]]
        number = ctypes.c_double if compute == "float64" else ctypes.c_float
        weight, share = number(alpha), number(beta)
        head = (
            self._handle(), int(p.transpose_first), int(p.transpose_second), p.m, p.n, p.k, ctypes.addressof(weight),
        )  # fmt: skip
        a = (first.data.ptr, factor, p.ld_first)
        b = (second.data.ptr, factor, p.ld_second)
        c = (out.data.ptr, result, p.ld_out)
        how = (COMPUTE[compute], _DEFAULT_ALGORITHM)
        if p.batch == 1:
            status = one(*head, *a, *b, ctypes.addressof(share), *c, *how)
        else:
            steps = (p.step_first, p.step_second, p.step_out)
            status = many(
                *head, *a, steps[0], *b, steps[1], ctypes.addressof(share), *c, steps[2], p.batch, *how
            )  # fmt: skip
        _check_status(status, f"a product of {p.m} x {p.k} by {p.k} x {p.n} in {types[0]}")

    def take_workspace(self) -> Any:
        """The workspace of the current stream, if there is one; from now on it is the caller's, a recorded graph."""
        lease = getattr(self._local, "handle", None)
        if lease is None:
            return None
        lease.held.stream = None  # the next product looks for one anew
        return lease.held.workspaces.pop(self._current_stream(), None)

    def _handle(self) -> ctypes.c_void_p:
        """The handle of this thread, set to the current stream and a workspace that no other stream uses."""
        lease = getattr(self._local, "handle", None)
        if lease is None:
            lease = self._local.handle = _Lease(self._idle, self._make)
        handle, library, stream = lease.held, self._library, self._current_stream()
        if stream != handle.stream:
            handle.stream = None  # until all of it is done
            _check_status(library.cublasSetStream_v2(handle.pointer, stream), "the choice of a stream")
            workspace = handle.workspaces.get(stream)
            if workspace is None:
                workspace = handle.workspaces[stream] = self._allocate(_WORKSPACE_BYTES)
            # after the stream, which sets it back
            status = library.cublasSetWorkspace_v2(handle.pointer, workspace.ptr, _WORKSPACE_BYTES)
            _check_status(status, "the choice of a workspace")
            handle.stream = stream
        return handle.pointer

    def _make(self) -> _Handle:
        handle = _Handle()
        _check_status(self._library.cublasCreate_v2(ctypes.byref(handle.pointer)), "the start of the library")
        status = self._library.cublasSetMathMode(handle.pointer, _NO_REDUCED_PRECISION_REDUCTION)
        _check_status(status, "the choice of precision")
        return handle


class _Lease:
    """A handle in the hands of one thread: an idle one, or a new one; idle again when the thread ends."""

    def __init__(self, idle: list[_Handle], make: Callable[[], _Handle]) -> None:
        self._idle = idle
        try:
            self.held = idle.pop()
        except IndexError:
            self.held = make()

    def __del__(self) -> None:
        if hasattr(self, "held"):
            self._idle.append(self.held)


def _check_status(status: int, what: str) -> None:
    if status:
        text = f"cuBLAS: {what} failed: {_STATUS.get(status, 'unknown error')} (status {status})"
        raise CublasError(text, status)
