/* Included once for each type and instruction set by activation.c. */
#include "simd.h"
#include "stream_impl.h"

typedef void (*NAME(function))(const REAL *kept, const REAL *dy, REAL *result, ptrdiff_t count, REAL slope);

/* `x <= 0`, and not `x > 0` the other way round: a NaN stays */
TARGET static void NAME(relu)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                              REAL slope)
{
    (void)dy, (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        y[k] = x[k] <= 0 ? 0 : x[k];
}

TARGET static void NAME(relu_backward)(const REAL *restrict y, const REAL *restrict dy, REAL *restrict dx,
                                       ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = y[k] > 0 ? dy[k] : 0;
}

TARGET static void NAME(leaky_relu)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                                    REAL slope)
{
    (void)dy;
    for (ptrdiff_t k = 0; k < count; k++)
        y[k] = x[k] > 0 ? x[k] : x[k] * slope;
}

TARGET static void NAME(leaky_relu_backward)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict dx,
                                             ptrdiff_t count, REAL slope)
{
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = x[k] > 0 ? dy[k] : dy[k] * slope;
}

static const NAME(function) NAME(functions)[XPC_ACTIVATIONS] = {
    [XPC_RELU] = NAME(relu),
    [XPC_RELU_BACKWARD] = NAME(relu_backward),
    [XPC_LEAKY_RELU] = NAME(leaky_relu),
    [XPC_LEAKY_RELU_BACKWARD] = NAME(leaky_relu_backward),
};

typedef struct {
    NAME(function) function;
    const REAL *kept, *dy;
    REAL *result;
    ptrdiff_t count;
    REAL slope;
    int streamed;
} NAME(activation_job);

static void NAME(activation_chunks)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(activation_job) *job = argument;
    ptrdiff_t first = begin * CHUNK, last = xpc_min(end * CHUNK, job->count);
    (void)slot;
    if (!job->streamed) {
        job->function(job->kept + first, job->dy + first, job->result + first, last - first, job->slope);
        return;
    }
    XPC_LINE_ALIGNED REAL block[BLOCK];
    for (; first < last; first += BLOCK) {
        ptrdiff_t count = xpc_min(BLOCK, last - first);
        job->function(job->kept + first, job->dy + first, block, count, job->slope);
        NAME(stream)(job->result + first, block, count);
    }
    NAME(end_of_stream)();
}

static void NAME(activate)(xpc_activation function, const REAL *kept, const REAL *dy, REAL *result, ptrdiff_t count,
                           double slope)
{
    NAME(activation_job) job = {NAME(functions)[function], kept, dy, result, count, (REAL)slope,
                                NAME(is_streamed)(result, count)};
    ptrdiff_t chunks = xpc_ceil_div(count, CHUNK), cost = CHUNK * costs[function];
    xpc_parallel_items(NAME(activation_chunks), &job, chunks, cost, xpc_slots(chunks, cost));
}

#include "simd_end.h"
