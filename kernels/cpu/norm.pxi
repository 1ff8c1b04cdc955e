# Normalisation.

cdef extern from "norm.h":
    ctypedef struct xpc_runs:
        char *data
        Py_ssize_t shape[3]
        Py_ssize_t strides[3]
    ctypedef struct xpc_norm:
        xpc_runs x, residual, y, dy, dx, dresidual
        const void *weight
        const void *bias
        void *mean
        void *variance
        void *inv_std
        void *dw
        void *db
        const void *old_mean
        const void *old_variance
        void *new_mean
        void *new_variance
        double momentum, eps
        int rows, given, relu

cdef extern from "norm.h" nogil:
    int xpc_batch_norm(const xpc_norm *, int)
    int xpc_batch_norm_backward(const xpc_norm *, int)

cdef int _fill_runs(
    xpc_runs *runs, _Arrays arrays, str name, array, bint written, const xpc_runs *like, bint rows
) except -1:
    cdef int innermost = 1 if rows else 2
    cdef const Py_buffer *view = arrays.numbers(name, array, 3, written)
    for axis in range(3):
        if like != NULL and view.shape[axis] != like.shape[axis]:
            raise ValueError(f"{name}: axis {axis} has length {view.shape[axis]}, expected {like.shape[axis]}")
        runs.shape[axis], runs.strides[axis] = view.shape[axis], view.strides[axis]
    runs.data = <char *> view.buf
    if view.len == 0:  # its strides mean nothing
        return 0
    if view.shape[innermost] > 1 and view.strides[innermost] != view.itemsize:
        raise ValueError(f"{name}: axis {innermost} is not contiguous")
    _check_positive_product(<double> view.shape[0] * view.shape[1] * view.shape[2])
    return 0


def batch_norm(
    x, residual, y, weight, bias, mean, variance, inv_std, old_mean, old_variance, new_mean, new_variance,
    double momentum, double eps, bint rows, bint given, bint relu, /
):
    """Write y (N, C, L), the moments (C,), which are read where ``given``, and running statistics.

    The last axis of arrays is contiguous, or with ``rows`` that of the channels. residual, weight, bias and the running
    statistics may be None.
    """
    cdef xpc_norm norm
    cdef _Arrays arrays = _Arrays(12)
    cdef int good
    memset(&norm, 0, sizeof(norm))
    _fill_runs(&norm.x, arrays, "x", x, READ, NULL, rows)
    cdef Py_ssize_t channels = norm.x.shape[1]
    _fill_runs(&norm.y, arrays, "y", y, WRITTEN, &norm.x, rows)
    if residual is not None:
        _fill_runs(&norm.residual, arrays, "residual", residual, READ, &norm.x, rows)
    norm.weight = arrays.optional("weight", weight, READ, channels)
    norm.bias = arrays.optional("bias", bias, READ, channels)
    norm.mean = arrays.run("mean", mean, WRITTEN, channels)
    norm.variance = arrays.run("variance", variance, WRITTEN, channels)
    norm.inv_std = arrays.run("inv_std", inv_std, WRITTEN, channels)
    norm.old_mean = arrays.optional("old_mean", old_mean, READ, channels)
    norm.old_variance = arrays.optional("old_variance", old_variance, READ, channels)
    norm.new_mean = arrays.optional("new_mean", new_mean, WRITTEN, channels)
    norm.new_variance = arrays.optional("new_variance", new_variance, WRITTEN, channels)
    if (old_mean is None) != (new_mean is None) or (old_variance is None) != (new_variance is None):
        raise ValueError("running statistics: expected an old and a new one, or neither")
    norm.momentum, norm.eps, norm.rows, norm.given, norm.relu = momentum, eps, rows, given, relu
    if channels == 0:
        return
    with nogil:
        good = xpc_batch_norm(&norm, arrays.is_double)
    if not good:
        raise MemoryError("batch_norm: no working memory")


def batch_norm_backward(dy, y, x, dx, dresidual, weight, mean, inv_std, dw, db, bint rows, bint given, /):
    """Write dx (N, C, L), dw and db (C,); where there is a y, dy counts where y > 0, and goes to ``dresidual``.

    ``given``: mean and inv_std do not depend on x. y, dresidual and weight may be None.
    """
    cdef xpc_norm norm
    cdef _Arrays arrays = _Arrays(10)
    cdef int good
    memset(&norm, 0, sizeof(norm))
    _fill_runs(&norm.x, arrays, "x", x, READ, NULL, rows)
    cdef Py_ssize_t channels = norm.x.shape[1]
    _fill_runs(&norm.dy, arrays, "dy", dy, READ, &norm.x, rows)
    _fill_runs(&norm.dx, arrays, "dx", dx, WRITTEN, &norm.x, rows)
    if y is not None:
        _fill_runs(&norm.y, arrays, "y", y, READ, &norm.x, rows)
        if dresidual is not None:
            _fill_runs(&norm.dresidual, arrays, "dresidual", dresidual, WRITTEN, &norm.x, rows)
    norm.weight = arrays.optional("weight", weight, READ, channels)
    norm.mean = arrays.run("mean", mean, READ, channels)
    norm.inv_std = arrays.run("inv_std", inv_std, READ, channels)
    norm.dw, norm.db = arrays.run("dw", dw, WRITTEN, channels), arrays.run("db", db, WRITTEN, channels)
    norm.rows, norm.given, norm.relu = rows, given, y is not None
    if channels == 0:
        return
    with nogil:
        good = xpc_batch_norm_backward(&norm, arrays.is_double)
    if not good:
        raise MemoryError("batch_norm_backward: no working memory")


# Layer norm and group norm.

cdef extern from "norm.h":
    ctypedef struct xpc_norm_rows:
        xpc_runs x, y, dy, dx
        const void *weight
        const void *bias
        void *mean
        void *inv_std
        void *dw
        void *db
        Py_ssize_t groups
        double eps
        int layer

cdef extern from "norm.h" nogil:
    void xpc_norm_rows_forward(const xpc_norm_rows *, int)
    int xpc_norm_rows_backward(const xpc_norm_rows *, int)

cdef Py_ssize_t _fill_rows(
    xpc_norm_rows *norm, _Arrays arrays, x, Py_ssize_t groups, bint layer
) except -1:
    # returns the length of the weights
    memset(norm, 0, sizeof(norm[0]))
    _fill_runs(&norm.x, arrays, "x", x, READ, NULL, False)
    cdef Py_ssize_t channels = norm.x.shape[1]
    if groups < 1 or channels % groups or (layer and channels != 1):
        raise ValueError(f"groups: expected a divisor of {channels}{', which is to be 1' if layer else ''}, got {groups}")
    norm.groups, norm.layer = groups, layer
    return norm.x.shape[2] if layer else channels


def norm_rows(x, y, weight, bias, mean, inv_std, Py_ssize_t groups, double eps, bint layer, /):
    """Write y (N, C, L) and the moments (N * groups,) of the groups of channels of each image.

    With ``layer`` C is 1 and weight and bias are (L,), else (C,); they may be None. The last axis of arrays is contiguous.
    """
    cdef xpc_norm_rows norm
    cdef _Arrays arrays = _Arrays(6)
    cdef Py_ssize_t weights = _fill_rows(&norm, arrays, x, groups, layer)
    cdef Py_ssize_t moments = norm.x.shape[0] * groups
    _fill_runs(&norm.y, arrays, "y", y, WRITTEN, &norm.x, False)
    norm.weight = arrays.optional("weight", weight, READ, weights)
    norm.bias = arrays.optional("bias", bias, READ, weights)
    norm.mean, norm.inv_std = arrays.run("mean", mean, WRITTEN, moments), arrays.run("inv_std", inv_std, WRITTEN, moments)
    norm.eps = eps
    if norm.x.shape[0] == 0:
        return
    if norm.x.shape[1] == 0 or norm.x.shape[2] == 0:
        raise ValueError("x: rows need at least one number")
    with nogil:
        xpc_norm_rows_forward(&norm, arrays.is_double)


def norm_rows_backward(dy, x, dx, weight, mean, inv_std, dw, db, Py_ssize_t groups, bint layer, /):
    """Write dx (N, C, L), dw and db like the weights; arguments as for `norm_rows`."""
    cdef xpc_norm_rows norm
    cdef _Arrays arrays = _Arrays(8)
    cdef Py_ssize_t weights = _fill_rows(&norm, arrays, x, groups, layer)
    cdef Py_ssize_t moments = norm.x.shape[0] * groups
    cdef int good
    _fill_runs(&norm.dy, arrays, "dy", dy, READ, &norm.x, False)
    _fill_runs(&norm.dx, arrays, "dx", dx, WRITTEN, &norm.x, False)
    norm.weight = arrays.optional("weight", weight, READ, weights)
    norm.mean, norm.inv_std = arrays.run("mean", mean, READ, moments), arrays.run("inv_std", inv_std, READ, moments)
    norm.dw, norm.db = arrays.run("dw", dw, WRITTEN, weights), arrays.run("db", db, WRITTEN, weights)
    with nogil:
        good = xpc_norm_rows_backward(&norm, arrays.is_double)
    if not good:
        raise MemoryError("norm_rows_backward: no working memory")
