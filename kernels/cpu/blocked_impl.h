/* Included by blocked.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"
#include "stream_impl.h"
#include "transpose_impl.h"

/* Tiles that fill the registers, and how much of a matrix they pass over at once. */
#if REGISTERS >= 32
enum { NAME(MR) = 8, NAME(DR) = 14 };
#else
enum { NAME(MR) = 4, NAME(DR) = 6 };
#endif
enum {
    NAME(NV) = 3,     /* vectors of outputs; `tile` knows this number */
    NAME(DV) = 2,     /* vectors of filters; `walk_tile` knows this number */
    NAME(STRETCH) = 16, /* of K: lines for the next piece are fetched in between */
    NAME(CHUNK) = 1024 / (int)sizeof(REAL), /* of K: the columns of a tile stay in the first-level cache */
    /* whether what a stride leaves out is left out on the way: more code, for the sets and the type that most use */
    NAME(STRIDED) = !DOUBLE && (ISA != XPC_BASELINE || REGISTERS >= 32),
    NAME(WHOLE_LINES) = LANES * (int)sizeof(REAL) == LINE /* a tile's row is of whole lines, wherever it ends */
};

/* Before loops over sums, which GCC keeps on the stack around the loop over K otherwise. */
#if ISA != XPC_BASELINE || REGISTERS >= 32
#define STRAIGHT XPC_UNROLL
#else
#define STRAIGHT
#endif

/* max(least, v); NaN stays */
#if ISA == XPC_BASELINE
#define AT_LEAST(least, v) \
    __extension__({ \
        VEC value_ = (v), least_ = (least); \
        __typeof__(value_ < least_) below_ = value_ < least_; \
        (VEC)((below_ & (__typeof__(below_))least_) | (~below_ & (__typeof__(below_))value_)); \
    })
#else
#define AT_LEAST(least, v) SIMD(max)(least, v)
#endif

/* What goes into a tile of sums and where they go. Rows lie `row` numbers apart. */
typedef struct {
    const REAL *bias, *partial; /* added to each row, and to each sum, unless NULL */
    REAL *sums;
    ptrdiff_t partial_row, row;
    int relu;
    int streamed; /* past the caches: rows are of whole lines */
    xpc_ahead *next; /* what is fetched meanwhile, `lines` for each STRETCH of k */
    int lines;
} NAME(result);

/* Where the columns of a tile of whole runs are in the band: vector j of row k at from[j] + tab[k]. */
typedef struct {
    const REAL *from[NAME(NV)];
    const ptrdiff_t *tab;
} NAME(source);

/* sums[r, lane] = sum over n of a[r, n] * b[n, lane], and so on; with a source b is copied from there on the way. */
INLINE void NAME(product)(const int mr, const int nv, ptrdiff_t n, const REAL *a, const ptrdiff_t a_row,
                          const ptrdiff_t a_step, REAL *b, const NAME(source) *source, const NAME(result) *to)
{
    VEC acc[NAME(DR)][NAME(NV)];
    STRAIGHT for (int m = 0; m < mr; m++)
        STRAIGHT for (int j = 0; j < nv; j++)
            acc[m][j] = SPLAT(to->bias ? to->bias[m] : (REAL)0);
    if (!to->streamed)
        for (int m = 0; m < mr; m++)
            for (int j = 0; j < nv; j++)
                __builtin_prefetch(to->sums + m * to->row + j * LANES, 1); /* there when the sums are ready */
    for (ptrdiff_t k = 0; k < n;) {
        /* not all at once: the processor waits for memory when some ten lines are under way */
        ptrdiff_t end = mr == NAME(MR) ? xpc_min(k + NAME(STRETCH), n) : n;
        if (mr == NAME(MR))
            xpc_fetch(to->next, to->lines);
        for (; k < end; k++, a += a_step, b += nv * LANES) {
            VEC lanes[NAME(NV)];
            STRAIGHT for (int j = 0; j < nv; j++) {
                lanes[j] = LOAD(source ? source->from[j] + source->tab[k] : b + j * LANES);
                if (source)
                    STORE(b + j * LANES, lanes[j]);
            }
            STRAIGHT for (int m = 0; m < mr; m++) {
                VEC number = SPLAT(a[m * a_row]);
                STRAIGHT for (int j = 0; j < nv; j++)
                    acc[m][j] = FMA(number, lanes[j], acc[m][j]);
            }
        }
    }
    __asm__("" ::: "memory"); /* nothing for the end is made before the loop, which needs all registers */
    VEC least = SPLAT(to->relu ? (REAL)0 : (REAL)-INFINITY);
    REAL *sums = to->sums;
    if (to->partial)
        STRAIGHT for (int m = 0; m < mr; m++)
            STRAIGHT for (int j = 0; j < nv; j++)
                acc[m][j] += LOAD(to->partial + m * to->partial_row + j * LANES);
    if (NAME(WHOLE_LINES) && to->streamed)
        STRAIGHT for (int m = 0; m < mr; m++)
            STRAIGHT for (int j = 0; j < nv; j++)
                STREAM(sums + m * to->row + j * LANES, AT_LEAST(least, acc[m][j]));
    else
        STRAIGHT for (int m = 0; m < mr; m++)
            STRAIGHT for (int j = 0; j < nv; j++)
                STORE(sums + m * to->row + j * LANES, AT_LEAST(least, acc[m][j]));
}

/* ---- the band --------------------------------------------------------------------------------------------------- */

INLINE void NAME(zero)(REAL *to, ptrdiff_t count)
{
    for (; count >= LANES; count -= LANES, to += LANES)
        STORE(to, SPLAT((REAL)0));
    if (count > 0)
        STORE_FIRST(to, FIRST((int)count), SPLAT((REAL)0));
}

/* The same in [at, end) by whole vectors, so that some may follow. */
INLINE void NAME(zero_vectors)(REAL *to, ptrdiff_t at, ptrdiff_t end)
{
    for (; at < end; at += LANES)
        STORE(to + at, SPLAT((REAL)0));
}

/* Every other number from `from` on, of which `left` exist. */
INLINE VEC NAME(every_other)(const REAL *from, ptrdiff_t left)
{
    if (left >= 2 * LANES)
        return EVEN(LOAD(from), LOAD(from + LANES));
    return EVEN(LOAD_FIRST(FIRST((int)xpc_max(xpc_min(left, LANES), 0)), from),
                LOAD_FIRST(FIRST((int)xpc_max(xpc_min(left - LANES, LANES), 0)), from + LANES));
}

/* Rows of one phase of a channel of the input, `pitch` numbers apart, with zeros around the pixels. What vectors write
 * beyond a row is overwritten by the next one, or by the next phase or channel. */
INLINE void NAME(fill_plane)(const plan *p, const piece *it, const REAL *from, ptrdiff_t a, ptrdiff_t b, REAL *to)
{
    const axis_plan *v = &p->v, *h = &p->h;
    ptrdiff_t size = h->size, split = h->split, pitch = p->pitch;
    ptrdiff_t begin = h->known[b].begin, count = h->known[b].end - begin, first = begin * split + h->phase[b] - h->pad;
    int odd = split == 2 && first % 2 != 0;
    for (ptrdiff_t r = 0; r < it->rows + v->more; r++, to += pitch) {
        ptrdiff_t row = (it->row + r) * v->split + v->phase[a] - v->pad, e = 0;
        if (row < 0 || row >= v->size || count == 0) {
            NAME(zero_vectors)(to, 0, pitch);
            continue;
        }
        const REAL *source = from + row * size + first;
        NAME(zero_vectors)(to, 0, begin);
        if (split == 1)
            for (; e < count; e += LANES)
                STORE(to + begin + e, e + LANES <= count ? LOAD(source + e)
                                                         : LOAD_FIRST(FIRST((int)(count - e)), source + e));
        else if (split == 2)
            for (; e < count; e += LANES) {
                const REAL *pair = source - odd + 2 * e;
                ptrdiff_t left = size - (first - odd) - 2 * e; /* what is behind the last pixel may not exist */
                VEC low, high;
                if (left >= 2 * LANES) {
                    low = LOAD(pair);
                    high = LOAD(pair + LANES);
                } else {
                    low = LOAD_FIRST(FIRST((int)xpc_min(left, LANES)), pair);
                    high = left > LANES ? LOAD_FIRST(FIRST((int)(left - LANES)), pair + LANES) : SPLAT((REAL)0);
                }
                STORE(to + begin + e, odd ? ODD(low, high) : EVEN(low, high));
            }
        else
            for (; e < count; e++)
                to[begin + e] = source[e * split];
        NAME(zero_vectors)(to, begin + e, pitch);
    }
}

TARGET static void NAME(fill_band)(const plan *p, const piece *it, const xpc_planes *x, ptrdiff_t first_channel,
                                   ptrdiff_t channels, REAL *band)
{
    for (ptrdiff_t n = 0; n < it->images; n++)
        for (ptrdiff_t c = 0; c < channels; c++) {
            const REAL *from =
                (const REAL *)x->data + (it->image + n) * x->image + (first_channel + c) * x->channel;
            REAL *to = band + n * p->image + c * p->channel;
            for (ptrdiff_t a = 0; a < p->v.phases; a++)
                for (ptrdiff_t b = 0; b < p->h.phases; b++, to += p->plane)
                    NAME(fill_plane)(p, it, from, a, b, to);
        }
}

/* Where the outputs of a piece have their sources: the band, or the input itself. */
TARGET static const REAL *NAME(band_of)(const plan *p, const piece *it, const xpc_planes *x, ptrdiff_t first_channel,
                                        ptrdiff_t channels, REAL *band)
{
    if (p->strided)
        return NULL;
    if (p->in_place)
        return (const REAL *)x->data + it->image * x->image + first_channel * x->channel + it->row * p->h.size;
    NAME(fill_band)(p, it, x, first_channel, channels, band);
    return band;
}

/* Some rows of the columns of some outputs, `row` numbers apart. Vectors may write beyond the end of a row, before the
 * next one is written, and into a vector after the last. In place only what exists is read; the band may be read
 * beyond. */
TARGET static void NAME(gather)(const plan *p, const REAL *band, const ptrdiff_t *tab, ptrdiff_t count, const run *runs,
                                ptrdiff_t found, REAL *to, ptrdiff_t row)
{
    int whole = 1;
    for (ptrdiff_t r = 0; r < found; r++)
        whole &= runs[r].count == LANES;
    if (whole && found == 3) {
        const REAL *a = band + runs[0].from, *b = band + runs[1].from, *c = band + runs[2].from;
        for (ptrdiff_t k = 0; k < count; k++, to += row) {
            STORE(to, LOAD(a + tab[k]));
            STORE(to + LANES, LOAD(b + tab[k]));
            STORE(to + 2 * LANES, LOAD(c + tab[k]));
        }
    } else if (whole || !p->in_place)
        for (ptrdiff_t k = 0; k < count; k++, to += row)
            for (ptrdiff_t r = 0; r < found; r++)
                STORE(to + runs[r].at, LOAD(band + tab[k] + runs[r].from));
    else
        for (ptrdiff_t k = 0; k < count; k++, to += row)
            for (ptrdiff_t r = 0; r < found; r++) {
                MASK some = FIRST((int)runs[r].count);
                STORE(to + runs[r].at, LOAD_FIRST(some, band + tab[k] + runs[r].from));
            }
}

/* What a vector of outputs in one row sees through a tap of stride 2: every other number of the input's row from `first`
 * on, in lanes [begin, begin + count); padding in the others. */
typedef struct {
    ptrdiff_t first, begin;
    int whole;
    MASK count;
} NAME(sight);

INLINE NAME(sight) NAME(sight_of)(const axis_plan *h, ptrdiff_t tap, ptrdiff_t output)
{
    ptrdiff_t at = position(h, tap, output), begin = at < 0 ? xpc_min((1 - at) / 2, LANES) : 0;
    ptrdiff_t count = xpc_max(xpc_min(xpc_ceil_div(h->size - at, 2), LANES) - begin, 0);
    /* nothing is seen far out in the padding, where no memory is */
    return (NAME(sight)){count ? at + 2 * begin : 0, begin, count == LANES, FIRST((int)count)};
}

/* Rows [low, high) of the columns of `nv` whole vectors of outputs from `begin` on, with stride 2, from the input itself:
 * with few taps a band would be written and read for little. */
TARGET static XPC_NOINLINE void NAME(gather_strided)(const plan *p, const piece *it, const xpc_planes *x, ptrdiff_t low,
                                                     ptrdiff_t high, ptrdiff_t begin, ptrdiff_t nv, REAL *columns)
{
    ptrdiff_t width = p->h.outputs, across = p->h.first[1], line = across * p->channels, size = p->h.size;
    ptrdiff_t step = nv * LANES;
    NAME(sight) sights[STRIDED_TAPS];
    for (ptrdiff_t v = 0; v < nv; v++) {
        ptrdiff_t output = begin + v * LANES, row = output / width, most = 0;
        const REAL *image = (const REAL *)x->data + (it->image + row / it->rows) * x->image;
        REAL *to = columns + v * LANES;
        for (ptrdiff_t j = 0; j < across; j++) {
            sights[j] = NAME(sight_of)(&p->h, j, output % width);
            most = xpc_max(most, sights[j].first);
        }
        row = it->row + row % it->rows;
        for (ptrdiff_t k = low; k < high;) {
            ptrdiff_t i = k / line, c = k % line / across, end = xpc_min((i + 1) * line, high);
            ptrdiff_t at = position(&p->v, i, row), rest = (p->v.size - at) * size;
            if (at < 0 || rest <= 0) {
                for (; k < end; k++, to += step)
                    STORE(to, SPLAT((REAL)0));
                continue;
            }
            const REAL *from = image + c * x->channel + at * size;
            int inside = rest - most >= 2 * LANES; /* what is behind the last pixel may not exist */
            for (ptrdiff_t j = k % across; k < end; j = 0, from += x->channel) {
                __builtin_prefetch(from + 8 * x->channel + sights->first);
                __builtin_prefetch(from + 8 * x->channel + sights->first + LANES);
                for (ptrdiff_t stop = xpc_min(across, j + end - k); j < stop; j++, k++, to += step) {
                    const NAME(sight) *seen = sights + j;
                    VEC numbers = NAME(every_other)(from + seen->first, inside ? 2 * LANES : rest - seen->first);
                    if (seen->whole)
                        STORE(to, numbers);
                    else {
                        STORE(to, SPLAT((REAL)0));
                        STORE_FIRST(to + seen->begin, seen->count, numbers);
                    }
                }
            }
        }
    }
}

/* Some pixels of up to LANES planes, filters or images, into [pixel][lane], `row` numbers apart; 0 in other lanes.
 * Returns `sum` plus the sums over the pixels. */
TARGET static XPC_NOINLINE VEC NAME(turn)(const REAL *from, ptrdiff_t plane, ptrdiff_t planes, ptrdiff_t pixels,
                                            REAL *to, ptrdiff_t row, VEC sum)
{
    for (ptrdiff_t at = 0; at < pixels; at += LANES) {
        int count = (int)xpc_min(pixels - at, LANES);
        VEC rows[LANES];
        if (planes >= LANES && count == LANES) {
            NAME(load_transposed)(from + at, plane, rows);
            for (int l = 0; l < LANES; l++)
                STORE(to + (at + l) * row, rows[l]);
            XPC_UNROLL
            for (int half = LANES / 2; half > 0; half /= 2) /* one after the other they would wait for each other */
                XPC_UNROLL
                for (int l = 0; l < half; l++)
                    rows[l] += rows[l + half];
            sum += rows[0];
        } else {
            for (int l = 0; l < LANES; l++)
                rows[l] = l < planes ? LOAD_FIRST(FIRST(count), from + l * plane + at) : SPLAT((REAL)0);
            NAME(transpose)(rows);
            for (int l = 0; l < count; l++) {
                STORE(to + (at + l) * row, rows[l]);
                sum += rows[l];
            }
        }
    }
    return sum;
}

/* Pixels of some rows of planes, apart in memory, one behind the other: planes `to_plane` numbers apart. */
TARGET static XPC_NOINLINE void NAME(pick)(const plan *p, const REAL *from, ptrdiff_t plane, ptrdiff_t planes,
                                           xpc_range rows, REAL *to, ptrdiff_t to_plane)
{
    ptrdiff_t size = p->h.size, step = p->column_step;
    for (ptrdiff_t c = 0; c < planes; c++, from += plane, to += to_plane)
        for (ptrdiff_t r = rows.begin; r < rows.end; r++) {
            const REAL *row = from + p->origin + r * p->row_step;
            REAL *target = to + (r - rows.begin) * size;
            ptrdiff_t q = 0;
            for (; step == 2 && q < size; q += LANES, row += 2 * LANES)
                STORE(target + q, NAME(every_other)(row, 2 * (size - q) - 1)); /* behind the last may be nothing */
            for (; q < size; q++)
                target[q] = row[q * step];
        }
}

/* ---- forward, and the gradient to the image --------------------------------------------------------------------- */

/* each(mr, nv) for every size of tile */
#define EACH_WIDTH(each, mr) each(mr, 3) each(mr, 2) each(mr, 1)
#define EACH_SMALL(each) EACH_WIDTH(each, 4) EACH_WIDTH(each, 3) EACH_WIDTH(each, 2) EACH_WIDTH(each, 1)
#if REGISTERS >= 32
#define EACH_TILE(each) EACH_WIDTH(each, 8) EACH_SMALL(each)
#else
#define EACH_TILE(each) EACH_SMALL(each)
#endif

/* How many outputs, of channels, the next panel of those that are left takes: 8 where that fits, 4, 3, 2, 1. */
static int NAME(panel)(ptrdiff_t left)
{
    int size = NAME(MR);
    while (size > left)
        size = size == 4 ? 3 : size == 3 ? 2 : size / 2;
    return size;
}

TARGET static void NAME(tile)(int mr, int nv, ptrdiff_t n, const REAL *w, REAL *columns, const NAME(result) *to)
{
#define XPC_TILE(m, v) \
    if (mr == m && nv == v) { \
        NAME(product)(m, v, n, w, 1, m, columns, NULL, to); \
        return; \
    }
    EACH_TILE(XPC_TILE)
#undef XPC_TILE
}

/* The same for MR rows of weights that are read where they lie, `w_row` numbers apart. */
TARGET static void NAME(tile_of_rows)(int nv, ptrdiff_t n, const REAL *w, ptrdiff_t w_row, REAL *columns,
                                      const NAME(result) *to)
{
    if (nv == 3)
        NAME(product)(NAME(MR), 3, n, w, w_row, 1, columns, NULL, to);
    else if (nv == 2)
        NAME(product)(NAME(MR), 2, n, w, w_row, 1, columns, NULL, to);
    else
        NAME(product)(NAME(MR), 1, n, w, w_row, 1, columns, NULL, to);
}

/* The same for MR rows and columns that are not there yet. Only of float, as all of this is code once more. */
TARGET static void NAME(tile_of_band)(int nv, ptrdiff_t n, const REAL *w, REAL *columns, const NAME(source) *source,
                                      const NAME(result) *to)
{
#if !DOUBLE
    NAME(source) it = *source;
    if (nv == 3)
        NAME(product)(NAME(MR), 3, n, w, 1, NAME(MR), columns, &it, to);
    else
        NAME(product)(NAME(MR), 2, n, w, 1, NAME(MR), columns, &it, to);
#else
    (void)nv, (void)n, (void)w, (void)columns, (void)source, (void)to;
#endif
}

typedef struct {
    const plan *p;
    xpc_planes x;
    const REAL *w, *b;
    REAL *packed, *y; /* packed is NULL where weights are read where they lie */
    int relu;
    int streamed;     /* whether whole lines of y are written past the caches */
    ptrdiff_t parts;  /* of the channels of the result, as items of their own */
    ptrdiff_t part;   /* channels of one */
    ptrdiff_t pitch;  /* of sums that are not written to y at once */
    ptrdiff_t panel, sums, bytes; /* places in a slot's memory, after the band */
    ptrdiff_t lanes;  /* images side by side, if they are the lanes */
    char *memory;
} NAME(forward_job);

/* Weights of panels, [K][MR] each, all of one output phase after those of another. What lies side by side in w, the
 * taps of one channel or, of a single tap, the channels, is turned round by whole vectors. */
TARGET static void NAME(pack_weights)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(forward_job) *job = argument;
    const plan *p = job->p;
    ptrdiff_t taps = p->taps / p->channels, rows = taps == 1 ? 1 : p->channels;
    ptrdiff_t along = taps == 1 ? p->channels : taps; /* numbers of a row, where that is not of outputs */
    (void)slot;
    for (ptrdiff_t item = begin; item < end; item++)
        for (ptrdiff_t m = item * NAME(MR), last = xpc_min(m + NAME(MR), p->outputs), size; m < last; m += size) {
            size = NAME(panel)(last - m);
            for (ptrdiff_t part = 0; part < size; part += LANES) { /* a panel may be wider than a vector */
                const REAL *from = job->w + (m + part) * p->weight_output;
                int lanes = (int)xpc_min(size - part, LANES);
                MASK some = FIRST(lanes);
                if (p->weight_output == 1) { /* and so a single tap */
                    for (ptrdiff_t c = 0; c < p->channels; c++)
                        STORE_FIRST(job->packed + m * p->channels + c * size + part, some,
                                    LOAD_FIRST(some, from + c * p->weight_channel));
                    continue;
                }
                for (ptrdiff_t c = 0; c < rows; c++)
                    for (ptrdiff_t first = 0; first < along; first += LANES) {
                        int count = (int)xpc_min(along - first, LANES);
                        const REAL *source = from + c * p->weight_channel + first;
                        VEC turned[LANES];
                        for (int l = 0; l < LANES; l++)
                            turned[l] = LOAD_FIRST(FIRST(count), source + xpc_min(l, lanes - 1) * p->weight_output);
                        NAME(transpose)(turned);
                        for (int l = 0; l < LANES && l < count; l++) {
                            const place *to = p->places + (taps == 1 ? 0 : first + l);
                            ptrdiff_t k = to->first + (taps == 1 ? first + l : c) * to->step;
                            if (to->depth > 0)
                                STORE_FIRST(job->packed + to->before * p->outputs + m * to->depth + k * size + part,
                                            some, turned[l]);
                        }
                    }
            }
        }
}

/* Rows of the band that hold pixels for some output of the tile: the taps outside of them are left out. */
INLINE xpc_range NAME(taps_seen)(const plan *p, const piece *it, ptrdiff_t a, ptrdiff_t begin, ptrdiff_t end)
{
    ptrdiff_t first = begin / p->h.outputs, last = (end - 1) / p->h.outputs;
    int whole = first / it->rows != last / it->rows;
    ptrdiff_t top = it->row + (whole ? 0 : first % it->rows);
    ptrdiff_t bottom = it->row + (whole ? it->rows - 1 : last % it->rows);
    xpc_range seen = {p->v.first[a], p->v.first[a + 1]};
    while (seen.begin < seen.end && position(&p->v, seen.begin, bottom) < 0)
        seen.begin++;
    while (seen.begin < seen.end && position(&p->v, seen.end - 1, top) >= p->v.size)
        seen.end--;
    return seen;
}

/* Whether a stride of 2 makes rows of whole vectors, which are woven as soon as both phases of a tile are there: so many
 * stores at the end of a piece would wait for memory. */
static int NAME(weaves_tiles)(const plan *p)
{
    return p->h.weave == 2 && p->h.total == 2 * p->h.outputs && p->h.outputs % LANES == 0;
}

/* Two phases of some rows of `mr` channels, `pitch` numbers apart, into the rows of the result: whole vectors of outputs
 * from `begin` on. They are whole lines where `streamed` says so (see `convolve`), as rows are of an even number of vectors. */
TARGET static XPC_NOINLINE void NAME(weave_tile)(const NAME(forward_job) *job, const piece *it, ptrdiff_t a, ptrdiff_t m,
                                                 ptrdiff_t mr, ptrdiff_t begin, ptrdiff_t nv, const REAL *even,
                                                 const REAL *odd)
{
    const plan *p = job->p;
    for (ptrdiff_t v = 0; v < nv; v++, even += LANES, odd += LANES) {
        ptrdiff_t output = begin + v * LANES, line = output / p->h.outputs;
        ptrdiff_t row = (it->row + line % it->rows) * p->v.weave + a;
        REAL *to = job->y + (it->image + line / it->rows) * p->result + (m * p->v.total + row) * p->h.total +
                   2 * (output % p->h.outputs);
        for (ptrdiff_t c = 0; c < mr && row < p->v.total; c++, to += p->v.total * p->h.total) {
            VEC left = LOAD(even + c * job->pitch), right = LOAD(odd + c * job->pitch);
            VEC low = ZIP_LOW(left, right), high = ZIP_HIGH(left, right);
            if (NAME(WHOLE_LINES) && job->streamed) {
                STREAM(to, low);
                STREAM(to + LANES, high);
            } else {
                STORE(to, low);
                STORE(to + LANES, high);
            }
        }
    }
}

/* One phase of the outputs of a piece, for some channels of the result: into y, and what is no whole tile of one image,
 * or has to be woven, into `sums` [channel][output]; tile by tile with those of the phase before, if that is `even`. */
TARGET static void NAME(phase_of_piece)(const NAME(forward_job) *job, const piece *it, ptrdiff_t a, ptrdiff_t b,
                                        ptrdiff_t before, ptrdiff_t first_m, ptrdiff_t last_m, const REAL *band,
                                        REAL *columns, REAL *sums, const REAL *even, xpc_ahead *next, double pace)
{
    const plan *p = job->p;
    int weaves = p->v.weave * p->h.weave > 1;
    ptrdiff_t rows = p->v.first[a + 1] - p->v.first[a], across = p->h.first[b + 1] - p->h.first[b];
    ptrdiff_t line = across * p->channels, depth = rows * line, size = p->v.total * p->h.total;
    /* rows of weights that lie in w are read from end to end, which the processor foresees */
    ptrdiff_t chunks = job->packed ? xpc_max(xpc_ceil_div(depth, NAME(CHUNK)), 1) : 1;
    ptrdiff_t chunk = xpc_ceil_div(depth, chunks);
    ptrdiff_t vectors = xpc_ceil_div(it->outputs, LANES), tiles = xpc_ceil_div(vectors, NAME(NV));
    ptrdiff_t of_image = it->rows * p->h.outputs;
    run runs[NAME(NV) * LANES];
    for (ptrdiff_t part = 0; part < chunks; part++)
        for (ptrdiff_t t = 0; t < tiles; t++) {
            ptrdiff_t from = vectors * t / tiles, nv = vectors * (t + 1) / tiles - from;
            ptrdiff_t begin = from * LANES, count = xpc_min(nv * LANES, it->outputs - begin), end = begin + count;
            xpc_range seen = {p->v.first[a], p->v.first[a + 1]};
            if (job->packed)
                seen = NAME(taps_seen)(p, it, a, begin, end);
            ptrdiff_t low = xpc_max((seen.begin - p->v.first[a]) * line, part * chunk);
            ptrdiff_t high = xpc_min((seen.end - p->v.first[a]) * line, xpc_min((part + 1) * chunk, depth));
            ptrdiff_t n = xpc_max(high - low, 0);
            int straight = !weaves && count == nv * LANES && begin / of_image == (end - 1) / of_image;
            int last = part == chunks - 1;
            ptrdiff_t image = begin / of_image, inside = it->row * p->h.outputs + begin % of_image;
            REAL *y = job->y + (it->image + image) * p->result + inside;
            int streamed = NAME(WHOLE_LINES) && job->streamed && straight && (size_t)y % LINE == 0;
            if (n == 0 && part > 0 && !((job->relu || streamed || even) && last))
                continue;
            NAME(source) source = {.tab = p->tab + before + low};
            int copied = 1;
            if (NAME(STRIDED) && n > 0 && p->strided)
                NAME(gather_strided)(p, it, &job->x, low, high, begin, nv, columns);
            else if (n > 0) {
                ptrdiff_t found = find_runs(p, it, begin, count, LANES, runs);
                copied = DOUBLE || !job->packed || nv == 1 || found != nv || last_m - first_m < NAME(MR);
                for (ptrdiff_t j = 0; j < nv && !copied; j++) {
                    copied = runs[j].count < LANES;
                    source.from[j] = band + runs[j].from;
                }
                if (copied)
                    NAME(gather)(p, band, source.tab, n, runs, found, columns, nv * LANES);
            }
            for (ptrdiff_t m = first_m, mr; m < last_m; m += mr) {
                mr = NAME(panel)(last_m - m);
                REAL *kept = sums + (m - first_m) * job->pitch + begin;
                NAME(result) to = {.bias = part == 0 && job->b ? job->b + m : NULL, .relu = job->relu && last};
                to.sums = straight && (last || !streamed) ? y + m * size : kept;
                to.row = to.sums == kept ? job->pitch : size;
                to.partial = part == 0 ? NULL : streamed ? kept : to.sums;
                to.partial_row = to.partial == kept ? job->pitch : size;
                to.streamed = streamed && last;
                to.next = next;
                to.lines = (int)(pace * (double)(NAME(STRETCH) * nv)) + 1;
                if (!copied) {
                    NAME(tile_of_band)((int)nv, n, job->packed + before * p->outputs + m * depth + low * mr, columns,
                                       &source, &to);
                    copied = 1;
                } else if (job->packed)
                    NAME(tile)((int)mr, (int)nv, n, job->packed + before * p->outputs + m * depth + low * mr, columns,
                               &to);
                if (even && last)
                    NAME(weave_tile)(job, it, a, m, mr, begin, nv, even + (kept - sums), kept);
                if (job->packed)
                    continue;
                to.relu = 0;
                to.streamed = 0;
                for (ptrdiff_t k = 0, length; k < n; k += length) {
                    length = xpc_min(n - k, NAME(CHUNK));
                    to.relu = job->relu && k + length == n;
                    NAME(tile_of_rows)((int)nv, length, job->w + m * p->weight_output + k, p->weight_output,
                                       columns + k * nv * LANES, &to);
                    to.partial = to.sums;
                    to.partial_row = to.row;
                    to.bias = NULL;
                }
            }
        }
    if (weaves)
        return;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        ptrdiff_t begin = vectors * t / tiles * LANES, end = xpc_min(vectors * (t + 1) / tiles * LANES, it->outputs);
        if (begin / of_image == (end - 1) / of_image && end % LANES == 0)
            continue;
        for (ptrdiff_t m = first_m; m < last_m; m++)
            for (ptrdiff_t at = begin, length; at < end; at += length) {
                ptrdiff_t image = at / of_image, inside = at % of_image;
                length = xpc_min(of_image - inside, end - at);
                REAL *y =
                    job->y + (it->image + image) * p->result + m * size + it->row * p->h.outputs + inside;
                memcpy(y, sums + (m - first_m) * job->pitch + at, (size_t)length * sizeof(REAL));
            }
    }
}

/* The phases of a piece, `step` numbers apart, into the rows of the result. */
TARGET static void NAME(weave)(const plan *p, const piece *it, ptrdiff_t first_m, ptrdiff_t last_m, const REAL *sums,
                               ptrdiff_t pitch, ptrdiff_t step, REAL *y, int streamed)
{
    ptrdiff_t width = p->h.total, across = p->h.weave;
    streamed = streamed && width * (ptrdiff_t)sizeof(REAL) % LINE == 0;
    for (ptrdiff_t n = 0; n < it->images; n++)
        for (ptrdiff_t m = first_m; m < last_m; m++)
            for (ptrdiff_t r = 0; r < it->rows; r++)
                for (ptrdiff_t a = 0; a < p->v.weave; a++) {
                    ptrdiff_t row = (it->row + r) * p->v.weave + a;
                    if (row >= p->v.total)
                        break;
                    REAL *restrict to = y + (it->image + n) * p->result + (m * p->v.total + row) * width;
                    const REAL *from =
                        sums + a * across * step + (m - first_m) * pitch + (n * it->rows + r) * p->h.outputs;
                    if (across == 2) {
                        const REAL *even = from, *odd = from + step;
                        ptrdiff_t o = 0;
                        for (; streamed && o + LANES <= width / 2; o += LANES) {
                            VEC left = LOAD(even + o), right = LOAD(odd + o);
                            STREAM(to + 2 * o, ZIP_LOW(left, right));
                            STREAM(to + 2 * o + LANES, ZIP_HIGH(left, right));
                        }
                        for (; o + LANES <= width / 2; o += LANES) {
                            VEC left = LOAD(even + o), right = LOAD(odd + o);
                            STORE(to + 2 * o, ZIP_LOW(left, right));
                            STORE(to + 2 * o + LANES, ZIP_HIGH(left, right));
                        }
                        for (; o < width / 2; o++) {
                            to[2 * o] = even[o];
                            to[2 * o + 1] = odd[o];
                        }
                        if (width % 2)
                            to[width - 1] = even[width / 2];
                    } else
                        for (ptrdiff_t b = 0; b < across; b++, from += step)
                            for (ptrdiff_t o = 0; o * across + b < width; o++)
                                to[o * across + b] = from[o];
                }
}

TARGET static void NAME(forward_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(forward_job) *job = argument;
    const plan *p = job->p;
    char *memory = job->memory + slot * job->bytes;
    REAL *columns = (REAL *)(memory + job->panel), *sums = (REAL *)(memory + job->sums);
    ptrdiff_t filled = -1;
    const REAL *band = NULL;
    for (ptrdiff_t item = begin; item < end; item++) {
        piece it = piece_of(p, item / job->parts);
        ptrdiff_t first = item % job->parts * job->part, last = xpc_min(first + job->part, p->outputs);
        if (filled != item / job->parts)
            band = NAME(band_of)(p, &it, &job->x, 0, p->channels, (REAL *)memory);
        filled = item / job->parts;
        ptrdiff_t before = 0, step = job->part * job->pitch, phase = 0;
        int by_tiles = NAME(weaves_tiles)(p);
        xpc_ahead next = {0};
        double pace = 0; /* lines to fetch for each k and vector of a panel */
        if (item + 1 < end && (item + 1) / job->parts != filled) {
            next = look_ahead(p, filled + 1, &job->x, 0, p->channels, sizeof(REAL));
            double steps = (double)xpc_ceil_div(last - first, NAME(MR)) * p->taps * xpc_ceil_div(it.outputs, LANES);
            pace = (double)(next.left * xpc_ceil_div(next.length, LINE)) / steps;
        }
        for (ptrdiff_t a = 0; a < p->v.weave; a++)
            for (ptrdiff_t b = 0; b < p->h.weave; b++, phase++) {
                REAL *own = sums + (by_tiles ? b : phase) * step;
                NAME(phase_of_piece)(job, &it, a, b, before, first, last, band, columns, own,
                                     by_tiles && b == 1 ? own - step : NULL, &next, pace);
                before += (p->v.first[a + 1] - p->v.first[a]) * (p->h.first[b + 1] - p->h.first[b]) * p->channels;
            }
        if (phase > 1 && !by_tiles)
            NAME(weave)(p, &it, first, last, sums, job->pitch, step, job->y, job->streamed);
    }
    if (job->streamed)
        NAME(end_of_stream)();
}

/* ---- images as lanes: for small planes; every pixel leaves out just the taps that meet padding ------------------- */

/* The taps of an output phase that output o of an axis sees. */
INLINE xpc_range NAME(taps_of)(const axis_plan *axis, ptrdiff_t phase, ptrdiff_t output)
{
    xpc_range seen = {axis->first[phase], axis->first[phase + 1]};
    while (seen.begin < seen.end && position(axis, seen.begin, output) < 0)
        seen.begin++;
    while (seen.begin < seen.end && position(axis, seen.end - 1, output) >= axis->size)
        seen.end--;
    return seen;
}

/* A pixel of some images, in lanes, for mr channels of the result: k runs over rows of taps, taps and channels. */
INLINE void NAME(stack_product)(const int mr, const int nv, xpc_range rows, ptrdiff_t line, ptrdiff_t skip,
                                ptrdiff_t count, const REAL *w, const REAL *pixel, const ptrdiff_t *tab,
                                const REAL *bias, int relu, REAL *to, ptrdiff_t to_row)
{
    VEC acc[NAME(MR)][NAME(NV)], least = SPLAT(relu ? (REAL)0 : (REAL)-INFINITY);
    ptrdiff_t terms = (rows.end - rows.begin) * count, part = terms <= 2 * PART ? terms : PART, left = part;
    int add = 0;
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nv; j++)
            acc[m][j] = SPLAT(bias ? bias[m] : (REAL)0);
    for (ptrdiff_t i = rows.begin; i < rows.end; i++) {
        const ptrdiff_t *at = tab + i * line + skip;
        const REAL *a = w + (i * line + skip) * mr;
        for (ptrdiff_t k = 0, end; k < count; k = end) {
            if (left == 0) {
                for (int m = 0; m < mr; m++)
                    for (int j = 0; j < nv; j++) {
                        REAL *sum = to + m * to_row + j * LANES;
                        STORE(sum, add ? (VEC)(acc[m][j] + LOAD(sum)) : acc[m][j]);
                        acc[m][j] = SPLAT((REAL)0);
                    }
                left = part;
                add = 1;
            }
            end = xpc_min(count, k + left);
            left -= end - k;
            for (; k < end; k++, a += mr) {
                const REAL *from = pixel + at[k];
                VEC lanes[NAME(NV)];
                for (int j = 0; j < nv; j++)
                    lanes[j] = LOAD(from + j * LANES);
                for (int m = 0; m < mr; m++) {
                    VEC number = SPLAT(a[m]);
                    for (int j = 0; j < nv; j++)
                        acc[m][j] = FMA(number, lanes[j], acc[m][j]);
                }
            }
        }
    }
    if (add)
        for (int m = 0; m < mr; m++)
            for (int j = 0; j < nv; j++)
                acc[m][j] += LOAD(to + m * to_row + j * LANES);
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nv; j++)
            STORE(to + m * to_row + j * LANES, AT_LEAST(least, acc[m][j]));
}

TARGET static void NAME(stack_tile)(int mr, int nv, xpc_range rows, ptrdiff_t line, ptrdiff_t skip, ptrdiff_t count,
                                    const REAL *w, const REAL *pixel, const ptrdiff_t *tab, const REAL *bias, int relu,
                                    REAL *to, ptrdiff_t to_row)
{
#define XPC_TILE(m, v) \
    if (mr == m && nv == v) { \
        NAME(stack_product)(m, v, rows, line, skip, count, w, pixel, tab, bias, relu, to, to_row); \
        return; \
    }
    EACH_TILE(XPC_TILE)
#undef XPC_TILE
}

/* One output phase of all pixels, for mr channels, into sums [channel][pixel of the result][lane]. */
TARGET static void NAME(stack_phase)(const NAME(forward_job) *job, ptrdiff_t a, ptrdiff_t b, ptrdiff_t before,
                                     ptrdiff_t m, int mr, int nv, const REAL *band, REAL *sums)
{
    const plan *p = job->p;
    ptrdiff_t rows = p->v.first[a + 1] - p->v.first[a], across = p->h.first[b + 1] - p->h.first[b];
    ptrdiff_t line = across * p->channels, depth = rows * line;
    const REAL *w = job->packed + before * p->outputs + m * depth, *bias = job->b ? job->b + m : NULL;
    for (ptrdiff_t q = 0; q * p->v.weave + a < p->v.total; q++) {
        xpc_range seen = NAME(taps_of)(&p->v, a, q);
        seen.begin -= p->v.first[a], seen.end -= p->v.first[a];
        for (ptrdiff_t r = 0; r * p->h.weave + b < p->h.total; r++) {
            xpc_range columns = NAME(taps_of)(&p->h, b, r);
            const REAL *pixel = band + (q * p->v.split * p->h.size + r * p->h.split) * job->lanes;
            REAL *to = sums + ((q * p->v.weave + a) * p->h.total + r * p->h.weave + b) * job->lanes;
            NAME(stack_tile)(mr, nv, seen, line, (columns.begin - p->h.first[b]) * p->channels,
                             (columns.end - columns.begin) * p->channels, w, pixel, p->tab + before, bias, job->relu,
                             to, job->pitch);
        }
    }
}

TARGET static void NAME(stack_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(forward_job) *job = argument;
    const plan *p = job->p;
    char *memory = job->memory + slot * job->bytes;
    REAL *band = (REAL *)memory, *sums = (REAL *)(memory + job->sums);
    ptrdiff_t inputs = p->v.size * p->h.size, size = p->v.total * p->h.total, filled = -1;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t first = item / job->parts * job->lanes, images = xpc_min(job->lanes, p->batch - first);
        ptrdiff_t m = item % job->parts * job->part, last = xpc_min(m + job->part, p->outputs);
        for (ptrdiff_t c = 0; filled != first && c < p->channels; c++)
            for (ptrdiff_t l = 0; l < job->lanes; l += LANES)
                NAME(turn)((const REAL *)job->x.data + (first + xpc_min(l, images - 1)) * job->x.image +
                               c * job->x.channel,
                           job->x.image, images - l, inputs, band + c * inputs * job->lanes + l, job->lanes,
                           SPLAT((REAL)0));
        filled = first;
        for (int mr; m < last; m += mr) {
            mr = NAME(panel)(last - m);
            ptrdiff_t before = 0;
            for (ptrdiff_t a = 0; a < p->v.weave; a++)
                for (ptrdiff_t b = 0; b < p->h.weave; b++) {
                    NAME(stack_phase)(job, a, b, before, m, mr, (int)xpc_ceil_div(images, LANES), band, sums);
                    before += (p->v.first[a + 1] - p->v.first[a]) * (p->h.first[b + 1] - p->h.first[b]) * p->channels;
                }
            for (ptrdiff_t l = 0; l < images; l += LANES)
                for (int c = 0; c < mr; c++)
                    for (ptrdiff_t at = 0; at < size; at += LANES) {
                        const REAL *from = sums + c * job->pitch + at * job->lanes + l;
                        REAL *to = job->y + (first + l) * p->result + (m + c) * size + at;
                        int count = (int)xpc_min(size - at, LANES);
                        VEC rows[LANES];
                        for (int i = 0; i < LANES; i++)
                            rows[i] = LOAD(from + xpc_min(i, count - 1) * job->lanes);
                        NAME(transpose)(rows);
                        for (int n = 0; n < xpc_min(images - l, LANES); n++)
                            STORE_FIRST(to + n * p->result, FIRST(count), rows[n]);
                    }
        }
    }
}

/* How many images make good lanes, in whole vectors; 0 if none do. Both ways are estimated against products without any
 * padding: tiles of pixels leave out some rows of taps, and gather runs of them for every channel of the result. */
static ptrdiff_t NAME(stack)(const plan *p, ptrdiff_t limit)
{
    ptrdiff_t inputs = p->v.size * p->h.size, outputs = p->v.total * p->h.total, size = sizeof(REAL);
    ptrdiff_t vectors = xpc_ceil_div(p->batch, LANES), most = xpc_min(limit, 2 * BAND_BYTES);
    if (p->in_place || inputs > PIECE_OUTPUTS || outputs > PIECE_OUTPUTS)
        return 0;
    vectors = xpc_ceil_div(vectors, xpc_ceil_div(vectors, NAME(NV)));
    while (vectors && (p->channels * inputs + NAME(MR) * outputs) * vectors * LANES * size > most)
        vectors--;
    if (vectors == 0)
        return 0;
    double rows = share_seen(&p->v), all = rows * share_seen(&p->h), images = (double)p->batch, m = (double)p->outputs;
    double products = (double)p->taps / (p->v.weave * p->h.weave) * m * outputs;
    double turned = 32 * ((double)inputs * p->channels + outputs * m) / products;
    double lanes = all * round_up(p->batch, vectors * LANES) / images * (vectors > 1 ? 1.1 : 1.3) + turned;
    double runs = (double)NAME(NV) * LANES / xpc_min(p->h.outputs, LANES);
    double tiles = (1 + rows) / 2 * (1 + runs / m);
    return lanes < tiles ? vectors * LANES : 0;
}

/* Places in a slot's memory; returns its bytes. */
static ptrdiff_t NAME(lay_out)(NAME(forward_job) *job)
{
    const plan *p = job->p;
    ptrdiff_t size = sizeof(REAL);
    ptrdiff_t outputs = round_up(p->images * p->rows * p->h.outputs, LANES);
    job->pitch = odd_lines(outputs, size);
    job->panel = round_up(band_size(p, size) * size, LINE);
    ptrdiff_t columns = job->packed ? NAME(CHUNK) : p->taps;
    job->sums = job->panel + round_up((columns + 1) * NAME(NV) * LANES * size, LINE);
    ptrdiff_t phases = NAME(weaves_tiles)(p) ? 2 : p->v.weave * p->h.weave; /* whose sums are there at a time */
    job->bytes = job->sums + round_up(phases * job->part * job->pitch * size, LINE) + LINE;
    return job->bytes;
}

static int NAME(convolve_stacks)(plan *p, NAME(forward_job) *job, ptrdiff_t limit)
{
    ptrdiff_t size = sizeof(REAL), panels = xpc_ceil_div(p->outputs, NAME(MR)), stacks, slots, before = 0;
    stacks = xpc_ceil_div(p->batch, job->lanes);
    job->parts = xpc_min(panels, xpc_max(8 / stacks, 1));
    job->part = xpc_ceil_div(panels, job->parts) * NAME(MR);
    job->parts = xpc_ceil_div(p->outputs, job->part);
    job->pitch = odd_lines(p->v.total * p->h.total * job->lanes, size);
    job->sums = round_up(p->channels * p->v.size * p->h.size * job->lanes * size, LINE);
    job->bytes = job->sums + NAME(MR) * job->pitch * size + LINE;
    ptrdiff_t cost = p->taps * job->part * (p->v.total * p->h.total) * (job->lanes / LANES);
    slots = xpc_slots(stacks * job->parts, cost);
    slots = xpc_max(xpc_min(slots, limit / job->bytes), 1);
    job->memory = xpc_arena_take((size_t)(job->bytes * slots));
    if (!job->memory)
        return XPC_BLOCKED_NO_MEMORY;
    for (ptrdiff_t a = 0; a < p->v.weave; a++)
        for (ptrdiff_t b = 0; b < p->h.weave; b++)
            before += fill_stack_tab(p, a, b, job->lanes, before, p->tab + before);
    xpc_parallel_items(NAME(pack_weights), job, panels, p->taps * NAME(MR), xpc_slots(panels, p->taps * NAME(MR)));
    xpc_parallel_items(NAME(stack_items), job, stacks * job->parts, cost, (int)slots);
    xpc_arena_give(job->memory);
    return XPC_BLOCKED_DONE;
}

/* Whether weights are read where they lie: for one or two tiles, packing them would be most of the work. */
static int NAME(weights_in_place)(const plan *p)
{
    ptrdiff_t taps = p->taps / p->channels, outputs = p->v.outputs * p->h.outputs;
    return p->batch == 1 && outputs <= 2 * NAME(NV) * LANES && p->outputs % NAME(MR) == 0 &&
           p->weight_channel == taps && p->v.weave * p->h.weave == 1;
}

static int NAME(convolve)(plan *p, NAME(forward_job) *job, ptrdiff_t limit)
{
    ptrdiff_t size = sizeof(REAL), band = BAND_BYTES, outputs = PIECE_OUTPUTS;
    ptrdiff_t panels = xpc_ceil_div(p->outputs, NAME(MR)), slots, cost;
    int done = XPC_BLOCKED_NO_MEMORY;
    int plain = NAME(weights_in_place)(p);
    size_t weights = plain ? 0 : (size_t)(p->taps * p->outputs) * sizeof(REAL);
    job->packed = plain ? NULL : xpc_arena_take(weights);
    job->memory = NULL;
    if (!plain && !job->packed)
        return done;
    job->lanes = plain ? 0 : NAME(stack)(p, limit - (ptrdiff_t)weights);
    if (job->lanes) {
        done = NAME(convolve_stacks)(p, job, limit - (ptrdiff_t)weights);
        xpc_arena_give(job->packed);
        return done;
    }
    outputs = xpc_max(outputs / (p->v.weave * p->h.weave), 1);
    p->strided = NAME(STRIDED) && !plain && p->h.split == 2 && p->h.outputs % LANES == 0 &&
                 p->h.first[1] <= STRIDED_TAPS;
    cut(p, p->channels, job->x, size, band, outputs, LANES, panels);
    if (p->images * p->rows * p->h.outputs < FEW_OUTPUTS && p->outputs >= MANY_CHANNELS)
        band = LARGE_BAND_BYTES;
    for (;;) {
        cut(p, p->channels, job->x, size, band, outputs, LANES, panels);
        /* few pieces: channels of the result are shared out as well */
        job->parts = xpc_min(panels, xpc_max((plain ? xpc_get_num_threads() : 8) / p->pieces, 1));
        job->part = xpc_ceil_div(panels, job->parts) * NAME(MR);
        job->parts = xpc_ceil_div(p->outputs, job->part);
        ptrdiff_t bytes = NAME(lay_out)(job);
        cost = p->taps * job->part * xpc_ceil_div(p->images * p->rows * p->h.outputs, LANES);
        slots = xpc_slots(p->pieces * job->parts, cost);
        if (band > BAND_BYTES && bytes * slots + (ptrdiff_t)weights > limit) { /* threads are worth more */
            band = BAND_BYTES;
            continue;
        }
        slots = xpc_max(xpc_min(slots, (limit - (ptrdiff_t)weights) / bytes), 1);
        int smallest = p->images == 1 && p->rows == 1;
        if (bytes * slots + (ptrdiff_t)weights <= limit || smallest) {
            job->memory = xpc_arena_take((size_t)(bytes * slots));
            if (job->memory || smallest)
                break;
        }
        band /= 2;
        outputs = xpc_max(outputs / 2, 1);
    }
    if (job->memory) {
        ptrdiff_t before = 0, plane = p->v.total * p->h.total;
        /* an even row of a woven result begins where a line does, and so do all others */
        job->streamed = !plain && plane % (LINE / size) == 0 && p->result % (LINE / size) == 0 &&
                        NAME(is_streamed)(job->y, p->batch * p->outputs * plane);
        if (plain)
            fill_plain_tab(p, p->tab);
        for (ptrdiff_t a = 0; a < p->v.weave && !plain; a++)
            for (ptrdiff_t b = 0; b < p->h.weave; b++)
                before += fill_tab(p, a, b, p->channels, before, p->tab + before, p->places);
        if (!plain)
            xpc_parallel_items(NAME(pack_weights), job, panels, p->taps * NAME(MR),
                               xpc_slots(panels, p->taps * NAME(MR)));
        xpc_parallel_items(NAME(forward_items), job, p->pieces * job->parts, cost, (int)slots);
        done = XPC_BLOCKED_DONE;
    }
    xpc_arena_give(job->memory);
    xpc_arena_give(job->packed);
    return done;
}

static int NAME(forward)(const xpc_blocked *conv, xpc_planes x, const REAL *w, const REAL *b, REAL *y, int relu,
                         ptrdiff_t limit)
{
    plan p;
    if (!make_plan(&p, conv, 0))
        return XPC_BLOCKED_NO_MEMORY;
    int done = XPC_BLOCKED_DONE;
    for (ptrdiff_t g = 0; g < conv->groups && done == XPC_BLOCKED_DONE; g++) {
        NAME(forward_job) job = {.p = &p, .relu = relu};
        job.x = group_of(x, g, conv->channels, sizeof(REAL));
        job.w = w + g * conv->filters * p.taps;
        job.b = b ? b + g * conv->filters : NULL;
        job.y = y + g * conv->filters * conv->out_h * conv->out_w;
        done = NAME(convolve)(&p, &job, limit);
    }
    xpc_arena_give(p.tables);
    return done;
}

static int NAME(input_gradient)(const xpc_blocked *conv, xpc_planes dy, const REAL *w, const REAL *b, REAL *dx,
                                ptrdiff_t limit)
{
    plan p;
    if (!make_plan(&p, conv, 1))
        return XPC_BLOCKED_NO_MEMORY;
    int done = XPC_BLOCKED_DONE;
    for (ptrdiff_t g = 0; g < conv->groups && done == XPC_BLOCKED_DONE; g++) {
        NAME(forward_job) job = {.p = &p};
        job.x = group_of(dy, g, conv->filters, sizeof(REAL));
        job.w = w + g * conv->channels * p.taps;
        job.b = b ? b + g * conv->channels : NULL;
        job.y = dx + g * conv->channels * conv->height * conv->width;
        done = NAME(convolve)(&p, &job, limit);
    }
    xpc_arena_give(p.tables);
    return done;
}

/* ---- the gradient to the weights -------------------------------------------------------------------------------- */

/* Some outputs of some images, and what a tap sees of them: steps from one to the next in dy and in x, in numbers. */
typedef struct {
    ptrdiff_t images, rows, columns;
    ptrdiff_t x_image, x_row, x_column, dy_image, dy_row;
    xpc_ahead *next; /* what will be turned next: some lines with each row, as memory gives no more at once */
    int lines;
} NAME(walk);

/* sums[c, lane] += sum over outputs of x[output, c] * dy[output, lane]; channels, and filters, lie side by side. */
INLINE void NAME(walk_product)(const int channels, const int nv, const NAME(walk) *walk, const REAL *x, const REAL *dy,
                               REAL *sums)
{
    VEC acc[NAME(DR)][NAME(DV)];
    XPC_UNROLL
    for (int c = 0; c < channels; c++)
        XPC_UNROLL
        for (int j = 0; j < nv; j++) {
            acc[c][j] = SPLAT((REAL)0);
            __builtin_prefetch(sums + (c * nv + j) * LANES, 1); /* there when the sums are ready */
        }
    ptrdiff_t x_column = walk->x_column;
    xpc_ahead *next = walk->next;
    for (ptrdiff_t n = 0; n < walk->images; n++)
        for (ptrdiff_t r = 0; r < walk->rows; r++) {
            const REAL *a = x + n * walk->x_image + r * walk->x_row, *b = dy + n * walk->dy_image + r * walk->dy_row;
            for (int lines = walk->lines; next->left > 0;) {
                xpc_fetch(next, 1);
                if (--lines <= 0)
                    break;
            }
            for (ptrdiff_t left = walk->columns; left > 0; left--, a += x_column, b += nv * LANES) {
                VEC lanes[NAME(DV)];
                XPC_UNROLL
                for (int j = 0; j < nv; j++)
                    lanes[j] = LOAD(b + j * LANES);
                XPC_UNROLL
                for (int c = 0; c < channels; c++) {
                    VEC number = SPLAT(a[c]);
                    XPC_UNROLL
                    for (int j = 0; j < nv; j++)
                        acc[c][j] = FMA(number, lanes[j], acc[c][j]);
                }
            }
        }
    XPC_UNROLL
    for (int c = 0; c < channels; c++)
        XPC_UNROLL
        for (int j = 0; j < nv; j++) {
            REAL *sum = sums + (c * nv + j) * LANES;
            STORE(sum, LOAD(sum) + acc[c][j]);
        }
}

TARGET static void NAME(walk_tile)(int channels, int nv, const NAME(walk) *walk, const REAL *x, const REAL *dy,
                                   REAL *sums)
{
#define XPC_ROWS(r) \
    case r: \
        if (nv == 2) \
            NAME(walk_product)(r, 2, walk, x, dy, sums); \
        else \
            NAME(walk_product)(r, 1, walk, x, dy, sums); \
        break;
    switch (channels) {
        XPC_EACH_ROWS(XPC_ROWS)
    }
#undef XPC_ROWS
}

typedef struct {
    const plan *p;
    xpc_planes dy, x;
    REAL *dw, *db;
    ptrdiff_t groups, group; /* of channels: how many, and channels of one */
    ptrdiff_t shares;        /* of the pieces */
    ptrdiff_t lanes;         /* filters, rounded up to vectors */
    int folded;              /* whether the taps of a row of the kernel are rows of tiles too */
    ptrdiff_t pitch;         /* pixels from row to row of the images that are turned */
    ptrdiff_t depth, sums;   /* taps of a group, and numbers of its sums: those of db follow those of dw */
    ptrdiff_t gradient, picked, bytes; /* places in a slot's memory, after the images, and all of it */
    REAL *all;
    char *memory;
} NAME(gradient_job);

/* Panel `number` of `panels`, about equal ones, of the channels of a group. */
INLINE xpc_range NAME(channels_of)(ptrdiff_t channels, ptrdiff_t panels, ptrdiff_t number)
{
    return (xpc_range){channels * number / panels, channels * (number + 1) / panels};
}

/* Some planes, a constant few, into [pixel][plane]: compilers make vectors of it. */
INLINE void NAME(interleave)(const int planes, const REAL *restrict from, ptrdiff_t plane, ptrdiff_t pixels,
                             REAL *restrict to)
{
    for (ptrdiff_t q = 0; q < pixels; q++)
        for (ptrdiff_t c = 0; c < planes; c++)
            to[q * planes + c] = from[c * plane + q];
}

/* Rows [top, bottom) of the images of a piece, as [pixel][channels], with zeros for the padding on both sides. */
TARGET static void NAME(turn_padded)(const NAME(gradient_job) *job, const piece *it, xpc_range rows, ptrdiff_t first,
                                     ptrdiff_t channels, REAL *to)
{
    const plan *p = job->p;
    ptrdiff_t before = xpc_min(p->h.pad, job->pitch), known = xpc_min(job->pitch - before, p->h.size);
    for (ptrdiff_t n = 0; n < it->images; n++)
        for (ptrdiff_t r = rows.begin; r < rows.end; r++) {
            const REAL *from = (const REAL *)job->x.data + (it->image + n) * job->x.image +
                               first * job->x.channel + r * p->h.size;
            NAME(zero)(to, before * channels);
            to += before * channels;
            if (channels == 3)
                NAME(interleave)(3, from, job->x.channel, known, to);
            else if (channels == 1)
                NAME(interleave)(1, from, job->x.channel, known, to);
            else
                for (ptrdiff_t part = (channels - 1) / LANES * LANES; part >= 0; part -= LANES)
                    NAME(turn)(from + part * job->x.channel, job->x.channel, channels - part, known, to + part,
                               channels, SPLAT((REAL)0));
            to += known * channels;
            NAME(zero)(to, (job->pitch - before - known) * channels);
            to += (job->pitch - before - known) * channels;
        }
}

/* Rows [top, bottom) of the images of a piece, in panels [pixel][channels]. Whole vectors are stored: what is behind a
 * panel's last channel is overwritten by what comes there later, so that the last channels go first. */
TARGET static void NAME(turn_images)(const NAME(gradient_job) *job, const piece *it, xpc_range rows, ptrdiff_t first,
                                     ptrdiff_t channels, REAL *to, REAL *picked)
{
    const plan *p = job->p;
    if (job->folded) {
        NAME(turn_padded)(job, it, rows, first, channels, to);
        return;
    }
    ptrdiff_t panels = xpc_ceil_div(channels, NAME(DR)), pixels = (rows.end - rows.begin) * p->h.size;
    for (ptrdiff_t number = 0; number < panels; number++) {
        xpc_range panel = NAME(channels_of)(channels, panels, number);
        ptrdiff_t width = panel.end - panel.begin;
        REAL *target = to + panel.begin * it->images * pixels;
        for (ptrdiff_t part = (width - 1) / LANES * LANES; part >= 0; part -= LANES)
            for (ptrdiff_t n = 0; n < it->images; n++) {
                const REAL *from = (const REAL *)job->x.data + (it->image + n) * job->x.image +
                                   (first + panel.begin + part) * job->x.channel;
                ptrdiff_t plane = job->x.channel;
                if (NAME(STRIDED) && p->apart) {
                    plane = odd_lines(pixels + LANES, sizeof(REAL));
                    NAME(pick)(p, from, job->x.channel, xpc_min(width - part, LANES), rows, picked, plane);
                    from = picked;
                } else
                    from += rows.begin * p->h.size;
                NAME(turn)(from, plane, width - part, pixels, target + n * pixels * width + part, width,
                           SPLAT((REAL)0));
            }
    }
}

/* The gradient of the outputs of a piece, in panels [output][DV vectors of filters]; adds to the sums of db. */
TARGET static void NAME(turn_gradient)(const NAME(gradient_job) *job, const piece *it, REAL *to, REAL *db)
{
    const plan *p = job->p;
    ptrdiff_t of_image = it->rows * p->h.outputs;
    for (ptrdiff_t f = 0; f < p->outputs; f += LANES) {
        ptrdiff_t panel = f / (NAME(DV) * LANES) * NAME(DV) * LANES;
        ptrdiff_t row = xpc_min(job->lanes - panel, NAME(DV) * LANES);
        REAL *target = to + panel * it->outputs + (f - panel);
        VEC sum = SPLAT((REAL)0);
        for (ptrdiff_t n = 0; n < it->images; n++)
            sum = NAME(turn)((const REAL *)job->dy.data + (it->image + n) * job->dy.image + f * job->dy.channel +
                                 it->row * p->h.outputs,
                             job->dy.channel, p->outputs - f, of_image, target + n * of_image * row, row, sum);
        if (db)
            STORE(db + f, LOAD(db + f) + sum);
    }
}

/* Panels of channels times panels of filters, one tap after the other: only the outputs that see a pixel through it. */
TARGET static void NAME(gradient_of_piece)(const NAME(gradient_job) *job, const piece *it, xpc_range seen,
                                           ptrdiff_t channels, const REAL *images, const REAL *gradient, REAL *sums,
                                           xpc_ahead *next, xpc_ahead *next_gradient)
{
    const plan *p = job->p;
    ptrdiff_t taps_v = p->v.first[1], taps_h = job->folded ? 1 : p->h.first[1];
    ptrdiff_t height = job->folded ? channels * p->h.first[1] : channels; /* rows of sums for a tap that is walked */
    ptrdiff_t panels = xpc_ceil_div(height, NAME(DR)), depth = height * taps_v * taps_h;
    ptrdiff_t pixels = (seen.end - seen.begin) * job->pitch;
    ptrdiff_t calls = panels * taps_v * taps_h * xpc_ceil_div(job->lanes, NAME(DV) * LANES);
    ptrdiff_t fetched = (next->left * next->length + next_gradient->left * next_gradient->length) / LINE;
    int lines = (int)(fetched / (calls * it->images * it->rows)) + 1;
    for (ptrdiff_t f = 0; f < job->lanes; f += NAME(DV) * LANES) { /* its gradient stays in the first-level cache */
        int nv = (int)xpc_min((job->lanes - f) / LANES, NAME(DV));
        for (ptrdiff_t number = 0; number < panels; number++) {
            xpc_range panel = NAME(channels_of)(height, panels, number);
            ptrdiff_t width = job->folded ? channels : panel.end - panel.begin; /* numbers of a pixel */
            const REAL *turned = images + (job->folded ? panel.begin : panel.begin * it->images * pixels);
            for (ptrdiff_t i = 0; i < taps_v; i++) {
                xpc_range rows = outputs_seeing(&p->v, i, it->row, it->row + it->rows);
                for (ptrdiff_t j = 0; j < taps_h; j++) {
                    xpc_range columns = {0, p->h.outputs};
                    if (!job->folded)
                        columns = outputs_seeing(&p->h, j, 0, p->h.outputs);
                    if (rows.begin == rows.end || columns.begin == columns.end)
                        continue;
                    ptrdiff_t column = job->folded ? 0 : position(&p->h, j, columns.begin);
                    NAME(walk) walk = {.images = it->images, .rows = rows.end - rows.begin, .lines = lines};
                    walk.next = next->left > 0 ? next : next_gradient;
                    walk.columns = columns.end - columns.begin;
                    walk.x_column = p->h.split * width;
                    walk.x_row = p->v.split * job->pitch * width;
                    walk.x_image = pixels * width;
                    walk.dy_row = p->h.outputs * nv * LANES;
                    walk.dy_image = it->rows * walk.dy_row;
                    const REAL *x =
                        turned + ((position(&p->v, i, rows.begin) - seen.begin) * job->pitch + column) * width;
                    const REAL *dy = gradient + f * it->outputs + (rows.begin - it->row) * walk.dy_row +
                                     columns.begin * nv * LANES;
                    REAL *sum = sums + f * depth + ((i * taps_h + j) * height + panel.begin) * nv * LANES;
                    NAME(walk_tile)((int)(panel.end - panel.begin), nv, &walk, x, dy, sum);
                }
            }
        }
    }
}

TARGET static void NAME(gradient_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(gradient_job) *job = argument;
    const plan *p = job->p;
    REAL *images = (REAL *)(job->memory + slot * job->bytes), *gradient = images + job->gradient;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t group = item / job->shares, share = item % job->shares, first = group * job->group;
        ptrdiff_t channels = xpc_min(job->group, p->channels - first);
        ptrdiff_t last = p->pieces * (share + 1) / job->shares;
        REAL *sums = job->all + item * job->sums, *db = sums + job->depth * job->lanes;
        memset(sums, 0, (size_t)job->sums * sizeof(REAL));
        for (ptrdiff_t n = p->pieces * share / job->shares; n < last; n++) {
            piece it = piece_of(p, n);
            xpc_range seen = rows_seen(p, &it);
            xpc_ahead next = {0}, next_gradient = {0};
            if (n + 1 < last) {
                piece later = piece_of(p, n + 1);
                next = look_ahead(p, n + 1, &job->x, first, channels, sizeof(REAL));
                next_gradient.from = (const char *)((const REAL *)job->dy.data + later.image * job->dy.image +
                                                    later.row * p->h.outputs);
                next_gradient.channel = job->dy.channel * (ptrdiff_t)sizeof(REAL);
                next_gradient.length = later.rows * p->h.outputs * (ptrdiff_t)sizeof(REAL);
                next_gradient.left = p->outputs;
                if (p->outputs * job->dy.channel == job->dy.image)
                    next_gradient.left *= later.images;
            }
            NAME(turn_images)(job, &it, seen, first, channels, images, images + job->picked);
            NAME(turn_gradient)(job, &it, gradient, group == 0 ? db : NULL);
            NAME(gradient_of_piece)(job, &it, seen, channels, images, gradient, sums, &next, &next_gradient);
        }
    }
}

/* dw and db from the sums of all shares, always in the same order. */
TARGET static void NAME(add_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(gradient_job) *job = argument;
    const plan *p = job->p;
    ptrdiff_t vectors = job->lanes / LANES, taps = p->taps / p->channels;
    (void)slot;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t group = item / vectors, f = item % vectors * LANES, first = group * job->group;
        ptrdiff_t channels = xpc_min(job->group, p->channels - first);
        ptrdiff_t panel = f / (NAME(DV) * LANES) * NAME(DV) * LANES;
        ptrdiff_t row = xpc_min(job->lanes - panel, NAME(DV) * LANES);
        int filters = (int)xpc_min(p->outputs - f, LANES);
        const REAL *from = job->all + group * job->shares * job->sums + panel * channels * taps + (f - panel);
        REAL *to = job->dw + f * p->weight_output + first * p->weight_channel;
        for (ptrdiff_t k = 0; k < taps; k++)
            for (ptrdiff_t c = 0; c < channels; c++, from += row) {
                VEC sum = LOAD(from);
                for (ptrdiff_t s = 1; s < job->shares; s++)
                    sum += LOAD(from + s * job->sums);
                REAL lane[LANES];
                STORE(lane, sum);
                for (int l = 0; l < filters; l++)
                    to[l * p->weight_output + c * p->weight_channel + k] = lane[l];
            }
        if (!job->db || group > 0)
            continue;
        const REAL *db = job->all + job->depth * job->lanes + f;
        VEC sum = LOAD(db);
        for (ptrdiff_t s = 1; s < job->shares; s++)
            sum += LOAD(db + s * job->sums);
        STORE_FIRST(job->db + f, FIRST(filters), sum);
    }
}

static int NAME(gradient_of_group)(plan *p, xpc_planes dy, xpc_planes x, REAL *dw, REAL *db, ptrdiff_t limit)
{
    NAME(gradient_job) job = {.p = p, .dy = dy, .x = x, .dw = dw, .db = db};
    ptrdiff_t size = sizeof(REAL), band = BAND_BYTES, outputs = GRADIENT_OUTPUTS, slots;
    job.lanes = round_up(p->outputs, LANES);
    /* channels in groups, so that the sums of one stay in the cache; then shares of pixels, where there are enough */
    job.groups = xpc_min(xpc_ceil_div(p->taps * job.lanes * size, SHARE_BYTES), p->channels);
    job.group = xpc_ceil_div(p->channels, job.groups);
    job.groups = xpc_ceil_div(p->channels, job.group);
    job.depth = job.group * (p->taps / p->channels);
    job.sums = (job.depth + 1) * job.lanes;
    ptrdiff_t pixels = p->batch * p->v.outputs * p->h.outputs, one = job.sums * job.groups * size;
    ptrdiff_t shares = xpc_min(xpc_ceil_div(SHARES, job.groups), pixels / 512);
    shares = xpc_max(xpc_min(shares, limit / 2 / one), 1);
    job.all = NULL;
    job.memory = NULL;
    p->in_place = 0; /* everything is turned */
    /* few channels make small tiles: with the taps of a row of the kernel, side by side in memory too, they are larger */
    ptrdiff_t reach = p->h.first[1] - 1;
    job.folded = reach > 0 && position(&p->h, reach, 0) - position(&p->h, 0, 0) == reach && job.group <= NAME(DR) / 2;
    if (job.folded || (p->taps == p->channels && !p->apart))
        outputs = xpc_max(outputs, xpc_min(GRADIENT_BYTES / (job.lanes * size), PIECE_OUTPUTS));
    job.pitch = job.folded ? (p->h.outputs - 1) * p->h.split + reach + 1 : p->h.size;
    for (;;) {
        cut(p, job.group, x, size, band, outputs, 1, 1);
        job.shares = xpc_min(shares, p->pieces);
        ptrdiff_t rows = xpc_min((p->rows + p->v.more) * p->v.split, p->v.size);
        job.gradient = round_up(p->images * rows * job.pitch * job.group + LANES, LINE / size);
        job.picked = job.gradient + round_up(p->images * p->rows * p->h.outputs * job.lanes, LINE / size);
        job.bytes = job.picked * size;
        if (p->apart) /* the rows of some planes, whole vectors */
            job.bytes += (NAME(DR) * odd_lines(rows * job.pitch + LANES, size) + LANES) * size;
        ptrdiff_t items = job.groups * job.shares, cost = pixels / job.shares * job.depth / 16 * p->outputs;
        slots = xpc_max(xpc_min(xpc_slots(items, cost), (limit - one * job.shares) / job.bytes), 1);
        int smallest = p->images == 1 && p->rows == 1;
        if (one * job.shares + job.bytes * slots <= limit || smallest) {
            job.all = xpc_arena_take((size_t)(one * job.shares));
            job.memory = job.all ? xpc_arena_take((size_t)(job.bytes * slots)) : NULL;
            if (job.memory || smallest) {
                if (job.memory) {
                    xpc_parallel_items(NAME(gradient_items), &job, items, cost, (int)slots);
                    ptrdiff_t vectors = job.groups * job.lanes / LANES, share = job.depth * LANES * job.shares;
                    xpc_parallel_items(NAME(add_shares), &job, vectors, share, xpc_slots(vectors, share));
                }
                break;
            }
            xpc_arena_give(job.all);
            job.all = NULL;
        }
        band /= 2;
        outputs = xpc_max(outputs / 2, 1);
    }
    int done = job.memory ? XPC_BLOCKED_DONE : XPC_BLOCKED_NO_MEMORY;
    xpc_arena_give(job.memory);
    xpc_arena_give(job.all);
    return done;
}

static int NAME(weight_gradient)(const xpc_blocked *conv, xpc_planes dy, xpc_planes x, REAL *dw, REAL *db,
                                 ptrdiff_t limit)
{
    plan p;
    if (!make_plan(&p, conv, 0))
        return XPC_BLOCKED_NO_MEMORY;
    if (NAME(STRIDED) && p.taps == p.channels && (p.v.split > 1 || p.h.split > 1))
        leave_out(&p);
    int done = XPC_BLOCKED_DONE;
    for (ptrdiff_t g = 0; g < conv->groups && done == XPC_BLOCKED_DONE; g++)
        done = NAME(gradient_of_group)(&p, group_of(dy, g, conv->filters, sizeof(REAL)),
                                       group_of(x, g, conv->channels, sizeof(REAL)),
                                       dw + g * conv->filters * p.taps, db ? db + g * conv->filters : NULL, limit);
    xpc_arena_give(p.tables);
    return done;
}

#undef AT_LEAST
#undef STRAIGHT
#undef EACH_WIDTH
#undef EACH_SMALL
#undef EACH_TILE
#include "simd_end.h"
