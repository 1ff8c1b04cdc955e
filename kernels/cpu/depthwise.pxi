# Convolution of each channel by filters of its own.

cdef extern from "depthwise.h" nogil:
    Py_ssize_t xpc_depthwise_bytes(const xpc_direct *, int, Py_ssize_t)
    int xpc_depthwise_f32(
        const xpc_direct *, const xpc_array4 *, const float *, const float *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_f64(
        const xpc_direct *, const xpc_array4 *, const double *, const double *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_dx_f32(const xpc_direct *, const xpc_array4 *, const float *, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_dx_f64(const xpc_direct *, const xpc_array4 *, const double *, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_dw_f32(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, float *, float *, Py_ssize_t)
    int xpc_depthwise_dw_f64(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, double *, double *, Py_ssize_t)


def depthwise_bytes(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t out_h, Py_ssize_t out_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, int itemsize, Py_ssize_t most
):
    """The least working memory of one thread; None above ``most`` or without kernels."""
    cdef xpc_direct conv = _direct(
        channels, filters, height, width, _axis(kernel_h, out_h, stride_h, pad_top, dilation_h),
        _axis(kernel_w, out_w, stride_w, pad_left, dilation_w), out_h, out_w)
    cdef Py_ssize_t size = xpc_depthwise_bytes(&conv, itemsize, most)
    return None if size < 0 else size


cdef xpc_direct _checked_depthwise(
    const xpc_array4 *x, const xpc_array4 *y, Py_ssize_t filters, Py_ssize_t taps, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t itemsize
) except *:
    """What the arrays and numbers of a call amount to; ValueError unless they belong together."""
    cdef xpc_direct conv = _direct(
        x.shape[1], filters, x.shape[2], x.shape[3], _axis(kernel_h, y.shape[2], stride_h, pad_top, dilation_h),
        _axis(kernel_w, y.shape[3], stride_w, pad_left, dilation_w), y.shape[2], y.shape[3])
    _check_planes(x, itemsize)
    _check_planes(y, itemsize)
    if filters % x.shape[1]:
        raise ValueError(f"{filters} filters are no multiple of {x.shape[1]} channels")
    if x.shape[0] != y.shape[0] or y.shape[1] != filters:
        raise ValueError(f"expected outputs ({x.shape[0]}, {filters}, ...), got ({y.shape[0]}, {y.shape[1]}, ...)")
    if <double> kernel_h * kernel_w != taps:
        raise ValueError(f"weights have {taps} taps, expected {kernel_h} * {kernel_w}")
    if xpc_depthwise_bytes(&conv, itemsize, PY_SSIZE_T_MAX) < 0:
        raise ValueError("sizes exceed the address space, or there are no such kernels")
    return conv


def depthwise(
    const real[:, :, :, :] x, const real[:, ::1] w, const real[::1] b, real[:, :, :, :] y, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, bint relu, Py_ssize_t most
):
    """Write into y (N, F, oh, ow) the convolution of each channel of x (N, C, H, W) with its F / C of w (F, kh * kw).

    Plus b (F,) if that is not None; images, ``relu`` and ``most`` as for `direct`.
    """
    if x.shape[0] == 0:
        return
    cdef xpc_array4 images = _array4[real](x), outputs = _array4[real](y)
    cdef xpc_direct conv = _checked_depthwise(
        &images, &outputs, w.shape[0], w.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, sizeof(real))
    cdef const real *weights = &w[0, 0]
    cdef const real *bias = NULL
    cdef int failed
    if b is not None:
        if b.shape[0] != w.shape[0]:
            raise ValueError(f"expected {w.shape[0]} biases, got {b.shape[0]}")
        bias = &b[0]
    with nogil:
        if real is float:
            failed = xpc_depthwise_f32(&conv, &images, weights, bias, relu, &outputs, most)
        else:
            failed = xpc_depthwise_f64(&conv, &images, weights, bias, relu, &outputs, most)
    _direct_memory(failed)


def depthwise_input_gradient(
    const real[:, :, :, :] dy, const real[:, ::1] w, real[:, :, :, :] dx, Py_ssize_t kernel_h, Py_ssize_t kernel_w,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h,
    Py_ssize_t dilation_w, Py_ssize_t most
):
    """Write into dx (N, C, H, W) the gradient of `depthwise`."""
    if dy.shape[0] == 0:
        return
    cdef xpc_array4 gradients = _array4[real](dy), images = _array4[real](dx)
    cdef xpc_direct conv = _checked_depthwise(
        &images, &gradients, w.shape[0], w.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, sizeof(real))
    cdef const real *weights = &w[0, 0]
    cdef int failed
    with nogil:
        if real is float:
            failed = xpc_depthwise_dx_f32(&conv, &gradients, weights, &images, most)
        else:
            failed = xpc_depthwise_dx_f64(&conv, &gradients, weights, &images, most)
    _direct_memory(failed)


def depthwise_weight_gradient(
    const real[:, :, :, :] dy, const real[:, :, :, :] x, real[:, ::1] dw, real[::1] db, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t most
):
    """Write the gradients of `depthwise` to w into dw (F, kh * kw), and to b into db (F,) unless that is None."""
    cdef real *to_bias = NULL
    cdef int failed
    if db is not None:
        if db.shape[0] != dw.shape[0]:
            raise ValueError("db must have the length of the filters")
        db[:] = 0
        to_bias = &db[0]
    if x.shape[0] == 0:
        dw[:, :] = 0
        return
    cdef xpc_array4 gradients = _array4[real](dy), images = _array4[real](x)
    cdef xpc_direct conv = _checked_depthwise(
        &images, &gradients, dw.shape[0], dw.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, sizeof(real))
    cdef real *to_weights = &dw[0, 0]
    with nogil:
        if real is float:
            failed = xpc_depthwise_dw_f32(&conv, &gradients, &images, to_weights, to_bias, most)
        else:
            failed = xpc_depthwise_dw_f64(&conv, &gradients, &images, to_weights, to_bias, most)
    _direct_memory(failed)
