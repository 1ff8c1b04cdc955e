# Convolution without columns.

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
