# Memory that is used again.

from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "arena.h" nogil:
    void *xpc_arena_take(size_t)
    void xpc_arena_give(void *)
    size_t xpc_arena_trim()
    void xpc_arena_sizes(size_t *, size_t *)


cdef class Block:
    """``size`` uninitialised bytes, aligned to 64, through the buffer protocol; given back when nobody sees them any more.

    Raises
    ------
    MemoryError
        The system has no more.
    """

    cdef void *data
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        if size < 0:
            raise ValueError(f"size: expected at least 0 bytes, got {size}")
        self.data = xpc_arena_take(size)
        if self.data == NULL:
            raise MemoryError(f"no {size} bytes for a result")
        self.size = size

    def __dealloc__(self):
        xpc_arena_give(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)


def trim_memory():
    """Hand the memory that is kept for later to the system; returns how many bytes."""
    return xpc_arena_trim()


def memory_sizes():
    """Bytes of `Block` objects and working memory in use, and bytes kept for later."""
    cdef size_t used = 0, kept = 0
    xpc_arena_sizes(&used, &kept)
    return used, kept
