#include "depthwise.h"

#include <string.h>

#include "arena.h"
#include "isa.h"
#include "phases.h"
#include "stream.h"
#include "threads.h"

#ifdef XPC_HAS_VECTORS

enum {
    BAND_BYTES = 65536, /* of what a thread lays out at once */
    LINES = 4,          /* output rows whose sums are */
    SHARES = 8,         /* of the batch times channels, at least, for the threads to share the gradient of the weights, */
    SHARE_COST = 16384, /* unless one would touch fewer numbers than this */
    AHEAD = 4096        /* bytes, how long before they are read planes are asked for */
};

/* How a call is cut, and where things lie in the working memory of a thread. */
typedef struct {
    ptrdiff_t taps, multiplier;
    ptrdiff_t below, beside; /* how many more rows and entries a phase has than there are output rows and columns */
    ptrdiff_t pitch;         /* of a row of a phase */
    ptrdiff_t band;          /* rows at a time: of y, or of the phases of dx */
    ptrdiff_t plane;         /* numbers from one phase of a band to the next, or from one filter's dy to the next */
    ptrdiff_t width;         /* of a row of dy, filled up to whole vectors, for the weights */
    ptrdiff_t lead;          /* zeros before dy, for dx */
    ptrdiff_t phase;         /* numbers from one horizontal phase of dx to the next */
    ptrdiff_t image, gradient, phases, sums, bytes;
} layout;

/* All that the threads of a call share. */
typedef struct {
    const xpc_direct *conv;
    const layout *plan;
    const xpc_array4 *x, *y, *dx; /* x is dx in the gradient of the image, y is dy in both; dx where it comes along */
    const void *w, *b;
    void *dw, *db;
    int relu, turned; /* turned: dy is seen by the taps, x by none, in the gradient of the weights */
    ptrdiff_t bands, shares;
    void *partial; /* dw and db of each share of the batch, where there are several */
    const ptrdiff_t *tab;   /* where the taps begin */
    const ptrdiff_t *first; /* for dx, which of them belong to each phase */
    const ptrdiff_t *order; /* and which weight each has */
    const void *zeros, *seen; /* for planes that are read where they lie: a row, and the lanes that each tap sees */
    char *memory, *ready;   /* plan->bytes for each slot; which slots are set up */
} call;

enum { FORWARD, IMAGE, WEIGHTS };

static ptrdiff_t take(layout *plan, ptrdiff_t bytes)
{
    ptrdiff_t at = plan->bytes;
    plan->bytes += rounded(bytes);
    return at;
}

static layout lay_out(const xpc_direct *conv, int what, int itemsize, int least)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    layout plan = {0};
    plan.taps = v.kernel * h.kernel;
    plan.multiplier = conv->filters / conv->channels;
    plan.below = (v.kernel - 1) * v.dilation / v.stride;
    plan.beside = (h.kernel - 1) * h.dilation / h.stride;
    plan.pitch = conv->out_w + plan.beside;
    ptrdiff_t slack = LINE / itemsize; /* whole vectors are written and read at the ends of rows */
    ptrdiff_t many = v.stride * h.stride, row = plan.pitch * itemsize;
    plan.width = xpc_ceil_div(conv->out_w, slack) * slack;
    if (what == IMAGE) {
        plan.band = least ? 1 : rows_within(conv->out_h + plan.below, BAND_BYTES, (plan.multiplier + h.stride) * row, 0);
        ptrdiff_t before = rounded((plan.below * plan.pitch + plan.beside) * itemsize) / itemsize;
        plan.lead = before - plan.below * plan.pitch;
        plan.plane = apart(before + plan.band * plan.pitch + slack, itemsize);
        plan.gradient = take(&plan, plan.multiplier * plan.plane * itemsize);
        plan.phase = apart(plan.band * plan.pitch + 2 * slack, itemsize);
        plan.phases = take(&plan, h.stride * plan.phase * itemsize);
        plan.sums = take(&plan, plan.multiplier * plan.taps * itemsize);
    } else {
        ptrdiff_t more = what == WEIGHTS ? plan.width * itemsize : 0;
        plan.band = least ? 1 : rows_within(conv->out_h, BAND_BYTES, many * row + more, plan.below);
        plan.plane = apart((plan.band + plan.below) * plan.pitch + slack, itemsize);
        plan.image = take(&plan, many * plan.plane * itemsize);
        plan.gradient = take(&plan, what == WEIGHTS ? plan.band * plan.width * itemsize : 0);
        plan.sums = take(&plan, what == WEIGHTS ? plan.multiplier * (plan.taps + 1) * LINE : 0);
    }
    return plan;
}

ptrdiff_t xpc_depthwise_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most)
{
    /* in floating point first, from above: sizes may be huge */
    xpc_axis v = conv->vertical, h = conv->horizontal;
    double taps = (double)v.kernel * h.kernel, multiplier = (double)conv->filters / conv->channels;
    double below = 1 + (double)v.kernel * v.dilation / v.stride, beside = (double)h.kernel * h.dilation / h.stride;
    double planes = ((double)v.stride * h.stride + multiplier + 2) * (below + 2) * (conv->out_w + beside + 2 * LINE);
    if ((planes + multiplier * (taps + 2) * LINE) * itemsize > 1e15)
        return -1;
    ptrdiff_t bytes = 0;
    for (int what = FORWARD; what <= WEIGHTS; what++)
        bytes = xpc_max(bytes, lay_out(conv, what, itemsize, 1).bytes);
    return bytes <= most ? bytes : -1;
}

/* Where each tap begins in a band of an image. */
static void fill_tab(const xpc_direct *conv, const layout *plan, ptrdiff_t *tab)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    for (ptrdiff_t i = 0; i < v.kernel; i++)
        for (ptrdiff_t j = 0; j < h.kernel; j++) {
            ptrdiff_t row = i * v.dilation, column = j * h.dilation;
            *tab++ = (row % v.stride * h.stride + column % h.stride) * plan->plane + row / v.stride * plan->pitch +
                     column / h.stride;
        }
}

/* The same for each phase of dx, seen from the entry that the taps reach: in dy of all filters, and which weight goes with
 * each. */
static void fill_reach(const xpc_direct *conv, const layout *plan, ptrdiff_t *tab, ptrdiff_t *order, ptrdiff_t *first)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    ptrdiff_t count = 0;
    for (ptrdiff_t a = 0; a < v.stride; a++)
        for (ptrdiff_t b = 0; b < h.stride; b++) {
            *first++ = count;
            for (ptrdiff_t f = 0; f < plan->multiplier; f++)
                for (ptrdiff_t i = v.kernel - 1; i >= 0; i--)
                    for (ptrdiff_t j = h.kernel - 1; j >= 0; j--) {
                        ptrdiff_t row = i * v.dilation, column = j * h.dilation;
                        if (row % v.stride != a || column % h.stride != b)
                            continue;
                        order[count] = f * plan->taps + i * h.kernel + j;
                        tab[count++] = f * plan->plane - row / v.stride * plan->pitch - column / h.stride;
                    }
        }
    *first = count;
}

/* Whether all taps of a filter lie side by side, `size` by `size`. */
static int is_dense(const xpc_direct *conv, ptrdiff_t size)
{
    xpc_axis axes[2] = {conv->vertical, conv->horizontal};
    for (int i = 0; i < 2; i++)
        if (axes[i].kernel != size || axes[i].stride != 1 || axes[i].dilation != 1)
            return 0;
    return 1;
}

#ifdef XPC_HAS_X86
typedef struct {
    int begin, end;
} span;

/* Of `lanes` results from column q on, those for which tap column j sees a pixel of its row. */
static span lanes_seen(const xpc_direct *conv, ptrdiff_t q, ptrdiff_t j, ptrdiff_t lanes)
{
    ptrdiff_t at = q + j - conv->horizontal.pad; /* what the first lane sees */
    ptrdiff_t end = xpc_min(xpc_min(conv->width - at, conv->out_w - q), lanes);
    return (span){(int)xpc_min(xpc_max(-at, 0), lanes), (int)xpc_max(end, 0)};
}
#endif

#define XPC_SOURCE "depthwise_impl.h"
#include "instances.h"

#define CALL(name, type, ...) return XPC_PICK(name, type)(__VA_ARGS__)

#else /* a compiler without vectors */

ptrdiff_t xpc_depthwise_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most)
{
    (void)conv, (void)itemsize, (void)most;
    return -1;
}

#define CALL(name, type, ...) return -1

#endif

int xpc_depthwise_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b, int relu,
                      const xpc_array4 *y, ptrdiff_t most)
{
    CALL(forward, f32, conv, x, w, b, relu, y, most);
}

int xpc_depthwise_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b, int relu,
                      const xpc_array4 *y, ptrdiff_t most)
{
    CALL(forward, f64, conv, x, w, b, relu, y, most);
}

int xpc_depthwise_dx_f32(const xpc_direct *conv, const xpc_array4 *dy, const float *w, const xpc_array4 *dx,
                         ptrdiff_t most)
{
    CALL(image_gradient, f32, conv, dy, w, dx, most);
}

int xpc_depthwise_dx_f64(const xpc_direct *conv, const xpc_array4 *dy, const double *w, const xpc_array4 *dx,
                         ptrdiff_t most)
{
    CALL(image_gradient, f64, conv, dy, w, dx, most);
}

int xpc_depthwise_gradients_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                                const xpc_array4 *dx, float *dw, float *db, ptrdiff_t most)
{
    CALL(gradients, f32, conv, dy, x, w, dx, dw, db, most);
}

int xpc_depthwise_gradients_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                                const xpc_array4 *dx, double *dw, double *db, ptrdiff_t most)
{
    CALL(gradients, f64, conv, dy, x, w, dx, dw, db, most);
}
