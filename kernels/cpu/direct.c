#include "direct.h"

#include <string.h>

#include "isa.h"

#ifdef XPC_HAS_VECTORS

enum { LINE = 64 }; /* bytes; alignment of everything in the working memory, and the widest vector */

/* Where things lie in the working memory. */
typedef struct {
    ptrdiff_t taps;        /* C kh kw, K in the names of matrices */
    ptrdiff_t pitch, rows; /* of one phase of one channel */
    ptrdiff_t phases;      /* numbers in all phases of all channels; a plane of ones follows */
    ptrdiff_t tab, columns, image, gradient, weights, sums, bytes;
} layout;

/* One horizontal phase: its entry q is pixel q * stride + offset of a row of the image. */
typedef struct {
    int is_read;      /* by some tap: with a kernel smaller than the stride, not all are */
    ptrdiff_t offset; /* may be negative, in the padding */
    ptrdiff_t begin;  /* the first entry that is a pixel */
    ptrdiff_t known;  /* how many entries from there on are pixels */
    ptrdiff_t beyond; /* how many pixels follow that no window reaches */
} phase;

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
    plan.tab = take(&plan, (plan.taps + 1) * (ptrdiff_t)sizeof(ptrdiff_t));
    plan.columns = take(&plan, conv->horizontal.stride * (ptrdiff_t)sizeof(phase));
    plan.image = take(&plan, (plan.phases + plan.rows * plan.pitch) * itemsize);
    plan.gradient = take(&plan, plan.phases * itemsize);
    plan.weights = take(&plan, plan.taps * conv->filters * itemsize);
    plan.sums = take(&plan, (plan.taps + 1) * conv->filters * LINE);
    return plan;
}

static int is_read(xpc_axis axis, ptrdiff_t number)
{
    for (ptrdiff_t k = 0; k < axis.kernel; k++)
        if (k * axis.dilation % axis.stride == number)
            return 1;
    return 0;
}

static void fill_columns(const xpc_direct *conv, const layout *plan, phase *columns)
{
    xpc_axis axis = conv->horizontal;
    for (ptrdiff_t b = 0; b < axis.stride; b++) {
        ptrdiff_t begin = xpc_ceil_div(xpc_max(axis.pad - b, 0), axis.stride);
        ptrdiff_t end = xpc_max(xpc_ceil_div(conv->width + axis.pad - b, axis.stride), begin);
        ptrdiff_t known = xpc_max(xpc_min(end, plan->pitch) - begin, 0);
        columns[b] = (phase){is_read(axis, b), b - axis.pad, begin, known, end - begin - known};
    }
}

/* Where each tap begins, from the first number of the image's phases; last the one that sees ones. */
static void fill_tab(const xpc_direct *conv, const layout *plan, ptrdiff_t *tab)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    for (ptrdiff_t c = 0; c < conv->channels; c++)
        for (ptrdiff_t i = 0; i < v.kernel; i++)
            for (ptrdiff_t j = 0; j < h.kernel; j++) {
                ptrdiff_t row = i * v.dilation, column = j * h.dilation;
                ptrdiff_t number = (c * v.stride + row % v.stride) * h.stride + column % h.stride;
                *tab++ = (number * plan->rows + row / v.stride) * plan->pitch + column / h.stride;
            }
    *tab = plan->phases;
}

#define XPC_SOURCE "direct_impl.h"
#include "instances.h"

ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most)
{
    /* in floating point first, from above: sizes may be huge */
    xpc_axis v = conv->vertical, h = conv->horizontal;
    double taps = (double)conv->channels * v.kernel * h.kernel;
    double rows = (double)conv->out_h * v.stride + (double)v.kernel * v.dilation;
    double columns = (double)conv->out_w * h.stride + (double)h.kernel * h.dilation;
    if ((taps + 1) * conv->filters * LINE + 2 * (conv->channels + 1.0) * rows * columns * itemsize > 1e15)
        return -1;
    ptrdiff_t bytes = lay_out(conv, itemsize).bytes;
    return bytes <= most ? bytes : -1;
}

#define CALL(name, type, ...) XPC_PICK(name, type)(__VA_ARGS__)

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
