# Convolution of any shape by blocks.

cdef extern from "blocked.h":
    ctypedef struct xpc_planes:
        const void *data
        Py_ssize_t image, channel
    ctypedef struct xpc_blocked:
        Py_ssize_t groups, batch, channels, filters, height, width, out_h, out_w
        xpc_axis vertical, horizontal
    int XPC_BLOCKED_NO_MEMORY, XPC_BLOCKED_NO_KERNELS

cdef extern from "blocked.h" nogil:
    int xpc_blocked_forward_f32(
        const xpc_blocked *, xpc_planes, const float *, const float *, float *, int, Py_ssize_t)
    int xpc_blocked_forward_f64(
        const xpc_blocked *, xpc_planes, const double *, const double *, double *, int, Py_ssize_t)
    int xpc_blocked_input_gradient_f32(
        const xpc_blocked *, xpc_planes, const float *, const float *, float *, Py_ssize_t)
    int xpc_blocked_input_gradient_f64(
        const xpc_blocked *, xpc_planes, const double *, const double *, double *, Py_ssize_t)
    int xpc_blocked_weight_gradient_f32(const xpc_blocked *, xpc_planes, xpc_planes, float *, float *, Py_ssize_t)
    int xpc_blocked_weight_gradient_f64(const xpc_blocked *, xpc_planes, xpc_planes, double *, double *, Py_ssize_t)

cdef xpc_planes _planes(str name, const Py_buffer *view) except *:
    """Images with contiguous planes, those of each image and channel anywhere."""
    cdef xpc_planes planes
    cdef xpc_array4 images = _array4(view)
    cdef Py_ssize_t itemsize = view.itemsize
    _check_images(&images)
    if (images.shape[3] > 1 and images.strides[3] != itemsize) or (
        images.shape[2] > 1 and images.strides[2] != itemsize * images.shape[3]
    ):
        raise ValueError(f"{name}: planes must be contiguous")
    planes.data = images.data
    planes.image = images.strides[0] // itemsize if images.shape[0] > 1 else 0
    planes.channel = images.strides[1] // itemsize if images.shape[1] > 1 else 0
    return planes


cdef xpc_blocked _blocked(
    const Py_ssize_t *x, const Py_ssize_t *w, const Py_ssize_t *y, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups
) except *:
    """What the shapes and numbers of a call amount to; ValueError unless they belong together."""
    cdef xpc_blocked conv
    for axis in range(4):
        if min(x[axis], w[axis], y[axis]) < 1:
            raise ValueError("sizes must be at least 1")
    if pad_top < 0 or pad_left < 0:
        raise ValueError("padding must be at least 0")
    if groups < 1 or w[0] % groups:
        raise ValueError(f"expected filters in {groups} equal groups, got {w[0]}")
    if x[0] != y[0] or y[1] != w[0] or x[1] // groups != w[1] or x[1] % groups:
        raise ValueError(
            f"expected images (N, {groups} * {w[1]}, ...) and outputs (N, {w[0]}, ...), got ({x[0]}, {x[1]}, ...) and "
            f"({y[0]}, {y[1]}, ...)")
    conv.groups, conv.batch, conv.channels, conv.filters = groups, x[0], w[1], w[0] // groups
    conv.height, conv.width, conv.out_h, conv.out_w = x[2], x[3], y[2], y[3]
    conv.vertical = _axis(w[2], y[2], stride_h, pad_top, dilation_h)
    conv.horizontal = _axis(w[3], y[3], stride_w, pad_left, dilation_w)
    # a band of one row of outputs, all weights, and the sums of one piece, in numbers
    _check_positive_product(
        (<double> w[2] * dilation_h + stride_h)
        * (<double> y[3] * stride_w + <double> w[3] * dilation_w + stride_w + x[3]) * max(w[0], w[1]) * 64)
    _check_positive_product(<double> w[0] * w[1] * w[2] * w[3] * 64)
    return conv


cdef int _check_blocked(int done, Py_ssize_t limit) except -1:
    if done == XPC_BLOCKED_NO_MEMORY:
        raise MemoryError(
            "no memory for a convolution; smaller batches take less"
            + ("" if limit <= 1 << 20 else ", and so does a smaller XPCONV_WORKSPACE_MB"))
    if done == XPC_BLOCKED_NO_KERNELS:
        raise ValueError("the kernels were built by a compiler without vectors")
    return 0


def blocked_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, bint relu, Py_ssize_t limit, /
):
    """Write into y (N, F, oh, ow) the convolution of x (N, C, H, W) with w (F, C / groups, kh, kw), plus b (F,) or None.

    x has contiguous planes, the others are C-contiguous. Working memory stays below ``limit`` bytes where that is
    possible.
    """
    cdef _Arrays arrays = _Arrays(4)
    cdef const Py_buffer *source = arrays.numbers("x", x, 4, READ)
    cdef const Py_buffer *weights = arrays.block("w", w, 4, READ)
    cdef const Py_buffer *result = arrays.block("y", y, 4, WRITTEN)
    cdef xpc_blocked conv = _blocked(
        source.shape, weights.shape, result.shape, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
        groups)
    cdef xpc_planes images = _planes("x", source)
    cdef const void *bias = arrays.optional("b", b, READ, weights.shape[0])
    cdef int done
    with nogil:
        if arrays.is_double:
            done = xpc_blocked_forward_f64(
                &conv, images, <const double *> weights.buf, <const double *> bias, <double *> result.buf, relu, limit)
        else:
            done = xpc_blocked_forward_f32(
                &conv, images, <const float *> weights.buf, <const float *> bias, <float *> result.buf, relu, limit)
    _check_blocked(done, limit)


def blocked_input_gradient(
    dy, w, b, dx, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t limit, /
):
    """Write into dx (N, C, H, W) the gradient of `blocked_forward` to its images, plus b (C,) if not None."""
    cdef _Arrays arrays = _Arrays(4)
    cdef const Py_buffer *source = arrays.numbers("dy", dy, 4, READ)
    cdef const Py_buffer *weights = arrays.block("w", w, 4, READ)
    cdef const Py_buffer *result = arrays.block("dx", dx, 4, WRITTEN)
    cdef xpc_blocked conv = _blocked(
        result.shape, weights.shape, source.shape, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
        groups)
    cdef xpc_planes gradients = _planes("dy", source)
    cdef const void *bias = arrays.optional("b", b, READ, result.shape[1])
    cdef int done
    with nogil:
        if arrays.is_double:
            done = xpc_blocked_input_gradient_f64(
                &conv, gradients, <const double *> weights.buf, <const double *> bias, <double *> result.buf, limit)
        else:
            done = xpc_blocked_input_gradient_f32(
                &conv, gradients, <const float *> weights.buf, <const float *> bias, <float *> result.buf, limit)
    _check_blocked(done, limit)


def blocked_weight_gradient(
    dy, x, dw, db, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t limit, /
):
    """Write into dw (F, C / groups, kh, kw) the gradient to the weights, into db (F,), or None, the sums of dy."""
    cdef _Arrays arrays = _Arrays(4)
    cdef const Py_buffer *outputs = arrays.numbers("dy", dy, 4, READ)
    cdef const Py_buffer *inputs = arrays.numbers("x", x, 4, READ)
    cdef const Py_buffer *weights = arrays.block("dw", dw, 4, WRITTEN)
    cdef xpc_blocked conv = _blocked(
        inputs.shape, weights.shape, outputs.shape, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
        groups)
    cdef xpc_planes gradients = _planes("dy", outputs), images = _planes("x", inputs)
    cdef void *sums = arrays.optional("db", db, WRITTEN, weights.shape[0])
    cdef int done
    with nogil:
        if arrays.is_double:
            done = xpc_blocked_weight_gradient_f64(
                &conv, gradients, images, <double *> weights.buf, <double *> sums, limit)
        else:
            done = xpc_blocked_weight_gradient_f32(
                &conv, gradients, images, <float *> weights.buf, <float *> sums, limit)
    _check_blocked(done, limit)
