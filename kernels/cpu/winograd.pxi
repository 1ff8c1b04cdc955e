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
    const real[:, :, :, :] x, const real[:, :, :, ::1] w, const real[::1] b, real[:, :, :, ::1] y, Py_ssize_t pad_top,
    Py_ssize_t pad_left, int tile, bint rotated, bint relu, size_t most
):
    """Write into y (N, F, oh, ow) the convolution of x (N, C, H, W) with w (F, C, 3, 3), plus b (F,) if not None.

    ``rotated``: with w (C, F, 3, 3), turned by half a turn. ``relu``: negative outputs become zero. ``most`` bytes of
    working memory, if that is possible.
    """
    cdef xpc_array4 images = _array4[real](x), outputs = _array4[real](y)
    cdef xpc_winograd conv = _winograd(&images, &outputs, pad_top, pad_left, tile, sizeof(real))
    cdef Py_ssize_t first = conv.channels if rotated else conv.filters
    cdef Py_ssize_t second = conv.filters if rotated else conv.channels
    cdef const real *bias = NULL
    cdef int good
    if w.shape[0] != first or w.shape[1] != second or w.shape[2] != 3 or w.shape[3] != 3:
        raise ValueError(
            f"expected weights ({first}, {second}, 3, 3), got ({w.shape[0]}, {w.shape[1]}, {w.shape[2]}, {w.shape[3]})")
    if b is not None:
        if b.shape[0] != conv.filters:
            raise ValueError(f"expected {conv.filters} biases, got {b.shape[0]}")
        bias = &b[0]
    with nogil:
        if real is float:
            good = xpc_winograd_f32(&conv, &images, &w[0, 0, 0, 0], bias, rotated, relu, &y[0, 0, 0, 0], most)
        else:
            good = xpc_winograd_f64(&conv, &images, &w[0, 0, 0, 0], bias, rotated, relu, &y[0, 0, 0, 0], most)
    if not good:
        _no_memory()


def winograd_weights(
    const real[:, :, :, :] dy, const real[:, :, :, :] x, real[:, :, :, ::1] dw, real[::1] db, Py_ssize_t pad_top,
    Py_ssize_t pad_left, int tile, size_t most
):
    """Write the gradients dw (F, C, 3, 3) and db (F,) of `winograd`."""
    cdef xpc_array4 images = _array4[real](x), gradients = _array4[real](dy)
    cdef xpc_winograd conv = _winograd(&images, &gradients, pad_top, pad_left, tile, sizeof(real))
    cdef int good
    _check_in_place("gradients", &gradients, sizeof(real))
    if dw.shape[0] != conv.filters or dw.shape[1] != conv.channels or dw.shape[2] != 3 or dw.shape[3] != 3:
        raise ValueError(
            f"expected gradients of weights ({conv.filters}, {conv.channels}, 3, 3), got "
            f"({dw.shape[0]}, {dw.shape[1]}, {dw.shape[2]}, {dw.shape[3]})")
    if db.shape[0] != conv.filters:
        raise ValueError(f"expected {conv.filters} gradients of biases, got {db.shape[0]}")
    with nogil:
        if real is float:
            good = xpc_winograd_weights_f32(&conv, &gradients, &images, &dw[0, 0, 0, 0], &db[0], most)
        else:
            good = xpc_winograd_weights_f64(&conv, &gradients, &images, &dw[0, 0, 0, 0], &db[0], most)
    if not good:
        _no_memory()
