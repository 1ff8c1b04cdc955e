# Dropout.

cdef extern from "dropout.h" nogil:
    ctypedef struct xpc_dropout_key:
        uint64_t seed
        uint32_t layer, step
        uint64_t block
    void xpc_dropout_f32(const float *, float *, float *, Py_ssize_t, xpc_dropout_key, uint64_t, double)
    void xpc_dropout_f64(const double *, double *, double *, Py_ssize_t, xpc_dropout_key, uint64_t, double)


def dropout(x, y, mask, uint64_t seed, uint32_t layer, uint32_t step, uint64_t block, uint64_t threshold,
            double kept, /):
    """Fill ``mask`` with 0 where the random word of the element is below ``threshold``, with ``kept`` elsewhere.

    The first element is that of block ``block``, four elements each, of the array of which this is a part.
    Write ``x * mask`` to ``y``, unless they are None. All are contiguous, of one size and dtype.
    """
    cdef xpc_dropout_key key
    cdef _Arrays arrays = _Arrays(3)
    cdef void *factors = arrays.run("mask", mask, WRITTEN, -1)
    cdef Py_ssize_t count = arrays.count()
    cdef const void *source = NULL
    cdef void *target = NULL
    if x is not None:
        source, target = arrays.run("x", x, READ, count), arrays.run("y", y, WRITTEN, count)
    key.seed, key.layer, key.step, key.block = seed, layer, step, block
    with nogil:
        if arrays.is_double:
            xpc_dropout_f64(
                <const double *> source, <double *> target, <double *> factors, count, key, threshold, kept)
        else:
            xpc_dropout_f32(<const float *> source, <float *> target, <float *> factors, count, key, threshold, kept)
