/* Included by direct.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"
#include "phases_impl.h"

/* Tiles that fill the registers: accumulators, what is loaded along, and one number in all lanes. */
#if REGISTERS >= 32
enum { NAME(MR) = 8 };
#else
enum { NAME(MR) = 4 };
#endif
enum { NAME(NV) = 3 }; /* vectors of pixels of a product, or taps of the gradient of the weights; loops know it */

/* ---- an image and its phases ------------------------------------------------------------------------------------ */

/* What output rows [begin, end) see of image n, into its phases. */
TARGET static void NAME(split)(const call *job, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t end, REAL *phases)
{
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    xpc_axis v = conv->vertical, h = conv->horizontal;
    NAME(pixels) pixels = NAME(pixels_of)(h, conv->width, plan->pitch);
    for (ptrdiff_t c = 0; c < conv->channels; c++) {
        const REAL *channel = (const REAL *)(job->x->data + n * job->x->strides[0] + c * job->x->strides[1]);
        for (ptrdiff_t a = 0; a < v.stride; a++, phases += h.stride * plan->image_plane) {
            if (!is_read(v, a))
                continue;
            for (ptrdiff_t r = begin; r < end + plan->below; r++) {
                ptrdiff_t row = r * v.stride + a - v.pad;
                REAL *to = phases + (r - begin) * plan->pitch;
                if (row < 0 || row >= conv->height)
                    for (ptrdiff_t b = 0; b < h.stride; b++)
                        memset(to + b * plan->image_plane, 0, (size_t)plan->pitch * sizeof(REAL));
                else if (pixels.known > 0)
                    NAME(split_row)(h, &pixels, channel + row * conv->width, to, plan->image_plane);
            }
        }
    }
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* to[j][m step + lane] = b[m] + sum over k of w[k, m] * from[j][tab[k] + lane], for mr rows m and nv vectors j. w is
 * packed, mr numbers for each k. */
INLINE void NAME(tile)(const int mr, const int nv, const REAL *w, const REAL *b, int relu, const ptrdiff_t *tab,
                       ptrdiff_t taps, const REAL *const *from, REAL *const *to, ptrdiff_t step, int streamed)
{
    VEC sums[NAME(MR)][NAME(NV)];
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nv; j++)
            sums[m][j] = SPLAT(b ? b[m] : (REAL)0);
    for (ptrdiff_t k = 0; k < taps; k++, w += mr) {
        VEC pixels[NAME(NV)];
        for (int j = 0; j < nv; j++)
            pixels[j] = LOAD(from[j] + tab[k]);
        for (int m = 0; m < mr; m++) {
            VEC weight = SPLAT(w[m]);
            for (int j = 0; j < nv; j++)
                sums[m][j] = FMA(weight, pixels[j], sums[m][j]);
        }
    }
    for (int m = 0; relu && m < mr; m++)
        for (int j = 0; j < nv; j++)
            sums[m][j] = POSITIVE(sums[m][j]);
    if (streamed)
        for (int m = 0; m < mr; m++)
            for (int j = 0; j < nv; j++)
                STREAM(to[j] + m * step, sums[m][j]);
    else
        for (int m = 0; m < mr; m++)
            for (int j = 0; j < nv; j++)
                STORE(to[j] + m * step, sums[m][j]);
}

/* All pixels of a cut for one panel of mr rows. */
INLINE void NAME(rows)(const int mr, const cut *cut, const REAL *w, const REAL *b, int relu, const ptrdiff_t *tab,
                       ptrdiff_t taps, const REAL *from, REAL *to, ptrdiff_t step, int streamed)
{
    REAL narrow[NAME(MR) * NAME(NV) * LANES];
    int whole = cut->lanes == LANES;
    for (ptrdiff_t g = 0; g < cut->count;) {
        const spot *spots = cut->spots + g;
        ptrdiff_t left = cut->count - g;
        int vectors = left == 4 ? 2 : (int)xpc_min(left, NAME(NV));
        const REAL *sources[NAME(NV)];
        REAL *targets[NAME(NV)];
        for (int j = 0; j < NAME(NV); j++) {
            spot at = spots[j < vectors ? j : 0];
            sources[j] = from + at.from;
            targets[j] = whole ? to + at.to : narrow + j * LANES;
        }
        ptrdiff_t apart = whole ? step : NAME(NV) * LANES;
        if (vectors == 3)
            NAME(tile)(mr, 3, w, b, relu, tab, taps, sources, targets, apart, streamed);
        else if (vectors == 2)
            NAME(tile)(mr, 2, w, b, relu, tab, taps, sources, targets, apart, streamed);
        else
            NAME(tile)(mr, 1, w, b, relu, tab, taps, sources, targets, apart, streamed);
        for (int m = 0; !whole && m < mr; m++)
            for (int j = 0; j < vectors; j++)
                memcpy(to + m * step + spots[j].to, targets[j] + m * apart, (size_t)cut->lanes * sizeof(REAL));
        g += vectors;
    }
}

/* The same for any panel: the size of tiles becomes a constant. */
TARGET static void NAME(product)(int mr, const cut *cut, const REAL *w, const REAL *b, int relu, const ptrdiff_t *tab,
                                 ptrdiff_t taps, const REAL *from, REAL *to, ptrdiff_t step, int streamed)
{
#define XPC_CASE(m) \
    case m: \
        NAME(rows)(m, cut, w, b, relu, tab, taps, from, to, step, streamed); \
        break
    switch (mr) {
        XPC_CASE(1);
        XPC_CASE(2);
        XPC_CASE(3);
        XPC_CASE(4);
#if REGISTERS >= 32
        XPC_CASE(5);
        XPC_CASE(6);
        XPC_CASE(7);
        XPC_CASE(8);
#endif
    }
#undef XPC_CASE
}

/* The rows of a matrix (rows, columns), or its columns, in panels for `product`. */
static void NAME(pack)(const REAL *w, ptrdiff_t rows, ptrdiff_t columns, int by_columns, REAL *packed)
{
    ptrdiff_t total = by_columns ? columns : rows, inner = by_columns ? rows : columns;
    ptrdiff_t count = xpc_ceil_div(total, NAME(MR));
    for (ptrdiff_t p = 0; p < count; p++) {
        xpc_range range = panel(total, count, p);
        for (ptrdiff_t k = 0; k < inner; k++)
            for (ptrdiff_t m = range.begin; m < range.end; m++)
                *packed++ = by_columns ? w[k * columns + m] : w[m * columns + k];
    }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* What slot `slot` has for itself, all zero at first: what is never written is zero then. */
static char *NAME(slot)(const call *job, int slot)
{
    char *memory = job->memory + slot * job->plan->bytes;
    if (!job->ready[slot]) {
        memset(memory, 0, (size_t)job->plan->bytes);
        job->ready[slot] = 1;
    }
    return memory;
}

/* Bands [begin, end) of all images. */
TARGET static void NAME(forward_bands)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const call *job = argument;
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    REAL *image = (REAL *)(NAME(slot)(job, slot) + plan->image);
    ptrdiff_t step = job->y->strides[1] / (ptrdiff_t)sizeof(REAL), count = xpc_ceil_div(conv->filters, NAME(MR));
    int streamed = NAME(is_in_lines)(job->y);
    for (; begin < end; begin++) {
        ptrdiff_t n = begin / job->bands, band = begin % job->bands;
        ptrdiff_t first = band * plan->band, last = xpc_min(first + plan->band, conv->out_h);
        NAME(split)(job, n, first, last, image);
        REAL *y = (REAL *)(job->y->data + n * job->y->strides[0]) + first * conv->out_w;
        for (ptrdiff_t p = 0; p < count; p++) {
            xpc_range f = panel(conv->filters, count, p);
            NAME(product)((int)(f.end - f.begin), &job->cuts[band + 1 == job->bands],
                          (const REAL *)job->packed + f.begin * plan->taps,
                          job->bias ? (const REAL *)job->bias + f.begin : NULL, job->relu, job->tab, plan->taps, image,
                          y + f.begin * step, step, streamed);
        }
    }
    if (streamed)
        NAME(end_of_stream)();
}

TARGET static int NAME(forward)(const xpc_direct *conv, const xpc_array4 *x, const REAL *w, const REAL *b, int relu,
                                const xpc_array4 *y, ptrdiff_t most)
{
    layout plan = lay_out(conv, 1, 0, 0, sizeof(REAL), 0);
    call job = {.conv = conv, .plan = &plan, .x = x, .y = y, .bias = b, .relu = relu};
    job.bands = xpc_ceil_div(conv->out_h, plan.band);
    ptrdiff_t items = x->shape[0] * job.bands, weights = conv->filters * plan.taps;
    ptrdiff_t cost = weights / 16 * plan.band * conv->out_w;
    ptrdiff_t spots = plan.band * (conv->out_w / LANES + 1);
    int slots = xpc_slots(items, cost);

    layout shared = {0};
    ptrdiff_t packed = take(&shared, weights * (ptrdiff_t)sizeof(REAL));
    ptrdiff_t tab = take(&shared, plan.taps * (ptrdiff_t)sizeof(ptrdiff_t));
    ptrdiff_t cuts = take(&shared, 2 * spots * (ptrdiff_t)sizeof(spot));
    ptrdiff_t ready = take(&shared, slots);
    char *memory = take_slots(shared.bytes, plan.bytes, most, &slots);
    if (!memory)
        return -1;
    NAME(pack)(w, conv->filters, plan.taps, 0, (REAL *)(memory + packed));
    fill_tab(conv, &plan, (ptrdiff_t *)(memory + tab));
    spot *next = (spot *)(memory + cuts);
    next = fill_cut(&job.cuts[0], next, plan.band, conv->out_w, plan.pitch, conv->out_w, LANES);
    fill_cut(&job.cuts[1], next, conv->out_h - (job.bands - 1) * plan.band, conv->out_w, plan.pitch, conv->out_w, LANES);
    job.packed = memory + packed;
    job.tab = (ptrdiff_t *)(memory + tab);
    job.ready = memset(memory + ready, 0, (size_t)slots);
    job.memory = memory + shared.bytes;
    xpc_parallel_items(NAME(forward_bands), &job, items, cost, slots);
    xpc_arena_give(memory);
    return 0;
}

/* ---- gradient of the weights ------------------------------------------------------------------------------------ */

/* sums[f, k] += dy[f, pixels] * x[tab[k] + pixels], lane by lane, over the vectors of a strip; those of dy are packed,
 * `filters` for each of x. What will be packed next begins at `ahead`. */
INLINE void NAME(dot_tile)(const int filters, const int taps, const strip *strip, const REAL *dy, const REAL *x,
                           const ptrdiff_t *tab, REAL *sums, ptrdiff_t sums_step, const REAL *ahead)
{
    VEC acc[NAME(MR)][NAME(NV)];
    const REAL *pixels[NAME(NV)];
    for (int k = 0; k < taps; k++)
        pixels[k] = x + tab[k];
    for (int f = 0; f < filters; f++)
        for (int k = 0; k < taps; k++)
            acc[f][k] = SPLAT((REAL)0);
    /* Lanes behind a row are zero in both factors, so that no infinity next door becomes NaN. One loop for whole vectors
     * and for the ends of rows: with two, compilers keep no sums in registers. */
    SIEVE lanes[2] = {SIEVE_FIRST(LANES), SIEVE_FIRST(strip->lanes)};
    for (ptrdiff_t v = 0; v < strip->count; v++, dy += filters * LANES) {
        spot at = strip->spots[v];
        SIEVE some = lanes[v >= strip->whole];
        VEC seen[NAME(NV)];
        for (int k = 0; k < taps; k++)
            seen[k] = LOAD_SIEVE(some, pixels[k] + at.from);
        PREFETCH(ahead + at.to);
        for (int f = 0; f < filters; f++) {
            VEC gradient = LOAD(dy + f * LANES);
            KEEP(gradient);
            for (int k = 0; k < taps; k++)
                acc[f][k] = FMA(gradient, seen[k], acc[f][k]);
        }
    }
    /* a strip by itself first, so that rounding grows with its length plus the number of strips, not with their product */
    for (int f = 0; f < filters; f++)
        for (int k = 0; k < taps; k++) {
            REAL *sum = sums + f * sums_step + k * LANES;
            STORE(sum, LOAD(sum) + acc[f][k]);
        }
}

TARGET static void NAME(dots)(int filters, int taps, const strip *strip, const REAL *dy, const REAL *x,
                              const ptrdiff_t *tab, REAL *sums, ptrdiff_t sums_step, const REAL *ahead)
{
#define XPC_CASE(f) \
    case f: \
        if (taps == 3) \
            NAME(dot_tile)(f, 3, strip, dy, x, tab, sums, sums_step, ahead); \
        else if (taps == 2) \
            NAME(dot_tile)(f, 2, strip, dy, x, tab, sums, sums_step, ahead); \
        else \
            NAME(dot_tile)(f, 1, strip, dy, x, tab, sums, sums_step, ahead); \
        break
    switch (filters) {
        XPC_CASE(1);
        XPC_CASE(2);
        XPC_CASE(3);
        XPC_CASE(4);
#if REGISTERS >= 32
        XPC_CASE(5);
        XPC_CASE(6);
        XPC_CASE(7);
        XPC_CASE(8);
#endif
    }
#undef XPC_CASE
}

/* The vectors of a strip of some filters of dy, the filters of one place side by side; db += their sums, lane by lane. */
TARGET static void NAME(pack_dy)(const strip *strip, ptrdiff_t filters, const REAL *dy, ptrdiff_t dy_step, REAL *packed,
                                 REAL *db)
{
    MASK last = FIRST(strip->lanes);
    for (ptrdiff_t f = 0; f < filters; f++, dy += dy_step, db += LANES) {
        REAL *to = packed + f * LANES;
        VEC sum = SPLAT((REAL)0), other = sum;
        ptrdiff_t v = 0;
        for (; v + 2 <= strip->whole; v += 2, to += 2 * filters * LANES) {
            VEC a = LOAD(dy + strip->spots[v].to), b = LOAD(dy + strip->spots[v + 1].to);
            STORE(to, a);
            STORE(to + filters * LANES, b);
            sum += a;
            other += b;
        }
        for (; v < strip->count; v++, to += filters * LANES) {
            const REAL *from = dy + strip->spots[v].to;
            VEC a = v < strip->whole ? LOAD(from) : LOAD_FIRST(last, from);
            STORE(to, a);
            sum += a;
        }
        STORE(db, LOAD(db) + (sum + other));
    }
}

/* Output rows of a strip, of an image whose phases are laid out; dy is their first, and `next` that of the next strip. */
TARGET static void NAME(weight_rows)(const call *job, const strip *strip, const REAL *dy, ptrdiff_t dy_step,
                                     const REAL *next, const REAL *image, REAL *packed, REAL *sums)
{
    ptrdiff_t taps = job->plan->taps, filters = job->conv->filters;
    ptrdiff_t panels = xpc_ceil_div(filters, NAME(MR)), groups = xpc_ceil_div(taps, NAME(NV));
    REAL *db = sums + filters * taps * LANES;
    for (ptrdiff_t p = 0; p < panels; p++) {
        xpc_range f = panel(filters, panels, p);
        NAME(pack_dy)(strip, f.end - f.begin, dy + f.begin * dy_step, dy_step, packed, db + f.begin * LANES);
        for (ptrdiff_t g = 0; g < groups; g++) {
            xpc_range k = panel(taps, groups, g);
            const REAL *ahead = p + 1 < panels ? dy + f.end * dy_step : next; /* a filter a group, as far as that goes */
            NAME(dots)((int)(f.end - f.begin), (int)(k.end - k.begin), strip, packed, image, job->tab + k.begin,
                       sums + (f.begin * taps + k.begin) * LANES, taps * LANES, ahead + xpc_min(g, NAME(MR)) * dy_step);
        }
    }
}

/* ---- gradient of the image -------------------------------------------------------------------------------------- */

/* `count` numbers, each the sum of what `taps` taps see there; up to two vectors more are written. */
INLINE void NAME(sum_taps)(const REAL *planes, const ptrdiff_t *reach, ptrdiff_t taps, ptrdiff_t count, REAL *to)
{
    for (ptrdiff_t q = 0; q < count; q += 2 * LANES) {
        VEC a = SPLAT((REAL)0), b = a;
        for (ptrdiff_t t = 0; t < taps; t++) {
            const REAL *from = planes + reach[t] + q;
            a += LOAD(from);
            b += LOAD(from + LANES);
        }
        STORE(to + q, a);
        STORE(to + q + LANES, b);
    }
}

/* The same, with the usual numbers of taps as constants: 3 x 3 with a stride of 1 or 2. */
INLINE void NAME(gather)(const REAL *planes, const ptrdiff_t *reach, ptrdiff_t taps, ptrdiff_t count, REAL *to)
{
    if (taps == 1)
        NAME(sum_taps)(planes, reach, 1, count, to);
    else if (taps == 2)
        NAME(sum_taps)(planes, reach, 2, count, to);
    else if (taps == 4)
        NAME(sum_taps)(planes, reach, 4, count, to);
    else if (taps == 9)
        NAME(sum_taps)(planes, reach, 9, count, to);
    else
        NAME(sum_taps)(planes, reach, taps, count, to);
}

/* Rows of image n of dx that lie in rows [begin, end) of its phases. `planes` is row `begin`, entry 0 of the first tap's,
 * and `phases` is memory for those rows. */
TARGET static void NAME(join)(const call *job, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t end, const REAL *planes,
                              REAL *phases)
{
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    xpc_axis v = conv->vertical, h = conv->horizontal;
    ptrdiff_t taps = v.kernel * h.kernel;
    NAME(pixels) pixels = NAME(pixels_of)(h, conv->width, plan->pitch);
    for (ptrdiff_t c = 0; c < conv->channels; c++, planes += taps * plan->plane) {
        REAL *to = (REAL *)(job->dx->data + n * job->dx->strides[0] + c * job->dx->strides[1]);
        for (ptrdiff_t a = 0; a < v.stride; a++) {
            ptrdiff_t low = xpc_max(begin, xpc_ceil_div(v.pad - a, v.stride)); /* whose pixels are in the image */
            ptrdiff_t high = xpc_min(end, xpc_ceil_div(conv->height + v.pad - a, v.stride));
            if (low >= high)
                continue;
            const REAL *first = planes + (low - begin) * plan->pitch;
            const ptrdiff_t *reach = job->first + a * h.stride;
            for (ptrdiff_t b = 0; b < h.stride; b++)
                NAME(gather)(first, job->reach + reach[b], reach[b + 1] - reach[b], (high - low) * plan->pitch,
                             phases + b * plan->phase);
            for (ptrdiff_t r = low; r < high; r++)
                NAME(join_row)(h, &pixels, phases + (r - low) * plan->pitch, plan->phase,
                               to + (r * v.stride + a - v.pad) * conv->width, conv->width);
        }
    }
}

/* Output rows [begin, end) of image n go into dx; `dy` is the first of them. */
TARGET static void NAME(image_rows)(const call *job, ptrdiff_t n, ptrdiff_t begin, ptrdiff_t end, const REAL *dy,
                                    ptrdiff_t dy_step, char *memory)
{
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    REAL *before = (REAL *)(memory + plan->planes) + plan->lead, *planes = before + plan->below * plan->pitch;
    const cut *cut = &job->cuts[end == conv->out_h];
    const ptrdiff_t *tab = job->filters;
    ptrdiff_t panels = xpc_ceil_div(plan->taps, NAME(MR)), kept = plan->below * plan->pitch;
    if (cut->lanes < LANES) {
        REAL *narrow = (REAL *)(memory + plan->narrow);
        for (ptrdiff_t f = 0; f < conv->filters; f++)
            for (ptrdiff_t p = 0; p < cut->rows; p++)
                memcpy(narrow + job->narrow[f] + p * LANES, dy + f * dy_step + p * cut->width,
                       (size_t)cut->width * sizeof(REAL));
        dy = narrow;
        tab = job->narrow;
    }
    if (begin == 0 && plan->step < conv->out_h)
        for (ptrdiff_t k = 0; k < plan->taps; k++)
            memset(before + k * plan->plane, 0, (size_t)kept * sizeof(REAL));
    for (ptrdiff_t p = 0; p < panels; p++) {
        xpc_range k = panel(plan->taps, panels, p);
        NAME(product)((int)(k.end - k.begin), cut, (const REAL *)job->packed + k.begin * conv->filters, NULL, 0, tab,
                      conv->filters, dy, planes + k.begin * plan->plane, plan->plane, 0);
    }
    ptrdiff_t behind = (end - begin) * plan->pitch;
    if (end < conv->out_h) {
        NAME(join)(job, n, begin, end, planes, (REAL *)(memory + plan->phases));
        for (ptrdiff_t k = 0; k < plan->taps; k++)
            memmove(before + k * plan->plane, before + k * plan->plane + behind, (size_t)kept * sizeof(REAL));
        return;
    }
    for (ptrdiff_t k = 0; plan->step < conv->out_h && k < plan->taps; k++)
        memset(planes + k * plan->plane + behind, 0, (size_t)kept * sizeof(REAL));
    NAME(join)(job, n, begin, end + plan->below, planes, (REAL *)(memory + plan->phases));
    ptrdiff_t reached = xpc_max((end + plan->below) * conv->vertical.stride - conv->vertical.pad, 0);
    for (ptrdiff_t c = 0; c < conv->channels && reached < conv->height; c++)
        memset((REAL *)(job->dx->data + n * job->dx->strides[0] + c * job->dx->strides[1]) + reached * conv->width, 0,
               (size_t)((conv->height - reached) * conv->width) * sizeof(REAL));
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

TARGET static void NAME(backward_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const call *job = argument;
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    char *memory = NAME(slot)(job, slot);
    REAL *image = (REAL *)(memory + plan->image), *sums = (REAL *)(memory + plan->sums);
    ptrdiff_t step = job->y->strides[1] / (ptrdiff_t)sizeof(REAL), weights = conv->filters * plan->taps;
    ptrdiff_t band = job->need_dw ? plan->band : conv->out_h;
    for (; begin < end; begin++) {
        xpc_range images = panel(job->y->shape[0], job->shares, begin);
        if (job->need_dw)
            memset(sums, 0, (size_t)((weights + conv->filters) * LANES) * sizeof(REAL));
        for (ptrdiff_t n = images.begin; n < images.end; n++) {
            const REAL *dy = (const REAL *)(job->y->data + n * job->y->strides[0]);
            ptrdiff_t done = 0;
            for (ptrdiff_t first = 0; first < conv->out_h; first += band) {
                ptrdiff_t last = xpc_min(first + band, conv->out_h);
                if (job->need_dw) {
                    NAME(split)(job, n, first, last, image);
                    const REAL *next = dy + (last < conv->out_h ? last * conv->out_w : 0);
                    if (last == conv->out_h && n + 1 < images.end)
                        next = (const REAL *)(job->y->data + (n + 1) * job->y->strides[0]);
                    NAME(weight_rows)(job, &job->strips[last == conv->out_h], dy + first * conv->out_w, step, next, image,
                                      (REAL *)(memory + plan->panel), sums);
                }
                while (job->dx && (done + plan->step <= last || (last == conv->out_h && done < last))) {
                    ptrdiff_t next = xpc_min(done + plan->step, conv->out_h);
                    NAME(image_rows)(job, n, done, next, dy + done * conv->out_w, step, memory);
                    done = next;
                }
            }
        }
        REAL *partial = (REAL *)job->partial + begin * (weights + conv->filters);
        for (ptrdiff_t i = 0; job->need_dw && i < weights + (job->need_db ? conv->filters : 0); i++)
            partial[i] = SUM(LOAD(sums + i * LANES));
    }
}

TARGET static int NAME(backward)(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const REAL *w,
                                 const xpc_array4 *dx, REAL *dw, REAL *db, ptrdiff_t most)
{
    layout plan = lay_out(conv, dw != NULL, dx != NULL, dw != NULL, sizeof(REAL), 0);
    call job = {.conv = conv, .plan = &plan, .x = x, .y = dy, .dx = dx, .need_dw = dw != NULL, .need_db = db != NULL};
    ptrdiff_t images = dy->shape[0], weights = conv->filters * plan.taps, pixels = conv->out_h * conv->out_w;
    job.shares = xpc_max(xpc_min(xpc_min(images, SHARES), images * pixels / SHARE_PIXELS), 1);
    ptrdiff_t cost = weights / 16 * pixels * (images / job.shares);
    ptrdiff_t spots = plan.step * (conv->out_w / LANES + 1), whole = conv->vertical.kernel * conv->horizontal.kernel;
    int slots = xpc_slots(job.shares, cost);

    layout shared = {0};
    ptrdiff_t index = sizeof(ptrdiff_t), number = sizeof(REAL);
    ptrdiff_t packed = take(&shared, dx ? weights * number : 0), cuts = take(&shared, 2 * spots * (ptrdiff_t)sizeof(spot));
    ptrdiff_t tab = take(&shared, plan.taps * index), filters = take(&shared, conv->filters * index);
    ptrdiff_t narrow = take(&shared, conv->filters * index), reach = take(&shared, whole * index);
    ptrdiff_t first = take(&shared, (conv->vertical.stride * conv->horizontal.stride + 1) * index);
    ptrdiff_t partial = take(&shared, dw ? job.shares * (weights + conv->filters) * number : 0);
    ptrdiff_t strips = take(&shared, 2 * plan.band * (conv->out_w / LANES + 1) * (ptrdiff_t)sizeof(spot));
    ptrdiff_t ready = take(&shared, slots);
    char *memory = take_slots(shared.bytes, plan.bytes, most, &slots);
    if (!memory)
        return -1;
    if (dw) {
        fill_tab(conv, &plan, (ptrdiff_t *)(memory + tab));
        ptrdiff_t rest = conv->out_h - (conv->out_h - 1) / plan.band * plan.band;
        spot *next = fill_strip(&job.strips[0], (spot *)(memory + strips), plan.band, conv->out_w, plan.pitch, LANES);
        fill_strip(&job.strips[1], next, rest, conv->out_w, plan.pitch, LANES);
    }
    if (dx) {
        NAME(pack)(w, conv->filters, plan.taps, 1, (REAL *)(memory + packed));
        fill_reach(conv, &plan, (ptrdiff_t *)(memory + reach), (ptrdiff_t *)(memory + first));
        for (ptrdiff_t f = 0; f < conv->filters; f++) {
            ((ptrdiff_t *)(memory + filters))[f] = f * (dy->strides[1] / number);
            ((ptrdiff_t *)(memory + narrow))[f] = f * plan.step * LANES;
        }
        ptrdiff_t rows[2] = {plan.step, conv->out_h - (conv->out_h - 1) / plan.step * plan.step};
        spot *next = (spot *)(memory + cuts);
        for (int i = 0; i < 2; i++) {
            int one_row = plan.pitch == conv->out_w;
            ptrdiff_t run = one_row ? rows[i] * conv->out_w : conv->out_w;
            next = fill_cut(&job.cuts[i], next, rows[i], conv->out_w, run < LANES && !one_row ? LANES : conv->out_w,
                            plan.pitch, LANES);
        }
    }
    job.packed = memory + packed;
    job.partial = memory + partial;
    job.tab = (ptrdiff_t *)(memory + tab);
    job.filters = (ptrdiff_t *)(memory + filters);
    job.narrow = (ptrdiff_t *)(memory + narrow);
    job.reach = (ptrdiff_t *)(memory + reach);
    job.first = (ptrdiff_t *)(memory + first);
    job.ready = memset(memory + ready, 0, (size_t)slots);
    job.memory = memory + shared.bytes;
    xpc_parallel_items(NAME(backward_shares), &job, job.shares, cost, slots);
    for (ptrdiff_t share = 0; dw && share < job.shares; share++) {
        const REAL *from = (const REAL *)job.partial + share * (weights + conv->filters);
        for (ptrdiff_t i = 0; i < weights; i++)
            dw[i] = share ? dw[i] + from[i] : from[i];
        for (ptrdiff_t f = 0; db && f < conv->filters; f++)
            db[f] = share ? db[f] + from[weights + f] : from[weights + f];
    }
    xpc_arena_give(memory);
    return 0;
}

#include "simd_end.h"
