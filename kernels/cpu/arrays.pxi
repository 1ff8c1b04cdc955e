# From Python's arrays to C: their memory, by the buffer protocol, and checks that no size overflows. Typed memoryviews
# would do it too, in ten times as much machine code, and take microseconds to find theirs among fused types.

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
)
from libc.stdlib cimport calloc, free

cdef extern from "geometry.h":
    ctypedef struct xpc_array4:
        char *data
        Py_ssize_t shape[4]
        Py_ssize_t strides[4]
    ctypedef struct xpc_array6:
        char *data
        Py_ssize_t shape[6]
        Py_ssize_t strides[6]
    ctypedef struct xpc_axis:
        Py_ssize_t kernel, stride, pad, dilation
    ctypedef struct xpc_range:
        Py_ssize_t begin, end

cdef enum:
    READ
    WRITTEN


cdef int _check_aligned(str name, const Py_buffer *view) except -1:
    cdef Py_ssize_t bits = <Py_ssize_t> view.buf
    for axis in range(view.ndim):
        if view.shape[axis] == 0:
            return 0
        if view.shape[axis] > 1:  # the stride of a single entry may be anything
            bits |= view.strides[axis]
    if bits & (min(view.itemsize, <Py_ssize_t> sizeof(void *)) - 1):
        raise ValueError(f"{name}: array is not aligned")
    return 0


cdef char _letter(const Py_buffer *view) noexcept:
    """The letter of the elements' type, as in the module struct; 0 if it is more than one letter, or of foreign order."""
    cdef const char *format = view.format
    if format == NULL:
        return c"B"
    if format[0] == c"=":  # what NumPy says of unaligned arrays
        format += 1
    return format[0] if format[1] == 0 else 0


cdef str _format(const Py_buffer *view):
    return "B" if view.format == NULL else view.format.decode()


cdef bint _is_integer(const Py_buffer *view, Py_ssize_t itemsize) noexcept:
    """Whether the elements are signed integers of ``itemsize`` bytes: which C types those are depends on the system."""
    cdef char letter = _letter(view)
    return view.itemsize == itemsize and (letter == c"i" or letter == c"l" or letter == c"q")


@cython.final
cdef class _Arrays:
    """The arrays of one call, held in place until it is over: their memory, and that all are float32 or all float64."""

    cdef Py_buffer *views
    cdef Py_ssize_t room, taken
    cdef Py_ssize_t itemsize  # of the numbers; 0 before the first
    cdef bint is_double

    def __cinit__(self, Py_ssize_t room):
        self.views = <Py_buffer *> calloc(max(room, 1), sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError()
        self.room = room

    def __dealloc__(self):
        for k in range(self.taken):
            PyBuffer_Release(&self.views[k])
        free(self.views)

    cdef const Py_buffer *hold(self, str name, object array, int ndim, bint written) except NULL:
        """The memory of ``array``, which has ``ndim`` axes, or any number if that is below 0."""
        if self.taken == self.room:
            raise ValueError("more arrays than there is room for")
        if not PyObject_CheckBuffer(array):
            raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
        cdef Py_buffer *view = &self.views[self.taken]
        PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES)
        self.taken += 1
        if written and view.readonly:
            raise ValueError(f"{name}: array is read-only")
        if ndim >= 0 and view.ndim != ndim:
            raise ValueError(f"{name}: expected {ndim} axes, got {view.ndim}")
        return view

    cdef const Py_buffer *numbers(self, str name, object array, int ndim, bint written) except NULL:
        """Floating-point numbers, of the type of those before them."""
        cdef const Py_buffer *view = self.hold(name, array, ndim, written)
        cdef char letter = _letter(view)
        if letter != c"f" and letter != c"d":
            raise ValueError(f"{name}: expected float32 or float64, got format {_format(view)!r}")
        if self.itemsize == 0:
            self.itemsize, self.is_double = view.itemsize, letter == c"d"
        elif self.itemsize != view.itemsize:
            raise ValueError(f"arrays of two types: {name} has {view.itemsize} bytes a number, others {self.itemsize}")
        _check_aligned(name, view)
        return view

    cdef const Py_buffer *block(self, str name, object array, int ndim, bint written) except NULL:
        """Numbers in C order, without gaps."""
        cdef const Py_buffer *view = self.numbers(name, array, ndim, written)
        if not PyBuffer_IsContiguous(<Py_buffer *> view, c"C"):
            raise ValueError(f"{name}: array is not C-contiguous")
        return view

    cdef void *run(self, str name, object array, bint written, Py_ssize_t count) except? NULL:
        """A `block` of ``count`` numbers, or any number of them if that is below 0, on whatever axes."""
        cdef const Py_buffer *view = self.block(name, array, -1, written)
        if count >= 0 and view.len != count * view.itemsize:
            raise ValueError(f"{name}: has {view.len // view.itemsize} elements, expected {count}")
        return view.buf

    cdef void *optional(self, str name, object array, bint written, Py_ssize_t count) except? NULL:
        """`run`, or NULL for None."""
        return NULL if array is None else self.run(name, array, written, count)

    cdef Py_ssize_t count(self) noexcept:
        """Elements of the array that was taken last."""
        cdef Py_buffer *view = &self.views[self.taken - 1]
        return view.len // view.itemsize


cdef xpc_array4 _array4(const Py_buffer *view) noexcept:
    cdef xpc_array4 array
    array.data = <char *> view.buf
    for axis in range(4):
        array.shape[axis], array.strides[axis] = view.shape[axis], view.strides[axis]
    return array


cdef xpc_array6 _array6(const Py_buffer *view) noexcept:
    cdef xpc_array6 array
    array.data = <char *> view.buf
    for axis in range(6):
        array.shape[axis], array.strides[axis] = view.shape[axis], view.strides[axis]
    return array


# A quarter of the range of Py_ssize_t: sums of two such numbers cannot overflow.
cdef double _LIMIT = <double> (<size_t> -1) / 8


cdef int _check_positive_product(double product) except -1:
    if product > _LIMIT:
        raise ValueError("sizes exceed the address space")
    return 0


cdef xpc_axis _axis(
    Py_ssize_t kernel, Py_ssize_t out, Py_ssize_t stride, Py_ssize_t pad, Py_ssize_t dilation
) except *:
    cdef xpc_axis axis
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride and dilation must be at least 1, got {stride} and {dilation}")
    cdef double beyond = pad  # -pad may overflow as an integer
    _check_positive_product(<double> out * stride + <double> kernel * dilation + (beyond if pad > 0 else -beyond))
    axis.kernel, axis.stride, axis.pad, axis.dilation = kernel, stride, pad, dilation
    return axis

cdef int _check_images(const xpc_array4 *images) except -1:
    # an axis of length 0 counts as 1: products of the others must not overflow either
    cdef double entries = 1
    for axis in range(4):
        entries *= max(images.shape[axis], 1)
    return _check_positive_product(entries)
