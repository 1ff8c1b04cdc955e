# The fully connected layer.

cdef extern from "linear.h" nogil:
    int XPC_LINEAR_NO_MEMORY, XPC_LINEAR_NO_KERNELS
    int xpc_linear_f32(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, const float *, const float *, float *)
    int xpc_linear_f64(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, const double *, const double *, double *)
    int xpc_linear_backward_f32(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, const float *, const float *, float *, float *, float *)
    int xpc_linear_backward_f64(
        Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, const double *, const double *, double *, double *, double *)


cdef int _check_linear(int done, Py_ssize_t batch, Py_ssize_t inputs, Py_ssize_t outputs) except -1:
    if done == XPC_LINEAR_NO_MEMORY:
        raise MemoryError(f"no memory to multiply ({batch}, {inputs}) by ({inputs}, {outputs})")
    if done == XPC_LINEAR_NO_KERNELS:
        raise ValueError("the kernels were built by a compiler without vectors")
    return 0


cdef int _check_sizes(Py_ssize_t batch, Py_ssize_t inputs, Py_ssize_t outputs) except -1:
    if min(batch, inputs, outputs) < 1:
        raise ValueError(f"sizes must be at least 1, got {batch}, {inputs} and {outputs}")
    # the smallest part of a matrix that is laid out anew has some rows more than the matrix
    _check_positive_product(<double> max(batch, outputs) * max(inputs, outputs) * 64)
    return 0


def linear_forward(x, w, b, y, Py_ssize_t batch, Py_ssize_t inputs, Py_ssize_t outputs, /):
    """Write into y (batch, outputs) the product of x (batch, inputs) and w (outputs, inputs), plus b (outputs,) or None.

    All arrays are contiguous and of one dtype.
    """
    _check_sizes(batch, inputs, outputs)
    cdef _Arrays arrays = _Arrays(4)
    cdef const void *images = arrays.run("x", x, READ, batch * inputs)
    cdef const void *weights = arrays.run("w", w, READ, inputs * outputs)
    cdef const void *bias = arrays.optional("b", b, READ, outputs)
    cdef void *result = arrays.run("y", y, WRITTEN, batch * outputs)
    cdef int done
    with nogil:
        if arrays.is_double:
            done = xpc_linear_f64(batch, inputs, outputs, <const double *> images, <const double *> weights,
                                  <const double *> bias, <double *> result)
        else:
            done = xpc_linear_f32(batch, inputs, outputs, <const float *> images, <const float *> weights,
                                  <const float *> bias, <float *> result)
    _check_linear(done, batch, inputs, outputs)


def linear_backward(dy, x, w, dx, dw, db, Py_ssize_t batch, Py_ssize_t inputs, Py_ssize_t outputs, /):
    """Write the gradients of `linear_forward` into dx, dw and db, each of which may be None.

    dx takes w and dw takes x; what is not needed may be None too.
    """
    _check_sizes(batch, inputs, outputs)
    if (dx is not None and w is None) or (dw is not None and x is None):
        raise ValueError("dx takes w, dw takes x")
    cdef _Arrays arrays = _Arrays(6)
    cdef const void *gradient = arrays.run("dy", dy, READ, batch * outputs)
    cdef const void *images = arrays.optional("x", x, READ, batch * inputs)
    cdef const void *weights = arrays.optional("w", w, READ, inputs * outputs)
    cdef void *to_images = arrays.optional("dx", dx, WRITTEN, batch * inputs)
    cdef void *to_weights = arrays.optional("dw", dw, WRITTEN, inputs * outputs)
    cdef void *to_bias = arrays.optional("db", db, WRITTEN, outputs)
    cdef int done
    with nogil:
        if arrays.is_double:
            done = xpc_linear_backward_f64(
                batch, inputs, outputs, <const double *> gradient, <const double *> images, <const double *> weights,
                <double *> to_images, <double *> to_weights, <double *> to_bias)
        else:
            done = xpc_linear_backward_f32(
                batch, inputs, outputs, <const float *> gradient, <const float *> images, <const float *> weights,
                <float *> to_images, <float *> to_weights, <float *> to_bias)
    _check_linear(done, batch, inputs, outputs)
