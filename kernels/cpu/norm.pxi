# Batch normalisation.

cdef extern from "norm.h":
    ctypedef struct xpc_runs:
        char *data
        Py_ssize_t shape[3]
        Py_ssize_t strides[2]

cdef extern from "norm.h" nogil:
    void xpc_batch_norm_f32(
        const xpc_runs *, const xpc_runs *, const xpc_runs *, const float *, const float *, float *, float *, float *,
        double, int, int)
    void xpc_batch_norm_f64(
        const xpc_runs *, const xpc_runs *, const xpc_runs *, const double *, const double *, double *, double *,
        double *, double, int, int)
    void xpc_batch_norm_backward_f32(
        const xpc_runs *, const xpc_runs *, const xpc_runs *, const xpc_runs *, const xpc_runs *, const float *,
        const float *, const float *, float *, float *, int)
    void xpc_batch_norm_backward_f64(
        const xpc_runs *, const xpc_runs *, const xpc_runs *, const xpc_runs *, const xpc_runs *, const double *,
        const double *, const double *, double *, double *, int)

cdef xpc_runs _runs(const real[:, :, :] view, const real[:, :, :] like) except *:
    cdef xpc_runs runs
    _check_aligned(<const void *> &view[0, 0, 0], view.shape, view.strides, 3, sizeof(real))
    for axis in range(3):
        if view.shape[axis] != like.shape[axis]:
            raise ValueError(f"axis {axis} has length {view.shape[axis]}, expected {like.shape[axis]}")
        runs.shape[axis] = view.shape[axis]
    if view.shape[2] > 1 and view.strides[2] != sizeof(real):
        raise ValueError("the last axis is not contiguous")
    _check_positive_product(<double> view.shape[0] * view.shape[1] * view.shape[2])
    runs.data = <char *> &view[0, 0, 0]
    runs.strides[0], runs.strides[1] = view.strides[0], view.strides[1]
    return runs


cdef int _check_vector(Py_ssize_t length, Py_ssize_t channels, bint optional) except -1:
    if length != channels and not (optional and length == 0):
        raise ValueError(f"a vector has length {length}, expected {channels}")
    return 0


def batch_norm(
    const real[:, :, :] x, const real[:, :, :] residual, real[:, :, :] y, const real[::1] weight,
    const real[::1] bias, real[::1] mean, real[::1] variance, real[::1] inv_std, double eps, bint has_residual,
    bint given, bint relu
):
    """Write y (N, C, L) and the moments (C,), which are read where ``given``; weight and bias may have no length."""
    cdef xpc_runs source = _runs[real](x, x), target = _runs[real](y, x), beside = _runs[real](residual, x)
    cdef Py_ssize_t channels = x.shape[1]
    _check_vector(weight.shape[0], channels, True)
    _check_vector(bias.shape[0], channels, True)
    _check_vector(mean.shape[0], channels, False)
    _check_vector(variance.shape[0], channels, False)
    _check_vector(inv_std.shape[0], channels, False)
    if channels == 0:
        return
    if not has_residual:
        beside.data = NULL
    cdef const real *scale = &weight[0] if weight.shape[0] else NULL
    cdef const real *shift = &bias[0] if bias.shape[0] else NULL
    with nogil:
        if real is float:
            xpc_batch_norm_f32(
                &source, &beside, &target, scale, shift, &mean[0], &variance[0], &inv_std[0], eps, given, relu)
        else:
            xpc_batch_norm_f64(
                &source, &beside, &target, scale, shift, &mean[0], &variance[0], &inv_std[0], eps, given, relu)


def batch_norm_backward(
    const real[:, :, :] dy, const real[:, :, :] y, const real[:, :, :] x, real[:, :, :] dx,
    real[:, :, :] dresidual, const real[::1] weight, const real[::1] mean, const real[::1] inv_std, real[::1] dw,
    real[::1] db, bint relu, bint need_dresidual, bint training
):
    """Write dx (N, C, L), dw and db (C,); with ``relu`` dy counts where y > 0, and is written to ``dresidual``."""
    cdef xpc_runs gradient = _runs[real](dy, x), passed = _runs[real](y, x), source = _runs[real](x, x)
    cdef xpc_runs target = _runs[real](dx, x), beside = _runs[real](dresidual, x)
    cdef Py_ssize_t channels = x.shape[1]
    _check_vector(weight.shape[0], channels, True)
    _check_vector(mean.shape[0], channels, False)
    _check_vector(inv_std.shape[0], channels, False)
    _check_vector(dw.shape[0], channels, False)
    _check_vector(db.shape[0], channels, False)
    if channels == 0:
        return
    if not relu:
        passed.data = NULL
    if not need_dresidual:
        beside.data = NULL
    cdef const real *scale = &weight[0] if weight.shape[0] else NULL
    with nogil:
        if real is float:
            xpc_batch_norm_backward_f32(
                &gradient, &passed, &source, &target, &beside, scale, &mean[0], &inv_std[0], &dw[0], &db[0], training)
        else:
            xpc_batch_norm_backward_f64(
                &gradient, &passed, &source, &target, &beside, scale, &mean[0], &inv_std[0], &dw[0], &db[0], training)
