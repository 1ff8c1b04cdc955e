# Dropout masks.

cdef extern from "dropout.h" nogil:
    ctypedef struct xpc_dropout_key:
        uint64_t seed
        uint32_t layer, step
    void xpc_dropout_mask_f32(float *, Py_ssize_t, xpc_dropout_key, uint64_t, double)
    void xpc_dropout_mask_f64(double *, Py_ssize_t, xpc_dropout_key, uint64_t, double)

def dropout_mask(real[::1] mask, uint64_t seed, uint32_t layer, uint32_t step, uint64_t threshold, double kept):
    """Fill ``mask`` with 0 where the random word of the element is below ``threshold``, with ``kept`` elsewhere."""
    cdef xpc_dropout_key key
    _check_aligned(<const void *> &mask[0], mask.shape, mask.strides, 1, sizeof(real))
    key.seed, key.layer, key.step = seed, layer, step
    cdef Py_ssize_t count = mask.shape[0]
    with nogil:
        if real is float:
            xpc_dropout_mask_f32(<float *> &mask[0], count, key, threshold, kept)
        else:
            xpc_dropout_mask_f64(<double *> &mask[0], count, key, threshold, kept)
