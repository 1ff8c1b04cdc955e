# From memoryviews to C: strided arrays, and checks that no size overflows.

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
    ctypedef struct xpc_range:
        Py_ssize_t begin, end

ctypedef fused real:
    float
    double

ctypedef fused tap_index:
    uint8_t
    int32_t

ctypedef fused element:
    float
    double
    uint8_t
    int32_t

cdef int _check_aligned(
    const void *data, const Py_ssize_t *shape, const Py_ssize_t *strides, int ndim, Py_ssize_t itemsize
) except -1:
    cdef Py_ssize_t bits = <Py_ssize_t> data
    for axis in range(ndim):
        if shape[axis] == 0:
            return 0
        if shape[axis] > 1:  # the stride of a single entry may be anything
            bits |= strides[axis]
    if bits & (min(itemsize, <Py_ssize_t> sizeof(void *)) - 1):
        raise ValueError("array is not aligned")
    return 0


cdef xpc_array4 _array4(const element[:, :, :, :] view) except *:
    cdef xpc_array4 array
    _check_aligned(<const void *> &view[0, 0, 0, 0], view.shape, view.strides, 4, sizeof(element))
    array.data = <char *> &view[0, 0, 0, 0]
    for axis in range(4):
        array.shape[axis] = view.shape[axis]
        array.strides[axis] = view.strides[axis]
    return array


cdef xpc_array6 _array6(const real[:, :, :, :, :, :] view) except *:
    cdef xpc_array6 array
    _check_aligned(<const void *> &view[0, 0, 0, 0, 0, 0], view.shape, view.strides, 6, sizeof(real))
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

cdef int _check_images(const xpc_array4 *images) except -1:
    # an axis of length 0 counts as 1: products of the others must not overflow either
    cdef double entries = 1
    for axis in range(4):
        entries *= max(images.shape[axis], 1)
    return _check_positive_product(entries)
