# Convolution of each channel by filters of its own.

cdef extern from "depthwise.h" nogil:
    Py_ssize_t xpc_depthwise_bytes(const xpc_direct *, int, Py_ssize_t)
    int xpc_depthwise_f32(
        const xpc_direct *, const xpc_array4 *, const float *, const float *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_f64(
        const xpc_direct *, const xpc_array4 *, const double *, const double *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_dx_f32(const xpc_direct *, const xpc_array4 *, const float *, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_dx_f64(const xpc_direct *, const xpc_array4 *, const double *, const xpc_array4 *, Py_ssize_t)
    int xpc_depthwise_gradients_f32(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const float *, const xpc_array4 *, float *, float *,
        Py_ssize_t)
    int xpc_depthwise_gradients_f64(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const double *, const xpc_array4 *, double *,
        double *, Py_ssize_t)


def depthwise_bytes(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t out_h, Py_ssize_t out_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, int itemsize, Py_ssize_t most,
    /
):
    """The least working memory of one thread; None above ``most`` or without kernels."""
    cdef xpc_direct conv = _direct(
        channels, filters, height, width, _axis(kernel_h, out_h, stride_h, pad_top, dilation_h),
        _axis(kernel_w, out_w, stride_w, pad_left, dilation_w), out_h, out_w)
    _check_itemsize(itemsize)
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
    x, w, b, y, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top,
    Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, bint relu, Py_ssize_t most, /
):
    """Write into y (N, F, oh, ow) the convolution of each channel of x (N, C, H, W) with its F / C of w (F, kh * kw).

    Plus b (F,) if that is not None; images, w, ``relu`` and ``most`` as for `direct`.
    """
    cdef _Arrays arrays = _Arrays(4)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 outputs = _array4(arrays.numbers("y", y, 4, WRITTEN))
    cdef const Py_buffer *weights = arrays.block("w", w, 2, READ)
    cdef xpc_direct conv
    cdef int failed
    if images.shape[0] == 0:
        return
    conv = _checked_depthwise(
        &images, &outputs, weights.shape[0], weights.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top,
        pad_left, dilation_h, dilation_w, arrays.itemsize)
    cdef const void *bias = arrays.optional("b", b, READ, weights.shape[0])
    with nogil:
        if arrays.is_double:
            failed = xpc_depthwise_f64(
                &conv, &images, <const double *> weights.buf, <const double *> bias, relu, &outputs, most)
        else:
            failed = xpc_depthwise_f32(
                &conv, &images, <const float *> weights.buf, <const float *> bias, relu, &outputs, most)
    _direct_memory(failed)


def depthwise_input_gradient(
    dy, w, dx, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top,
    Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t most, /
):
    """Write into dx (N, C, H, W) the gradient of `depthwise`."""
    cdef _Arrays arrays = _Arrays(3)
    cdef xpc_array4 gradients = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
    cdef const Py_buffer *weights = arrays.block("w", w, 2, READ)
    cdef xpc_direct conv
    cdef int failed
    if gradients.shape[0] == 0:
        return
    conv = _checked_depthwise(
        &images, &gradients, weights.shape[0], weights.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top,
        pad_left, dilation_h, dilation_w, arrays.itemsize)
    with nogil:
        if arrays.is_double:
            failed = xpc_depthwise_dx_f64(&conv, &gradients, <const double *> weights.buf, &images, most)
        else:
            failed = xpc_depthwise_dx_f32(&conv, &gradients, <const float *> weights.buf, &images, most)
    _direct_memory(failed)


def depthwise_gradients(
    dy, x, w, dx, dw, db, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t most, /
):
    """Write the gradients of `depthwise` to w into dw (F, kh * kw), to b into db (F,), to x into dx from w.

    db, and w with dx, may be None.
    """
    cdef _Arrays arrays = _Arrays(6)
    cdef xpc_array4 to
    cdef xpc_array4 gradients = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef const Py_buffer *like = arrays.block("dw", dw, 2, WRITTEN)
    cdef const Py_buffer *weights = NULL
    cdef void *to_weights = like.buf
    cdef void *to_bias = arrays.optional("db", db, WRITTEN, like.shape[0])
    cdef const xpc_array4 *to_images = NULL
    cdef const void *from_weights = NULL
    cdef xpc_direct conv
    cdef int failed
    if (dx is None) != (w is None):
        raise ValueError("dx takes w, and w is for dx")
    if db is not None:
        memset(to_bias, 0, like.shape[0] * like.itemsize)
    if dx is not None:
        weights = arrays.block("w", w, 2, READ)
        to = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
        if weights.shape[0] != like.shape[0] or weights.shape[1] != like.shape[1]:
            raise ValueError("dw must have the shape of w")
        for axis in range(4):
            if to.shape[axis] != images.shape[axis]:
                raise ValueError("dx must have the shape of x")
        from_weights, to_images = weights.buf, &to
    if images.shape[0] == 0:
        memset(to_weights, 0, like.len)
        return
    conv = _checked_depthwise(
        &images, &gradients, like.shape[0], like.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, arrays.itemsize)
    if dx is not None:
        _check_planes(&to, arrays.itemsize)
    with nogil:
        if arrays.is_double:
            failed = xpc_depthwise_gradients_f64(
                &conv, &gradients, &images, <const double *> from_weights, to_images, <double *> to_weights,
                <double *> to_bias, most)
        else:
            failed = xpc_depthwise_gradients_f32(
                &conv, &gradients, &images, <const float *> from_weights, to_images, <float *> to_weights,
                <float *> to_bias, most)
    _direct_memory(failed)
