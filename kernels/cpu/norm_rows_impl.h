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
    double *sums; /* layer norm: (shares, 2, L), else (N, C, 2) */
    REAL *lanes;  /* layer norm: (slots, 2, L) */
} NAME(rows_job);

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

/* Sums of a row relative to `centre`. */
INLINE NAME(sums) NAME(sum_row)(const NAME(rows_job) *job, const REAL *x, REAL centre)
{
    ptrdiff_t part = 4 * LANES * FLUSH, step = job->norm.x.strides[1], since = 0;
    NAME(lanes) lanes = {SPLAT(0), SPLAT(0)};
    NAME(sums) sums = {0, 0};
    for (ptrdiff_t c = 0; c < job->runs; c++, x = (const REAL *)((const char *)x + step))
        for (ptrdiff_t k = 0; k < job->length; k += part) {
            ptrdiff_t count = xpc_min(part, job->length - k);
            NAME(add_moments)(x + k, count, centre, NULL, &lanes);
            since += NAME(depth)(count);
            if (since >= FLUSH) {
                NAME(flush)(&lanes, &sums);
                since = 0;
            }
        }
    NAME(flush)(&lanes, &sums);
    return sums;
}

/* Moments of a row, and a number near the mean: exactly it if all are the same. */
INLINE REAL NAME(row_moments)(const NAME(rows_job) *job, const REAL *x, double *mean, double *variance)
{
    double count = (double)job->runs * (double)job->length;
    REAL centre = x[0] + (REAL)(NAME(sum_row)(job, x, x[0]).first / count);
    if (NAME(conclude)(NAME(sum_row)(job, x, centre), count, centre, mean, variance)) {
        if (*variance < 0)
            *variance = 0;
        return centre;
    }
    NAME(moments_in_double)((const char *)x, job->runs, job->norm.x.strides[1], job->length, mean, variance);
    return (REAL)*mean;
}

/* With a weight and a bias for each number, which may be NULL. */
INLINE void NAME(apply_each)(REAL *y, const REAL *x, const REAL *weight, const REAL *bias, ptrdiff_t count,
                             NAME(factors) f, int stream)
{
    VEC centre = SPLAT(f.centre), scale = SPLAT(f.scale), shift = SPLAT(f.shift), zero = SPLAT(0);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        VEC value = FMA(LOAD(x + k) - centre, scale, shift);
        if (weight)
            value = FMA(value, LOAD(weight + k), bias ? LOAD(bias + k) : zero);
        else if (bias)
            value += LOAD(bias + k);
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
    ptrdiff_t length = norm->x.shape[2];
    (void)slot;
    for (ptrdiff_t row = begin; row < end; row++) {
        ptrdiff_t n = row / norm->groups, c0 = row % norm->groups * job->channels;
        double mean, variance;
        NAME(look_ahead)(job, &norm->x, row + 1);
        REAL centre = NAME(row_moments)(job, NAME(run)(&norm->x, n, c0), &mean, &variance);
        double inv_std = 1 / sqrt(variance + norm->eps), rest = centre - mean;
        ((REAL *)norm->mean)[row] = (REAL)mean;
        ((REAL *)norm->inv_std)[row] = (REAL)inv_std;
        if (norm->layer) {
            NAME(factors) f = {centre, (REAL)inv_std, (REAL)(rest * inv_std)};
            NAME(apply_each)(NAME(run)(&norm->y, n, 0), NAME(run)(&norm->x, n, 0), weight, bias, length, f,
                             job->stream);
            continue;
        }
        for (ptrdiff_t c = c0; c < c0 + job->channels; c++) {
            double scale = weight ? inv_std * weight[c] : inv_std;
            NAME(factors) f = {centre, (REAL)scale, (REAL)((bias ? bias[c] : 0) + rest * scale)};
            const REAL *x = NAME(run)(&norm->x, n, c);
            if (job->stream)
                NAME(apply)(NAME(run)(&norm->y, n, c), x, x, length, f, 0, 0, 1);
            else
                NAME(apply)(NAME(run)(&norm->y, n, c), x, x, length, f, 0, 0, 0);
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

/* Numbers [first, first + count) of a row of layer norm: sums of gradients times weights, and of their products with
 * x - mean; dw and db, where normalised values and gradients are added. */
INLINE void NAME(add_each)(const REAL *x, const REAL *dy, const REAL *weight, REAL *dw, REAL *db, ptrdiff_t count,
                           REAL mean, REAL inv_std, NAME(lanes) *lanes)
{
    VEC middle = SPLAT(mean), scale = SPLAT(inv_std), a = lanes->first, aa = lanes->second;
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        VEC p = LOAD(x + k) - middle, g = LOAD(dy + k);
        STORE(db + k, LOAD(db + k) + g);
        STORE(dw + k, FMA(p * scale, g, LOAD(dw + k)));
        if (weight)
            g = g * LOAD(weight + k);
        a += g;
        aa = FMA(p, g, aa);
    }
    if (k < count) {
        MASK some = FIRST(count - k);
        VEC p = LOAD_FIRST(some, x + k) - middle, g = LOAD_FIRST(some, dy + k); /* where g is 0 p does not matter */
        p = ONLY(some, p);
        STORE_FIRST(db + k, some, LOAD_FIRST(some, db + k) + g);
        STORE_FIRST(dw + k, some, FMA(p * scale, g, LOAD_FIRST(some, dw + k)));
        if (weight)
            g = g * LOAD_FIRST(some, weight + k);
        a += g;
        aa = FMA(p, g, aa);
    }
    lanes->first = a;
    lanes->second = aa;
}

INLINE void NAME(spread_each)(REAL *dx, const REAL *x, const REAL *dy, const REAL *weight, ptrdiff_t count,
                              NAME(slopes) s, int stream)
{
    VEC mean = SPLAT(s.mean), scale = SPLAT(s.scale), slope = SPLAT(s.slope), offset = SPLAT(s.offset);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        VEC g = LOAD(dy + k);
        if (weight)
            g = g * LOAD(weight + k);
        NAME(store)(dx + k, NAME(spread)(LOAD(x + k) - mean, g, scale, slope, offset), stream);
    }
    if (k < count) {
        MASK some = FIRST(count - k);
        VEC g = LOAD_FIRST(some, dy + k);
        if (weight)
            g = g * LOAD_FIRST(some, weight + k);
        STORE_FIRST(dx + k, some, NAME(spread)(LOAD_FIRST(some, x + k) - mean, g, scale, slope, offset));
    }
}

INLINE void NAME(flush_each)(REAL *restrict from, double *restrict to, ptrdiff_t count)
{
    for (ptrdiff_t k = 0; k < count; k++) {
        to[k] += from[k];
        from[k] = 0;
    }
}

/* Rows of layer norm, share by share. */
TARGET static void NAME(layer_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(rows_job) *job = argument;
    const xpc_norm_rows *norm = &job->norm;
    ptrdiff_t length = norm->x.shape[2], all = norm->x.shape[0], part = LANES * FLUSH;
    REAL *dw = job->lanes + 2 * length * slot, *db = dw + length;
    memset(dw, 0, (size_t)(2 * length) * sizeof(REAL));
    for (ptrdiff_t share = begin; share < end; share++) {
        ptrdiff_t row = all * share / job->shares, behind = all * (share + 1) / job->shares, since = 0;
        double *sums = job->sums + 2 * length * share;
        memset(sums, 0, (size_t)(2 * length) * sizeof(double));
        for (; row < behind; row++) {
            const REAL *x = NAME(run)(&norm->x, row, 0), *dy = NAME(run)(&norm->dy, row, 0);
            REAL mean = ((const REAL *)norm->mean)[row], inv_std = ((const REAL *)norm->inv_std)[row];
            NAME(lanes) lanes = {SPLAT(0), SPLAT(0)};
            NAME(sums) total = {0, 0};
            NAME(look_ahead)(job, &norm->x, row + 1);
            NAME(look_ahead)(job, &norm->dy, row + 1);
            for (ptrdiff_t k = 0; k < length; k += part) {
                const REAL *weight = norm->weight ? (const REAL *)norm->weight + k : NULL;
                NAME(add_each)(x + k, dy + k, weight, dw + k, db + k, xpc_min(part, length - k), mean, inv_std, &lanes);
                NAME(flush)(&lanes, &total);
            }
            NAME(slopes) slopes = NAME(row_slopes)(job, row, total);
            NAME(spread_each)(NAME(run)(&norm->dx, row, 0), x, dy, norm->weight, length, slopes, job->stream);
            if (++since == FLUSH || row + 1 == behind) {
                NAME(flush_each)(dw, sums, 2 * length);
                since = 0;
            }
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

/* dw and db of layer norm from the sums of the shares. */
TARGET static void NAME(add_shares)(const NAME(rows_job) *job)
{
    ptrdiff_t length = job->norm.x.shape[2];
    for (ptrdiff_t k = 0; k < length; k++) {
        double dw = 0, db = 0;
        for (ptrdiff_t share = 0; share < job->shares; share++) {
            dw += job->sums[2 * length * share + k];
            db += job->sums[2 * length * share + length + k];
        }
        ((REAL *)job->norm.dw)[k] = (REAL)dw;
        ((REAL *)job->norm.db)[k] = (REAL)db;
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
    } else {
        job.shares = xpc_max(1, xpc_min(ROW_SHARES, batch / ROWS_A_SHARE));
        cost *= batch / job.shares;
        int slots = xpc_slots(job.shares, cost);
        job.sums = xpc_arena_take((size_t)(2 * length * job.shares) * sizeof(double) +
                                  (size_t)(2 * length * slots) * sizeof(REAL));
        if (!job.sums)
            return 0;
        job.lanes = (REAL *)(job.sums + 2 * length * job.shares);
        xpc_parallel_items(NAME(layer_shares), &job, job.shares, cost, slots);
        NAME(add_shares)(&job);
    }
    xpc_arena_give(job.sums);
    return 1;
}

#include "simd_end.h"
