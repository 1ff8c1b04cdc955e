# Convolution without columns.

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "direct.h" nogil:
    ctypedef struct xpc_direct:
        Py_ssize_t channels, filters, height, width, out_h, out_w
        xpc_axis vertical, horizontal
    Py_ssize_t xpc_direct_bytes(const xpc_direct *, int, int, Py_ssize_t)
    int xpc_direct_f32(
        const xpc_direct *, const xpc_array4 *, const float *, const float *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_direct_f64(
        const xpc_direct *, const xpc_array4 *, const double *, const double *, int, const xpc_array4 *, Py_ssize_t)
    int xpc_direct_backward_f32(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const float *, const xpc_array4 *, float *, float *,
        Py_ssize_t)
    int xpc_direct_backward_f64(
        const xpc_direct *, const xpc_array4 *, const xpc_array4 *, const double *, const xpc_array4 *, double *,
        double *, Py_ssize_t)

cdef Py_ssize_t _reach(const xpc_axis *axis, Py_ssize_t out) noexcept:
    """How many pixels all windows together span, and some more."""
    return out * axis.stride + axis.kernel * axis.dilation


cdef xpc_direct _direct(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, xpc_axis vertical,
    xpc_axis horizontal, Py_ssize_t out_h, Py_ssize_t out_w
) except *:
    cdef xpc_direct conv
    if min(channels, filters, height, width, vertical.kernel, horizontal.kernel, out_h, out_w) < 1:
        raise ValueError("sizes must be at least 1")
    if vertical.pad < 0 or horizontal.pad < 0:
        raise ValueError("padding must be at least 0")
    if vertical.pad > _reach(&vertical, out_h) or horizontal.pad > _reach(&horizontal, out_w):
        raise ValueError("padding is wider than all windows together")
    conv.channels, conv.filters, conv.height, conv.width = channels, filters, height, width
    conv.vertical, conv.horizontal, conv.out_h, conv.out_w = vertical, horizontal, out_h, out_w
    return conv


cdef int _check_itemsize(int itemsize) except -1:
    if itemsize != sizeof(float) and itemsize != sizeof(double):
        raise ValueError(f"itemsize: expected 4 or 8 bytes, got {itemsize}")
    return 0


def direct_bytes(
    Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t height, Py_ssize_t width, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t out_h, Py_ssize_t out_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, bint backward,
    int itemsize, Py_ssize_t most, /
):
    """The least working memory of `direct` or `direct_backward` in one thread; None above ``most`` or without kernels."""
    cdef xpc_direct conv = _direct(
        channels, filters, height, width, _axis(kernel_h, out_h, stride_h, pad_top, dilation_h),
        _axis(kernel_w, out_w, stride_w, pad_left, dilation_w), out_h, out_w)
    _check_itemsize(itemsize)
    cdef Py_ssize_t size = xpc_direct_bytes(&conv, backward, itemsize, most)
    return None if size < 0 else size


cdef int _check_planes(const xpc_array4 *images, Py_ssize_t itemsize) except -1:
    """ValueError unless the planes are contiguous, and anywhere at whole numbers of entries."""
    _check_images(images)
    for axis in range(2):
        if images.shape[axis] > 1 and images.strides[axis] % itemsize:
            raise ValueError("strides must be whole numbers of entries")
    if images.shape[3] > 1 and images.strides[3] != itemsize:
        raise ValueError("planes must be contiguous")
    if images.shape[2] > 1 and images.strides[2] != itemsize * images.shape[3]:
        raise ValueError("planes must be contiguous")
    return 0


cdef xpc_direct _checked_direct(
    const xpc_array4 *x, const xpc_array4 *y, Py_ssize_t filters, Py_ssize_t taps, Py_ssize_t kernel_h,
    Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t itemsize, bint backward
) except *:
    """What the arrays and numbers of a call amount to; ValueError unless they belong together."""
    cdef xpc_direct conv = _direct(
        x.shape[1], filters, x.shape[2], x.shape[3], _axis(kernel_h, y.shape[2], stride_h, pad_top, dilation_h),
        _axis(kernel_w, y.shape[3], stride_w, pad_left, dilation_w), y.shape[2], y.shape[3])
    _check_planes(x, itemsize)
    _check_planes(y, itemsize)
    if x.shape[0] != y.shape[0] or y.shape[1] != filters:
        raise ValueError(f"expected outputs ({x.shape[0]}, {filters}, ...), got ({y.shape[0]}, {y.shape[1]}, ...)")
    if <double> x.shape[1] * kernel_h * kernel_w != taps:
        raise ValueError(f"weights have {taps} taps, expected {x.shape[1]} * {kernel_h} * {kernel_w}")
    if xpc_direct_bytes(&conv, backward, itemsize, PY_SSIZE_T_MAX) < 0:
        raise ValueError("sizes exceed the address space, or there are no such kernels")
    return conv


cdef int _direct_memory(int failed) except -1:
    if failed:
        raise MemoryError("no memory for the working memory of a convolution, see XPCONV_WORKSPACE_MB")
    return 0


def direct(
    x, w, b, y, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top,
    Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, bint relu, Py_ssize_t most, /
):
    """Write into y (N, F, oh, ow) the convolution of x (N, C, H, W) with w (F, C * kh * kw), plus b (F,) if not None.

    Images have contiguous planes, w and b are C-contiguous. With ``relu`` max(y, 0). ``most`` is the most working
    memory in bytes, as far as one row at a time allows.
    """
    cdef _Arrays arrays = _Arrays(4)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 outputs = _array4(arrays.numbers("y", y, 4, WRITTEN))
    cdef const Py_buffer *weights = arrays.block("w", w, 2, READ)
    cdef xpc_direct conv
    cdef int failed
    if images.shape[0] == 0:
        return
    conv = _checked_direct(
        &images, &outputs, weights.shape[0], weights.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top,
        pad_left, dilation_h, dilation_w, arrays.itemsize, False)
    cdef const void *bias = arrays.optional("b", b, READ, weights.shape[0])
    with nogil:
        if arrays.is_double:
            failed = xpc_direct_f64(
                &conv, &images, <const double *> weights.buf, <const double *> bias, relu, &outputs, most)
        else:
            failed = xpc_direct_f32(
                &conv, &images, <const float *> weights.buf, <const float *> bias, relu, &outputs, most)
    _direct_memory(failed)


def direct_backward(
    dy, x, w, dx, dw, db, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t most, /
):
    """Write the gradients of `direct`: to x into dx from w, those to w and b into dw and db from x; None is not wanted."""
    cdef _Arrays arrays = _Arrays(6)
    cdef xpc_array4 gradients, images, to
    cdef xpc_direct conv
    cdef const Py_buffer *weights = NULL
    cdef const Py_buffer *like = NULL  # w or dw: the sizes
    cdef void *to_weights = NULL
    cdef void *to_bias
    cdef int failed
    if dx is None and dw is None:
        raise ValueError("expected dx or dw, got None for both")
    if (dx is not None and w is None) or (dw is not None and x is None) or (db is not None and dw is None):
        raise ValueError("dx takes w, dw takes x, db takes dw")
    gradients = _array4(arrays.numbers("dy", dy, 4, READ))
    if dx is not None:
        weights = like = arrays.block("w", w, 2, READ)
        images = to = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
    if dw is not None:
        like = arrays.block("dw", dw, 2, WRITTEN)
        to_weights = like.buf
        images = _array4(arrays.numbers("x", x, 4, READ))
    to_bias = arrays.optional("db", db, WRITTEN, like.shape[0])
    if gradients.shape[0] == 0:
        if dw is not None:
            memset(to_weights, 0, like.len)
        if db is not None:
            memset(to_bias, 0, like.shape[0] * like.itemsize)
        return
    if dx is not None:
        _check_planes(&to, arrays.itemsize)
        if weights.shape[0] != like.shape[0] or weights.shape[1] != like.shape[1]:
            raise ValueError("dw must have the shape of w")
        for axis in range(4):
            if to.shape[axis] != images.shape[axis]:
                raise ValueError("dx must have the shape of x")
    conv = _checked_direct(
        &images, &gradients, like.shape[0], like.shape[1], kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left,
        dilation_h, dilation_w, arrays.itemsize, True)
    cdef const void *from_weights = NULL if weights == NULL else weights.buf
    cdef const xpc_array4 *to_images = NULL if dx is None else &to
    with nogil:
        if arrays.is_double:
            failed = xpc_direct_backward_f64(
                &conv, &gradients, &images, <const double *> from_weights, to_images, <double *> to_weights,
                <double *> to_bias, most)
        else:
            failed = xpc_direct_backward_f32(
                &conv, &gradients, &images, <const float *> from_weights, to_images, <float *> to_weights,
                <float *> to_bias, most)
    _direct_memory(failed)
