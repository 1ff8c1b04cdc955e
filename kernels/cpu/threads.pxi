# How many threads the kernels use, and blocks in which Python has the threads, or the BLAS has only one.

cdef extern from "threads.h" nogil:
    void xpc_set_num_threads(int)
    int xpc_get_num_threads()
    int xpc_claim_pool()
    void xpc_release_pool()
    unsigned xpc_spread_helpers()
    int xpc_has_threads()

def set_num_threads(int number):
    """Let kernels use ``number`` threads; a serial build stays at one."""
    xpc_set_num_threads(number)


def spread_helpers():
    """How often a thread of the pool was kept off the processors of the others for its waking."""
    return xpc_spread_helpers()


def get_num_threads():
    """How many threads kernels use."""
    return xpc_get_num_threads()


# The two context managers below are extension types because a signal handler that raises (Ctrl-C) can interrupt Python
# between any two of its instructions, but not a compiled method: what is taken is always given back.

cdef class PoolClaim:
    """``with`` block in which kernels run alone in the threads that call them; yields False where the pool is in use."""

    cdef bint claimed

    def __enter__(self):
        self.claimed = xpc_claim_pool()
        return bool(self.claimed)

    def __exit__(self, *error):
        if self.claimed:
            self.claimed = False
            xpc_release_pool()


ctypedef int (*blas_getter)() noexcept
ctypedef void (*blas_setter)(int) noexcept

cdef blas_getter _get_blas_threads = NULL
cdef blas_setter _set_blas_threads = NULL
cdef int _blas_holders = 0  # blocks that need the BLAS at one thread now
cdef int _blas_before = 1  # its number of threads before the first of them


def use_blas(size_t getter, size_t setter):
    """Addresses of the BLAS's functions ``int get()`` and ``void set(int)`` for its number of threads."""
    global _get_blas_threads, _set_blas_threads
    _get_blas_threads, _set_blas_threads = <blas_getter> getter, <blas_setter> setter


def release_blas():
    """Forget all holders: a forked child has none of the threads that would let go."""
    global _blas_holders
    if _blas_holders:
        _blas_holders = 0
        _set_blas_threads(_blas_before)


cdef class BlasAtOneThread:
    """``with`` block that holds the BLAS at one thread, as long as any such block lasts; yields False if it cannot."""

    cdef bint held

    def __enter__(self):
        global _blas_holders, _blas_before
        self.held = _set_blas_threads != NULL
        if self.held:
            if _blas_holders == 0:
                _blas_before = _get_blas_threads()
                _set_blas_threads(1)
            _blas_holders += 1
        return bool(self.held)

    def __exit__(self, *error):
        global _blas_holders
        if self.held and _blas_holders:
            self.held = False
            _blas_holders -= 1
            if _blas_holders == 0:
                _set_blas_threads(_blas_before)


THREADED = bool(xpc_has_threads())  # whether this build has threads
