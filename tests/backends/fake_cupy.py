"""A stand-in for CuPy on a machine without a GPU: two devices of NumPy memory, as strict as CuPy is.

What makes an array works on the current device of the thread only, and takes arrays of that device only; views may be
made anywhere. CUDA kernels are compiled for the host. Memory runs out when a test says so.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from xpconv.testing.cuda_host import HostArray, HostModule, find_compiler

MIB = 2**20


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """As CuPy's."""

    def __init__(self, size, total, limit=0):
        super().__init__(size, total, limit)
        self._size, self._total = size, total

    def __str__(self):
        return f"Out of memory allocating {self._size:,} bytes (allocated so far: {self._total:,} bytes)."


class CompileException(Exception):
    """As CuPy's."""


class Machine:
    """What a test looks at and sets.

    Attributes
    ----------
    current
        The stack of current devices; the innermost is the last.
    streams
        For each device the stack of current streams.
    launches
        (kernel, device, stream) of every launch.
    held
        Bytes that the pool of each device keeps for nobody: while there are any, nothing can be allocated.
    full
        Devices without any memory left.
    capturing
        Whether the current stream is in a graph capture.
    """

    def __init__(self):
        self.current = [0]
        self.streams = {0: ["null"], 1: ["null"]}
        self.launches = []
        self.held = {0: 0, 1: 0}
        self.full = set()
        self.capturing = False

    def allocate(self, size):
        number = self.current[-1]
        if number in self.full or self.held[number]:
            raise OutOfMemoryError(size, 7)


machine = Machine()  # replaced by each test that starts the stand-in


class Device:
    """`cupy.cuda.Device`."""

    attributes = {"MultiProcessorCount": 2, "L2CacheSize": 1 << 20}  # noqa: RUF012

    def __init__(self, number):
        self.id = number

    def __enter__(self):
        machine.current.append(self.id)
        return self

    def __exit__(self, *exception):
        machine.current.pop()

    def __eq__(self, other):
        return self.id == other.id

    __hash__ = None

    def synchronize(self):
        pass


class Stream:
    """`cupy.cuda.Stream`: current for the device that is current when it is entered."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        machine.streams[machine.current[-1]].append(self.name)
        return self

    def __exit__(self, *exception):
        machine.streams[machine.current[-1]].pop()

    def is_capturing(self):
        return machine.capturing


class GPUArray(np.ndarray):
    """An array that knows its device."""

    number = None

    def __array_finalize__(self, parent):
        self.number = getattr(parent, "number", None)

    @property
    def device(self):
        return Device(self.number)

    @property
    def data(self):
        return SimpleNamespace(ptr=values(self).ctypes.data)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        plain = [values(a) for a in inputs]
        options.update({"out": tuple(values(a) for a in out)} if out else {})
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out else new(result)

    def __array_function__(self, function, types, arguments, options):
        given = list(arrays_in((arguments, list(options.values()))))
        result = function(*plain(arguments), **{name: plain(value) for name, value in options.items()})
        if isinstance(result, (tuple, list)):
            return type(result)(wrapped(item, given) for item in result)
        return wrapped(result, given)

    def __getitem__(self, key):
        return wrapped(self.view(np.ndarray)[plain(key)], [self, *arrays_in(key)])

    def __setitem__(self, key, value):
        values(self)[plain(key)] = values(value)


def arrays_in(value):
    if isinstance(value, GPUArray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)


def plain(value):
    """``value`` with NumPy arrays in place of those of a device, whichever it is."""
    if isinstance(value, GPUArray):
        return value.view(np.ndarray)
    return type(value)(map(plain, value)) if type(value) in (tuple, list) else value


def values(array):
    """The memory of ``array``, for work on the current device."""
    if isinstance(array, GPUArray):
        current = machine.current[-1]
        assert array.number == current, f"array of device {array.number}, current is {current}"
        return array.view(np.ndarray)
    return array


def wrapped(result, given):
    """A result on the device of the array that it is a view of, or a new one on the current device."""
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    for array in given:
        if isinstance(result, np.ndarray) and (not result.size or np.may_share_memory(result, array.view(np.ndarray))):
            view = result.view(GPUArray)
            view.number = array.number
            return view
    for array in given:
        values(array)
    return new(result)


def new(array):
    """``array``, of NumPy, as memory of the current device."""
    if not isinstance(array, (np.ndarray, np.generic)):
        return array
    machine.allocate(array.nbytes)
    array = np.asarray(array).view(GPUArray)
    array.number = machine.current[-1]
    return array


def asarray(obj, dtype=None, *, copy=None, device=None):
    if isinstance(obj, GPUArray) and not copy and dtype in (None, obj.dtype) and obj.number == machine.current[-1]:
        return obj
    return new(np.array(plain(obj), dtype=dtype))  # of another device too: CuPy copies between devices


def ascontiguousarray(array):
    return array if array.flags.c_contiguous else new(np.ascontiguousarray(values(array)))


class RawModule:
    """`cupy.RawModule`, compiled for the host."""

    log = None  # what the compiler says against the source

    def __init__(self, code, options, name_expressions):
        if find_compiler() is None:
            pytest.skip("no C++ compiler")
        defined = [option for option in options if option.startswith("-D")]
        self.module = HostModule(code, ("-DXPCONV_ON_HOST", *defined), name_expressions)

    def compile(self):
        if self.log is not None:
            raise CompileException(self.log)

    def get_function(self, name):
        def launch(grid, block, arguments):
            device = machine.current[-1]
            machine.launches.append((name, device, machine.streams[device][-1]))
            on_host = [values(a).view(HostArray) if isinstance(a, GPUArray) else a for a in arguments]
            self.module.get_function(name)(grid, block, on_host)

        return launch


def start(count=lambda: 2, *, driver=13000):
    """A fresh `machine`, the module in the role of cupy, and its namespace of the array API.

    Parameters
    ----------
    count
        Called to count the devices; may raise.
    driver
        What ``driverGetVersion`` says.
    """
    global machine
    machine = Machine()
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.0.0"
    cupy.ndarray = GPUArray
    cupy.RawModule = RawModule
    cupy.asarray, cupy.ascontiguousarray = asarray, ascontiguousarray
    cupy.asnumpy = lambda array: np.array(values(array))
    cupy.empty = lambda shape, dtype: new(np.empty(shape, dtype))

    def free_all_blocks():
        assert not machine.capturing, "memory was freed during a capture"
        machine.held[machine.current[-1]] = 0

    cupy.get_default_memory_pool = lambda: SimpleNamespace(
        free_all_blocks=free_all_blocks, free_bytes=lambda: machine.held[machine.current[-1]]
    )
    cupy.cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: Stream(machine.streams[machine.current[-1]][-1]),
        compiler=SimpleNamespace(CompileException=CompileException),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (CUDARuntimeError,), {})),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=count,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: 13020,
            memGetInfo=lambda: (100 * MIB - machine.held[machine.current[-1]], 200 * MIB),
            getDeviceProperties=lambda number: {"name": f"GPU {number}".encode()},
        ),
    )
    namespace = ModuleType("array_api_compat.cupy")
    namespace.__getattr__ = lambda name: getattr(np, name)
    namespace.asarray = asarray
    for name in ("empty", "zeros", "ones", "full", "arange"):  # they take a device and do not look at it
        make = getattr(np, name)
        setattr(namespace, name, lambda *a, make=make, device=None, **o: new(make(*a, **o)))
    return cupy, namespace
