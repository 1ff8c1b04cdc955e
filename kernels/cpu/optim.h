/* Steps of optimizers: one pass over all parameters of a step; float32 and float64.
 *
 *     tensors      | p g m v | p g m v | p g m v | ...         each of its own count
 *     chunks       | | | | | |    |    | | | |                 what a thread takes; the last of a tensor is shorter
 *
 * Every number is read once and written once. Sums are those of `xpconv._generic.optim`, in its order and without fused
 * multiply-add: the same bits from every instruction set and every number of threads.
 */
#ifndef XPC_OPTIM_H
#define XPC_OPTIM_H

#include <stddef.h>

/* One parameter. Arrays that the operator does not need may be NULL. */
typedef struct {
    void *param;
    const void *grad;
    void *state[2];
    ptrdiff_t count;
    ptrdiff_t first_chunk; /* for `xpc_number_chunks` */
} xpc_tensor;

/* state: the velocity, unless momentum is 0. */
typedef struct {
    double lr, momentum, dampening, weight_decay;
    int nesterov;
} xpc_sgd;

/* state: the mean square, and the velocity unless momentum is 0. */
typedef struct {
    double lr, alpha, eps, momentum, weight_decay;
} xpc_rmsprop;

/* state: the mean and the mean square. The corrections are 1 - beta**step. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay, correction1, correction2;
    int decoupled;
} xpc_adam;

/* Set `first_chunk` of all tensors; returns how many chunks there are. To be called before anything below. */
ptrdiff_t xpc_number_chunks(xpc_tensor *tensors, ptrdiff_t count);

void xpc_sgd_steps_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_sgd *options);
void xpc_sgd_steps_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_sgd *options);
void xpc_rmsprop_steps_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_rmsprop *options);
void xpc_rmsprop_steps_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_rmsprop *options);
void xpc_adam_steps_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_adam *options);
void xpc_adam_steps_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_adam *options);

/* Sum of the squares of all gradients; `partial` holds a number for each chunk. */
double xpc_squared_norm_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, double *partial);
double xpc_squared_norm_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, double *partial);

#endif
