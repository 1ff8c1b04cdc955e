/* Activations and other functions of each element, and their gradients; float32 and float64.
 *
 *     forward    y[k] = f(x[k])
 *     backward  dx[k] = f'(x[k]) * dy[k]        of what the forward call has kept: x, or y = f(x)
 *     others     sums and products of two arrays
 *
 * Plain loops that compilers turn into vectors. Exponentials differ in the last place between processors with fused
 * multiply-add and those without; all else has the same bits everywhere.
 * Where an exponential is needed it is one of a number that is not positive, so nothing overflows on the way.
 */
#ifndef XPC_ACTIVATION_H
#define XPC_ACTIVATION_H

#include <stddef.h>

typedef enum {
    XPC_RELU,
    XPC_RELU_BACKWARD, /* of y */
    XPC_LEAKY_RELU,
    XPC_LEAKY_RELU_BACKWARD, /* of x */
    XPC_SIGMOID,
    XPC_SIGMOID_BACKWARD, /* of y */
    XPC_TANH_BACKWARD, /* of y */
    XPC_SILU,
    XPC_SILU_BACKWARD, /* of x */
    XPC_GELU,
    XPC_GELU_BACKWARD, /* of x */
    XPC_SUM,     /* kept + dy */
    XPC_PRODUCT, /* kept * dy */
    XPC_ACTIVATIONS
} xpc_activation;

/* result[k] from kept[k] and, for functions of two arrays dy[k]; for others `dy` is anything as long, and not read.
 * `slope` is that of leaky ReLU. */
void xpc_activate_f32(xpc_activation function, const float *kept, const float *dy, float *result, ptrdiff_t count,
                      double slope);
void xpc_activate_f64(xpc_activation function, const double *kept, const double *dy, double *result, ptrdiff_t count,
                      double slope);

#endif
