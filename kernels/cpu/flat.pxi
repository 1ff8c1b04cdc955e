# Arrays of any number of axes as plain runs of numbers, through the buffer protocol: typed memoryviews of fused types
# take microseconds to find theirs, and a step of an optimizer brings hundreds of arrays.

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free


cdef class _Runs:
    """Contiguous arrays held in place: their memory, and that all are float32 or all float64."""

    cdef Py_buffer *views
    cdef Py_ssize_t room, taken
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

    cdef void *take(self, object array, bint written, Py_ssize_t count) except? NULL:
        """The memory of ``array``, which has ``count`` elements, or any number if that is below 0."""
        if self.taken == self.room:
            raise ValueError("more arrays than there is room for")
        cdef Py_buffer *view = &self.views[self.taken]
        PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if written else 0))
        self.taken += 1
        cdef bint is_double = view.format[0] == b"d"
        if not is_double and view.format[0] != b"f" or view.format[1] != 0:
            raise ValueError(f"expected float32 or float64, got format {view.format.decode()!r}")
        if self.taken == 1:
            self.is_double = is_double
        elif is_double != self.is_double:
            raise ValueError("arrays of two types")
        if count >= 0 and view.len != count * view.itemsize:
            raise ValueError(f"an array has {view.len // view.itemsize} elements, expected {count}")
        if <size_t> view.buf % <size_t> view.itemsize:
            raise ValueError("array is not aligned")
        return view.buf

    cdef Py_ssize_t count(self):
        """Elements of the array that was taken last."""
        cdef Py_buffer *view = &self.views[self.taken - 1]
        return view.len // view.itemsize
