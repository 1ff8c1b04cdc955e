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

/* Near 0 by x + x^3 q(x^2), where 1 - exp(-2 |x|) would lose digits; the coefficients of q are those of interpolation at
 * the Chebyshev nodes, as those of the exponential. */
INLINE REAL NAME(hyperbolic_tangent)(REAL x)
{
    REAL a = NAME(magnitude)(x), e = NAME(exp_below_0)(-2 * a), z = a < (REAL)0.6 ? x * x : 0;
#if DOUBLE
    REAL q = -2.622223992400359e-06;
    q = q * z + 1.2606082506231025e-05;
    q = q * z + -3.7455026133315814e-05;
    q = q * z + 9.62435984783182e-05;
    q = q * z + -0.0002389588822245776;
    q = q * z + 0.0005899975134262517;
    q = q * z + -0.0014558307624244699;
    q = q * z + 0.0035921277411351256;
    q = q * z + -0.008863235514397341;
    q = q * z + 0.02186948853566979;
    q = q * z + -0.05396825396824606;
    q = q * z + 0.13333333333333328;
    q = q * z + -0.3333333333333333;
#else
    REAL q = 0.002370765640497788f;
    q = q * z + -0.008410070801530736f;
    q = q * z + 0.02178832199710852f;
    q = q * z + -0.05396155178134269f;
    q = q * z + 0.133333128668618f;
    q = q * z + -0.33333333231207923f;
#endif
    REAL far = (1 - e) / (1 + e);
    return a < (REAL)0.6 ? x + x * z * q : x < 0 ? -far : far;
}

TARGET static void NAME(tangent)(const REAL *restrict x, const REAL *restrict dy, REAL *restrict y, ptrdiff_t count,
                                 REAL slope)
{
    (void)dy, (void)slope;
    for (ptrdiff_t k = 0; k < count; k++)
        y[k] = NAME(hyperbolic_tangent)(x[k]);
}

TARGET static void NAME(tangent_backward)(const REAL *restrict y, const REAL *restrict dy, REAL *restrict dx,
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
    tail = tail * t + -4.247536547992714e-10;
    tail = tail * t + 1.4462477459535223e-09;
    tail = tail * t + 5.107100129543703e-09;
    tail = tail * t + -1.0364395364834378e-08;
    tail = tail * t + -3.814799237634415e-08;
    tail = tail * t + 7.650960666356637e-08;
    tail = tail * t + 2.423300963971707e-07;
    tail = tail * t + -6.747250511637097e-07;
    tail = tail * t + -1.2694455666983871e-06;
    tail = tail * t + 6.6442870305655646e-06;
    tail = tail * t + 9.610563846469339e-07;
    tail = tail * t + -6.0427450418741864e-05;
    tail = tail * t + 0.00013427690600413902;
    tail = tail * t + 0.00021955073287424135;
    tail = tail * t + -0.0023788443662113782;
    tail = tail * t + 0.008991370550975594;
    tail = tail * t + -0.02341390048689114;
    tail = tail * t + 0.04785535228415566;
    tail = tail * t + -0.08088387726415847;
    tail = tail * t + 0.11606881188600345;
    tail = tail * t + -0.1434575552640116;
    tail = tail * t + 0.07691930497500629;
#else
    REAL tail = -4.4954124276192016e-05f;
    tail = tail * t + 0.00013219038689808233f;
    tail = tail * t + 0.00020491409448946063f;
    tail = tail * t + -0.002375426994269779f;
    tail = tail * t + 0.00899761209752872f;
    tail = tail * t + -0.023415644227798963f;
    tail = tail * t + 0.04785425178697956f;
    tail = tail * t + -0.08088354471496252f;
    tail = tail * t + 0.1160688666393982f;
    tail = tail * t + -0.14345757229711625f;
    tail = tail * t + 0.07691930497500629f;
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
    [XPC_TANH] = NAME(tangent),
    [XPC_TANH_BACKWARD] = NAME(tangent_backward),
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
