#include "activation.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "geometry.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

enum { CHUNK = 16 * BLOCK }; /* elements that a thread takes at a time */

/* What an element costs, in elements that are only touched: an exponential is some thirty operations. */
static const ptrdiff_t costs[XPC_ACTIVATIONS] = {
    [XPC_RELU] = 1,
    [XPC_RELU_BACKWARD] = 1,
    [XPC_LEAKY_RELU] = 1,
    [XPC_LEAKY_RELU_BACKWARD] = 1,
    [XPC_SIGMOID] = 4,
    [XPC_SIGMOID_BACKWARD] = 1,
    [XPC_TANH_BACKWARD] = 1,
    [XPC_SILU] = 4,
    [XPC_SILU_BACKWARD] = 4,
    [XPC_GELU] = 8,
    [XPC_GELU_BACKWARD] = 8,
    [XPC_SUM] = 1,
    [XPC_PRODUCT] = 1,
};

#define XPC_SOURCE "activation_impl.h"
#include "instances.h"

void xpc_activate_f32(xpc_activation function, const float *kept, const float *dy, float *result, ptrdiff_t count,
                      double slope)
{
    XPC_PICK(activate, f32)(function, kept, dy, result, count, slope);
}

void xpc_activate_f64(xpc_activation function, const double *kept, const double *dy, double *result, ptrdiff_t count,
                      double slope)
{
    XPC_PICK(activate, f64)(function, kept, dy, result, count, slope);
}
