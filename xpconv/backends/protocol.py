"""What a backend must give, and the defaults that hold for every array-API library."""

from __future__ import annotations

from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .dispatch import Engine

__all__ = ["FLOATING", "NO_CONTEXT", "Array", "Backend", "CaptureError", "HostRandom", "Shortage"]

Array = Any  # an array of whichever library the backend wraps

NO_CONTEXT = nullcontext()  # of backends whose operators run anywhere
_HALF = ("float16", "bfloat16")
FLOATING = (*_HALF, "float32", "float64")
_INTEGER = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPE_NAMES = frozenset((*FLOATING, *_INTEGER, "bool", "complex64", "complex128"))


class CaptureError(RuntimeError):
    """Work that cannot be recorded by `Backend.capture`; the message says what is in the way."""


class HostRandom:
    """Random arrays drawn on the host, so that one seed gives the same numbers on every backend.

    Parameters
    ----------
    backend
        Where the arrays go.
    seed
        Anything `numpy.random.default_rng` takes; a Generator is used as it is.
    """

    def __init__(self, backend: Backend, seed: int | np.random.Generator | None) -> None:
        self.backend = backend
        self.generator = np.random.default_rng(seed)

    def normal(self, shape: Sequence[int], *, scale: float = 1.0, dtype: str = "float32") -> Array:
        """Normal deviates of mean 0 and standard deviation ``scale``; drawn in float64, then rounded."""
        return self.backend.asarray(self.generator.normal(0.0, scale, tuple(shape)), dtype=dtype)

    def uniform(self, low: float, high: float, shape: Sequence[int], *, dtype: str = "float32") -> Array:
        """Uniform deviates of [low, high); drawn in float64, then rounded."""
        return self.backend.asarray(self.generator.uniform(low, high, tuple(shape)), dtype=dtype)


class Shortage(NamedTuple):
    """What an error says about memory that was lacking; numbers in bytes, None if they are not known.

    Attributes
    ----------
    reason
        The library's own words.
    asked
        How much was asked for.
    free, total
        Of the device, at that time.
    """

    reason: str
    asked: int | None = None
    free: int | None = None
    total: int | None = None


class Backend:
    """One array library on one device.

    A subclass must set `name` and `xp` and define `owns`, `asarray`, `to_numpy`. What is defined here holds for
    any library that follows the array API standard; override what the library does better.

    Attributes
    ----------
    name
        ``"numpy"``, ``"cupy:1"``: the registry's name, with the device where there are several.
    xp
        The library's namespace; follows the array API standard.
    device
        What ``xp.zeros(..., device=)`` takes; None for the library's default.
    word_dtype
        An integer dtype of at least 32 bits with wrap-around multiplication and shifts, for counter-based random
        numbers.
    engines
        Native kernels, best first: operator name -> engines. See `xpconv.backends.serving`.
    on_host
        True where reading a value costs no synchronisation, so that values (labels, say) can be checked in a call.
    """

    name: str
    xp: ModuleType | Any
    device: Any = None
    on_host: bool = True
    engines: Mapping[str, Sequence[Engine]] = {}

    def __init__(self) -> None:
        self.word_dtype = self.xp.uint32
        self._dtype_names: dict[Any, str] = {}

    def __repr__(self) -> str:
        return f"<xpconv backend {self.name}>"

    # ---- what every subclass defines ------------------------------------------------------------------------

    def owns(self, array: object) -> bool:
        """Whether ``array`` is an array of this library (on any device).

        Parameters
        ----------
        array
            Any object.

        Returns
        -------
        bool
            Never an error, whatever the object is.
        """
        raise NotImplementedError

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        """``obj`` (an array of this library or of NumPy, a sequence, a scalar) as an array on this device.

        Parameters
        ----------
        obj : array of any shape, sequence or number
            What is not moved if it is there already.
        dtype
            A name or a dtype of the library; None keeps that of an array and takes NumPy's of anything else.

        Returns
        -------
        array
            Of the shape of obj.

        Raises
        ------
        TypeError
            The library does not have the dtype.
        """
        raise NotImplementedError

    def to_numpy(self, array: Array) -> np.ndarray:
        """The values on the host; a view where memory is shared, so not to be written.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        numpy.ndarray
            Of the same shape. What NumPy has no dtype for (bfloat16) is widened.

        Raises
        ------
        Exception
            What the library raises when it cannot copy from the device.
        """
        raise NotImplementedError

    # ---- defaults -------------------------------------------------------------------------------------------

    def mark(self) -> Callable[[Array], np.ndarray]:
        """Mark how far the work is that was started.

        Returns
        -------
        callable
            `to_numpy` for arrays of any shape that were computed up to here: where the device can, it does not wait for
            later work.
        """
        return self.to_numpy

    def for_array(self, array: Array) -> Backend:
        """The backend of the device that ``array`` is on; itself for a library with one device.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        Backend
            Of the same family.

        Raises
        ------
        TypeError
            The array lies where no one backend can be: sharded over several devices.
        """
        return self

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""

    def rng(self, seed: int | np.random.Generator | None = None) -> HostRandom:
        """A source of random arrays; drawn on the host so that all backends agree.

        Parameters
        ----------
        seed
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        HostRandom
            Its arrays are born on this device.
        """
        return HostRandom(self, seed)

    def capture(self, function: Callable[[], Any]) -> Any | None:
        """Record what ``function`` does on the device, so that it can be done again without calling it.

        Recording does nothing on the device, while what ``function`` does besides happens once. It must neither read
        a value of the device nor bring one there, and everything that it needs (kernels, states) must have been made
        by an ordinary call before. What the recording works on must stay where it is in memory.

        Parameters
        ----------
        function
            Called once, without arguments.

        Returns
        -------
        object
            Its ``replay()`` does the work, in the order of the current stream and without waiting; its ``result`` is
            what ``function`` has returned, whose arrays have their values after a replay. None where the library
            cannot record.

        Raises
        ------
        CaptureError
            ``function`` cannot be recorded, or has raised an error.
        """
        return None

    def gemm(self, a: Array, b: Array) -> Array:
        """Matrix product of two arrays of two dimensions.

        Parameters
        ----------
        a : array (M, K)
            Of any strides.
        b : array (K, N)
            Of the dtype of a.

        Returns
        -------
        array (M, N)
            Of that dtype; half precision is summed in float32.

        Raises
        ------
        Exception
            What the library raises for shapes or dtypes that do not match; callers have checked them.
        """
        return self.xp.matmul(a, b)

    def prepare(self, array: Array) -> Array:
        """``array`` in a form that every operator can read: aligned, in native byte order, of no subclass.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        array
            Of the same shape and values; the array itself where it is in order.

        Raises
        ------
        TypeError
            An array that no operator can read, such as one with masked values.
        """
        return array

    def running(self) -> AbstractContextManager[Any]:
        """What operators run inside of: for libraries where each thread has a current device, this one."""
        return NO_CONTEXT

    def out_of_memory(self, error: Exception) -> Shortage | None:
        """What ``error`` says if it says that memory ran out; None for any other error.

        Parameters
        ----------
        error
            What an operator has raised.

        Returns
        -------
        Shortage or None
            What is known of the shortage.
        """
        return Shortage(str(error)) if isinstance(error, MemoryError) else None

    def free_memory(self) -> bool:
        """Give back memory that the library keeps for later use; returns whether there may be more free now."""
        return False

    def free_bytes(self) -> int | None:
        """How much memory new arrays may take on the device; None where that is not known."""
        return None

    def prefetch(self, arrays: Sequence[np.ndarray]) -> Callable[[], tuple[Array, ...]]:
        """Start to move host arrays, which must not change, to this device; call the result where they are needed.

        On a device that can do so they are copied while it computes.

        Parameters
        ----------
        arrays
            NumPy arrays of any shape.

        Returns
        -------
        callable
            Without arguments; gives arrays of the same shapes on this device.

        Raises
        ------
        DeviceMemoryError
            The memory of the device does not hold them.
        """
        return lambda: tuple(self.asarray(array) for array in arrays)

    def describe(self) -> str:
        """One line for `xpconv.show_config`: library, version, device."""
        return f"{self.xp.__name__} {getattr(self.xp, '__version__', '')}".rstrip()

    def can_read(self, array: Array) -> bool:
        """Whether reading the values in a call costs nothing: on the host, and not an array that is traced.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        bool
            False for arrays that are traced or far away.

        Raises
        ------
        TypeError
            As `for_array`.
        """
        return self.on_host

    # ---- dtypes ---------------------------------------------------------------------------------------------

    def dtype_name(self, array: Array) -> str:
        """``"float32"`` and so on, whatever the library calls it.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        str
            NumPy's name of the dtype, and ``"bfloat16"``.

        Raises
        ------
        AttributeError
            Not an array: it has no dtype.
        """
        dtype = array.dtype
        name = self._dtype_names.get(dtype)
        if name is None:
            name = getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
            self._dtype_names[dtype] = name
        return name

    def dtype(self, name: Any) -> Any:
        """The library's dtype object of a name such as ``"float32"`` or of a NumPy dtype; its own pass through.

        Parameters
        ----------
        name
            ``"float32"``, a dtype of NumPy, or one of the library.

        Returns
        -------
        dtype
            The library's.

        Raises
        ------
        TypeError
            The library has no such dtype.
        """
        if isinstance(name, (np.dtype, type)):  # NumPy's dtypes and scalar types, Python's float and int
            name = np.dtype(name).name
        if not isinstance(name, str):
            return name
        dtype = getattr(self.xp, name, None) if name in _DTYPE_NAMES else None
        if dtype is None:
            raise TypeError(f"dtype: {self.name} has no {name!r}")
        return dtype

    def is_floating(self, array: Array) -> bool:
        """Whether the dtype is a real floating-point one.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        bool
            False for complex numbers.

        Raises
        ------
        AttributeError
            Not an array: it has no dtype.
        """
        return self.dtype_name(array) in FLOATING

    def accumulator(self, array: Array) -> Any:
        """The dtype to add up values of ``array`` in: float32 for float16 and bfloat16, else its own.

        Parameters
        ----------
        array : array of any shape
            Of this library.

        Returns
        -------
        dtype
            The library's.

        Raises
        ------
        AttributeError
            Not an array: it has no dtype.
        """
        return self.dtype("float32") if self.dtype_name(array) in _HALF else array.dtype

    def keep(self, mask: Array, array: Array) -> Array:
        """``array`` where the boolean ``mask`` of its shape is true, else 0, also in place of NaN and infinities.

        Parameters
        ----------
        mask : boolean array of any shape
            True where values are kept.
        array : array of the same shape
            Floating-point.

        Returns
        -------
        array
            A new one of the same shape and dtype.

        Raises
        ------
        Exception
            What the library raises for shapes that do not match; callers have checked them.
        """
        return self.xp.where(mask, array, 0.0)

    # ---- what layers compute --------------------------------------------------------------------------------

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """``array`` in another shape: a view, or a copy where its strides do not allow one.

        Parameters
        ----------
        array : array of any shape
            Of this library.
        shape
            Lengths of the axes, with the same product.

        Returns
        -------
        array
            Of that shape, in C order.

        Raises
        ------
        Exception
            What the library raises where the products differ; callers have checked them.
        """
        return self.xp.reshape(array, shape)

    def add(self, a: Array, b: Array) -> Array:
        """Sum of two arrays of one shape and dtype, a new array.

        Parameters
        ----------
        a, b : array of any shape
            Of one shape and dtype.

        Returns
        -------
        array
            Of that shape and dtype.

        Raises
        ------
        Exception
            What the library raises for shapes that do not match; callers have checked them.
        """
        return a + b

    # ---- new arrays on this device --------------------------------------------------------------------------

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """Uninitialised array.

        Parameters
        ----------
        shape
            Lengths of the axes.
        dtype
            As for `dtype`.

        Returns
        -------
        array
            Of that shape, with any values.

        Raises
        ------
        TypeError
            The library has no such dtype.
        DeviceMemoryError
            The memory of the device does not hold it.
        """
        return self.xp.empty(tuple(shape), dtype=self.dtype(dtype), device=self.device)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        """Array of zeros.

        Parameters
        ----------
        shape
            Lengths of the axes.
        dtype
            As for `dtype`.

        Returns
        -------
        array
            Of that shape.

        Raises
        ------
        TypeError
            The library has no such dtype.
        DeviceMemoryError
            The memory of the device does not hold it.
        """
        return self.xp.zeros(tuple(shape), dtype=self.dtype(dtype), device=self.device)

    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        """Array filled with ``value``.

        Parameters
        ----------
        shape
            Lengths of the axes.
        value
            Of every element.
        dtype
            As for `dtype`.

        Returns
        -------
        array
            Of that shape.

        Raises
        ------
        TypeError
            The library has no such dtype.
        DeviceMemoryError
            The memory of the device does not hold it.
        """
        return self.xp.full(tuple(shape), value, dtype=self.dtype(dtype), device=self.device)

    def arange(self, stop: int, dtype: Any) -> Array:
        """``0 .. stop - 1``.

        Parameters
        ----------
        stop
            How many.
        dtype
            As for `dtype`.

        Returns
        -------
        array
            Of shape (stop,).

        Raises
        ------
        TypeError
            The library has no such dtype.
        """
        return self.xp.arange(stop, dtype=self.dtype(dtype), device=self.device)

    def astype(self, array: Array, dtype: Any) -> Array:
        """``array`` in another dtype; the same array where it has it already.

        Parameters
        ----------
        array : array of any shape
            Of this library.
        dtype
            As for `dtype`.

        Returns
        -------
        array
            Of the same shape.

        Raises
        ------
        TypeError
            The library has no such dtype.
        """
        dtype = self.dtype(dtype)
        return array if array.dtype == dtype else self.xp.astype(array, dtype)
