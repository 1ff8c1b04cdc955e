# Losses.

cdef extern from "loss.h" nogil:
    double xpc_softmax_cross_entropy_f32(
        const float *, const int64_t *, float *, Py_ssize_t, Py_ssize_t, double, double *)
    double xpc_softmax_cross_entropy_f64(
        const double *, const int64_t *, double *, Py_ssize_t, Py_ssize_t, double, double *)


def softmax_cross_entropy(scores, labels, dscores, double smoothing, /):
    """Mean loss of ``scores`` (N, K), N and K above 0; writes the gradient to ``dscores``. All are contiguous.

    ``labels`` (N,) are of int64.
    """
    cdef _Arrays arrays = _Arrays(3)
    cdef void *gradient = arrays.run("dscores", dscores, WRITTEN, -1)
    cdef Py_ssize_t count = arrays.count()
    cdef const void *source = arrays.run("scores", scores, READ, count)
    cdef const Py_buffer *indices = arrays.hold("labels", labels, 1, READ)
    cdef Py_ssize_t rows = indices.shape[0]
    if not _is_integer(indices, 8) or not PyBuffer_IsContiguous(<Py_buffer *> indices, c"C"):
        raise ValueError(f"labels: expected contiguous int64, got format {_format(indices)!r}")
    _check_aligned("labels", indices)
    if rows == 0 or count == 0 or count % rows:
        raise ValueError(f"{rows} labels do not belong to {count} scores")
    cdef double *losses = <double *> xpc_arena_take(rows * sizeof(double))
    if losses == NULL:
        raise MemoryError()
    cdef double loss
    cdef const int64_t *right = <const int64_t *> indices.buf
    with nogil:
        if arrays.is_double:
            loss = xpc_softmax_cross_entropy_f64(
                <const double *> source, right, <double *> gradient, rows, count // rows, smoothing, losses)
        else:
            loss = xpc_softmax_cross_entropy_f32(
                <const float *> source, right, <float *> gradient, rows, count // rows, smoothing, losses)
    xpc_arena_give(losses)
    return loss
