# Losses.

from libc.stdint cimport int64_t

cdef extern from "loss.h" nogil:
    double xpc_softmax_cross_entropy_f32(
        const float *, const int64_t *, float *, Py_ssize_t, Py_ssize_t, double, double *)
    double xpc_softmax_cross_entropy_f64(
        const double *, const int64_t *, double *, Py_ssize_t, Py_ssize_t, double, double *)


def softmax_cross_entropy(scores, const int64_t[::1] labels, dscores, double smoothing):
    """Mean loss of ``scores`` (N, K), N and K above 0; writes the gradient to ``dscores``. Both are contiguous."""
    cdef Py_ssize_t rows = labels.shape[0]
    cdef _Runs runs = _Runs(2)
    cdef void *gradient = runs.take(dscores, True, -1)
    cdef Py_ssize_t count = runs.count()
    cdef const void *source = runs.take(scores, False, count)
    if rows == 0 or count == 0 or count % rows:
        raise ValueError(f"{rows} labels do not belong to {count} scores")
    cdef double *losses = <double *> xpc_arena_take(rows * sizeof(double))
    if losses == NULL:
        raise MemoryError()
    cdef double loss
    with nogil:
        if runs.is_double:
            loss = xpc_softmax_cross_entropy_f64(
                <const double *> source, &labels[0], <double *> gradient, rows, count // rows, smoothing, losses)
        else:
            loss = xpc_softmax_cross_entropy_f32(
                <const float *> source, &labels[0], <float *> gradient, rows, count // rows, smoothing, losses)
    xpc_arena_give(losses)
    return loss
