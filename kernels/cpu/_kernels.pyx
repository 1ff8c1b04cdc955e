"""The compiled kernels on typed memoryviews: checks of shapes, then C without the interpreter lock.

Inputs may be read-only and have any strides. A call with shapes that do not belong together raises ValueError; no call
reads or writes outside its arrays.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "geometry.h":
    ctypedef struct xpc_array4:
        char *data
        Py_ssize_t shape[4]
        Py_ssize_t strides[4]
    ctypedef struct xpc_array6:
        char *data
        Py_ssize_t shape[6]
        Py_ssize_t strides[6]
    ctypedef struct xpc_axis:
        Py_ssize_t kernel, stride, pad, dilation
    ctypedef struct xpc_range:
        Py_ssize_t begin, end

cdef extern from "threads.h" nogil:
    void xpc_set_num_threads(int)
    int xpc_get_num_threads()
    int xpc_claim_pool()
    void xpc_release_pool()
    int xpc_has_threads()

cdef extern from "columns.h" nogil:
    void xpc_im2col_f32(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_im2col_f64(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_col2im_f32(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)
    void xpc_col2im_f64(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)

cdef extern from "isa.h" nogil:
    int xpc_isa()
    int xpc_isa_works(int)
    int xpc_use_isa(int)

cdef extern from "direct.h" nogil:
    ctypedef struct xpc_direct:
        Py_ssize_t channels, filters, height, width, out_h, out_w
        xpc_axis vertical, horizontal
    Py_ssize_t xpc_direct_bytes(const xpc_direct *, int, Py_ssize_t)
    void xpc_direct_f32(const xpc_direct *, const xpc_array4 *, const float *, const float *, const xpc_array4 *, void *)
    void xpc_direct_f64(
        const xpc_direct *, const xpc_array4 *, const double *, const double *, const xpc_array4 *, void *)
    void xpc_direct_backward_f32(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const float *, const xpc_array4 *, float *, float *,
        void *)
    void xpc_direct_backward_f64(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const double *, const xpc_array4 *, double *,
        double *, void *)

cdef extern from "pool.h" nogil:
    ctypedef struct xpc_counted:
        xpc_range vertical, horizontal
    void xpc_max_pool_f32(const xpc_array4 *, const xpc_array4 *, const xpc_array4 *, int, xpc_axis, xpc_axis)
    void xpc_max_pool_f64(const xpc_array4 *, const xpc_array4 *, const xpc_array4 *, int, xpc_axis, xpc_axis)
    int xpc_max_pool_backward_f32(
        const xpc_array4 *, const xpc_array4 *, int, const xpc_array4 *, xpc_axis, xpc_axis)
    int xpc_max_pool_backward_f64(
        const xpc_array4 *, const xpc_array4 *, int, const xpc_array4 *, xpc_axis, xpc_axis)
    void xpc_avg_pool_f32(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted)
    void xpc_avg_pool_f64(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted)
    void xpc_avg_pool_backward_f32(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted)
    void xpc_avg_pool_backward_f64(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted)
    void xpc_adaptive_avg_pool_f32(const xpc_array4 *, const xpc_array4 *)
    void xpc_adaptive_avg_pool_f64(const xpc_array4 *, const xpc_array4 *)

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

cdef extern from "dropout.h" nogil:
    ctypedef struct xpc_dropout_key:
        uint64_t seed
        uint32_t layer, step
    void xpc_dropout_mask_f32(float *, Py_ssize_t, xpc_dropout_key, uint64_t, double)
    void xpc_dropout_mask_f64(double *, Py_ssize_t, xpc_dropout_key, uint64_t, double)

ctypedef fused real:
    float
    double

ctypedef fused tap_index:
    uint8_t
    int32_t

ctypedef fused element:
    float
    double
    uint8_t
    int32_t


def set_num_threads(int number):
    """Let kernels use ``number`` threads; a serial build stays at one."""
    xpc_set_num_threads(number)


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


# ---- from memoryviews to C ----------------------------------------------------------------------------------------

cdef int _check_aligned(
    const void *data, const Py_ssize_t *shape, const Py_ssize_t *strides, int ndim, Py_ssize_t itemsize
) except -1:
    cdef Py_ssize_t bits = <Py_ssize_t> data
    for axis in range(ndim):
        if shape[axis] == 0:
            return 0
        if shape[axis] > 1:  # the stride of a single entry may be anything
            bits |= strides[axis]
    if bits & (min(itemsize, <Py_ssize_t> sizeof(void *)) - 1):
        raise ValueError("array is not aligned")
    return 0


cdef xpc_array4 _array4(const element[:, :, :, :] view) except *:
    cdef xpc_array4 array
    _check_aligned(<const void *> &view[0, 0, 0, 0], view.shape, view.strides, 4, sizeof(element))
    array.data = <char *> &view[0, 0, 0, 0]
    for axis in range(4):
        array.shape[axis] = view.shape[axis]
        array.strides[axis] = view.strides[axis]
    return array


cdef xpc_array6 _array6(const real[:, :, :, :, :, :] view) except *:
    cdef xpc_array6 array
    _check_aligned(<const void *> &view[0, 0, 0, 0, 0, 0], view.shape, view.strides, 6, sizeof(real))
    array.data = <char *> &view[0, 0, 0, 0, 0, 0]
    for axis in range(6):
        array.shape[axis] = view.shape[axis]
        array.strides[axis] = view.strides[axis]
    return array


# A quarter of the range of Py_ssize_t: sums of two such numbers cannot overflow.
cdef double _LIMIT = <double> (<size_t> -1) / 8


cdef int _check_positive_product(double product) except -1:
    if product > _LIMIT:
        raise ValueError("sizes exceed the address space")
    return 0


cdef xpc_axis _axis(
    Py_ssize_t kernel, Py_ssize_t out, Py_ssize_t stride, Py_ssize_t pad, Py_ssize_t dilation
) except *:
    cdef xpc_axis axis
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride and dilation must be at least 1, got {stride} and {dilation}")
    _check_positive_product(<double> out * stride + <double> kernel * dilation + <double> (pad if pad > 0 else -pad))
    axis.kernel, axis.stride, axis.pad, axis.dilation = kernel, stride, pad, dilation
    return axis


# ---- columns --------------------------------------------------------------------------------------------------------

cdef int _check_images(const xpc_array4 *images) except -1:
    # an axis of length 0 counts as 1: products of the others must not overflow either
    cdef double entries = 1
    for axis in range(4):
        entries *= max(images.shape[axis], 1)
    return _check_positive_product(entries)


cdef int _check_columns(const xpc_array4 *images, const xpc_array6 *cols) except -1:
    cdef double entries = 1
    _check_images(images)
    if images.shape[0] != cols.shape[0] or images.shape[1] != cols.shape[1]:
        raise ValueError(
            f"images ({images.shape[0]}, {images.shape[1]}, ...) and columns ({cols.shape[0]}, {cols.shape[1]}, ...) "
            "differ in batch or channels"
        )
    for axis in range(6):
        entries *= max(cols.shape[axis], 1)
    return _check_positive_product(entries)


def im2col(
    const real[:, :, :, :] x, real[:, :, :, :, :, :] cols, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w
):
    """Write the columns (N, C, kh, kw, oh, ow) of images x (N, C, H, W); zeros where a tap sees padding.

    A negative ``pad_top`` lets ``cols`` hold only the output rows from ``-pad_top / stride_h`` on.
    """
    cdef xpc_array4 images = _array4[real](x)
    cdef xpc_array6 columns = _array6[real](cols)
    cdef xpc_axis vertical = _axis(cols.shape[2], cols.shape[4], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(cols.shape[3], cols.shape[5], stride_w, pad_left, dilation_w)
    _check_columns(&images, &columns)
    with nogil:
        if real is float:
            xpc_im2col_f32(&images, &columns, vertical, horizontal)
        else:
            xpc_im2col_f64(&images, &columns, vertical, horizontal)


def col2im(
    const real[:, :, :, :, :, :] cols, real[:, :, :, :] x, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, bint accumulate=False
):
    """Write into x (N, C, H, W) the sums of the columns (N, C, kh, kw, oh, ow); add to x with ``accumulate``."""
    cdef xpc_array4 images = _array4[real](x)
    cdef xpc_array6 columns = _array6[real](cols)
    cdef xpc_axis vertical = _axis(cols.shape[2], cols.shape[4], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(cols.shape[3], cols.shape[5], stride_w, pad_left, dilation_w)
    _check_columns(&images, &columns)
    with nogil:
        if real is float:
            xpc_col2im_f32(&columns, &images, vertical, horizontal, accumulate)
        else:
            xpc_col2im_f64(&columns, &images, vertical, horizontal, accumulate)


# ---- pooling --------------------------------------------------------------------------------------------------------

cdef int _check_pooled(const xpc_array4 *images, const xpc_array4 *pooled, double taps) except -1:
    if images.shape[0] != pooled.shape[0] or images.shape[1] != pooled.shape[1]:
        raise ValueError(
            f"images ({images.shape[0]}, {images.shape[1]}, ...) and pooled ({pooled.shape[0]}, {pooled.shape[1]}, "
            "...) differ in batch or channels"
        )
    _check_images(images)
    for axis in range(4):
        taps *= max(pooled.shape[axis], 1)
    return _check_positive_product(taps)


cdef int _check_argmax(const xpc_array4 *pooled, const xpc_array4 *argmax) except -1:
    for axis in range(4):
        if pooled.shape[axis] != argmax.shape[axis]:
            raise ValueError(f"argmax: axis {axis} has length {argmax.shape[axis]}, expected {pooled.shape[axis]}")
    return 0


cdef int _check_kernel(Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t most) except -1:
    if kernel_h < 1 or kernel_w < 1 or kernel_h > most // kernel_w:
        raise ValueError(f"kernel_size: expected 1 to {most} taps, got {kernel_h} x {kernel_w}")
    return 0


def max_pool(
    const real[:, :, :, :] x, real[:, :, :, :] y, tap_index[:, :, :, :] argmax,
    Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w
):
    """Write the maxima y (N, C, oh, ow) of the windows of x (N, C, H, W), and the taps that they are at."""
    _check_kernel(kernel_h, kernel_w, 255 if tap_index is uint8_t else 0x7FFFFFFF)
    cdef xpc_array4 images = _array4[real](x)
    cdef xpc_array4 pooled = _array4[real](y)
    cdef xpc_array4 taps = _array4[tap_index](argmax)
    cdef xpc_axis vertical = _axis(kernel_h, y.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, y.shape[3], stride_w, pad_left, dilation_w)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    _check_argmax(&pooled, &taps)
    with nogil:
        if real is float:
            xpc_max_pool_f32(&images, &pooled, &taps, sizeof(tap_index), vertical, horizontal)
        else:
            xpc_max_pool_f64(&images, &pooled, &taps, sizeof(tap_index), vertical, horizontal)


def max_pool_backward(
    const real[:, :, :, :] dy, const tap_index[:, :, :, :] argmax, real[:, :, :, :] dx,
    Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w
):
    """Write into dx (N, C, H, W) the sums of the dy (N, C, oh, ow) that chose each pixel."""
    cdef int good
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef xpc_array4 images = _array4[real](dx)
    cdef xpc_array4 pooled = _array4[real](dy)
    cdef xpc_array4 taps = _array4[tap_index](argmax)
    cdef xpc_axis vertical = _axis(kernel_h, dy.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, dy.shape[3], stride_w, pad_left, dilation_w)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    _check_argmax(&pooled, &taps)
    with nogil:
        if real is float:
            good = xpc_max_pool_backward_f32(&pooled, &taps, sizeof(tap_index), &images, vertical, horizontal)
        else:
            good = xpc_max_pool_backward_f64(&pooled, &taps, sizeof(tap_index), &images, vertical, horizontal)
    if not good:
        raise ValueError("argmax: has an entry that is no tap of its window inside the image")


cdef xpc_counted _counted(
    const xpc_array4 *images, Py_ssize_t count_top, Py_ssize_t count_bottom, Py_ssize_t count_left,
    Py_ssize_t count_right
) except *:
    cdef xpc_counted counted
    if min(count_top, count_bottom, count_left, count_right) < 0:
        raise ValueError("counted padding must be at least 0")
    _check_positive_product(<double> count_top + count_bottom + images.shape[2])
    _check_positive_product(<double> count_left + count_right + images.shape[3])
    counted.vertical.begin, counted.vertical.end = -count_top, images.shape[2] + count_bottom
    counted.horizontal.begin, counted.horizontal.end = -count_left, images.shape[3] + count_right
    return counted


def avg_pool(
    const real[:, :, :, :] x, real[:, :, :, :] y,
    Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w,
    Py_ssize_t count_top, Py_ssize_t count_bottom, Py_ssize_t count_left, Py_ssize_t count_right
):
    """Write the means y (N, C, oh, ow) of the windows of x (N, C, H, W).

    The divisor counts the taps in the image and in ``count_top`` and so on pixels of padding around it.
    """
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef xpc_array4 images = _array4[real](x)
    cdef xpc_array4 pooled = _array4[real](y)
    cdef xpc_axis vertical = _axis(kernel_h, y.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, y.shape[3], stride_w, pad_left, dilation_w)
    cdef xpc_counted counted = _counted(&images, count_top, count_bottom, count_left, count_right)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    with nogil:
        if real is float:
            xpc_avg_pool_f32(&images, &pooled, vertical, horizontal, counted)
        else:
            xpc_avg_pool_f64(&images, &pooled, vertical, horizontal, counted)


def avg_pool_backward(
    const real[:, :, :, :] dy, real[:, :, :, :] dx,
    Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w,
    Py_ssize_t count_top, Py_ssize_t count_bottom, Py_ssize_t count_left, Py_ssize_t count_right
):
    """Write into dx (N, C, H, W) the shares of dy (N, C, oh, ow); arguments as for `avg_pool`."""
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef xpc_array4 images = _array4[real](dx)
    cdef xpc_array4 pooled = _array4[real](dy)
    cdef xpc_axis vertical = _axis(kernel_h, dy.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, dy.shape[3], stride_w, pad_left, dilation_w)
    cdef xpc_counted counted = _counted(&images, count_top, count_bottom, count_left, count_right)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    with nogil:
        if real is float:
            xpc_avg_pool_backward_f32(&pooled, &images, vertical, horizontal, counted)
        else:
            xpc_avg_pool_backward_f64(&pooled, &images, vertical, horizontal, counted)


def adaptive_avg_pool(const real[:, :, :, :] x, real[:, :, :, :] y):
    """Write the means y (N, C, oh, ow) of oh * ow bins of the pixels of x (N, C, H, W)."""
    cdef xpc_array4 images = _array4[real](x)
    cdef xpc_array4 pooled = _array4[real](y)
    _check_pooled(&images, &pooled, 1)
    if min(images.shape[2], images.shape[3], pooled.shape[2], pooled.shape[3]) < 1:
        raise ValueError("images and bins: expected at least one pixel")
    for axis in range(2, 4):
        _check_positive_product(<double> images.shape[axis] * (<double> pooled.shape[axis] + 1))
    with nogil:
        if real is float:
            xpc_adaptive_avg_pool_f32(&images, &pooled)
        else:
            xpc_adaptive_avg_pool_f64(&images, &pooled)


# ---- batch normalisation --------------------------------------------------------------------------------------------

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


# ---- dropout --------------------------------------------------------------------------------------------------------

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


# ---- convolution without columns --------------------------------------------------------------------------------------

_ISAS = ("baseline", "avx2", "avx512")  # in the order of isa.h


def instruction_sets():
    """Names of those that this build has and this processor runs, the narrowest first; may be none."""
    return tuple(name for number, name in enumerate(_ISAS) if xpc_isa_works(number))


def instruction_set():
    """The one that kernels with explicit vectors use, or None where there is none."""
    cdef int isa = xpc_isa()
    return None if isa < 0 else _ISAS[isa]


def use_instruction_set(str name):
    """Choose one of `instruction_sets`; ValueError for any other."""
    if name not in _ISAS or not xpc_use_isa(_ISAS.index(name)):
        raise ValueError(f"instruction set: expected one of {', '.join(instruction_sets()) or 'none'}, got {name!r}")


cdef xpc_direct _direct(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, xpc_axis vertical,
    xpc_axis horizontal, Py_ssize_t out_h, Py_ssize_t out_w
) except *:
    cdef xpc_direct conv
    if min(channels, filters, height, width, vertical.kernel, horizontal.kernel, out_h, out_w) < 1:
        raise ValueError("sizes must be at least 1")
    if vertical.pad < 0 or horizontal.pad < 0:
        raise ValueError("padding must be at least 0")
    conv.channels, conv.filters, conv.height, conv.width = channels, filters, height, width
    conv.vertical, conv.horizontal, conv.out_h, conv.out_w = vertical, horizontal, out_h, out_w
    return conv


def direct_bytes(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t out_h, Py_ssize_t out_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, int itemsize,
    Py_ssize_t most
):
    """Working memory of `direct` and `direct_backward`, or None if that is more than ``most`` or there are no kernels."""
    cdef xpc_direct conv = _direct(
        channels, filters, height, width, _axis(kernel_h, out_h, stride_h, pad_top, dilation_h),
        _axis(kernel_w, out_w, stride_w, pad_left, dilation_w), out_h, out_w)
    cdef Py_ssize_t size = xpc_direct_bytes(&conv, itemsize, most)
    return None if size < 0 else size


cdef xpc_direct _checked_direct(
    const xpc_array4 *x, const xpc_array4 *y, Py_ssize_t filters, Py_ssize_t taps, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t itemsize, Py_ssize_t memory, const void *start
) except *:
    """What the arrays and numbers of a call amount to; ValueError unless they belong together."""
    cdef xpc_direct conv = _direct(
        x.shape[1], filters, x.shape[2], x.shape[3], _axis(kernel_h, y.shape[2], stride_h, pad_top, dilation_h),
        _axis(kernel_w, y.shape[3], stride_w, pad_left, dilation_w), y.shape[2], y.shape[3])
    cdef Py_ssize_t need
    _check_images(x)
    _check_images(y)
    if x.shape[0] != y.shape[0] or y.shape[1] != filters:
        raise ValueError(f"expected outputs ({x.shape[0]}, {filters}, ...), got ({y.shape[0]}, {y.shape[1]}, ...)")
    if <double> x.shape[1] * kernel_h * kernel_w != taps:
        raise ValueError(f"weights have {taps} taps, expected {x.shape[1]} * {kernel_h} * {kernel_w}")
    for axis in range(3):
        if y.shape[axis] > 1 and y.strides[axis] % itemsize:
            raise ValueError("strides of outputs must be whole numbers of entries")
    if y.shape[3] > 1 and y.strides[3] != itemsize:
        raise ValueError("outputs must be contiguous along their last axis")
    need = xpc_direct_bytes(&conv, itemsize, memory)
    if need < 0:
        raise ValueError(f"working memory of {memory} bytes is too small, or there are no such kernels")
    if <Py_ssize_t> start & 63:
        raise ValueError("working memory must be aligned to 64 bytes")
    return conv


def direct(
    const real[:, :, :, :] x, const real[:, ::1] w, const real[::1] b, real[:, :, :, :] y, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, uint8_t[::1] memory
):
    """Write into y (N, F, oh, ow) the convolution of x (N, C, H, W) with w (F, C * kh * kw), plus b (F,) if not None."""
    if x.shape[0] == 0:
        return
    cdef xpc_array4 images = _array4[real](x), outputs = _array4[real](y)
    cdef xpc_direct conv = _checked_direct(
        &images, &outputs, w.shape[0], w.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, sizeof(real), memory.shape[0], &memory[0])
    cdef const real *weights = &w[0, 0]
    cdef const real *bias = NULL
    if b is not None:
        if b.shape[0] != w.shape[0]:
            raise ValueError(f"expected {w.shape[0]} biases, got {b.shape[0]}")
        bias = &b[0]
    with nogil:
        if real is float:
            xpc_direct_f32(&conv, &images, weights, bias, &outputs, &memory[0])
        else:
            xpc_direct_f64(&conv, &images, weights, bias, &outputs, &memory[0])


def direct_backward(
    const real[:, :, :, :] dy, const real[:, :, :, :] x, const real[:, ::1] w, real[:, :, :, :] dx, real[:, ::1] dw,
    real[::1] db, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, uint8_t[::1] memory
):
    """Write the gradients of `direct`, those of w and b summed over the images; not that of x if dx is None."""
    if x.shape[0] == 0:
        dw[:, :] = 0
        db[:] = 0
        return
    cdef xpc_array4 images = _array4[real](x), gradients = _array4[real](dy), to
    cdef xpc_direct conv = _checked_direct(
        &images, &gradients, w.shape[0], w.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, sizeof(real), memory.shape[0], &memory[0])
    cdef const real *weights = &w[0, 0]
    cdef xpc_array4 *target = NULL
    if dw.shape[0] != w.shape[0] or dw.shape[1] != w.shape[1] or db.shape[0] != w.shape[0]:
        raise ValueError("dw and db must have the shapes of the weights and of the filters")
    if dx is not None:
        to = _array4[real](dx)
        for axis in range(4):
            if to.shape[axis] != images.shape[axis]:
                raise ValueError("dx must have the shape of x")
        target = &to
    with nogil:
        if real is float:
            xpc_direct_backward_f32(
                &conv, &gradients, &images, weights, target, &dw[0, 0], &db[0], &memory[0])
        else:
            xpc_direct_backward_f64(
                &conv, &gradients, &images, weights, target, &dw[0, 0], &db[0], &memory[0])
