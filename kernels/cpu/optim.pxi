# Steps of optimizers and the norm of gradients, each in one call for all parameters.

cdef extern from "optim.h" nogil:
    ctypedef struct xpc_tensor:
        void *param
        const void *grad
        void *state[2]
        Py_ssize_t count, first_chunk
    ctypedef struct xpc_sgd:
        double lr, momentum, dampening, weight_decay
        int nesterov
    ctypedef struct xpc_rmsprop:
        double lr, alpha, eps, momentum, weight_decay
    ctypedef struct xpc_adam:
        double lr, beta1, beta2, eps, weight_decay, correction1, correction2
        int decoupled
    Py_ssize_t xpc_number_chunks(xpc_tensor *, Py_ssize_t)
    void xpc_sgd_steps_f32(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_sgd *)
    void xpc_sgd_steps_f64(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_sgd *)
    void xpc_rmsprop_steps_f32(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_rmsprop *)
    void xpc_rmsprop_steps_f64(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_rmsprop *)
    void xpc_adam_steps_f32(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_adam *)
    void xpc_adam_steps_f64(const xpc_tensor *, Py_ssize_t, Py_ssize_t, const xpc_adam *)
    double xpc_squared_norm_f32(const xpc_tensor *, Py_ssize_t, Py_ssize_t, double *)
    double xpc_squared_norm_f64(const xpc_tensor *, Py_ssize_t, Py_ssize_t, double *)


cdef class _Tensors:
    """The table of a step's arrays: of each parameter itself, its gradient and up to two arrays of state."""

    cdef xpc_tensor *table
    cdef Py_ssize_t count, chunks
    cdef _Arrays arrays

    def __cinit__(self, list params, list grads, list first, list second):
        """Lists of contiguous arrays; all but the gradients are written, and may be None: not needed."""
        self.count = len(grads)
        for some in (params, first, second):
            if some is not None and len(some) != self.count:
                raise ValueError(f"a list has {len(some)} arrays, expected {self.count}")
        self.arrays = _Arrays(4 * self.count)
        self.table = <xpc_tensor *> calloc(max(self.count, 1), sizeof(xpc_tensor))
        if self.table == NULL:
            raise MemoryError()
        cdef xpc_tensor *tensor
        for k in range(self.count):
            tensor = &self.table[k]
            tensor.grad = self.arrays.run("gradient", grads[k], READ, -1)
            tensor.count = self.arrays.count()
            if params is not None:
                tensor.param = self.arrays.run("parameter", params[k], WRITTEN, tensor.count)
            if first is not None:
                tensor.state[0] = self.arrays.run("state", first[k], WRITTEN, tensor.count)
            if second is not None:
                tensor.state[1] = self.arrays.run("state", second[k], WRITTEN, tensor.count)
        self.chunks = xpc_number_chunks(self.table, self.count)

    def __dealloc__(self):
        free(self.table)


def sgd_steps(
    list params not None, list grads not None, list velocities, double lr, double momentum, double dampening,
    bint nesterov, double weight_decay, /
):
    """Update ``params`` and, where there is momentum, ``velocities``."""
    if momentum != 0 and velocities is None:
        raise ValueError("velocities: needed with momentum")
    cdef _Tensors tensors = _Tensors(params, grads, velocities if momentum != 0 else None, None)
    cdef xpc_sgd options
    options.lr, options.momentum, options.dampening, options.weight_decay = lr, momentum, dampening, weight_decay
    options.nesterov = nesterov
    with nogil:
        if tensors.arrays.is_double:
            xpc_sgd_steps_f64(tensors.table, tensors.count, tensors.chunks, &options)
        else:
            xpc_sgd_steps_f32(tensors.table, tensors.count, tensors.chunks, &options)


def rmsprop_steps(
    list params not None, list grads not None, list square_avgs not None, list buffers, double lr, double alpha,
    double eps, double momentum, double weight_decay, /
):
    """Update ``params``, ``square_avgs`` and, where there is momentum, ``buffers``."""
    if momentum != 0 and buffers is None:
        raise ValueError("buffers: needed with momentum")
    cdef _Tensors tensors = _Tensors(params, grads, square_avgs, buffers if momentum != 0 else None)
    cdef xpc_rmsprop options
    options.lr, options.alpha, options.eps, options.momentum = lr, alpha, eps, momentum
    options.weight_decay = weight_decay
    with nogil:
        if tensors.arrays.is_double:
            xpc_rmsprop_steps_f64(tensors.table, tensors.count, tensors.chunks, &options)
        else:
            xpc_rmsprop_steps_f32(tensors.table, tensors.count, tensors.chunks, &options)


def adam_steps(
    list params not None, list grads not None, list ms not None, list vs not None, double lr, double beta1,
    double beta2, double eps, double weight_decay, double correction1, double correction2, bint decoupled, /
):
    """Update ``params``, ``ms`` and ``vs``; the corrections are ``1 - beta**step``."""
    cdef _Tensors tensors = _Tensors(params, grads, ms, vs)
    cdef xpc_adam options
    options.lr, options.beta1, options.beta2, options.eps = lr, beta1, beta2, eps
    options.weight_decay, options.decoupled = weight_decay, decoupled
    options.correction1, options.correction2 = correction1, correction2
    with nogil:
        if tensors.arrays.is_double:
            xpc_adam_steps_f64(tensors.table, tensors.count, tensors.chunks, &options)
        else:
            xpc_adam_steps_f32(tensors.table, tensors.count, tensors.chunks, &options)


def squared_norm(list grads not None, /):
    """Sum of the squares of all numbers, in double."""
    cdef _Tensors tensors = _Tensors(None, grads, None, None)
    cdef double *partial = <double *> xpc_arena_take(max(tensors.chunks, 1) * sizeof(double))
    cdef double square
    if partial == NULL:
        raise MemoryError()
    with nogil:
        if tensors.arrays.is_double:
            square = xpc_squared_norm_f64(tensors.table, tensors.count, tensors.chunks, partial)
        else:
            square = xpc_squared_norm_f32(tensors.table, tensors.count, tensors.chunks, partial)
    xpc_arena_give(partial)
    return square
