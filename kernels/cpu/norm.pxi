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

cdef int _fill_runs(xpc_runs *runs, const real[:, :, :] view, const xpc_runs *like, bint rows) except -1:
    cdef int innermost = 1 if rows else 2
    _check_aligned(<const void *> &view[0, 0, 0], view.shape, view.strides, 3, sizeof(real))
    for axis in range(3):
        if like != NULL and view.shape[axis] != like.shape[axis]:
            raise ValueError(f"axis {axis} has length {view.shape[axis]}, expected {like.shape[axis]}")
        runs.shape[axis], runs.strides[axis] = view.shape[axis], view.strides[axis]
    runs.data = <char *> &view[0, 0, 0]
    if view.shape[0] == 0 or view.shape[1] == 0 or view.shape[2] == 0:  # its strides mean nothing
        return 0
    if view.shape[innermost] > 1 and view.strides[innermost] != sizeof(real):
        raise ValueError(f"axis {innermost} is not contiguous")
    _check_positive_product(<double> view.shape[0] * view.shape[1] * view.shape[2])
    return 0


cdef void *_channels(const real[::1] vector, Py_ssize_t channels) except? NULL:
    # the vector may be None
    if vector is None:
        return NULL
    if vector.shape[0] != channels:
        raise ValueError(f"a vector has length {vector.shape[0]}, expected {channels}")
    return <void *> &vector[0]


def batch_norm(
    const real[:, :, :] x, const real[:, :, :] residual, real[:, :, :] y, const real[::1] weight,
    const real[::1] bias, real[::1] mean, real[::1] variance, real[::1] inv_std, const real[::1] old_mean,
    const real[::1] old_variance, real[::1] new_mean, real[::1] new_variance, double momentum, double eps, bint rows,
    bint given, bint relu
):
    """Write y (N, C, L), the moments (C,), which are read where ``given``, and running statistics.

    The last axis of arrays is contiguous, or with ``rows`` that of the channels. residual, weight, bias and the running
    statistics may be None.
    """
    cdef xpc_norm norm
    cdef Py_ssize_t channels = x.shape[1]
    cdef int good
    memset(&norm, 0, sizeof(norm))
    _fill_runs[real](&norm.x, x, NULL, rows)
    _fill_runs[real](&norm.y, y, &norm.x, rows)
    if residual is not None:
        _fill_runs[real](&norm.residual, residual, &norm.x, rows)
    norm.weight, norm.bias = _channels[real](weight, channels), _channels[real](bias, channels)
    norm.mean, norm.variance = _channels[real](mean, channels), _channels[real](variance, channels)
    norm.inv_std = _channels[real](inv_std, channels)
    norm.old_mean, norm.new_mean = _channels[real](old_mean, channels), _channels[real](new_mean, channels)
    norm.old_variance = _channels[real](old_variance, channels)
    norm.new_variance = _channels[real](new_variance, channels)
    if (old_mean is None) != (new_mean is None) or (old_variance is None) != (new_variance is None):
        raise ValueError("running statistics: expected an old and a new one, or neither")
    norm.momentum, norm.eps, norm.rows, norm.given, norm.relu = momentum, eps, rows, given, relu
    if channels == 0:
        return
    with nogil:
        good = xpc_batch_norm(&norm, sizeof(real) == sizeof(double))
    if not good:
        raise MemoryError("batch_norm: no working memory")


def batch_norm_backward(
    const real[:, :, :] dy, const real[:, :, :] y, const real[:, :, :] x, real[:, :, :] dx,
    real[:, :, :] dresidual, const real[::1] weight, const real[::1] mean, const real[::1] inv_std, real[::1] dw,
    real[::1] db, bint rows, bint given
):
    """Write dx (N, C, L), dw and db (C,); where there is a y, dy counts where y > 0, and goes to ``dresidual``.

    ``given``: mean and inv_std do not depend on x. y, dresidual and weight may be None.
    """
    cdef xpc_norm norm
    cdef Py_ssize_t channels = x.shape[1]
    cdef int good
    memset(&norm, 0, sizeof(norm))
    _fill_runs[real](&norm.x, x, NULL, rows)
    _fill_runs[real](&norm.dy, dy, &norm.x, rows)
    _fill_runs[real](&norm.dx, dx, &norm.x, rows)
    if y is not None:
        _fill_runs[real](&norm.y, y, &norm.x, rows)
        if dresidual is not None:
            _fill_runs[real](&norm.dresidual, dresidual, &norm.x, rows)
    norm.weight = _channels[real](weight, channels)
    norm.mean, norm.inv_std = _channels[real](mean, channels), _channels[real](inv_std, channels)
    norm.dw, norm.db = _channels[real](dw, channels), _channels[real](db, channels)
    norm.rows, norm.given, norm.relu = rows, given, y is not None
    if channels == 0:
        return
    with nogil:
        good = xpc_batch_norm_backward(&norm, sizeof(real) == sizeof(double))
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

cdef Py_ssize_t _fill_rows(xpc_norm_rows *norm, const real[:, :, :] x, Py_ssize_t groups, bint layer) except -1:
    # returns the length of the weights
    memset(norm, 0, sizeof(norm[0]))
    _fill_runs[real](&norm.x, x, NULL, False)
    if groups < 1 or x.shape[1] % groups or (layer and x.shape[1] != 1):
        raise ValueError(f"groups: expected a divisor of {x.shape[1]}{', which is to be 1' if layer else ''}, got {groups}")
    norm.groups, norm.layer = groups, layer
    return x.shape[2] if layer else x.shape[1]


def norm_rows(
    const real[:, :, :] x, real[:, :, :] y, const real[::1] weight, const real[::1] bias, real[::1] mean,
    real[::1] inv_std, Py_ssize_t groups, double eps, bint layer
):
    """Write y (N, C, L) and the moments (N * groups,) of the groups of channels of each image.

    With ``layer`` C is 1 and weight and bias are (L,), else (C,); they may be None. The last axis of arrays is contiguous.
    """
    cdef xpc_norm_rows norm
    cdef Py_ssize_t weights = _fill_rows[real](&norm, x, groups, layer)
    _fill_runs[real](&norm.y, y, &norm.x, False)
    norm.weight, norm.bias = _channels[real](weight, weights), _channels[real](bias, weights)
    norm.mean = _channels[real](mean, x.shape[0] * groups)
    norm.inv_std = _channels[real](inv_std, x.shape[0] * groups)
    norm.eps = eps
    if x.shape[0] == 0:
        return
    if x.shape[1] == 0 or x.shape[2] == 0:
        raise ValueError("x: rows need at least one number")
    with nogil:
        xpc_norm_rows_forward(&norm, sizeof(real) == sizeof(double))


def norm_rows_backward(
    const real[:, :, :] dy, const real[:, :, :] x, real[:, :, :] dx, const real[::1] weight, const real[::1] mean,
    const real[::1] inv_std, real[::1] dw, real[::1] db, Py_ssize_t groups, bint layer
):
    """Write dx (N, C, L), dw and db like the weights; arguments as for `norm_rows`."""
    cdef xpc_norm_rows norm
    cdef Py_ssize_t weights = _fill_rows[real](&norm, x, groups, layer)
    cdef int good
    _fill_runs[real](&norm.dy, dy, &norm.x, False)
    _fill_runs[real](&norm.dx, dx, &norm.x, False)
    norm.weight = _channels[real](weight, weights)
    norm.mean = _channels[real](mean, x.shape[0] * groups)
    norm.inv_std = _channels[real](inv_std, x.shape[0] * groups)
    norm.dw, norm.db = _channels[real](dw, weights), _channels[real](db, weights)
    with nogil:
        good = xpc_norm_rows_backward(&norm, sizeof(real) == sizeof(double))
    if not good:
        raise MemoryError("norm_rows_backward: no working memory")
