# im2col and col2im.

cdef extern from "columns.h" nogil:
    void xpc_im2col_f32(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_im2col_f64(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_col2im_f32(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)
    void xpc_col2im_f64(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)

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
    x, cols, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h,
    Py_ssize_t dilation_w, /
):
    """Write the columns (N, C, kh, kw, oh, ow) of images x (N, C, H, W); zeros where a tap sees padding.

    A negative ``pad_top`` lets ``cols`` hold only the output rows from ``-pad_top / stride_h`` on.
    """
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, READ))
    cdef xpc_array6 columns = _array6(arrays.numbers("cols", cols, 6, WRITTEN))
    cdef xpc_axis vertical = _axis(columns.shape[2], columns.shape[4], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(columns.shape[3], columns.shape[5], stride_w, pad_left, dilation_w)
    _check_columns(&images, &columns)
    with nogil:
        if arrays.is_double:
            xpc_im2col_f64(&images, &columns, vertical, horizontal)
        else:
            xpc_im2col_f32(&images, &columns, vertical, horizontal)


def col2im(
    cols, x, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_top, Py_ssize_t pad_left, Py_ssize_t dilation_h,
    Py_ssize_t dilation_w, /, bint accumulate=False
):
    """Write into x (N, C, H, W) the sums of the columns (N, C, kh, kw, oh, ow); add to x with ``accumulate``."""
    cdef _Arrays arrays = _Arrays(2)
    cdef xpc_array6 columns = _array6(arrays.numbers("cols", cols, 6, READ))
    cdef xpc_array4 images = _array4(arrays.numbers("x", x, 4, WRITTEN))
    cdef xpc_axis vertical = _axis(columns.shape[2], columns.shape[4], stride_h, pad_top, dilation_h)
    cdef xpc_axis horizontal = _axis(columns.shape[3], columns.shape[5], stride_w, pad_left, dilation_w)
    _check_columns(&images, &columns)
    with nogil:
        if arrays.is_double:
            xpc_col2im_f64(&columns, &images, vertical, horizontal, accumulate)
        else:
            xpc_col2im_f32(&columns, &images, vertical, horizontal, accumulate)
