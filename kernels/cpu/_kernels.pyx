"""The compiled kernels on typed memoryviews: checks of shapes, then C without the interpreter lock.

Inputs may be read-only and have any strides. A call with shapes that do not belong together raises ValueError; no call
reads or writes outside its arrays.
"""

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

cdef extern from "threads.h" nogil:
    void xpc_set_num_threads(int)
    int xpc_get_num_threads()
    int xpc_has_threads()

cdef extern from "columns.h" nogil:
    void xpc_im2col_f32(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_im2col_f64(const xpc_array4 *, const xpc_array6 *, xpc_axis, xpc_axis)
    void xpc_col2im_f32(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)
    void xpc_col2im_f64(const xpc_array6 *, const xpc_array4 *, xpc_axis, xpc_axis, int)

ctypedef fused real:
    float
    double


def set_num_threads(int number):
    """Let kernels use ``number`` threads; a serial build stays at one."""
    xpc_set_num_threads(number)


def get_num_threads():
    """How many threads kernels use."""
    return xpc_get_num_threads()


THREADED = bool(xpc_has_threads())  # whether this build has threads


# ---- from memoryviews to C ----------------------------------------------------------------------------------------

cdef int _check_aligned(const void *data, const Py_ssize_t *strides, int ndim, Py_ssize_t itemsize) except -1:
    cdef Py_ssize_t bits = <Py_ssize_t> data
    for axis in range(ndim):
        bits |= strides[axis]
    if bits & (min(itemsize, <Py_ssize_t> sizeof(void *)) - 1):
        raise ValueError("array is not aligned")
    return 0


cdef xpc_array4 _array4(const real[:, :, :, :] view) except *:
    cdef xpc_array4 array
    _check_aligned(<const void *> &view[0, 0, 0, 0], view.strides, 4, sizeof(real))
    array.data = <char *> &view[0, 0, 0, 0]
    for axis in range(4):
        array.shape[axis] = view.shape[axis]
        array.strides[axis] = view.strides[axis]
    return array


cdef xpc_array6 _array6(const real[:, :, :, :, :, :] view) except *:
    cdef xpc_array6 array
    _check_aligned(<const void *> &view[0, 0, 0, 0, 0, 0], view.strides, 6, sizeof(real))
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

cdef int _check_columns(const xpc_array4 *images, const xpc_array6 *cols) except -1:
    cdef double entries = 1
    if images.shape[0] != cols.shape[0] or images.shape[1] != cols.shape[1]:
        raise ValueError(
            f"images ({images.shape[0]}, {images.shape[1]}, ...) and columns ({cols.shape[0]}, {cols.shape[1]}, ...) "
            "differ in batch or channels"
        )
    for axis in range(6):
        entries *= cols.shape[axis]
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
