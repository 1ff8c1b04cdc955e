#include "activation.h"

#include "geometry.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

enum { CHUNK = 16 * BLOCK }; /* elements that a thread takes at a time */

/* What touching an element costs, in elements: the exponential is some thirty operations. */
static const ptrdiff_t costs[XPC_ACTIVATIONS] = {1, 1, 1, 1};

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
