#include "blocked.h"

#include <math.h>
#include <string.h>

#include "ahead.h"
#include "arena.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

#ifdef XPC_HAS_VECTORS

enum {
    LINE = 64,               /* bytes; alignment of everything in working memory, and the widest vector */
    BAND_BYTES = 512 << 10,  /* a piece's input, a part of the second-level cache */
    /* but where that makes pieces of fewer outputs than this, for which all weights would be read each time, and where the
     * result has many channels, for all of which the band is gathered once, so that it may lie further away */
    LARGE_BAND_BYTES = 2 << 20,
    FEW_OUTPUTS = 256,
    MANY_CHANNELS = 64,
    LEAST_PANELS = 32,       /* of channels, in all pieces: threads share these out, too, and each gathers for its own */
    PART = 384,              /* of a long sum: parts round less than one sum after the other */
    PIECE_OUTPUTS = 1024,    /* about: enough that the weights are not read too often */
    GRADIENT_OUTPUTS = 256,  /* about, for the gradient to the weights: a panel of filters in a near cache */
    /* but so much of dy where few taps walk over it, so that longer runs of memory are read; no more than PIECE_OUTPUTS, as
     * they are one sum, and long ones round more */
    GRADIENT_BYTES = 512 << 10,
    SHARE_BYTES = 1 << 20,   /* sums of a share of dw: they stay in the second-level cache */
    SHARES = 16,
    STRIDED_TAPS = 3 /* of a row of the kernel, where columns are gathered from the input itself */
};

/* One tap along one axis: entry o + entry of a phase (in the list of those that are read) is what output o sees. */
typedef struct {
    ptrdiff_t index, phase, entry;
} tap;

/* Where the weights of one tap are packed: term first + c * step of the `depth` terms of its output phase, which lies
 * behind `before` terms of others; depth is 0 if no output sees the tap. */
typedef struct {
    ptrdiff_t before, depth, first, step;
} place;

/* One axis of the convolution that is computed, which is not the caller's if that wants the gradient to the image. */
typedef struct {
    ptrdiff_t size;    /* of the input: entry e of phase p is position e * split + p - pad */
    ptrdiff_t split, pad;
    ptrdiff_t phases;  /* that some tap reads */
    ptrdiff_t *phase;  /* which ones */
    xpc_range *known;  /* their entries that are pixels, of those that outputs see; zeros around them are padding */
    ptrdiff_t more;    /* entries seen beyond one for each output */
    ptrdiff_t outputs; /* of each output phase: output o of phase a is pixel o * weave + a of the result */
    ptrdiff_t weave, total;
    tap *taps;         /* those of one output phase after those of another, each by rising position */
    ptrdiff_t *first;  /* of each output phase, and the end */
} axis_plan;

typedef struct {
    axis_plan v, h;
    ptrdiff_t batch, channels, outputs; /* images, and channels of the input and of the result */
    ptrdiff_t kernel_w;
    ptrdiff_t weight_output, weight_channel; /* steps in w */
    ptrdiff_t result;                   /* from image to image of the result */
    ptrdiff_t taps;                     /* all taps of all output phases */
    ptrdiff_t images, rows;             /* of a piece */
    ptrdiff_t cuts, pieces;             /* pieces of one image if it is cut, and all */
    int in_place;                       /* the input is read where it lies */
    int strided;                        /* columns are gathered from there (forward); there is no band */
    int apart;                          /* rows or columns do not lie side by side there (gradient to the weights) */
    ptrdiff_t origin, row_step, column_step, row; /* its begin in a plane, its steps, numbers of a row of the plane */
    ptrdiff_t pitch, plane, channel, image; /* steps in the band, of rows, phases, channels and images */
    ptrdiff_t *tab;                     /* in the band, for every k */
    place *places;                      /* of every tap */
    void *tables;
} plan;

static ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t unit)
{
    return (number + unit - 1) / unit * unit;
}

/* Rows of sums, and channels, do not lie a multiple of many lines apart: they would fall into the same sets. */
static ptrdiff_t odd_lines(ptrdiff_t numbers, ptrdiff_t itemsize)
{
    ptrdiff_t lines = xpc_ceil_div(numbers * itemsize, LINE);
    return (lines | 1) * LINE / itemsize;
}

static ptrdiff_t floor_div(ptrdiff_t number, ptrdiff_t divisor)
{
    return number >= 0 ? number / divisor : -((-number + divisor - 1) / divisor);
}

/* How an axis forward reads: the input is split, the taps are in order. */
static void forward_axis(axis_plan *plan, xpc_axis axis, ptrdiff_t size, ptrdiff_t out)
{
    plan->size = size;
    plan->split = axis.stride;
    plan->pad = axis.pad;
    plan->outputs = plan->total = out;
    plan->weave = 1;
    plan->phases = plan->more = 0;
    for (ptrdiff_t k = 0; k < axis.kernel; k++) {
        ptrdiff_t phase = k * axis.dilation % axis.stride, known = 0;
        while (known < plan->phases && plan->phase[known] != phase)
            known++;
        if (known == plan->phases)
            plan->phase[plan->phases++] = phase;
        plan->taps[k] = (tap){k, known, k * axis.dilation / axis.stride};
        plan->more = xpc_max(plan->more, plan->taps[k].entry);
    }
    plan->first[0] = 0;
    plan->first[1] = axis.kernel;
}

/* How the gradient reads an axis of dy: pixel o * stride + a of dx meets tap k in entry o + (a + pad - k * dilation) /
 * stride of dy, where that is a whole number. */
static void backward_axis(axis_plan *plan, xpc_axis axis, ptrdiff_t size, ptrdiff_t out)
{
    plan->size = out;
    plan->split = 1;
    plan->weave = xpc_min(axis.stride, size); /* others have no pixels */
    plan->outputs = xpc_ceil_div(size, plan->weave);
    plan->total = size;
    plan->phases = 1;
    plan->phase[0] = 0;
    ptrdiff_t count = 0, least = 0, most = 0;
    for (ptrdiff_t a = 0; a < plan->weave; a++) {
        plan->first[a] = count;
        for (ptrdiff_t k = axis.kernel - 1; k >= 0; k--) {
            ptrdiff_t distance = a + axis.pad - k * axis.dilation;
            if (floor_div(distance, axis.stride) * axis.stride != distance)
                continue;
            ptrdiff_t entry = floor_div(distance, axis.stride);
            least = count ? xpc_min(least, entry) : entry;
            most = count ? xpc_max(most, entry) : entry;
            plan->taps[count++] = (tap){k, 0, entry};
        }
    }
    plan->first[plan->weave] = count;
    for (ptrdiff_t k = 0; k < count; k++)
        plan->taps[k].entry -= least;
    plan->more = most - least;
    plan->pad = -least;
}

/* Bytes of the tables of an axis and of all taps. */
static size_t table_bytes(const xpc_blocked *conv, ptrdiff_t channels)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    size_t axes = (size_t)(v.kernel + h.kernel) * (sizeof(tap) + sizeof(xpc_range) + sizeof(ptrdiff_t)) +
                  (size_t)(xpc_min(v.stride, conv->height) + xpc_min(h.stride, conv->width) + 2) * sizeof(ptrdiff_t);
    return axes + (size_t)(v.kernel * h.kernel) * (sizeof(place) + (size_t)channels * sizeof(ptrdiff_t));
}

/* Group `g` of images. */
static xpc_planes group_of(xpc_planes x, ptrdiff_t g, ptrdiff_t channels, size_t itemsize)
{
    x.data = (const char *)x.data + g * channels * x.channel * (ptrdiff_t)itemsize;
    return x;
}

static void find_known(axis_plan *axis)
{
    ptrdiff_t seen = axis->outputs + axis->more;
    for (ptrdiff_t p = 0; p < axis->phases; p++) {
        ptrdiff_t offset = axis->phase[p] - axis->pad;
        axis->known[p].begin = xpc_min(xpc_max(xpc_ceil_div(-offset, axis->split), 0), seen);
        axis->known[p].end =
            xpc_max(xpc_min(xpc_ceil_div(axis->size - offset, axis->split), seen), axis->known[p].begin);
    }
}

static int make_plan(plan *p, const xpc_blocked *conv, int backward)
{
    xpc_axis v = conv->vertical, h = conv->horizontal;
    ptrdiff_t taps = v.kernel * h.kernel;
    p->batch = conv->batch;
    p->channels = backward ? conv->filters : conv->channels;
    p->outputs = backward ? conv->channels : conv->filters;
    p->weight_output = backward ? taps : conv->channels * taps;
    p->weight_channel = backward ? conv->channels * taps : taps;
    p->kernel_w = h.kernel;
    p->taps = p->channels * taps;
    p->strided = p->apart = 0;
    p->origin = 0;
    p->column_step = 1;
    char *memory = p->tables = xpc_arena_take(table_bytes(conv, p->channels));
    if (!memory)
        return 0;
    p->v.taps = (tap *)memory;
    p->h.taps = p->v.taps + v.kernel;
    p->v.known = (xpc_range *)(p->h.taps + h.kernel);
    p->h.known = p->v.known + v.kernel;
    p->v.phase = (ptrdiff_t *)(p->h.known + h.kernel);
    p->h.phase = p->v.phase + v.kernel;
    p->v.first = p->h.phase + h.kernel;
    p->h.first = p->v.first + xpc_min(v.stride, conv->height) + 1;
    p->tab = p->h.first + xpc_min(h.stride, conv->width) + 1;
    p->places = (place *)(p->tab + p->taps);
    memset(p->places, 0, (size_t)taps * sizeof(place));
    if (backward) {
        backward_axis(&p->v, v, conv->height, conv->out_h);
        backward_axis(&p->h, h, conv->width, conv->out_w);
    } else {
        forward_axis(&p->v, v, conv->height, conv->out_h);
        forward_axis(&p->h, h, conv->width, conv->out_w);
    }
    find_known(&p->v);
    find_known(&p->h);
    p->row_step = p->row = p->h.size;
    p->result = conv->groups * p->outputs * p->v.total * p->h.total;
    p->in_place = taps == 1 && p->v.split == 1 && p->h.split == 1 && p->v.weave == 1 && p->h.weave == 1 &&
                  p->v.pad == 0 && p->h.pad == 0 && p->v.size == p->v.outputs && p->h.size == p->h.outputs;
    return 1;
}

static ptrdiff_t leave_out_axis(axis_plan *axis)
{
    ptrdiff_t first = axis->known[0].begin * axis->split + axis->phase[0] - axis->pad;
    axis->size = axis->known[0].end - axis->known[0].begin;
    axis->pad = axis->known[0].begin;
    axis->split = 1;
    axis->phase[0] = 0;
    return first;
}

/* Of a single tap a stride leaves out rows and columns: what remains is an input of stride 1, apart in memory. */
static void leave_out(plan *p)
{
    p->apart = 1;
    ptrdiff_t down = p->v.split, across = p->h.split;
    ptrdiff_t row = leave_out_axis(&p->v), column = leave_out_axis(&p->h);
    p->origin = p->v.size && p->h.size ? row * p->row + column : 0;
    /* strides beyond the image may be any, and so may the origin where no pixel is seen: they are not used */
    p->row_step = p->v.size > 1 ? down * p->row : p->row;
    p->column_step = p->h.size > 1 ? across : 1;
}

/* Steps in the band of a piece of `rows` rows; in place those of the input. */
static void lay_out_band(plan *p, ptrdiff_t channels, ptrdiff_t rows, xpc_planes x, ptrdiff_t itemsize)
{
    p->rows = rows;
    p->pitch = p->h.outputs + p->h.more;
    p->plane = (rows + p->v.more) * p->pitch;
    p->channel = p->in_place ? x.channel : odd_lines(p->v.phases * p->h.phases * p->plane, itemsize);
    if (p->strided) /* no step, but what counts for the size of pieces: what is read now and what is fetched for later */
        p->channel = 2 * p->v.size * p->h.size;
    p->image = p->in_place ? x.image : channels * p->channel;
}

/* Numbers in the band of a piece; vectors may be loaded from its last number on. */
static ptrdiff_t band_size(const plan *p, ptrdiff_t itemsize)
{
    return p->in_place || p->strided ? 0 : p->images * p->image + 2 * LINE / itemsize;
}

/* Vectors of `lanes` outputs in all pieces of so many images, each of `outputs`. */
static ptrdiff_t vectors_of(ptrdiff_t batch, ptrdiff_t images, ptrdiff_t outputs, ptrdiff_t lanes)
{
    return batch / images * xpc_ceil_div(images * outputs, lanes) + xpc_ceil_div(batch % images * outputs, lanes);
}

/* How many images make a piece, `most` of them at the most. The result has `panels` of channels. */
static ptrdiff_t images_of_piece(ptrdiff_t batch, ptrdiff_t most, ptrdiff_t outputs, ptrdiff_t lanes, ptrdiff_t panels)
{
    /* at least eight pieces for threads to share, equal ones */
    ptrdiff_t images = xpc_min(most, xpc_ceil_div(batch, 8));
    images = xpc_ceil_div(batch, xpc_ceil_div(batch, images));
    /* but more images in fewer pieces, if otherwise many lanes were empty */
    ptrdiff_t best = images, first = vectors_of(batch, images, outputs, lanes), least = first;
    for (ptrdiff_t more = images + 1; more <= xpc_min(most, batch); more++) {
        ptrdiff_t vectors = vectors_of(batch, more, outputs, lanes);
        if (vectors < least && xpc_ceil_div(batch, more) * panels >= LEAST_PANELS) {
            best = more;
            least = vectors;
        }
    }
    return least < first - first / 16 ? best : images;
}

/* Cut the work into pieces: as many images as fit into the band and make enough outputs, else equal bands of rows. Tiles are
 * vectors of `lanes` outputs. */
static void cut(plan *p, ptrdiff_t channels, xpc_planes x, ptrdiff_t itemsize, ptrdiff_t band_bytes,
                ptrdiff_t most_outputs, ptrdiff_t lanes, ptrdiff_t panels)
{
    ptrdiff_t width = p->h.outputs, height = p->v.outputs, rows = height, images = 1;
    lay_out_band(p, channels, rows, x, itemsize);
    if ((p->in_place || p->image * itemsize <= band_bytes) && width * height <= most_outputs) {
        images = xpc_max(most_outputs / (width * height), 1);
        if (!p->in_place)
            images = xpc_min(images, xpc_max(band_bytes / (p->image * itemsize), 1));
        images = images_of_piece(p->batch, images, width * height, lanes, panels);
    } else {
        rows = xpc_max(xpc_min(rows, most_outputs / width), 1);
        if (!p->in_place) {
            ptrdiff_t line = channels * p->v.phases * p->h.phases * p->pitch * itemsize;
            rows = xpc_min(rows, xpc_max(band_bytes / line - p->v.more, 1));
        }
        rows = xpc_ceil_div(height, xpc_ceil_div(height, rows));
        lay_out_band(p, channels, rows, x, itemsize);
    }
    p->images = images;
    p->cuts = xpc_ceil_div(height, rows);
    p->pieces = xpc_ceil_div(p->batch, images) * p->cuts;
}

/* The position in the input that output `output` of an axis sees through tap number `k`. */
static ptrdiff_t position(const axis_plan *axis, ptrdiff_t k, ptrdiff_t output)
{
    return (output + axis->taps[k].entry) * axis->split + axis->phase[axis->taps[k].phase] - axis->pad;
}

/* Where every k lies, for output phase (a, b), and where its weights go, which `before` terms are before: by rows of
 * taps, so that a tile that does not see some rows leaves out one range of k; then by channels, so that neighbouring
 * taps find what they share in the cache. Returns how many. */
static ptrdiff_t fill_tab(const plan *p, ptrdiff_t a, ptrdiff_t b, ptrdiff_t channels, ptrdiff_t before,
                          ptrdiff_t *tab, place *places)
{
    ptrdiff_t k = 0, across = p->h.first[b + 1] - p->h.first[b];
    ptrdiff_t depth = (p->v.first[a + 1] - p->v.first[a]) * across * channels;
    for (ptrdiff_t i = p->v.first[a]; i < p->v.first[a + 1]; i++)
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t j = p->h.first[b]; j < p->h.first[b + 1]; j++, k++) {
                tap v = p->v.taps[i], h = p->h.taps[j];
                tab[k] = c * p->channel + (v.phase * p->h.phases + h.phase) * p->plane + v.entry * p->pitch + h.entry;
                if (c == 0)
                    places[v.index * p->kernel_w + h.index] = (place){before, depth, k, across};
            }
    return k;
}

/* The same for weights that are read where they lie, in their order. */
static void fill_plain_tab(const plan *p, ptrdiff_t *tab)
{
    for (ptrdiff_t c = 0; c < p->channels; c++)
        for (ptrdiff_t i = 0; i < p->v.first[1]; i++)
            for (ptrdiff_t j = 0; j < p->h.first[1]; j++) {
                tap v = p->v.taps[i], h = p->h.taps[j];
                *tab++ = c * p->channel + (v.phase * p->h.phases + h.phase) * p->plane + v.entry * p->pitch + h.entry;
            }
}

/* The same where images are the lanes: channels last, as the taps that a pixel sees are then a few ranges of k. */
static ptrdiff_t fill_stack_tab(const plan *p, ptrdiff_t a, ptrdiff_t b, ptrdiff_t lanes, ptrdiff_t before,
                                ptrdiff_t *tab)
{
    ptrdiff_t k = 0;
    ptrdiff_t depth = (p->v.first[a + 1] - p->v.first[a]) * (p->h.first[b + 1] - p->h.first[b]) * p->channels;
    for (ptrdiff_t i = p->v.first[a]; i < p->v.first[a + 1]; i++)
        for (ptrdiff_t j = p->h.first[b]; j < p->h.first[b + 1]; j++) {
            p->places[p->v.taps[i].index * p->kernel_w + p->h.taps[j].index] = (place){before, depth, k, 1};
            for (ptrdiff_t c = 0; c < p->channels; c++, k++)
                tab[k] = ((c * p->v.size + position(&p->v, i, 0)) * p->h.size + position(&p->h, j, 0)) * lanes;
        }
    return k;
}

/* Which part of all pairs of taps and outputs of an axis does not meet padding. */
static double share_seen(const axis_plan *axis)
{
    double seen = 0, all = 0;
    for (ptrdiff_t a = 0; a < axis->weave; a++)
        for (ptrdiff_t k = axis->first[a]; k < axis->first[a + 1]; k++)
            for (ptrdiff_t o = 0; o * axis->weave + a < axis->total; o++) {
                ptrdiff_t at = position(axis, k, o);
                seen += at >= 0 && at < axis->size;
                all++;
            }
    return all > 0 ? seen / all : 0;
}

/* The images and rows of a piece. */
typedef struct {
    ptrdiff_t image, images, row, rows;
    ptrdiff_t outputs; /* of one phase */
} piece;

static piece piece_of(const plan *p, ptrdiff_t number)
{
    piece it;
    it.image = number / p->cuts * p->images;
    it.images = xpc_min(p->images, p->batch - it.image);
    it.row = number % p->cuts * p->rows;
    it.rows = xpc_min(p->rows, p->v.outputs - it.row);
    it.outputs = it.images * it.rows * p->h.outputs;
    return it;
}

/* Rows of the image that a piece sees, those of padding left out. */
static xpc_range rows_seen(const plan *p, const piece *it)
{
    xpc_range rows;
    rows.begin = xpc_min(xpc_max(it->row * p->v.split - p->v.pad, 0), p->v.size);
    rows.end = xpc_min((it->row + it->rows + p->v.more) * p->v.split - p->v.pad, p->v.size);
    rows.end = xpc_max(rows.end, rows.begin);
    return rows;
}

/* The input of piece `number`. */
static xpc_ahead look_ahead(const plan *p, ptrdiff_t number, const xpc_planes *x, ptrdiff_t first, ptrdiff_t channels,
                            ptrdiff_t itemsize)
{
    piece it = piece_of(p, number);
    xpc_range rows = rows_seen(p, &it);
    ptrdiff_t step = p->row_step, count = rows.end - rows.begin;
    if (p->v.phases == 1 && p->v.split > 1) { /* rows between those of the one phase are not read */
        ptrdiff_t past = (rows.begin + p->v.pad - p->v.phase[0]) % p->v.split;
        rows.begin = xpc_min(rows.begin + (past > 0 ? p->v.split - past : -past), rows.end);
        count = xpc_ceil_div(rows.end - rows.begin, p->v.split);
        if (count > 1) /* strides beyond the image may be any */
            step *= p->v.split;
    }
    xpc_ahead next;
    next.from = (const char *)x->data +
                (it.image * x->image + first * x->channel + p->origin + rows.begin * p->row_step) * itemsize;
    next.left = channels;
    next.at = 0;
    if (step > p->row && step * count == x->channel) {
        next.left *= count;
        next.channel = step * itemsize;
        next.length = p->row * itemsize;
    } else {
        next.channel = x->channel * itemsize;
        next.length = count * step * itemsize;
    }
    if (channels * x->channel == x->image) /* the next image begins where this one ends */
        next.left *= it.images;
    return next;
}

/* The outputs of [first, last) of an axis that see a pixel, not padding, through tap number `k`. */
static xpc_range outputs_seeing(const axis_plan *axis, ptrdiff_t k, ptrdiff_t first, ptrdiff_t last)
{
    ptrdiff_t at = position(axis, k, 0);
    xpc_range seen;
    seen.begin = xpc_min(xpc_max(xpc_ceil_div(-at, axis->split), first), last);
    seen.end = xpc_max(xpc_min(xpc_ceil_div(axis->size - at, axis->split), last), seen.begin);
    return seen;
}

/* A run of outputs in one tile whose sources are a run of the band. */
typedef struct {
    ptrdiff_t from, at, count;
} run;

/* The runs of outputs [begin, begin + count) of a piece, none longer than `most`. */
static ptrdiff_t find_runs(const plan *p, const piece *it, ptrdiff_t begin, ptrdiff_t count, ptrdiff_t most, run *runs)
{
    ptrdiff_t width = p->h.outputs, found = 0;
    ptrdiff_t row = begin / width, column = begin % width, image = row / it->rows;
    row %= it->rows;
    for (ptrdiff_t at = 0; at < count;) {
        /* without padding rows follow one another */
        ptrdiff_t left = p->pitch == width ? (it->rows - row) * width - column : width - column;
        ptrdiff_t length = xpc_min(xpc_min(left, most), count - at);
        runs[found++] = (run){image * p->image + row * p->pitch + column, at, length};
        at += length;
        column += length;
        row += column / width;
        column %= width;
        if (row == it->rows) {
            row = 0;
            image++;
        }
    }
    return found;
}

#define XPC_SOURCE "blocked_impl.h"
#include "instances.h"

#define CALL(name, type, ...) XPC_PICK(name, type)(__VA_ARGS__)

#else /* a compiler without vectors */

#define CALL(name, type, ...) ((void)conv, XPC_BLOCKED_NO_KERNELS)

#endif

#define XPC_BLOCKED(type, real) \
    int xpc_blocked_forward_##type(const xpc_blocked *conv, xpc_planes x, const real *w, const real *b, real *y, \
                                   int relu, ptrdiff_t limit) \
    { \
        return CALL(forward, type, conv, x, w, b, y, relu, limit); \
    } \
    int xpc_blocked_input_gradient_##type(const xpc_blocked *conv, xpc_planes dy, const real *w, const real *b, \
                                          real *dx, ptrdiff_t limit) \
    { \
        return CALL(input_gradient, type, conv, dy, w, b, dx, limit); \
    } \
    int xpc_blocked_weight_gradient_##type(const xpc_blocked *conv, xpc_planes dy, xpc_planes x, real *dw, real *db, \
                                           ptrdiff_t limit) \
    { \
        return CALL(weight_gradient, type, conv, dy, x, dw, db, limit); \
    }
XPC_BLOCKED(f32, float)
XPC_BLOCKED(f64, double)
