#include "direct.h"

#include <string.h>

#include "arena.h"
#include "isa.h"
#include "phases.h"
#include "stream.h"
#include "threads.h"

#ifdef XPC_HAS_VECTORS

enum {
    IMAGE_BYTES = 65536,   /* of a band of the image: within the second-level cache, what a row sees within the first */
    WEIGHT_BYTES = 131072, /* of a band of the image, and of dy of one panel of filters */
    PLANES_BYTES = 65536,  /* of the taps' planes of one step, */
    STEP_ROWS = 8,         /* but at least so many rows where that takes */
    MOST_BYTES = 524288,   /* no more than this */
    PANEL = 8,             /* the most filters of which dy is read at once */
    SHARES = 16,           /* sums over the batch that are taken by themselves, */
    SHARE_PIXELS = 4096    /* unless one has fewer pixels */
};

/* How a call is cut, and where things lie in the working memory of a thread. */
typedef struct {
    ptrdiff_t taps;                /* C kh kw, K in the names of matrices */
    ptrdiff_t below, beside;       /* how many more rows and entries a phase has than there are output rows and columns */
    ptrdiff_t pitch;               /* of a row of a phase */
    ptrdiff_t band;                /* output rows for which an image is laid out at once */
    ptrdiff_t image_plane;         /* numbers from one phase of a band to the next */
    ptrdiff_t step;                /* rows of dy for which the gradient of the image is computed at once */
    ptrdiff_t lead;                /* zeros before a tap's plane */
    ptrdiff_t plane;               /* numbers from one tap's plane to the next, */
    ptrdiff_t phase;               /* and from one horizontal phase of those rows to the next */
    ptrdiff_t image, planes, narrow, phases, panel, sums, bytes;
} layout;

/* Some rows of output pixels as vectors, of each of which the first `lanes` lanes count. */
typedef struct {
    ptrdiff_t rows, width; /* rows without gaps are one row */
    ptrdiff_t count, lanes;
    spot *spots;
} cut;

/* The same for sums over pixels, in which each counts once: whole vectors first, then the first lanes of one more in each
 * row. `from` is in the image, `to` in dy. */
typedef struct {
    ptrdiff_t whole, count;
    int lanes;
    spot *spots;
} strip;

/* All that the threads of a call share. */
typedef struct {
    const xpc_direct *conv;
    const layout *plan;
    const xpc_array4 *x, *y, *dx; /* y is dy in the backward pass */
    const void *packed, *bias;    /* the weights in panels */
    void *partial;                /* sums of each share, F K numbers and then F */
    int relu, need_dw, need_db;
    ptrdiff_t bands, shares;
    const ptrdiff_t *tab;     /* where each tap begins in a band of the image */
    const ptrdiff_t *filters; /* where each filter begins in dy, */
    const ptrdiff_t *narrow;  /* and in a copy of rows that are narrower than a vector */
    const ptrdiff_t *reach;   /* for each phase of dx where its taps begin in `planes`, and how many those are */
    const ptrdiff_t *first;
    cut cuts[2];     /* of a band or of a step of rows, and of the last one */
    strip strips[2]; /* of a band, and of the last one */
    char *memory; /* plan->bytes for each slot */
    char *ready;  /* which slots are set up */
} call;

static ptrdiff_t take(layout *plan, ptrdiff_t bytes)
{
    ptrdiff_t at = plan->bytes;
    plan->bytes += rounded(bytes);
    return at;
}

static layout lay_out(const xpc_direct *conv, int need_image, int need_dx, int need_dw, int itemsize, int least)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    layout plan = {0};
    plan.taps = conv->channels * v.kernel * h.kernel;
    plan.below = (v.kernel - 1) * v.dilation / v.stride;
    plan.beside = (h.kernel - 1) * h.dilation / h.stride;
    plan.pitch = conv->out_w + plan.beside;
    ptrdiff_t slack = LINE / itemsize; /* whole vectors are written and read at the ends of rows */
    if (need_image) {
        ptrdiff_t phases = conv->channels * v.stride * h.stride;
        ptrdiff_t row = phases * plan.pitch * itemsize;
        if (need_dw)
            row += PANEL * (conv->out_w * itemsize);
        plan.band = least ? 1 : rows_within(conv->out_h, need_dw ? WEIGHT_BYTES : IMAGE_BYTES, row, plan.below);
        plan.image_plane = apart((plan.band + plan.below) * plan.pitch + slack, itemsize);
        plan.image = take(&plan, phases * plan.image_plane * itemsize);
    }
    if (need_dx) {
        ptrdiff_t row = plan.taps * plan.pitch * itemsize;
        ptrdiff_t bytes = xpc_min(xpc_max((STEP_ROWS + plan.below) * row, PLANES_BYTES), MOST_BYTES);
        plan.step = least ? 1 : rows_within(conv->out_h, bytes, row, plan.below);
        /* so that the rows of the step start at a line */
        ptrdiff_t before = rounded((plan.below * plan.pitch + plan.beside) * itemsize) / itemsize;
        plan.lead = before - plan.below * plan.pitch;
        plan.plane = apart(before + (plan.step + plan.below) * plan.pitch + 2 * slack, itemsize);
        plan.planes = take(&plan, plan.taps * plan.plane * itemsize);
        plan.phase = apart((plan.step + plan.below) * plan.pitch + 3 * slack, itemsize);
        plan.phases = take(&plan, h.stride * plan.phase * itemsize);
        plan.narrow = take(&plan, conv->filters * plan.step * LINE);
    }
    if (need_dw) {
        plan.panel = take(&plan, PANEL * plan.band * (conv->out_w * itemsize + LINE));
        plan.sums = take(&plan, (plan.taps + 1) * conv->filters * LINE);
    }
    return plan;
}

ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int backward, int itemsize, ptrdiff_t most)
{
    /* in floating point first, from above: sizes may be huge */
    xpc_axis v = conv->vertical, h = conv->horizontal;
    double taps = (double)conv->channels * v.kernel * h.kernel;
    double below = 1 + (double)v.kernel * v.dilation / v.stride, beside = (double)h.kernel * h.dilation / h.stride;
    double phases = (double)conv->channels * v.stride * h.stride;
    double numbers = (phases + taps) * (below * 2 + 2) * (conv->out_w + beside + LINE) + (taps + 2) * conv->filters * LINE;
    if (numbers * itemsize > 1e15)
        return -1;
    ptrdiff_t bytes = lay_out(conv, 1, backward, backward, itemsize, 1).bytes;
    return bytes <= most ? bytes : -1;
}

/* Where each tap begins in a band of the image. */
static void fill_tab(const xpc_direct *conv, const layout *plan, ptrdiff_t *tab)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    for (ptrdiff_t c = 0; c < conv->channels; c++)
        for (ptrdiff_t i = 0; i < v.kernel; i++)
            for (ptrdiff_t j = 0; j < h.kernel; j++) {
                ptrdiff_t row = i * v.dilation, column = j * h.dilation;
                ptrdiff_t number = (c * v.stride + row % v.stride) * h.stride + column % h.stride;
                *tab++ = number * plan->image_plane + row / v.stride * plan->pitch + column / h.stride;
            }
}

/* The taps of each phase of dx: where they begin in the planes of one channel, seen from the entry that they reach. */
static void fill_reach(const xpc_direct *conv, const layout *plan, ptrdiff_t *reach, ptrdiff_t *first)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    ptrdiff_t count = 0;
    for (ptrdiff_t a = 0; a < v.stride; a++)
        for (ptrdiff_t b = 0; b < h.stride; b++) {
            *first++ = count;
            for (ptrdiff_t i = 0; i < v.kernel; i++)
                for (ptrdiff_t j = 0; j < h.kernel; j++)
                    if (i * v.dilation % v.stride == a && j * h.dilation % h.stride == b)
                        reach[count++] = (i * h.kernel + j) * plan->plane -
                                         i * v.dilation / v.stride * plan->pitch - j * h.dilation / h.stride;
        }
    *first = count;
}

/* The vectors of `rows` rows of `width` pixels. The last of a row begins earlier, so that it is whole, unless the row is
 * narrower than one. Returns where the next cut's spots may go. */
static spot *fill_cut(cut *to, spot *spots, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t from_row, ptrdiff_t to_row,
                      ptrdiff_t lanes)
{
    if (from_row == width && to_row == width) {
        width *= rows;
        rows = 1;
    }
    *to = (cut){rows, width, 0, xpc_min(width, lanes), spots};
    for (ptrdiff_t p = 0; p < rows; p++)
        for (ptrdiff_t q = 0; q < width; q += lanes) {
            ptrdiff_t at = xpc_max(xpc_min(q, width - lanes), 0);
            spots[to->count++] = (spot){p * from_row + at, p * to_row + at};
        }
    return spots + to->count;
}

static spot *fill_strip(strip *to, spot *spots, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t from_row, ptrdiff_t lanes)
{
    if (from_row == width) {
        width *= rows;
        rows = 1;
    }
    ptrdiff_t inside = width / lanes * lanes;
    *to = (strip){rows * (width / lanes), 0, (int)(width - inside), spots};
    for (ptrdiff_t p = 0; p < rows; p++)
        for (ptrdiff_t q = 0; q < inside; q += lanes)
            spots[to->count++] = (spot){p * from_row + q, p * width + q};
    for (ptrdiff_t p = 0; inside < width && p < rows; p++)
        spots[to->count++] = (spot){p * from_row + inside, p * width + inside};
    return spots + to->count;
}

#define XPC_SOURCE "direct_impl.h"
#include "instances.h"

#define CALL(name, type, ...) return XPC_PICK(name, type)(__VA_ARGS__)

#else /* a compiler without vectors */

ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int backward, int itemsize, ptrdiff_t most)
{
    (void)conv, (void)backward, (void)itemsize, (void)most;
    return -1;
}

#define CALL(name, type, ...) return -1

#endif

int xpc_direct_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b, int relu,
                   const xpc_array4 *y, ptrdiff_t most)
{
    CALL(forward, f32, conv, x, w, b, relu, y, most);
}

int xpc_direct_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b, int relu,
                   const xpc_array4 *y, ptrdiff_t most)
{
    CALL(forward, f64, conv, x, w, b, relu, y, most);
}

int xpc_direct_backward_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                            const xpc_array4 *dx, float *dw, float *db, ptrdiff_t most)
{
    CALL(backward, f32, conv, dy, x, w, dx, dw, db, most);
}

int xpc_direct_backward_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                            const xpc_array4 *dx, double *dw, double *db, ptrdiff_t most)
{
    CALL(backward, f64, conv, dy, x, w, dx, dw, db, most);
}
