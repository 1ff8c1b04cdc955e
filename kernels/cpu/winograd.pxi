# Convolution of 3 x 3 by Winograd's minimal filtering.

cdef extern from "winograd.h" nogil:
    ctypedef struct xpc_winograd:
        Py_ssize_t batch, channels, filters, height, width, out_h, out_w, pad_top, pad_left
        int tile
    int xpc_winograd_f32(
        const xpc_winograd *, const xpc_array4 *, const float *, const float *, int, int, float *, size_t)
    int xpc_winograd_f64(
        const xpc_winograd *, const xpc_array4 *, const double *, const double *, int, int, double *, size_t)
    int xpc_winograd_weights_f32(
        const xpc_winograd *, const xpc_array4 *, const xpc_array4 *, float *, float *, size_t)
    int xpc_winograd_weights_f64(
        const xpc_winograd *, const xpc_array4 *, const xpc_array4 *, double *, double *, size_t)

cdef _check_in_place(str name, const xpc_array4 *images, Py_ssize_t itemsize):
    if (images.shape[3] > 1 and images.strides[3] != itemsize) or (
        images.shape[2] > 1 and images.strides[2] != images.shape[3] * itemsize
    ) or images.strides[0] % itemsize or images.strides[1] % itemsize:
        raise ValueError(f"planes of {name} must be contiguous, and whole numbers of entries apart")


cdef bint _is_of(const Py_ssize_t *shape, Py_ssize_t first, Py_ssize_t second) noexcept:
    return shape[0] == first and shape[1] == second and shape[2] == 3 and shape[3] == 3


cdef tuple _tuple4(const Py_ssize_t *shape):
    return shape[0], shape[1], shape[2], shape[3]


cdef _no_memory():
    raise MemoryError("no working memory for a convolution (Winograd); XPCONV_WORKSPACE_MB sets how much it takes")


cdef xpc_winograd _winograd(
    const xpc_array4 *x, const xpc_array4 *y, Py_ssize_t pad_top, Py_ssize_t pad_left, int tile, Py_ssize_t itemsize
) except *:
    """What the arrays and numbers of a call amount to; ValueError unless they belong together."""
    cdef xpc_winograd conv
    if tile != 2 and tile != 4:
        raise ValueError(f"tile: expected 2 or 4, got {tile}")
    if xpc_isa() < 0:
        raise ValueError("there are no such kernels")
    _check_images(x)
    _check_images(y)
    _axis(3, y.shape[2], 1, pad_top, 1)
    _axis(3, y.shape[3], 1, pad_left, 1)
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"inputs are {x.shape[0]} images, outputs {y.shape[0]}")
    for axis in range(4):
        if x.shape[axis] < 1 or y.shape[axis] < 1:
            raise ValueError("sizes must be at least 1")
    _check_in_place("inputs", x, itemsize)
    conv.batch, conv.channels, conv.height, conv.width = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    conv.filters, conv.out_h, conv.out_w = y.shape[1], y.shape[2], y.shape[3]
    conv.pad_top, conv.pad_left, conv.tile = pad_top, pad_left, tile
    return conv


def winograd(
    x, w, b, y, Py_ssize_t pad_top, Py_ssize_t pad_left, int tile, bint rotated, bint relu, size_t most, /
):
    """Write into y (N, F, oh, ow) the convolution of x (N, C, H, W) with w (F, C, 3, 3), plus b (F,) if not None.

    ``rotated``: with w (C, F, 3, 3), turned by half a turn. ``relu``: negative outputs become zero. ``most`` bytes of
    working memory, if that is possible. w, b and y are C-contiguous.
    """
    cdef _Arrays arrays = _Arrays(4)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 outputs = _array4(arrays.block("y", y, 4, WRITTEN))
    cdef xpc_winograd conv = _winograd(&images, &outputs, pad_top, pad_left, tile, arrays.itemsize)
    cdef Py_ssize_t first = conv.channels if rotated else conv.filters
    cdef Py_ssize_t second = conv.filters if rotated else conv.channels
    cdef const Py_buffer *weights = arrays.block("w", w, 4, READ)
    cdef int good
    if not _is_of(weights.shape, first, second):
        raise ValueError(f"expected weights ({first}, {second}, 3, 3), got {_tuple4(weights.shape)}")
    cdef const void *bias = arrays.optional("b", b, READ, conv.filters)
    with nogil:
        if arrays.is_double:
            good = xpc_winograd_f64(
                &conv, &images, <const double *> weights.buf, <const double *> bias, rotated, relu,
                <double *> outputs.data, most)
        else:
            good = xpc_winograd_f32(
                &conv, &images, <const float *> weights.buf, <const float *> bias, rotated, relu,
                <float *> outputs.data, most)
    if not good:
        _no_memory()


def winograd_weights(dy, x, dw, db, Py_ssize_t pad_top, Py_ssize_t pad_left, int tile, size_t most, /):
    """Write the gradients dw (F, C, 3, 3) and db (F,) of `winograd`."""
    cdef _Arrays arrays = _Arrays(4)
    cdef xpc_array4 gradients = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_winograd conv = _winograd(&images, &gradients, pad_top, pad_left, tile, arrays.itemsize)
    cdef const Py_buffer *weights = arrays.block("dw", dw, 4, WRITTEN)
    cdef int good
    _check_in_place("gradients", &gradients, arrays.itemsize)
    if not _is_of(weights.shape, conv.filters, conv.channels):
        raise ValueError(
            f"expected gradients of weights ({conv.filters}, {conv.channels}, 3, 3), got {_tuple4(weights.shape)}")
    cdef void *sums = arrays.run("db", db, WRITTEN, conv.filters)
    with nogil:
        if arrays.is_double:
            good = xpc_winograd_weights_f64(
                &conv, &gradients, &images, <double *> weights.buf, <double *> sums, most)
        else:
            good = xpc_winograd_weights_f32(
                &conv, &gradients, &images, <float *> weights.buf, <float *> sums, most)
    if not good:
        _no_memory()
