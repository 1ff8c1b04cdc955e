#include "direct.h"

#include <string.h>

#include "isa.h"

#ifdef XPC_HAS_VECTORS

#ifdef XPC_HAS_X86
#include <immintrin.h>
#endif

typedef float xpc_float4 __attribute__((vector_size(16)));
typedef double xpc_double2 __attribute__((vector_size(16)));

enum { LINE = 64 }; /* bytes; alignment of everything in the working memory, and the widest vector */

/* Where things lie in the working memory. */
typedef struct {
    ptrdiff_t taps;        /* C kh kw, K in the names of matrices */
    ptrdiff_t pitch, rows; /* of one phase of one channel */
    ptrdiff_t phases;      /* numbers in all phases of all channels */
    ptrdiff_t tab, image, gradient, weights, sums, bytes;
} layout;

static ptrdiff_t reach(xpc_axis axis, ptrdiff_t out)
{
    return (out - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
}

static ptrdiff_t take(layout *plan, ptrdiff_t bytes)
{
    ptrdiff_t at = plan->bytes;
    plan->bytes += (bytes + LINE - 1) / LINE * LINE;
    return at;
}

static layout lay_out(const xpc_direct *conv, int itemsize)
{
    layout plan = {0};
    plan.taps = conv->channels * conv->vertical.kernel * conv->horizontal.kernel;
    plan.rows = xpc_ceil_div(reach(conv->vertical, conv->out_h), conv->vertical.stride);
    plan.pitch = xpc_ceil_div(reach(conv->horizontal, conv->out_w), conv->horizontal.stride);
    plan.phases = conv->channels * conv->vertical.stride * conv->horizontal.stride * plan.rows * plan.pitch;
    plan.tab = take(&plan, plan.taps * (ptrdiff_t)sizeof(ptrdiff_t));
    plan.image = take(&plan, plan.phases * itemsize);
    plan.gradient = take(&plan, plan.phases * itemsize);
    plan.weights = take(&plan, plan.taps * conv->filters * itemsize);
    plan.sums = take(&plan, (plan.taps + 1) * conv->filters * LINE);
    return plan;
}

/* Whether some tap reads that phase: with a kernel smaller than the stride, not all do. */
static int is_read(xpc_axis axis, ptrdiff_t phase)
{
    for (ptrdiff_t k = 0; k < axis.kernel; k++)
        if (k * axis.dilation % axis.stride == phase)
            return 1;
    return 0;
}

/* Where each tap begins, from the first number of the image's phases. */
static void fill_tab(const xpc_direct *conv, const layout *plan, ptrdiff_t *tab)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    for (ptrdiff_t c = 0; c < conv->channels; c++)
        for (ptrdiff_t i = 0; i < v.kernel; i++)
            for (ptrdiff_t j = 0; j < h.kernel; j++) {
                ptrdiff_t row = i * v.dilation, column = j * h.dilation;
                ptrdiff_t phase = (c * v.stride + row % v.stride) * h.stride + column % h.stride;
                *tab++ = (phase * plan->rows + row / v.stride) * plan->pitch + column / h.stride;
            }
}

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)

#define DOUBLE 0
#define TYPE f32
#define ISA XPC_BASELINE
#define NAME(name) JOIN(name, TYPE, baseline)
#include "direct_impl.h"
#undef NAME
#undef ISA
#ifdef XPC_HAS_X86
#define ISA XPC_AVX2
#define NAME(name) JOIN(name, TYPE, avx2)
#include "direct_impl.h"
#undef NAME
#undef ISA
#define ISA XPC_AVX512
#define NAME(name) JOIN(name, TYPE, avx512)
#include "direct_impl.h"
#undef NAME
#undef ISA
#endif
#undef TYPE
#undef DOUBLE

#define DOUBLE 1
#define TYPE f64
#define ISA XPC_BASELINE
#define NAME(name) JOIN(name, TYPE, baseline)
#include "direct_impl.h"
#undef NAME
#undef ISA
#ifdef XPC_HAS_X86
#define ISA XPC_AVX2
#define NAME(name) JOIN(name, TYPE, avx2)
#include "direct_impl.h"
#undef NAME
#undef ISA
#define ISA XPC_AVX512
#define NAME(name) JOIN(name, TYPE, avx512)
#include "direct_impl.h"
#undef NAME
#undef ISA
#endif
#undef TYPE
#undef DOUBLE

ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most)
{
    /* in floating point first: sizes may be huge */
    xpc_axis v = conv->vertical, h = conv->horizontal;
    double taps = (double)conv->channels * v.kernel * h.kernel;
    double rows = (double)conv->out_h * v.stride + (double)v.kernel * v.dilation;
    double columns = (double)conv->out_w * h.stride + (double)h.kernel * h.dilation;
    if (taps * conv->filters * LINE > most || conv->channels * rows * columns * itemsize > most)
        return -1;
    ptrdiff_t bytes = lay_out(conv, itemsize).bytes;
    return bytes <= most ? bytes : -1;
}

#ifdef XPC_HAS_X86
#define CALL(name, type, ...) \
    do { \
        if (xpc_isa() == XPC_AVX512) \
            name##_##type##_avx512(__VA_ARGS__); \
        else if (xpc_isa() == XPC_AVX2) \
            name##_##type##_avx2(__VA_ARGS__); \
        else \
            name##_##type##_baseline(__VA_ARGS__); \
    } while (0)
#else
#define CALL(name, type, ...) name##_##type##_baseline(__VA_ARGS__)
#endif

#else /* a compiler without vectors */

ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most)
{
    (void)conv, (void)itemsize, (void)most;
    return -1;
}

#define CALL(name, type, ...) ((void)conv)

#endif

void xpc_direct_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b,
                    const xpc_array4 *y, void *memory)
{
    CALL(forward, f32, conv, x, w, b, y, memory);
}

void xpc_direct_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b,
                    const xpc_array4 *y, void *memory)
{
    CALL(forward, f64, conv, x, w, b, y, memory);
}

void xpc_direct_backward_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                             const xpc_array4 *dx, float *dw, float *db, void *memory)
{
    CALL(backward, f32, conv, dy, x, w, dx, dw, db, memory);
}

void xpc_direct_backward_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                             const xpc_array4 *dx, double *dw, double *db, void *memory)
{
    CALL(backward, f64, conv, dy, x, w, dx, dw, db, memory);
}
