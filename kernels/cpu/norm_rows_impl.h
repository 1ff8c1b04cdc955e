/* Included by norm_rows.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"

#include "norm_sums_impl.h"

typedef struct {
    xpc_norm_rows norm;
    ptrdiff_t channels; /* of a group */
    ptrdiff_t runs;     /* a row is so many runs of so many numbers: one, if its channels lie side by side */
    ptrdiff_t length;
    int stream;
    /* backward */
    ptrdiff_t shares;
    double *sums; /* group norm: (N, C, 2) */
    REAL *shared; /* layer norm: (shares, 2, L) */
} NAME(rows_job);

/* Sums of a row that are made while the row before it is written, relative to a number near the mean. */
typedef struct {
    const REAL *x;        /* the rest of a run: so many numbers, and so many runs behind it */
    ptrdiff_t left, runs;
    ptrdiff_t owed;       /* numbers that are to be added; negative where more were */
    ptrdiff_t since;
    REAL guess;
    NAME(lanes) lanes;
    NAME(sums) sums;
} NAME(reader);

INLINE REAL *NAME(run)(const xpc_runs *array, ptrdiff_t n, ptrdiff_t c)
{
    return (REAL *)(array->data + n * array->strides[0] + c * array->strides[1]);
}

/* Ask for the beginning of a row: the processor guesses what follows, but not beyond the end of a page. */
INLINE void NAME(look_ahead)(const NAME(rows_job) *job, const xpc_runs *array, ptrdiff_t row)
{
    ptrdiff_t n = row / job->norm.groups, g = row % job->norm.groups;
    if (n < array->shape[0])
        XPC_SOON(NAME(run)(array, n, g * job->channels));
}

/* A row that begins at channel c0 of image n. */
TARGET static void NAME(begin_row)(const NAME(rows_job) *job, NAME(reader) *reader, ptrdiff_t n, ptrdiff_t c0)
{
    const xpc_runs *x = &job->norm.x;
    const REAL *from = NAME(run)(x, n, c0);
    *reader = (NAME(reader)){.x = from, .left = job->length, .runs = job->runs - 1};
    reader->lanes.first = reader->lanes.second = SPLAT(0);
    if (job->runs == 1 && job->length <= SHORT) {
        NAME(lanes) lanes = reader->lanes;
        ptrdiff_t count = xpc_min(SHORT_SAMPLE, job->length);
        NAME(add_part)(from, count, from[0], &lanes);
        reader->guess = from[0] + (REAL)(WIDE_SUM(lanes.first) / (double)count);
    } else {
        reader->guess = NAME(guess)((const char *)from, job->runs, x->strides[1], job->length);
    }
}

/* Add about `count` numbers more; what is not a whole piece stays owed. */
TARGET static void NAME(read_on)(const NAME(rows_job) *job, NAME(reader) *reader, ptrdiff_t count)
{
    for (reader->owed += count; reader->owed > 0 && reader->left > 0;) {
        ptrdiff_t part = xpc_min(PIECE / (ptrdiff_t)sizeof(REAL), reader->left);
        NAME(add_part)(reader->x, part, reader->guess, &reader->lanes);
        reader->since += NAME(depth)(part);
        reader->owed -= part;
        reader->left -= part;
        reader->x += part;
        if (reader->left == 0 && reader->runs > 0) {
            reader->x = (const REAL *)((const char *)(reader->x - job->length) + job->norm.x.strides[1]);
            reader->left = job->length;
            reader->runs--;
        }
        if (reader->since >= FLUSH || reader->left == 0) {
            NAME(flush)(&reader->lanes, &reader->sums);
            reader->since = 0;
        }
    }
}

/* Moments of a row that was read. */
TARGET static void NAME(row_moments)(const NAME(rows_job) *job, const REAL *x, const NAME(reader) *reader, double *mean,
                                     double *variance)
{
    double count = (double)job->runs * (double)job->length;
    if (!NAME(conclude)(reader->sums, count, reader->guess, mean, variance))
        NAME(moments_in_double)((const char *)x, job->runs, job->norm.x.strides[1], job->length, mean, variance);
    if (*variance < 0)
        *variance = 0;
}

/* With a weight and a bias for each number, which may be NULL. Memory from `soon` on is asked for. */
INLINE void NAME(apply_each)(REAL *y, const REAL *x, const REAL *weight, const REAL *bias, ptrdiff_t count,
                             NAME(factors) f, int stream, const REAL *soon)
{
    VEC centre = SPLAT(f.centre), scale = SPLAT(f.scale), shift = SPLAT(f.shift), zero = SPLAT(0);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        VEC value = FMA(LOAD(x + k) - centre, scale, shift);
        if (weight)
            value = FMA(value, LOAD(weight + k), bias ? LOAD(bias + k) : zero);
        else if (bias)
            value += LOAD(bias + k);
        XPC_SOON(soon + k);
        NAME(store)(y + k, value, stream);
    }
    if (k < count) {
        MASK some = FIRST(count - k);
        VEC value = FMA(LOAD_FIRST(some, x + k) - centre, scale, shift);
        if (weight)
            value = FMA(value, LOAD_FIRST(some, weight + k), bias ? LOAD_FIRST(some, bias + k) : zero);
        else if (bias)
            value += LOAD_FIRST(some, bias + k);
        STORE_FIRST(y + k, some, value);
    }
}

TARGET static void NAME(normalise_rows)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(rows_job) *job = argument;
    const xpc_norm_rows *norm = &job->norm;
    const REAL *weight = norm->weight, *bias = norm->bias;
    ptrdiff_t length = norm->x.shape[2], piece = PIECE / (ptrdiff_t)sizeof(REAL);
    NAME(reader) reader;
    (void)slot;
    ptrdiff_t next = begin / norm->groups, c_next = begin % norm->groups * job->channels;
    NAME(begin_row)(job, &reader, next, c_next);
    for (ptrdiff_t row = begin; row < end; row++) {
        ptrdiff_t n = next, c0 = c_next;
        double mean, variance;
        if (reader.left > 0)
            NAME(read_on)(job, &reader, job->channels * length);
        NAME(row_moments)(job, NAME(run)(&norm->x, n, c0), &reader, &mean, &variance);
        double inv_std = 1 / sqrt(variance + norm->eps), rest = (REAL)mean - mean;
        ((REAL *)norm->mean)[row] = (REAL)mean;
        ((REAL *)norm->inv_std)[row] = (REAL)inv_std;
        c_next += job->channels;
        if (c_next == norm->x.shape[1])
            next++, c_next = 0;
        if (row + 1 < end)
            NAME(begin_row)(job, &reader, next, c_next);
        NAME(factors) f = {(REAL)mean, (REAL)inv_std, (REAL)(rest * inv_std)};
        for (ptrdiff_t c = c0; c < c0 + job->channels; c++) {
            const REAL *x = NAME(run)(&norm->x, n, c);
            REAL *y = NAME(run)(&norm->y, n, c);
            if (!norm->layer) {
                double scale = weight ? inv_std * weight[c] : inv_std;
                f.scale = (REAL)scale;
                f.shift = (REAL)((bias ? bias[c] : 0) + rest * scale);
            }
            for (ptrdiff_t k = 0; k < length; k += piece) {
                ptrdiff_t count = xpc_min(piece, length - k);
                if (reader.left > 0)
                    NAME(read_on)(job, &reader, count);
                const REAL *soon = reader.x; /* behind a row that is read lies, as a rule, the next */
                if (norm->layer)
                    NAME(apply_each)(y + k, x + k, weight ? weight + k : NULL, bias ? bias + k : NULL, count, f,
                                     job->stream, soon);
                else
                    NAME(apply)(y + k, x + k, x, count, f, 0, 0, job->stream, soon);
            }
        }
    }
    FENCE();
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* What dx of a row is made with: its gradients, already multiplied by the weights, add up to `sums`. */
INLINE NAME(slopes) NAME(row_slopes)(const NAME(rows_job) *job, ptrdiff_t row, NAME(sums) sums)
{
    double count = (double)job->channels * (double)job->norm.x.shape[2];
    double inv_std = ((const REAL *)job->norm.inv_std)[row];
    NAME(slopes) slopes = {((const REAL *)job->norm.mean)[row], (REAL)inv_std,
                           (REAL)(-inv_std * inv_std * inv_std * sums.second / count),
                           (REAL)(-inv_std * sums.first / count)};
    return slopes;
}

/* A part of a row of layer norm: sums of gradients times weights, and of their products with x - mean. */
INLINE void NAME(add_weighted)(const REAL *x, const REAL *dy, const REAL *weight, ptrdiff_t count, REAL mean,
                               NAME(lanes) *lanes)
{
    VEC middle = SPLAT(mean), a = lanes->first, b = SPLAT(0), aa = lanes->second, bb = SPLAT(0);
    ptrdiff_t k = 0;
    for (; k + 2 * LANES <= count; k += 2 * LANES) {
        VEC g = LOAD(dy + k), h = LOAD(dy + k + LANES);
        if (weight)
            g = g * LOAD(weight + k), h = h * LOAD(weight + k + LANES);
        a += g, b += h;
        aa = FMA(LOAD(x + k) - middle, g, aa), bb = FMA(LOAD(x + k + LANES) - middle, h, bb);
    }
    for (; k < count; k += LANES) {
        MASK some = count - k < LANES ? FIRST(count - k) : ALL;
        VEC g = LOAD_FIRST(some, dy + k);
        if (weight)
            g = g * LOAD_FIRST(some, weight + k);
        a += g;
        aa = FMA(ONLY(some, LOAD_FIRST(some, x + k) - middle), g, aa);
    }
    lanes->first = a + b;
    lanes->second = aa + bb;
}

/* The same part, when the sums of the row are known: dx, and normalised values times gradients and gradients, which are
 * added to dw and db. Memory from `soon` and `beside` on is asked for. */
INLINE void NAME(spread_each)(REAL *dx, const REAL *x, const REAL *dy, const REAL *weight, REAL *dw, REAL *db,
                              ptrdiff_t count, NAME(slopes) s, int stream, const REAL *soon, const REAL *beside)
{
    VEC mean = SPLAT(s.mean), scale = SPLAT(s.scale), slope = SPLAT(s.slope), offset = SPLAT(s.offset);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        VEC p = LOAD(x + k) - mean, g = LOAD(dy + k);
        XPC_SOON(soon + k);
        XPC_SOON(beside + k);
        STORE(db + k, LOAD(db + k) + g);
        STORE(dw + k, FMA(p * scale, g, LOAD(dw + k)));
        if (weight)
            g = g * LOAD(weight + k);
        NAME(store)(dx + k, NAME(spread)(p, g, scale, slope, offset), stream);
    }
    if (k < count) {
        MASK some = FIRST(count - k);
        VEC p = LOAD_FIRST(some, x + k) - mean, g = LOAD_FIRST(some, dy + k);
        STORE_FIRST(db + k, some, LOAD_FIRST(some, db + k) + g);
        STORE_FIRST(dw + k, some, FMA(p * scale, g, LOAD_FIRST(some, dw + k)));
        if (weight)
            g = g * LOAD_FIRST(some, weight + k);
        STORE_FIRST(dx + k, some, NAME(spread)(p, g, scale, slope, offset));
    }
}

/* Rows of layer norm, share by share. Piece by piece a row is summed and the row before it is done: while the memory of
 * the one is on its way, the other is worked on. Every other row is taken from its end. */
TARGET static void NAME(layer_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(rows_job) *job = argument;
    const xpc_norm_rows *norm = &job->norm;
    const REAL *weight = norm->weight;
    ptrdiff_t length = norm->x.shape[2], all = norm->x.shape[0], piece = PIECE / (ptrdiff_t)sizeof(REAL);
    ptrdiff_t pieces = xpc_ceil_div(length, piece);
    (void)slot;
    for (ptrdiff_t share = begin; share < end; share++) {
        ptrdiff_t first = all * share / job->shares, behind = all * (share + 1) / job->shares;
        REAL *dw = job->shared + 2 * length * share, *db = dw + length;
        const REAL *x = NULL, *dy = NULL; /* of the row before */
        NAME(slopes) slopes = {0, 0, 0, 0};
        memset(dw, 0, (size_t)(2 * length) * sizeof(REAL));
        for (ptrdiff_t row = first; row <= behind && first < behind; row++) {
            ptrdiff_t step = (row - first) % 2 ? -piece : piece, k = step > 0 ? 0 : (pieces - 1) * piece;
            const REAL *next = row < behind ? NAME(run)(&norm->x, row, 0) : x;
            const REAL *dnext = row < behind ? NAME(run)(&norm->dy, row, 0) : dy;
            NAME(lanes) lanes = {SPLAT(0), SPLAT(0)};
            NAME(sums) total = {0, 0};
            for (ptrdiff_t p = 0; p < pieces; p++, k += step) {
                ptrdiff_t count = xpc_min(piece, length - k);
                int turns = p + 1 == pieces; /* what is read next is of the next row */
                const REAL *soon = turns ? NAME(run)(&norm->x, xpc_min(row + 1, all - 1), 0) + k : next + k + step;
                const REAL *beside = turns ? NAME(run)(&norm->dy, xpc_min(row + 1, all - 1), 0) + k : dnext + k + step;
                const REAL *scale = weight ? weight + k : NULL;
                if (row < behind) {
                    REAL mean = ((const REAL *)norm->mean)[row];
                    NAME(add_weighted)(next + k, dnext + k, scale, count, mean, &lanes);
                    NAME(flush)(&lanes, &total);
                }
                if (row > first)
                    NAME(spread_each)(NAME(run)(&norm->dx, row - 1, 0) + k, x + k, dy + k, scale, dw + k, db + k,
                                      count, slopes, job->stream, soon, beside);
            }
            if (row < behind)
                slopes = NAME(row_slopes)(job, row, total);
            x = next, dy = dnext;
        }
    }
    FENCE();
}

/* Rows of group norm. */
TARGET static void NAME(group_rows)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(rows_job) *job = argument;
    const xpc_norm_rows *norm = &job->norm;
    const REAL *weight = norm->weight;
    ptrdiff_t length = norm->x.shape[2], part = 2 * LANES * FLUSH;
    (void)slot;
    for (ptrdiff_t row = begin; row < end; row++) {
        ptrdiff_t n = row / norm->groups, c0 = row % norm->groups * job->channels;
        REAL mean = ((const REAL *)norm->mean)[row];
        double *sums = job->sums + 2 * (n * norm->x.shape[1] + c0);
        NAME(sums) total = {0, 0};
        NAME(look_ahead)(job, &norm->x, row + 1);
        NAME(look_ahead)(job, &norm->dy, row + 1);
        for (ptrdiff_t c = 0; c < job->channels; c++) {
            const REAL *x = NAME(run)(&norm->x, n, c0 + c), *dy = NAME(run)(&norm->dy, n, c0 + c);
            NAME(lanes) lanes = {SPLAT(0), SPLAT(0)};
            NAME(sums) found = {0, 0};
            for (ptrdiff_t k = 0; k < length; k += part) {
                NAME(add_gradients)(x + k, dy + k, x, NULL, NULL, NULL, xpc_min(part, length - k), mean, 0, 0, 0,
                                    &lanes);
                NAME(flush)(&lanes, &found);
            }
            sums[2 * c] = found.first;
            sums[2 * c + 1] = found.second;
            total.first += weight ? found.first * weight[c0 + c] : found.first;
            total.second += weight ? found.second * weight[c0 + c] : found.second;
        }
        NAME(slopes) slopes = NAME(row_slopes)(job, row, total);
        double inv_std = ((const REAL *)norm->inv_std)[row];
        for (ptrdiff_t c = c0; c < c0 + job->channels; c++) {
            const REAL *x = NAME(run)(&norm->x, n, c);
            slopes.scale = (REAL)(weight ? inv_std * weight[c] : inv_std);
            NAME(spread_run)(NAME(run)(&norm->dx, n, c), x, NAME(run)(&norm->dy, n, c), x, length, slopes, 0,
                             job->stream);
        }
    }
    FENCE();
}

/* dw and db of group norm from the sums of every channel of every image. */
TARGET static void NAME(add_images)(const NAME(rows_job) *job)
{
    const xpc_norm_rows *norm = &job->norm;
    ptrdiff_t batch = norm->x.shape[0], channels = norm->x.shape[1];
    for (ptrdiff_t c = 0; c < channels; c++) {
        double dw = 0, db = 0;
        for (ptrdiff_t n = 0; n < batch; n++) {
            const double *sums = job->sums + 2 * (n * channels + c);
            db += sums[0];
            dw += sums[1] * ((const REAL *)norm->inv_std)[n * norm->groups + c / job->channels];
        }
        ((REAL *)norm->dw)[c] = (REAL)dw;
        ((REAL *)norm->db)[c] = (REAL)db;
    }
}

/* dw and db of layer norm from the sums of the shares, blocks [begin, end) of numbers. */
TARGET static void NAME(add_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(rows_job) *job = argument;
    ptrdiff_t length = job->norm.x.shape[2];
    (void)slot;
    for (ptrdiff_t item = 2 * begin; item < 2 * end; item++) {
        ptrdiff_t k = item / 2 * BLOCK, count = xpc_min(BLOCK, length - k);
        double total[BLOCK] = {0};
        for (ptrdiff_t share = 0; share < job->shares; share++) {
            const REAL *from = job->shared + (2 * share + item % 2) * length + k;
            for (ptrdiff_t l = 0; l < count; l++)
                total[l] += from[l];
        }
        REAL *to = (REAL *)(item % 2 ? job->norm.db : job->norm.dw) + k;
        for (ptrdiff_t l = 0; l < count; l++)
            to[l] = (REAL)total[l];
    }
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

static NAME(rows_job) NAME(plan_rows)(const xpc_norm_rows *norm, const xpc_runs *result)
{
    const xpc_runs *x = &norm->x;
    NAME(rows_job) job = {.norm = *norm, .channels = x->shape[1] / norm->groups};
    int joined = job.channels == 1 || x->strides[1] == x->shape[2] * (ptrdiff_t)sizeof(REAL);
    job.runs = joined ? 1 : job.channels;
    job.length = joined ? job.channels * x->shape[2] : x->shape[2];
    job.stream = numbers(result) * sizeof(REAL) >= STREAMED_BYTES && is_aligned(result, 1, sizeof(VEC));
    return job;
}

TARGET static void NAME(rows_forward)(const xpc_norm_rows *norm)
{
    NAME(rows_job) job = NAME(plan_rows)(norm, &norm->y);
    ptrdiff_t rows = norm->x.shape[0] * norm->groups, cost = job.channels * norm->x.shape[2];
    xpc_parallel_items(NAME(normalise_rows), &job, rows, cost, xpc_slots(rows, cost));
}

TARGET static int NAME(rows_backward)(const xpc_norm_rows *norm)
{
    NAME(rows_job) job = NAME(plan_rows)(norm, &norm->dx);
    ptrdiff_t batch = norm->x.shape[0], channels = norm->x.shape[1], length = norm->x.shape[2];
    ptrdiff_t cost = job.channels * length;
    if (!norm->layer) {
        ptrdiff_t rows = batch * norm->groups;
        job.sums = xpc_arena_take((size_t)(2 * batch * channels + 1) * sizeof(double));
        if (!job.sums)
            return 0;
        xpc_parallel_items(NAME(group_rows), &job, rows, cost, xpc_slots(rows, cost));
        NAME(add_images)(&job);
        xpc_arena_give(job.sums);
        return 1;
    }
    /* of FLUSH rows at most, which add up in REAL */
    job.shares = xpc_max(xpc_max(1, xpc_min(ROW_SHARES, batch / ROWS_A_SHARE)), xpc_ceil_div(batch, FLUSH));
    job.shared = xpc_arena_take((size_t)(2 * length * job.shares) * sizeof(REAL));
    if (!job.shared)
        return 0;
    cost *= batch / job.shares;
    xpc_parallel_items(NAME(layer_shares), &job, job.shares, cost, xpc_slots(job.shares, cost));
    ptrdiff_t blocks = xpc_ceil_div(length, BLOCK);
    cost = 2 * BLOCK * job.shares;
    xpc_parallel_items(NAME(add_shares), &job, blocks, cost, xpc_slots(blocks, cost));
    xpc_arena_give(job.shared);
    return 1;
}

#include "simd_end.h"
