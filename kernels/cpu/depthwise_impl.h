/* Included by depthwise.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"
#include "phases_impl.h"

/* ---- what slides ------------------------------------------------------------------------------------------------- */

/* Results to[r to_row + q] = b + sum over t of w[t] * from[r pitch + q + tab[t]], for r < rows and q < width. */
typedef struct {
    const REAL *from;
    const ptrdiff_t *tab;
    const REAL *w;
    REAL b, *to;
    ptrdiff_t pitch, taps, to_row, width;
    int relu;
    int streamed; /* whether each vector of the results is a line that is written past the caches */
} NAME(slide);

/* Vectors of some rows of results, `to_row` apart; past the caches where `streamed`. */
INLINE void NAME(put)(const int block, const VEC *sums, int relu, int streamed, REAL *to, ptrdiff_t to_row, ptrdiff_t left)
{
    for (int line = 0; line < block; line++, to += to_row) {
        VEC sum = relu ? POSITIVE(sums[line]) : sums[line];
        if (streamed)
            STREAM(to, sum);
        else if (left >= LANES)
            STORE(to, sum);
        else
            STORE_FIRST(to, FIRST((int)left), sum);
    }
}

/* Rows [r, rows) in whole blocks; returns where it ended. */
INLINE ptrdiff_t NAME(slide_any)(const NAME(slide) *job, const int block, ptrdiff_t r, ptrdiff_t rows)
{
    for (; r + block <= rows; r += block)
        for (ptrdiff_t q = 0; q < job->width; q += LANES) {
            VEC sums[LINES];
            const REAL *from = job->from + r * job->pitch + q;
            for (int line = 0; line < block; line++)
                sums[line] = SPLAT(job->b);
            for (ptrdiff_t t = 0; t < job->taps; t++) {
                VEC weight = SPLAT(job->w[t]);
                for (int line = 0; line < block; line++)
                    sums[line] = FMA(weight, LOAD(from + line * job->pitch + job->tab[t]), sums[line]);
            }
            NAME(put)(block, sums, job->relu, job->streamed, job->to + r * job->to_row + q, job->to_row, job->width - q);
        }
    return r;
}

#if ISA == XPC_BASELINE
/* The same for kernels of `size` by `size` taps side by side, the first at tab[0]. */
INLINE ptrdiff_t NAME(slide_dense)(const NAME(slide) *job, const int size, const int block, ptrdiff_t r, ptrdiff_t rows)
{
    VEC weights[25];
    for (int t = 0; t < size * size; t++)
        weights[t] = SPLAT(job->w[t]);
    for (; r + block <= rows; r += block)
        for (ptrdiff_t q = 0; q < job->width; q += LANES) {
            VEC sums[LINES];
            const REAL *from = job->from + job->tab[0] + r * job->pitch + q;
            for (int line = 0; line < block; line++)
                sums[line] = SPLAT(job->b);
            XPC_UNROLL for (int row = 0; row < size + block - 1; row++, from += job->pitch)
                XPC_UNROLL for (int j = 0; j < size; j++)
                {
                    VEC seen = LOAD(from + j);
                    XPC_UNROLL for (int line = 0; line < block; line++)
                        if (row >= line && row - line < size)
                            sums[line] = FMA(weights[(row - line) * size + j], seen, sums[line]);
                }
            NAME(put)(block, sums, job->relu, job->streamed, job->to + r * job->to_row + q, job->to_row, job->width - q);
        }
    return r;
}

TARGET static void NAME(slide_3)(const NAME(slide) *job, ptrdiff_t rows)
{
    NAME(slide_dense)(job, 3, 1, NAME(slide_dense)(job, 3, LINES, 0, rows), rows);
}

TARGET static void NAME(slide_5)(const NAME(slide) *job, ptrdiff_t rows)
{
    NAME(slide_dense)(job, 5, 1, NAME(slide_dense)(job, 5, LINES, 0, rows), rows);
}

#endif

TARGET static void NAME(slide_all)(const NAME(slide) *job, ptrdiff_t rows)
{
    NAME(slide_any)(job, 1, NAME(slide_any)(job, LINES, 0, rows), rows);
}

/* `dense` is the size of kernels with taps side by side, else 0. */
static void NAME(run)(const NAME(slide) *job, int dense, ptrdiff_t rows)
{
#if ISA == XPC_BASELINE
    if (dense == 3) {
        NAME(slide_3)(job, rows);
        return;
    }
    if (dense == 5) {
        NAME(slide_5)(job, rows);
        return;
    }
#endif
    (void)dense;
    NAME(slide_all)(job, rows);
}

static int NAME(dense)(const xpc_direct *conv)
{
    return is_dense(conv, 3) ? 3 : is_dense(conv, 5) ? 5 : 0;
}

/* The same, 0 too where planes have to be laid out. */
static int NAME(is_swept)(const xpc_direct *conv)
{
    return ISA == XPC_BASELINE ? 0 : NAME(dense)(conv);
}

#if ISA != XPC_BASELINE /* where lanes can be left out of loads at full speed */
/* ---- what sweeps ------------------------------------------------------------------------------------------------- */

/* A plane under a kernel of `size` by `size` taps side by side, read where it lies: rows beyond it are a row of zeros, and
 * columns beyond it are lanes that are not loaded. With s[r, q] what tap (0, 0) sees from entry (r, q) of the results,
 *
 *     to[r, q] = b + sum over i, j of w[i, j] s[r + i, q + j]
 *     sums[i, j] += sum over r, q of centre[r, q] s[r + i, q + j], lane by lane, and behind them those of dy by itself
 *
 * which is the convolution with from = x and its gradient with from = dy and the taps from the last to the first, or the
 * gradient of the weights with x and dy either way round. */
typedef struct {
    const REAL *from, *zeros;
    ptrdiff_t from_height, from_width, above, left; /* the padding before the plane, also negative */
    const MASK *seen;                               /* for each vector of a row, for each j: the lanes in the plane */
    const REAL *w;
    REAL b, *to;
    const REAL *centre;
    REAL *sums;
    ptrdiff_t width;                   /* of rows of the results and of the centre */
    ptrdiff_t from_ahead, centre_ahead; /* how far away what is read next lies */
    int turned;                         /* whether dy is seen, and not the centre */
    int relu, streamed;
} NAME(sweep);

/* `block` rows from row r on: rows[row] is what tap (0, 0) sees of them, one row after the other. */
INLINE void NAME(sweep_block)(const NAME(sweep) *job, const int size, const int block, const int results,
                              const int products, const REAL *const *rows, ptrdiff_t r, const VEC *weights, VEC *acc,
                              VEC *total)
{
    const REAL *soon = job->from + r * job->from_width + job->from_ahead;
    const REAL *centre = products ? job->centre + r * job->width : NULL;
    const MASK *seen = job->seen;
    for (ptrdiff_t q = 0; q < job->width; q += LANES, seen += size) {
        VEC sums[LINES], centres[LINES];
        MASK inside = FIRST((int)xpc_min(job->width - q, LANES));
        for (int line = 0; line < block; line++) {
            XPC_SOON(soon + line * job->from_width + q);
            if (results)
                sums[line] = SPLAT(job->b);
            if (products) {
                centres[line] = LOAD_FIRST(inside, centre + line * job->width + q);
                XPC_SOON(centre + line * job->width + q + job->centre_ahead);
                if (!results && !job->turned)
                    *total += centres[line];
            }
        }
        XPC_UNROLL for (int row = 0; row < size + block - 1; row++)
            XPC_UNROLL for (int j = 0; j < size; j++)
            {
                VEC pixels = LOAD_FIRST(seen[j], rows[row] + q + j);
                XPC_UNROLL for (int line = 0; line < block; line++)
                    if (row >= line && row - line < size) {
                        const int t = (row - line) * size + j;
                        if (results)
                            sums[line] = FMA(weights[t], pixels, sums[line]);
                        if (products)
                            acc[t] = FMA(centres[line], pixels, acc[t]);
                    }
                if (products && size == 3 && j == 1 && row >= 1 && row <= block && (results || job->turned))
                    *total += pixels;
            }
        if (results)
            NAME(put)(block, sums, job->relu, job->streamed, job->to + r * job->width + q, job->width, job->width - q);
    }
}

/* Rows [begin, end), in blocks of `lines` where these see no row beyond the plane. With `results`, w is used; with
 * `products`, centre is. */
INLINE void NAME(sweep_rows)(const NAME(sweep) *given, const int size, const int lines, const int results,
                             const int products, ptrdiff_t begin, ptrdiff_t end)
{
    const NAME(sweep) job = *given; /* which no store can change, as far as a compiler sees */
    VEC weights[25], acc[25], total = SPLAT((REAL)0);
    XPC_UNROLL for (int i = 0; i < size; i++)
        XPC_UNROLL for (int j = 0; j < size; j++)
        {
            if (results)
                weights[i * size + j] = SPLAT(job.w[i * size + j]);
            acc[i * size + j] = SPLAT((REAL)0);
        }
    for (ptrdiff_t r = begin; r < end;) {
        const REAL *rows[LINES + 4], *first = job.from + (r - job.above) * job.from_width - job.left;
        if (r >= job.above && r + lines <= end && r + lines + size - 1 - job.above <= job.from_height) {
            XPC_UNROLL for (int row = 0; row < size + lines - 1; row++) rows[row] = first + row * job.from_width;
            NAME(sweep_block)(&job, size, lines, results, products, rows, r, weights, acc, &total);
            r += lines;
        } else {
            XPC_UNROLL for (int row = 0; row < size; row++)
            {
                ptrdiff_t at = r + row - job.above;
                rows[row] = at >= 0 && at < job.from_height ? first + row * job.from_width : job.zeros - job.left;
            }
            NAME(sweep_block)(&job, size, 1, results, products, rows, r, weights, acc, &total);
            r++;
        }
    }
    if (!products)
        return;
    /* rows by themselves first, so that rounding grows with their number plus that of calls, not with the product */
    XPC_UNROLL for (int i = 0; i < size; i++)
        XPC_UNROLL for (int j = 0; j < size; j++)
        {
            REAL *sum = job.sums + (i * size + j) * LANES;
            STORE(sum, LOAD(sum) + acc[i * size + j]);
        }
    STORE(job.sums + size * size * LANES, LOAD(job.sums + size * size * LANES) + total);
}

TARGET static void NAME(sweep_3)(const NAME(sweep) *job, ptrdiff_t begin, ptrdiff_t end)
{
    NAME(sweep_rows)(job, 3, LINES, 1, 0, begin, end);
}

TARGET static void NAME(sweep_5)(const NAME(sweep) *job, ptrdiff_t begin, ptrdiff_t end)
{
    NAME(sweep_rows)(job, 5, REGISTERS >= 32 ? LINES : 2, 1, 0, begin, end);
}

TARGET static void NAME(sweep_products_3)(const NAME(sweep) *job, ptrdiff_t begin, ptrdiff_t end)
{
    NAME(sweep_rows)(job, 3, LINES, 0, 1, begin, end);
}

#if !DOUBLE /* too rare to be worth the code */
TARGET static void NAME(sweep_both_3)(const NAME(sweep) *job, ptrdiff_t begin, ptrdiff_t end)
{
    NAME(sweep_rows)(job, 3, LINES, 1, 1, begin, end);
}
#endif

#if REGISTERS >= 32
TARGET static void NAME(sweep_products_5)(const NAME(sweep) *job, ptrdiff_t begin, ptrdiff_t end)
{
    NAME(sweep_rows)(job, 5, 2, 0, 1, begin, end);
}
#endif
#endif

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static char *NAME(slot)(const call *job, int slot)
{
    char *memory = job->memory + slot * job->plan->bytes;
    if (!job->ready[slot]) {
        memset(memory, 0, (size_t)job->plan->bytes); /* what is never written is zero: pads, and behind rows */
        job->ready[slot] = 1;
    }
    return memory;
}

#if ISA != XPC_BASELINE
/* Which lanes each tap of a row sees: in the plane, and not behind the results. */
TARGET static void NAME(fill_seen)(const xpc_direct *conv, MASK *seen)
{
    ptrdiff_t taps = conv->horizontal.kernel, count = xpc_ceil_div(conv->out_w, LANES) * taps;
    for (ptrdiff_t k = 0; k < count; k++) {
        span of = lanes_seen(conv, k / taps * LANES, k % taps, LANES);
        seen[k] = (MASK)(FIRST(of.end) & ~FIRST(of.begin));
    }
}
#endif

/* Start a call: `tab` and so on are set up in memory for all slots. Returns that memory, NULL where there is none. */
static char *NAME(start)(call *job, const xpc_direct *conv, const layout *plan, int image, ptrdiff_t most, int *slots)
{
    ptrdiff_t index = sizeof(ptrdiff_t), weights = image ? plan->multiplier * plan->taps : plan->taps;
    layout shared = {0};
    ptrdiff_t tab = take(&shared, weights * index), order = take(&shared, weights * index);
    ptrdiff_t first = take(&shared, (conv->vertical.stride * conv->horizontal.stride + 1) * index);
    ptrdiff_t ready = take(&shared, *slots);
    ptrdiff_t swept = NAME(is_swept)(conv), vectors = xpc_ceil_div(conv->out_w, LANES);
    ptrdiff_t zeros = take(&shared, swept ? conv->width * (ptrdiff_t)sizeof(REAL) : 0);
    ptrdiff_t seen = take(&shared, swept * vectors * (ptrdiff_t)sizeof(MASK));
    char *memory = take_slots(shared.bytes, plan->bytes, most, slots);
    if (!memory)
        return NULL;
    if (image)
        fill_reach(conv, plan, (ptrdiff_t *)(memory + tab), (ptrdiff_t *)(memory + order), (ptrdiff_t *)(memory + first));
    else
        fill_tab(conv, plan, (ptrdiff_t *)(memory + tab));
    job->conv = conv;
    job->plan = plan;
    job->tab = (ptrdiff_t *)(memory + tab);
    job->order = (ptrdiff_t *)(memory + order);
    job->first = (ptrdiff_t *)(memory + first);
    job->ready = memset(memory + ready, 0, (size_t)*slots);
    job->memory = memory + shared.bytes;
#if ISA != XPC_BASELINE
    if (swept) {
        job->zeros = memset(memory + zeros, 0, (size_t)conv->width * sizeof(REAL));
        job->seen = memory + seen;
        NAME(fill_seen)(conv, (MASK *)(memory + seen));
    }
#else
    (void)zeros, (void)seen;
#endif
    return memory;
}

/* What output rows [begin, end) see of one plane of the image, into its phases. */
TARGET static void NAME(split_plane)(const call *job, const REAL *plane, ptrdiff_t begin, ptrdiff_t end, REAL *phases)
{
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    xpc_axis v = conv->vertical, h = conv->horizontal;
    NAME(pixels) pixels = NAME(pixels_of)(h, conv->width, plan->pitch);
    for (ptrdiff_t a = 0; a < v.stride; a++, phases += h.stride * plan->plane) {
        if (!is_read(v, a))
            continue;
        for (ptrdiff_t r = begin; r < end + plan->below; r++) {
            ptrdiff_t row = r * v.stride + a - v.pad;
            REAL *to = phases + (r - begin) * plan->pitch;
            if (row < 0 || row >= conv->height)
                for (ptrdiff_t b = 0; b < h.stride; b++)
                    memset(to + b * plan->plane, 0, (size_t)plan->pitch * sizeof(REAL));
            else if (pixels.known > 0)
                NAME(split_row)(h, &pixels, plane + row * conv->width, to, plan->plane);
        }
    }
}

static const REAL *NAME(plane_of)(const xpc_array4 *images, ptrdiff_t n, ptrdiff_t c)
{
    return (const REAL *)(images->data + n * images->strides[0] + c * images->strides[1]);
}

#if ISA != XPC_BASELINE
/* A sweep over a plane of the image; the one after it in memory comes next, unless told otherwise. */
static NAME(sweep) NAME(sweep_of)(const call *job, const REAL *from)
{
    const xpc_direct *conv = job->conv;
    return (NAME(sweep)){.from = from, .zeros = job->zeros, .from_height = conv->height, .from_width = conv->width,
                         .above = conv->vertical.pad, .left = conv->horizontal.pad, .seen = job->seen,
                         .width = conv->out_w, .from_ahead = AHEAD / (ptrdiff_t)sizeof(REAL)};
}
#endif

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Items are bands of channels of images. */
TARGET static void NAME(forward_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const call *job = argument;
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    int dense = NAME(dense)(conv), swept = NAME(is_swept)(conv), streamed = NAME(is_in_lines)(job->y);
    REAL *image = swept ? NULL : (REAL *)(NAME(slot)(job, slot) + plan->image);
    for (; begin < end; begin++) {
        ptrdiff_t band = begin % job->bands, c = begin / job->bands % conv->channels;
        ptrdiff_t n = begin / job->bands / conv->channels;
        ptrdiff_t first = band * plan->band, last = xpc_min(first + plan->band, conv->out_h);
        const REAL *x = NAME(plane_of)(job->x, n, c);
        if (!swept)
            NAME(split_plane)(job, x, first, last, image);
        for (ptrdiff_t f = c * plan->multiplier; f < (c + 1) * plan->multiplier; f++) {
#if ISA != XPC_BASELINE
            if (swept) {
                NAME(sweep) sweep = NAME(sweep_of)(job, x);
                sweep.w = (const REAL *)job->w + f * plan->taps;
                sweep.b = job->b ? ((const REAL *)job->b)[f] : 0;
                sweep.to = (REAL *)NAME(plane_of)(job->y, n, f);
                sweep.relu = job->relu;
                sweep.streamed = streamed;
                if (swept == 3)
                    NAME(sweep_3)(&sweep, first, last);
                else
                    NAME(sweep_5)(&sweep, first, last);
                continue;
            }
#endif
            NAME(slide) slide = {.from = image, .tab = job->tab, .w = (const REAL *)job->w + f * plan->taps,
                                 .b = job->b ? ((const REAL *)job->b)[f] : 0,
                                 .to = (REAL *)NAME(plane_of)(job->y, n, f) + first * conv->out_w,
                                 .pitch = plan->pitch, .taps = plan->taps, .to_row = conv->out_w,
                                 .width = conv->out_w, .relu = job->relu, .streamed = streamed};
            NAME(run)(&slide, dense, last - first);
        }
    }
    if (streamed)
        NAME(end_of_stream)();
}

static int NAME(forward)(const xpc_direct *conv, const xpc_array4 *x, const REAL *w, const REAL *b, int relu,
                         const xpc_array4 *y, ptrdiff_t most)
{
    layout plan = lay_out(conv, FORWARD, sizeof(REAL), 0);
    call job = {.x = x, .y = y, .w = w, .b = b, .relu = relu, .bands = xpc_ceil_div(conv->out_h, plan.band)};
    ptrdiff_t items = x->shape[0] * conv->channels * job.bands;
    ptrdiff_t cost = plan.multiplier * plan.band * conv->out_w * (plan.taps / 16 + 2);
    int slots = xpc_slots(items, cost);
    char *memory = NAME(start)(&job, conv, &plan, 0, most, &slots);
    if (!memory)
        return -1;
    xpc_parallel_items(NAME(forward_items), &job, items, cost, slots);
    xpc_arena_give(memory);
    return 0;
}

/* ---- gradient of the image --------------------------------------------------------------------------------------- */

/* Rows [begin, end) of the phases of dx, from the dy of one channel: zeros around it, and its weights in the order of the
 * taps. */
INLINE void NAME(image_band)(const call *job, const REAL *gradient, const REAL *weights, ptrdiff_t begin, ptrdiff_t end,
                             int dense, REAL *phases, REAL *dx)
{
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    xpc_axis v = conv->vertical, h = conv->horizontal;
    NAME(pixels) pixels = NAME(pixels_of)(h, conv->width, plan->pitch);
    for (ptrdiff_t a = 0; a < v.stride; a++) {
        ptrdiff_t low = xpc_max(begin, xpc_ceil_div(v.pad - a, v.stride)); /* whose pixels are in the image */
        ptrdiff_t high = xpc_min(end, xpc_ceil_div(conv->height + v.pad - a, v.stride));
        const REAL *from = gradient + (low - begin) * plan->pitch;
        for (ptrdiff_t b = 0; b < h.stride && low < high; b++) {
            ptrdiff_t first = job->first[a * h.stride + b], count = job->first[a * h.stride + b + 1] - first;
            NAME(slide) slide = {.from = from, .tab = job->tab + first, .w = weights + first, .pitch = plan->pitch,
                                 .taps = count};
            if (h.stride == 1) {
                slide.from += h.pad;
                slide.to = dx + (low * v.stride + a - v.pad) * conv->width;
                slide.to_row = v.stride * conv->width;
                slide.width = pixels.known;
                NAME(run)(&slide, dense, high - low);
            } else {
                slide.to = phases + b * plan->phase;
                slide.width = (high - low) * plan->pitch;
                NAME(slide_all)(&slide, 1);
            }
        }
        for (ptrdiff_t r = low; r < high; r++) {
            REAL *to = dx + (r * v.stride + a - v.pad) * conv->width;
            if (h.stride > 1)
                NAME(join_row)(h, &pixels, phases + (r - low) * plan->pitch, plan->phase, to, conv->width);
            else if (pixels.known < conv->width)
                memset(to + pixels.known, 0, (size_t)(conv->width - pixels.known) * sizeof(REAL));
        }
    }
}

/* Items are bands of channels of images. */
TARGET static void NAME(image_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const call *job = argument;
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    xpc_axis rows = {1, 1, 0, 1};
    char *memory = NAME(slot)(job, slot);
    REAL *gradient = (REAL *)(memory + plan->gradient) + plan->lead, *weights = (REAL *)(memory + plan->sums);
    ptrdiff_t count = plan->multiplier * plan->taps;
    int dense = plan->multiplier == 1 && !NAME(is_swept)(conv) ? NAME(dense)(conv) : 0;
    NAME(pixels) pixels = NAME(pixels_of)(rows, conv->out_w, plan->pitch);
    for (; begin < end; begin++) {
        ptrdiff_t band = begin % job->bands, c = begin / job->bands % conv->channels;
        ptrdiff_t n = begin / job->bands / conv->channels;
        ptrdiff_t first = band * plan->band, last = xpc_min(first + plan->band, conv->out_h + plan->below);
        for (ptrdiff_t t = 0; t < count; t++)
            weights[t] = ((const REAL *)job->w)[c * count + job->order[t]];
        for (ptrdiff_t f = 0; f < plan->multiplier; f++) {
            const REAL *dy = NAME(plane_of)(job->y, n, c * plan->multiplier + f);
            for (ptrdiff_t r = first - plan->below; r < last; r++) {
                REAL *to = gradient + f * plan->plane + (r - first + plan->below) * plan->pitch;
                if (r >= 0 && r < conv->out_h)
                    NAME(split_row)(rows, &pixels, dy + r * conv->out_w, to, 0);
                else
                    memset(to, 0, (size_t)plan->pitch * sizeof(REAL));
            }
        }
        REAL *dx = (REAL *)NAME(plane_of)(job->x, n, c);
        NAME(image_band)(job, gradient + plan->below * plan->pitch, weights, first, last, dense,
                         (REAL *)(memory + plan->phases), dx);
        ptrdiff_t reached = xpc_max(last * conv->vertical.stride - conv->vertical.pad, 0);
        if (band + 1 == job->bands && reached < conv->height)
            memset(dx + reached * conv->width, 0, (size_t)((conv->height - reached) * conv->width) * sizeof(REAL));
    }
}

/* The same where planes are swept: the convolution of dy with the taps from the last to the first. */
static int NAME(turned_forward)(const xpc_direct *conv, const xpc_array4 *dy, const REAL *w, const xpc_array4 *dx,
                                ptrdiff_t most)
{
    xpc_direct turned = {conv->channels, conv->filters, conv->out_h, conv->out_w, conv->height, conv->width,
                         conv->vertical, conv->horizontal};
    turned.vertical.pad = conv->vertical.kernel - 1 - conv->vertical.pad;
    turned.horizontal.pad = conv->horizontal.kernel - 1 - conv->horizontal.pad;
    ptrdiff_t taps = conv->vertical.kernel * conv->horizontal.kernel;
    REAL *weights = xpc_arena_take((size_t)(conv->filters * taps) * sizeof(REAL));
    if (!weights)
        return -1;
    for (ptrdiff_t f = 0; f < conv->filters; f++)
        for (ptrdiff_t t = 0; t < taps; t++)
            weights[f * taps + t] = w[(f + 1) * taps - 1 - t];
    int failed = NAME(forward)(&turned, dy, weights, NULL, 0, dx, most);
    xpc_arena_give(weights);
    return failed;
}

static int NAME(image_gradient)(const xpc_direct *conv, const xpc_array4 *dy, const REAL *w, const xpc_array4 *dx,
                                ptrdiff_t most)
{
    if (NAME(is_swept)(conv) && conv->filters == conv->channels)
        return NAME(turned_forward)(conv, dy, w, dx, most);
    layout plan = lay_out(conv, IMAGE, sizeof(REAL), 0);
    call job = {.x = dx, .y = dy, .w = w, .bands = xpc_ceil_div(conv->out_h + plan.below, plan.band)};
    ptrdiff_t items = dy->shape[0] * conv->channels * job.bands;
    ptrdiff_t cost = plan.multiplier * plan.band * conv->out_w * (plan.taps / 16 + 2);
    int slots = xpc_slots(items, cost);
    char *memory = NAME(start)(&job, conv, &plan, 1, most, &slots);
    if (!memory)
        return -1;
    xpc_parallel_items(NAME(image_items), &job, items, cost, slots);
    xpc_arena_give(memory);
    return 0;
}

/* ---- gradient of the weights ------------------------------------------------------------------------------------- */

/* Sums of one filter over some rows of pixels, lane by lane: sums[t] += dy[r, q] * x[r pitch + q + tab[t]]. Rows of dy are
 * filled up with zeros to whole vectors. Lanes behind the row are zero in x too, so that no infinity next door becomes NaN. */
INLINE void NAME(dot_any)(const int taps, ptrdiff_t rows, ptrdiff_t width, const REAL *dy, ptrdiff_t dy_row,
                          const REAL *x, ptrdiff_t pitch, const ptrdiff_t *tab, REAL *sums)
{
    VEC acc[9];
    SIEVE lanes[2] = {SIEVE_FIRST(LANES), SIEVE_FIRST((int)((width - 1) % LANES + 1))};
    ptrdiff_t vectors = (width - 1) / LANES + 1, count = rows * vectors, column = 0;
    for (int t = 0; t < taps; t++)
        acc[t] = SPLAT((REAL)0);
    for (ptrdiff_t v = 0; v < count; v++) {
        SIEVE some = lanes[column + 1 == vectors];
        VEC gradient = LOAD(dy + column * LANES);
        for (int t = 0; t < taps; t++)
            acc[t] = FMA(gradient, LOAD_SIEVE(some, x + column * LANES + tab[t]), acc[t]);
        if (++column == vectors) {
            column = 0;
            dy += dy_row;
            x += pitch;
        }
    }
    for (int t = 0; t < taps; t++)
        STORE(sums + t * LANES, LOAD(sums + t * LANES) + acc[t]);
}

#if ISA == XPC_BASELINE
/* The same for kernels of `size` by `size` taps side by side, for blocks of rows; returns how many rows it did. */
INLINE ptrdiff_t NAME(dot_dense)(const int size, const int block, ptrdiff_t rows, ptrdiff_t width, const REAL *dy,
                                 ptrdiff_t dy_row, const REAL *x, ptrdiff_t pitch, REAL *sums)
{
    VEC acc[25];
    SIEVE lanes[2] = {SIEVE_FIRST(LANES), SIEVE_FIRST((int)((width - 1) % LANES + 1))};
    ptrdiff_t vectors = (width - 1) / LANES + 1, count = rows / block * vectors, column = 0;
    for (int t = 0; t < size * size; t++)
        acc[t] = SPLAT((REAL)0);
    for (ptrdiff_t v = 0; v < count; v++) {
        SIEVE some = lanes[column + 1 == vectors];
        VEC gradients[LINES];
        XPC_UNROLL for (int line = 0; line < block; line++) gradients[line] = LOAD(dy + line * dy_row + column * LANES);
        const REAL *from = x + column * LANES;
        XPC_UNROLL for (int row = 0; row < size + block - 1; row++, from += pitch)
            XPC_UNROLL for (int j = 0; j < size; j++)
            {
                VEC seen = LOAD_SIEVE(some, from + j);
                XPC_UNROLL for (int line = 0; line < block; line++)
                    if (row >= line && row - line < size)
                        acc[(row - line) * size + j] = FMA(gradients[line], seen, acc[(row - line) * size + j]);
            }
        if (++column == vectors) {
            column = 0;
            dy += block * dy_row;
            x += block * pitch;
        }
    }
    for (int t = 0; t < size * size; t++)
        STORE(sums + t * LANES, LOAD(sums + t * LANES) + acc[t]);
    return rows / block * block;
}

TARGET static void NAME(dots_3)(ptrdiff_t rows, ptrdiff_t width, const REAL *dy, ptrdiff_t dy_row, const REAL *x,
                                ptrdiff_t pitch, REAL *sums)
{
    ptrdiff_t done = NAME(dot_dense)(3, 4, rows, width, dy, dy_row, x, pitch, sums);
    NAME(dot_dense)(3, 1, rows - done, width, dy + done * dy_row, dy_row, x + done * pitch, pitch, sums);
}

#if REGISTERS >= 32
TARGET static void NAME(dots_5)(ptrdiff_t rows, ptrdiff_t width, const REAL *dy, ptrdiff_t dy_row, const REAL *x,
                                ptrdiff_t pitch, REAL *sums)
{
    ptrdiff_t done = NAME(dot_dense)(5, 2, rows, width, dy, dy_row, x, pitch, sums);
    NAME(dot_dense)(5, 1, rows - done, width, dy + done * dy_row, dy_row, x + done * pitch, pitch, sums);
}
#endif

#endif

/* The same for all taps, in groups whose sums stay in registers. */
TARGET static void NAME(dots)(ptrdiff_t taps, ptrdiff_t rows, ptrdiff_t width, const REAL *dy, ptrdiff_t dy_row,
                              const REAL *x, ptrdiff_t pitch, const ptrdiff_t *tab, REAL *sums)
{
    ptrdiff_t t = 0;
    for (; taps - t >= 9; t += 9)
        NAME(dot_any)(9, rows, width, dy, dy_row, x, pitch, tab + t, sums + t * LANES);
    for (; taps - t >= 3; t += 3)
        NAME(dot_any)(3, rows, width, dy, dy_row, x, pitch, tab + t, sums + t * LANES);
    for (; t < taps; t++)
        NAME(dot_any)(1, rows, width, dy, dy_row, x, pitch, tab + t, sums + t * LANES);
}

/* Rows of one filter's dy, filled up with zeros to whole vectors; sum += their sum, lane by lane. */
INLINE void NAME(copy_rows)(const REAL *dy, ptrdiff_t rows, ptrdiff_t width, REAL *to, ptrdiff_t to_row, REAL *sum)
{
    VEC total = SPLAT((REAL)0);
    MASK last = FIRST((int)((width - 1) % LANES + 1));
    for (ptrdiff_t r = 0; r < rows; r++, dy += width, to += to_row) {
        ptrdiff_t q = 0;
        for (; q + LANES < width; q += LANES) {
            VEC numbers = LOAD(dy + q);
            total += numbers;
            STORE(to + q, numbers);
        }
        VEC numbers = LOAD_FIRST(last, dy + q);
        total += numbers;
        STORE(to + q, numbers);
    }
    STORE(sum, LOAD(sum) + total);
}

#if ISA != XPC_BASELINE
/* How far away the next plane is that is read, or memory that is read soon where planes are large. */
static ptrdiff_t NAME(ahead)(const REAL *plane, const REAL *next, ptrdiff_t numbers)
{
    return numbers * (ptrdiff_t)sizeof(REAL) > 4 * AHEAD ? AHEAD / (ptrdiff_t)sizeof(REAL) : next - plane;
}

/* Channel c of image n, into dw and db of its filters lane by lane, and dx if that is wanted; image `next` is the next. */
static void NAME(sweep_weights)(const call *job, ptrdiff_t n, ptrdiff_t c, ptrdiff_t next, REAL *all)
{
    const xpc_direct *conv = job->conv;
    ptrdiff_t taps = job->plan->taps, size = conv->height * conv->width, out_size = conv->out_h * conv->out_w;
    const REAL *x = NAME(plane_of)(job->x, n, c);
    REAL turned[9];
    for (ptrdiff_t f = 0; f < job->plan->multiplier; f++) {
        ptrdiff_t number = c * job->plan->multiplier + f;
        const REAL *dy = NAME(plane_of)(job->y, n, number);
        NAME(sweep) sweep = NAME(sweep_of)(job, x);
        sweep.centre = dy;
        sweep.from_ahead = NAME(ahead)(x, NAME(plane_of)(job->x, next, c), size);
        sweep.centre_ahead = NAME(ahead)(dy, NAME(plane_of)(job->y, next, number), out_size);
        sweep.sums = all + f * (taps + 1) * LANES;
        if (job->turned) {
            ptrdiff_t ahead = sweep.from_ahead;
            sweep.from = dy;
            sweep.centre = x;
            sweep.from_ahead = sweep.centre_ahead;
            sweep.centre_ahead = ahead;
            sweep.turned = 1;
        }
        if (job->dx) {
            sweep.to = (REAL *)NAME(plane_of)(job->dx, n, c);
            sweep.streamed = NAME(is_in_lines)(job->dx);
            for (int t = 0; t < 9; t++)
                turned[t] = ((const REAL *)job->w)[number * 9 + 8 - t];
            sweep.w = turned;
        }
        for (ptrdiff_t first = 0; first < conv->out_h; first += job->plan->band) {
            ptrdiff_t last = xpc_min(first + job->plan->band, conv->out_h);
#if !DOUBLE
            if (job->dx) {
                NAME(sweep_both_3)(&sweep, first, last);
                continue;
            }
#endif
#if REGISTERS >= 32
            if (conv->vertical.kernel == 5)
                NAME(sweep_products_5)(&sweep, first, last);
            else
#endif
                NAME(sweep_products_3)(&sweep, first, last);
        }
    }
}
#endif

/* Items are shares of the batch of one channel after the other. */
TARGET static void NAME(weight_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const call *job = argument;
    const xpc_direct *conv = job->conv;
    const layout *plan = job->plan;
    int dense = NAME(dense)(conv), swept = NAME(is_swept)(conv);
    if (swept == 5 && REGISTERS < 32)
        swept = 0;
    char *memory = swept ? job->memory + slot * plan->bytes : NAME(slot)(job, slot);
    REAL *image = (REAL *)(memory + plan->image), *gradient = (REAL *)(memory + plan->gradient);
    REAL *all = (REAL *)(memory + plan->sums);
    ptrdiff_t taps = plan->taps, width = conv->out_w;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t c = item / job->shares, share = item % job->shares, batch = job->x->shape[0];
        REAL *dw = job->dw, *db = job->db;
        if (job->shares > 1) {
            dw = (REAL *)job->partial + share * conv->filters * (taps + 1);
            db = dw + conv->filters * taps;
        }
        memset(all, 0, (size_t)(plan->multiplier * (taps + 1) * LANES) * sizeof(REAL));
        xpc_range images = panel(batch, job->shares, share);
#if ISA != XPC_BASELINE
        for (ptrdiff_t n = images.begin; swept && n < images.end; n++)
            NAME(sweep_weights)(job, n, c, n + 1 < images.end ? n + 1 : images.begin, all);
#endif
        for (ptrdiff_t n = images.begin; !swept && n < images.end; n++)
            for (ptrdiff_t first = 0; first < conv->out_h; first += plan->band) {
                ptrdiff_t rows = xpc_min(plan->band, conv->out_h - first);
                NAME(split_plane)(job, NAME(plane_of)(job->x, n, c), first, first + rows, image);
                for (ptrdiff_t f = 0; f < plan->multiplier; f++) {
                    REAL *sums = all + f * (taps + 1) * LANES;
                    const REAL *dy = NAME(plane_of)(job->y, n, c * plan->multiplier + f) + first * width;
                    NAME(copy_rows)(dy, rows, width, gradient, plan->width, sums + taps * LANES);
#if ISA == XPC_BASELINE
                    if (dense == 3) {
                        NAME(dots_3)(rows, width, gradient, plan->width, image, plan->pitch, sums);
                        continue;
                    }
#if REGISTERS >= 32
                    if (dense == 5) {
                        NAME(dots_5)(rows, width, gradient, plan->width, image, plan->pitch, sums);
                        continue;
                    }
#endif
#else
                    (void)dense;
#endif
                    NAME(dots)(taps, rows, width, gradient, plan->width, image, plan->pitch, job->tab, sums);
                }
            }
        for (ptrdiff_t f = 0; f < plan->multiplier; f++) {
            const REAL *sums = all + f * (taps + 1) * LANES;
            for (ptrdiff_t t = 0; t < taps; t++)
                dw[(c * plan->multiplier + f) * taps + t] = SUM(LOAD(sums + (job->turned ? taps - 1 - t : t) * LANES));
            if (db)
                db[c * plan->multiplier + f] = SUM(LOAD(sums + taps * LANES));
        }
    }
    if (job->dx)
        NAME(end_of_stream)();
}

/* dw and db are the sums over the shares, always in the same order. */
static void NAME(add_shares)(const call *job)
{
    ptrdiff_t filters = job->conv->filters, weights = filters * job->plan->taps, step = weights + filters;
    REAL *sums = job->partial, *db = job->db;
    for (ptrdiff_t s = 1; s < job->shares; s++)
        for (ptrdiff_t k = 0; k < step; k++)
            sums[k] += sums[s * step + k];
    memcpy(job->dw, sums, (size_t)weights * sizeof(REAL));
    if (db)
        memcpy(db, sums + weights, (size_t)filters * sizeof(REAL));
}

/* Whether one sweep does for all gradients: results as large as the image. */
static int NAME(is_one_sweep)(const xpc_direct *conv)
{
    return !DOUBLE && NAME(is_swept)(conv) == 3 && conv->filters == conv->channels && conv->vertical.pad == 1 &&
           conv->horizontal.pad == 1 && conv->out_h == conv->height && conv->out_w == conv->width;
}

static int NAME(gradients)(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const REAL *w,
                           const xpc_array4 *dx, REAL *dw, REAL *db, ptrdiff_t most)
{
    if (dx && !NAME(is_one_sweep)(conv)) {
        if (NAME(image_gradient)(conv, dy, w, dx, most))
            return -1;
        dx = NULL;
    }
    layout plan = lay_out(conv, WEIGHTS, sizeof(REAL), 0);
    /* with or without dx, so that it makes no difference to dw */
    call job = {.x = x, .y = dy, .w = w, .dx = dx, .dw = dw, .db = db, .turned = NAME(is_one_sweep)(conv)};
    ptrdiff_t batch = x->shape[0], each = plan.multiplier * conv->out_h * conv->out_w * (plan.taps / 16 + 2);
    /* by the shape alone, so that results do not depend on the number of threads */
    job.shares = xpc_min(xpc_ceil_div(SHARES, conv->channels), batch);
    job.shares = xpc_max(xpc_min(job.shares, each * batch / SHARE_COST), 1);
    ptrdiff_t items = conv->channels * job.shares, cost = xpc_max(each * batch / job.shares, 1);
    int slots = xpc_slots(items, cost);
    char *memory = NAME(start)(&job, conv, &plan, 0, most, &slots);
    if (!memory)
        return -1;
    if (job.shares > 1) {
        ptrdiff_t bytes = job.shares * conv->filters * (plan.taps + 1) * (ptrdiff_t)sizeof(REAL);
        job.partial = xpc_arena_take((size_t)bytes);
        if (!job.partial) {
            xpc_arena_give(memory);
            return -1;
        }
    }
    xpc_parallel_items(NAME(weight_items), &job, items, cost, slots);
    if (job.shares > 1)
        NAME(add_shares)(&job);
    xpc_arena_give(job.partial);
    xpc_arena_give(memory);
    return 0;
}

#include "simd_end.h"
