# Functions of each element, and their gradients.

cdef extern from "activation.h" nogil:
    ctypedef enum xpc_activation:
        XPC_RELU
        XPC_RELU_BACKWARD
        XPC_LEAKY_RELU
        XPC_LEAKY_RELU_BACKWARD
        XPC_SIGMOID
        XPC_SIGMOID_BACKWARD
        XPC_TANH_BACKWARD
        XPC_SILU
        XPC_SILU_BACKWARD
        XPC_GELU
        XPC_GELU_BACKWARD
        XPC_SUM
        XPC_PRODUCT
        XPC_ACTIVATIONS
    void xpc_activate_f32(xpc_activation, const float *, const float *, float *, Py_ssize_t, double)
    void xpc_activate_f64(xpc_activation, const double *, const double *, double *, Py_ssize_t, double)

RELU = <int> XPC_RELU
RELU_BACKWARD = <int> XPC_RELU_BACKWARD
LEAKY_RELU = <int> XPC_LEAKY_RELU
LEAKY_RELU_BACKWARD = <int> XPC_LEAKY_RELU_BACKWARD
SIGMOID = <int> XPC_SIGMOID
SIGMOID_BACKWARD = <int> XPC_SIGMOID_BACKWARD
TANH_BACKWARD = <int> XPC_TANH_BACKWARD
SILU = <int> XPC_SILU
SILU_BACKWARD = <int> XPC_SILU_BACKWARD
GELU = <int> XPC_GELU
GELU_BACKWARD = <int> XPC_GELU_BACKWARD
SUM = <int> XPC_SUM
PRODUCT = <int> XPC_PRODUCT


def activate(int function, kept, dy, result, double slope=0, /):
    """Write ``result`` from ``kept`` and, if it takes two arrays, ``dy`` (else None): contiguous, of one size and dtype."""
    if not 0 <= function < XPC_ACTIVATIONS:
        raise ValueError(f"function: expected 0 to {XPC_ACTIVATIONS - 1}, got {function}")
    cdef _Arrays arrays = _Arrays(3)
    cdef void *target = arrays.run("result", result, WRITTEN, -1)
    cdef Py_ssize_t count = arrays.count()
    cdef const void *source = arrays.run("kept", kept, READ, count)
    cdef const void *gradient = source if dy is None else arrays.run("dy", dy, READ, count)
    cdef xpc_activation which = <xpc_activation> function
    with nogil:
        if arrays.is_double:
            xpc_activate_f64(which, <const double *> source, <const double *> gradient, <double *> target, count, slope)
        else:
            xpc_activate_f32(which, <const float *> source, <const float *> gradient, <float *> target, count, slope)
