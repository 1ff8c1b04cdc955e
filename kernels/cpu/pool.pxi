# Max and average pooling.

cdef extern from "pool.h" nogil:
    ctypedef struct xpc_counted:
        xpc_range vertical, horizontal
    void xpc_max_pool(const xpc_array4 *, const xpc_array4 *, const xpc_array4 *, int, xpc_axis, xpc_axis, int)
    int xpc_max_pool_backward(
        const xpc_array4 *, const xpc_array4 *, int, const xpc_array4 *, xpc_axis, xpc_axis, int)
    void xpc_avg_pool(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted, int)
    void xpc_avg_pool_backward(const xpc_array4 *, const xpc_array4 *, xpc_axis, xpc_axis, xpc_counted, int)
    void xpc_adaptive_avg_pool(const xpc_array4 *, const xpc_array4 *, int)
    void xpc_adaptive_avg_pool_backward(const xpc_array4 *, const xpc_array4 *, int)

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


cdef int _check_argmax(const xpc_array4 *pooled, const Py_buffer *argmax) except -1:
    if _letter(argmax) != c"B" and not _is_integer(argmax, sizeof(int32_t)):
        raise ValueError(f"argmax: expected uint8 or int32, got format {_format(argmax)!r}")
    _check_aligned("argmax", argmax)
    for axis in range(4):
        if pooled.shape[axis] != argmax.shape[axis]:
            raise ValueError(f"argmax: axis {axis} has length {argmax.shape[axis]}, expected {pooled.shape[axis]}")
    return 0


cdef int _check_kernel(Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t most) except -1:
    if kernel_h < 1 or kernel_w < 1 or kernel_h > most // kernel_w:
        raise ValueError(f"kernel_size: expected 1 to {most} taps, got {kernel_h} x {kernel_w}")
    return 0


def max_pool(
    x, y, argmax, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, /
):
    """Write the maxima y (N, C, oh, ow) of the windows of x (N, C, H, W), and the taps that they are at."""
    cdef _Arrays arrays = _Arrays(3)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 pooled = _array4(arrays.numbers("y", y, 4, WRITTEN))
    cdef const Py_buffer *indices = arrays.hold("argmax", argmax, 4, WRITTEN)
    cdef xpc_array4 taps = _array4(indices)
    _check_kernel(kernel_h, kernel_w, 255 if indices.itemsize == 1 else 0x7FFFFFFF)
    cdef xpc_axis vertical = _axis(kernel_h, pooled.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, pooled.shape[3], stride_w, pad_left, dilation_w)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    _check_argmax(&pooled, indices)
    with nogil:
        xpc_max_pool(&images, &pooled, &taps, indices.itemsize, vertical, horizontal, arrays.is_double)


def max_pool_backward(
    dy, argmax, dx, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w, /
):
    """Write into dx (N, C, H, W) the sums of the dy (N, C, oh, ow) that chose each pixel."""
    cdef int good
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef _Arrays arrays = _Arrays(3)
    cdef xpc_array4 pooled = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef const Py_buffer *indices = arrays.hold("argmax", argmax, 4, READ)
    cdef xpc_array4 taps = _array4(indices)
    cdef xpc_array4 images = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
    cdef xpc_axis vertical = _axis(kernel_h, pooled.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, pooled.shape[3], stride_w, pad_left, dilation_w)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    _check_argmax(&pooled, indices)
    with nogil:
        good = xpc_max_pool_backward(
            &pooled, &taps, indices.itemsize, &images, vertical, horizontal, arrays.is_double)
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
    x, y, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w,
    Py_ssize_t count_top, Py_ssize_t count_bottom, Py_ssize_t count_left, Py_ssize_t count_right, /
):
    """Write the means y (N, C, oh, ow) of the windows of x (N, C, H, W).

    The divisor counts the taps in the image and in ``count_top`` and so on pixels of padding around it.
    """
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 pooled = _array4(arrays.numbers("y", y, 4, WRITTEN))
    cdef xpc_axis vertical = _axis(kernel_h, pooled.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, pooled.shape[3], stride_w, pad_left, dilation_w)
    cdef xpc_counted counted = _counted(&images, count_top, count_bottom, count_left, count_right)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    with nogil:
        xpc_avg_pool(&images, &pooled, vertical, horizontal, counted, arrays.is_double)


def avg_pool_backward(
    dy, dx, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h, Py_ssize_t dilation_w,
    Py_ssize_t count_top, Py_ssize_t count_bottom, Py_ssize_t count_left, Py_ssize_t count_right, /
):
    """Write into dx (N, C, H, W) the shares of dy (N, C, oh, ow); arguments as for `avg_pool`."""
    _check_kernel(kernel_h, kernel_w, 0x7FFFFFFF)
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array4 pooled = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
    cdef xpc_axis vertical = _axis(kernel_h, pooled.shape[2], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(kernel_w, pooled.shape[3], stride_w, pad_left, dilation_w)
    cdef xpc_counted counted = _counted(&images, count_top, count_bottom, count_left, count_right)
    _check_pooled(&images, &pooled, kernel_h * kernel_w)
    with nogil:
        xpc_avg_pool_backward(&pooled, &images, vertical, horizontal, counted, arrays.is_double)


cdef int _check_bins(const xpc_array4 *images, const xpc_array4 *pooled) except -1:
    _check_pooled(images, pooled, 1)
    if min(images.shape[2], images.shape[3], pooled.shape[2], pooled.shape[3]) < 1:
        raise ValueError("images and bins: expected at least one pixel")
    for axis in range(2, 4):
        _check_positive_product(<double> images.shape[axis] * (<double> pooled.shape[axis] + 1))
    return 0


def adaptive_avg_pool(x, y, /):
    """Write the means y (N, C, oh, ow) of oh * ow bins of the pixels of x (N, C, H, W)."""
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array4 pooled = _array4(arrays.numbers("y", y, 4, WRITTEN))
    _check_bins(&images, &pooled)
    with nogil:
        xpc_adaptive_avg_pool(&images, &pooled, arrays.is_double)


def adaptive_avg_pool_backward(dy, dx, /):
    """Write into dx (N, C, H, W) the shares of dy (N, C, oh, ow) of the pixels of each bin."""
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array4 pooled = _array4(arrays.numbers("dy", dy, 4, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("dx", dx, 4, WRITTEN))
    _check_bins(&images, &pooled)
    with nogil:
        xpc_adaptive_avg_pool_backward(&pooled, &images, arrays.is_double)
