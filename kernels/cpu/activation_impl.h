/* Included once for each type and instruction set by activation.c. */
#include "simd.h"
#include "exp_impl.h"
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

/* |x|; a NaN stays. */
INLINE REAL NAME(magnitude)(REAL x)
{
    return x < 0 ? -x : x;
}

INLINE REAL NAME(logistic)(REAL x)
{
    REAL e = NAME(exp_below_0)(-NAME(magnitude)(x));
    return (x < 0 ? e : 1) / (1 + e);
}

TARGET static void NAME(sigmoid)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                                 REAL slope)
{
    (void)dy, (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        y[k] = NAME(logistic)(x[k]);
}

TARGET static void NAME(sigmoid_backward)(const REAL *restrict y, const REAL *restrict dy, REAL *restrict dx,
                                          ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = (1 - y[k]) * y[k] * dy[k];
}

TARGET static void NAME(silu)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                              REAL slope)
{
    (void)dy, (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        y[k] = x[k] * NAME(logistic)(x[k]);
}

TARGET static void NAME(silu_backward)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict dx,
                                       ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL s = NAME(logistic)(x[k]);
        dx[k] = ((1 - s) * x[k] + 1) * s * dy[k];
    }
}

TARGET static void NAME(tanh_backward)(const REAL *restrict y, const REAL *restrict dy, REAL *restrict dx,
                                       ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = (1 - y[k] * y[k]) * dy[k];
}

/* Phi(x), the normal distribution function, and exp(-x^2 / 2); `xpconv._generic.activation` says where the polynomial of
 * the tail Phi(-a) comes from. */
INLINE REAL NAME(normal)(REAL x, REAL *bell)
{
    REAL a = NAME(magnitude)(x);
    a = a > 40 ? 40 : a; /* Phi(-40) is 0 in float64 */
    REAL t = (a - 5) / (a + 5);
    *bell = NAME(exp_below_0)(a * a * (REAL)-0.5);
#if DOUBLE
    REAL tail = -1.3203494750808843e-10;
    tail = MULADD(tail, t, -4.247536547992714e-10);
    tail = MULADD(tail, t, 1.4462477459535223e-09);
    tail = MULADD(tail, t, 5.107100129543703e-09);
    tail = MULADD(tail, t, -1.0364395364834378e-08);
    tail = MULADD(tail, t, -3.814799237634415e-08);
    tail = MULADD(tail, t, 7.650960666356637e-08);
    tail = MULADD(tail, t, 2.423300963971707e-07);
    tail = MULADD(tail, t, -6.747250511637097e-07);
    tail = MULADD(tail, t, -1.2694455666983871e-06);
    tail = MULADD(tail, t, 6.6442870305655646e-06);
    tail = MULADD(tail, t, 9.610563846469339e-07);
    tail = MULADD(tail, t, -6.0427450418741864e-05);
    tail = MULADD(tail, t, 0.00013427690600413902);
    tail = MULADD(tail, t, 0.00021955073287424135);
    tail = MULADD(tail, t, -0.0023788443662113782);
    tail = MULADD(tail, t, 0.008991370550975594);
    tail = MULADD(tail, t, -0.02341390048689114);
    tail = MULADD(tail, t, 0.04785535228415566);
    tail = MULADD(tail, t, -0.08088387726415847);
    tail = MULADD(tail, t, 0.11606881188600345);
    tail = MULADD(tail, t, -0.1434575552640116);
    tail = MULADD(tail, t, 0.07691930497500629);
#else
    REAL tail = -4.4954124276192016e-05f;
    tail = MULADD(tail, t, 0.00013219038689808233f);
    tail = MULADD(tail, t, 0.00020491409448946063f);
    tail = MULADD(tail, t, -0.002375426994269779f);
    tail = MULADD(tail, t, 0.00899761209752872f);
    tail = MULADD(tail, t, -0.023415644227798963f);
    tail = MULADD(tail, t, 0.04785425178697956f);
    tail = MULADD(tail, t, -0.08088354471496252f);
    tail = MULADD(tail, t, 0.1160688666393982f);
    tail = MULADD(tail, t, -0.14345757229711625f);
    tail = MULADD(tail, t, 0.07691930497500629f);
#endif
    tail *= *bell;
    return x > 0 ? 1 - tail : tail;
}

TARGET static void NAME(gelu)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                              REAL slope)
{
    (void)dy, (void)slope;
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL bell;
        y[k] = NAME(normal)(x[k], &bell) * x[k];
    }
}

TARGET static void NAME(gelu_backward)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict dx,
                                       ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL bell, phi = NAME(normal)(x[k], &bell);
        dx[k] = (phi + bell * x[k] * (REAL)0.3989422804014327) * dy[k]; /* 1 / sqrt(2 pi) */
    }
}

TARGET static void NAME(sum)(const REAL *restrict a, const REAL *restrict b, REAL *restrict result, ptrdiff_t count,
                             REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        result[k] = a[k] + b[k];
}

TARGET static void NAME(product)(const REAL *restrict a, const REAL *restrict b, REAL *restrict result,
                                 ptrdiff_t count, REAL slope)
{
    (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        result[k] = a[k] * b[k];
}

static const NAME(function) NAME(functions)[XPC_ACTIVATIONS] = {
    [XPC_RELU] = NAME(relu),
    [XPC_RELU_BACKWARD] = NAME(relu_backward),
    [XPC_LEAKY_RELU] = NAME(leaky_relu),
    [XPC_LEAKY_RELU_BACKWARD] = NAME(leaky_relu_backward),
    [XPC_SIGMOID] = NAME(sigmoid),
    [XPC_SIGMOID_BACKWARD] = NAME(sigmoid_backward),
    [XPC_TANH_BACKWARD] = NAME(tanh_backward),
    [XPC_SILU] = NAME(silu),
    [XPC_SILU_BACKWARD] = NAME(silu_backward),
    [XPC_GELU] = NAME(gelu),
    [XPC_GELU_BACKWARD] = NAME(gelu_backward),
    [XPC_SUM] = NAME(sum),
    [XPC_PRODUCT] = NAME(product),
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
