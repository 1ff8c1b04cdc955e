/* Included by norm.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"

#include "norm_sums_impl.h"

typedef struct {
    xpc_norm norm;
    ptrdiff_t width;  /* channels in a group */
    ptrdiff_t pitch;  /* of a run in the copy: whole vectors */
    ptrdiff_t copied; /* numbers in the copy of a group, for each array; 0 if there is none */
    REAL *copies;     /* one for each slot */
    int stream;
    /* rows only */
    ptrdiff_t shares;
    double *shared;   /* (shares, 2, C) */
    double *found;    /* (2, C) */
    REAL *factors;    /* (4, C) */
    int again;        /* sums are made again, in double, relative to `found` */
} NAME(norm_job);

INLINE REAL *NAME(run)(const xpc_runs *array, ptrdiff_t n, ptrdiff_t c)
{
    if (!array->data)
        return NULL;
    return (REAL *)(array->data + n * array->strides[0] + c * array->strides[1]);
}

/* ---- moments ---------------------------------------------------------------------------------------------------- */

/* The running statistic behind one batch. */
INLINE void NAME(keep_running)(const xpc_norm *norm, ptrdiff_t c, double mean, double variance)
{
    double count = (double)norm->x.shape[0] * (double)norm->x.shape[2], share = norm->momentum;
    if (norm->new_mean)
        ((REAL *)norm->new_mean)[c] = (REAL)(((const REAL *)norm->old_mean)[c] * (1 - share) + mean * share);
    if (norm->new_variance)
        ((REAL *)norm->new_variance)[c] = (REAL)(((const REAL *)norm->old_variance)[c] * (1 - share) +
                                                 variance * (count / (count > 1 ? count - 1 : 1) * share));
}

/* How channel c is normalised, relative to `centre`; writes what is known of it. */
INLINE NAME(factors) NAME(settle)(const xpc_norm *norm, ptrdiff_t c, REAL centre, double mean, double variance)
{
    const REAL *weight = norm->weight, *bias = norm->bias;
    double inv_std = 1 / sqrt(variance + norm->eps), scale = weight ? inv_std * weight[c] : inv_std;
    NAME(factors) factors = {centre, (REAL)scale, (REAL)((bias ? bias[c] : 0) + (centre - mean) * scale)};
    ((REAL *)norm->inv_std)[c] = (REAL)inv_std;
    if (!norm->given) {
        ((REAL *)norm->mean)[c] = (REAL)mean;
        ((REAL *)norm->variance)[c] = (REAL)variance;
        NAME(keep_running)(norm, c, mean, variance);
    }
    return factors;
}

/* ---- forward, runs ---------------------------------------------------------------------------------------------- */

INLINE void NAME(apply_run)(REAL *y, const REAL *x, const REAL *residual, ptrdiff_t count, NAME(factors) f, int relu,
                            int stream)
{
    switch ((residual ? 4 : 0) + (relu ? 2 : 0) + (stream ? 1 : 0)) {
    case 0: NAME(apply)(y, x, x, count, f, 0, 0, 0, NULL); break;
    case 1: NAME(apply)(y, x, x, count, f, 0, 0, 1, NULL); break;
    case 2: NAME(apply)(y, x, x, count, f, 0, 1, 0, NULL); break;
    case 3: NAME(apply)(y, x, x, count, f, 0, 1, 1, NULL); break;
    case 4: NAME(apply)(y, x, residual, count, f, 1, 0, 0, NULL); break;
    case 5: NAME(apply)(y, x, residual, count, f, 1, 0, 1, NULL); break;
    case 6: NAME(apply)(y, x, residual, count, f, 1, 1, 0, NULL); break;
    default: NAME(apply)(y, x, residual, count, f, 1, 1, 1, NULL);
    }
}

/* Ask for the beginning of the runs of `width` channels of image n. */
INLINE void NAME(look_ahead)(const xpc_runs *array, ptrdiff_t n, ptrdiff_t c, ptrdiff_t width)
{
    if (!array->data || n >= array->shape[0])
        return;
    const char *from = (const char *)NAME(run)(array, n, c);
    ptrdiff_t bytes = xpc_min(AHEAD, width * array->shape[2] * (ptrdiff_t)sizeof(REAL));
    for (ptrdiff_t k = 0; k < bytes; k += 64)
        XPC_SOON(from + k);
}

/* The sums of a group of channels, image by image. */
TARGET static void NAME(sum_group)(const NAME(norm_job) *job, ptrdiff_t c0, ptrdiff_t width, const REAL *centres,
                                   REAL *copy, NAME(sums) *sums)
{
    const xpc_runs *x = &job->norm.x;
    ptrdiff_t length = x->shape[2], part = 4 * LANES * FLUSH, since = 0;
    NAME(lanes) lanes[GROUP];
    for (ptrdiff_t c = 0; c < width; c++)
        lanes[c].first = lanes[c].second = SPLAT(0);
    for (ptrdiff_t n = 0; n < x->shape[0]; n++) {
        NAME(look_ahead)(x, n + 1, c0, width);
        for (ptrdiff_t k = 0; k < length; k += part) {
            ptrdiff_t count = xpc_min(part, length - k);
            for (ptrdiff_t c = 0; c < width; c++) {
                const REAL *from = NAME(run)(x, n, c0 + c) + k;
                if (copy)
                    NAME(add_moments)(from, count, centres[c], copy + (n * width + c) * job->pitch + k, &lanes[c]);
                else
                    NAME(add_moments)(from, count, centres[c], NULL, &lanes[c]);
            }
            since += NAME(depth)(count);
            if (since >= FLUSH) {
                for (ptrdiff_t c = 0; c < width; c++)
                    NAME(flush)(&lanes[c], &sums[c]);
                since = 0;
            }
        }
    }
    for (ptrdiff_t c = 0; c < width; c++)
        NAME(flush)(&lanes[c], &sums[c]);
}

TARGET static void NAME(forward_groups)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(norm_job) *job = argument;
    const xpc_norm *norm = &job->norm;
    const xpc_runs *x = &norm->x;
    ptrdiff_t batch = x->shape[0], channels = x->shape[1], length = x->shape[2];
    REAL *copy = job->copied ? job->copies + slot * job->copied : NULL;

    for (ptrdiff_t group = begin; group < end; group++) {
        ptrdiff_t c0 = group * job->width, width = xpc_min(job->width, channels - c0);
        NAME(factors) factors[GROUP];
        REAL centres[GROUP];
        NAME(sums) sums[GROUP] = {{0, 0}};
        int in_copy[GROUP] = {0};
        if (!norm->given) {
            for (ptrdiff_t c = 0; c < width; c++)
                centres[c] = NAME(guess)((const char *)NAME(run)(x, 0, c0 + c), batch, x->strides[0], length);
            NAME(sum_group)(job, c0, width, centres, copy, sums);
        }
        for (ptrdiff_t c = 0; c < width; c++) {
            double mean, variance;
            if (norm->given) {
                mean = ((const REAL *)norm->mean)[c0 + c];
                variance = ((const REAL *)norm->variance)[c0 + c];
                centres[c] = (REAL)mean;
            } else if (NAME(conclude)(sums[c], (double)batch * (double)length, centres[c], &mean, &variance)) {
                in_copy[c] = copy != NULL;
            } else {
                NAME(moments_in_double)((const char *)NAME(run)(x, 0, c0 + c), batch, x->strides[0], length, &mean,
                                        &variance);
                centres[c] = (REAL)mean;
            }
            factors[c] = NAME(settle)(norm, c0 + c, centres[c], mean, variance);
            if (in_copy[c])
                factors[c].centre = 0;
        }
        for (ptrdiff_t n = 0; n < batch; n++) {
            if (!copy)
                NAME(look_ahead)(x, n + 1, c0, width);
            NAME(look_ahead)(&norm->residual, n + 1, c0, width);
            for (ptrdiff_t c = 0; c < width; c++)
                NAME(apply_run)(NAME(run)(&norm->y, n, c0 + c),
                                in_copy[c] ? copy + (n * width + c) * job->pitch : NAME(run)(x, n, c0 + c),
                                NAME(run)(&norm->residual, n, c0 + c), length, factors[c], norm->relu, job->stream);
        }
    }
    FENCE();
}

/* Cut the channels into groups for threads; those of a group lie side by side, so that memory is read in long pieces.
 * `arrays` is how many are copied. Returns how many slots there are. */
TARGET static int NAME(plan_groups)(NAME(norm_job) *job, ptrdiff_t *groups, ptrdiff_t *cost, int arrays)
{
    const xpc_runs *x = &job->norm.x;
    ptrdiff_t batch = x->shape[0], channels = x->shape[1], length = x->shape[2];
    ptrdiff_t size = xpc_max(1, batch * length * (ptrdiff_t)sizeof(REAL));
    job->pitch = round_up(length, LANES);
    job->width = 1;
    if (batch > 1 && x->strides[1] == length * (ptrdiff_t)sizeof(REAL))
        job->width = xpc_min(xpc_max(COPIED / size, 1), xpc_min(GROUP, xpc_ceil_div(channels, 2 * xpc_get_num_threads())));
    if (batch == 1) /* nothing is gained by groups but fewer calls */
        job->width = xpc_min(GROUP, xpc_ceil_div(channels, 4 * xpc_get_num_threads()));
    *groups = xpc_ceil_div(channels, job->width);
    *cost = job->width * batch * length;
    int slots = xpc_slots(*groups, *cost);
    ptrdiff_t copied = job->width * batch * job->pitch;
    job->copies = NULL;
    if (arrays && batch > 1 && channels * size > LEAST_COPIED &&
        arrays * copied * (ptrdiff_t)sizeof(REAL) <= MOST_COPIED)
        job->copies = xpc_arena_take((size_t)(slots * arrays * copied) * sizeof(REAL));
    job->copied = job->copies ? arrays * copied : 0; /* without memory the original is read again */
    return slots;
}

/* ---- backward, runs --------------------------------------------------------------------------------------------- */

INLINE void NAME(spread_copy)(REAL *dx, const REAL *copy, ptrdiff_t count, NAME(slopes) s, int stream)
{
    VEC scale = SPLAT(s.scale), slope = SPLAT(s.slope), offset = SPLAT(s.offset);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES)
        NAME(store)(dx + k, NAME(spread)(LOAD(copy + 2 * k), LOAD(copy + 2 * k + LANES), scale, slope, offset),
                    stream);
    if (k < count)
        STORE_FIRST(dx + k, FIRST(count - k),
                    NAME(spread)(LOAD(copy + 2 * k), LOAD(copy + 2 * k + LANES), scale, slope, offset));
}

INLINE REAL NAME(scale)(const xpc_norm *norm, ptrdiff_t c)
{
    double inv_std = ((const REAL *)norm->inv_std)[c];
    return (REAL)(norm->weight ? inv_std * ((const REAL *)norm->weight)[c] : inv_std);
}

/* Write dw and db of channel c; return what dx is made with. */
INLINE NAME(slopes) NAME(settle_gradient)(const xpc_norm *norm, ptrdiff_t c, NAME(sums) sums)
{
    double count = (double)norm->x.shape[0] * (double)norm->x.shape[2], inv_std = ((const REAL *)norm->inv_std)[c];
    double scale = norm->weight ? inv_std * ((const REAL *)norm->weight)[c] : inv_std, dw = sums.second * inv_std;
    NAME(slopes) slopes = {((const REAL *)norm->mean)[c], (REAL)scale, (REAL)(-scale * inv_std * dw / count),
                           (REAL)(-scale * sums.first / count)};
    ((REAL *)norm->dw)[c] = (REAL)dw;
    ((REAL *)norm->db)[c] = (REAL)sums.first;
    return slopes;
}

INLINE void NAME(add_run)(const NAME(norm_job) *job, ptrdiff_t n, ptrdiff_t c, ptrdiff_t k, ptrdiff_t count,
                          REAL *copy, REAL scale, NAME(lanes) *lanes)
{
    const xpc_norm *norm = &job->norm;
    const REAL *x = NAME(run)(&norm->x, n, c) + k, *dy = NAME(run)(&norm->dy, n, c) + k;
    REAL *dx = NAME(run)(&norm->dx, n, c) + k, mean = ((const REAL *)norm->mean)[c];
    if (!norm->relu) {
        if (norm->given)
            NAME(add_gradients)(x, dy, x, NULL, dx, NULL, count, mean, scale, 0, job->stream, lanes);
        else if (copy)
            NAME(add_gradients)(x, dy, x, NULL, NULL, copy, count, mean, scale, 0, job->stream, lanes);
        else
            NAME(add_gradients)(x, dy, x, NULL, NULL, NULL, count, mean, scale, 0, job->stream, lanes);
        return;
    }
    const REAL *y = NAME(run)(&norm->y, n, c) + k;
    REAL *beside = norm->dresidual.data ? NAME(run)(&norm->dresidual, n, c) + k : NULL;
    if (norm->given)
        NAME(add_gradients)(x, dy, y, beside, dx, NULL, count, mean, scale, 1, job->stream, lanes);
    else if (copy)
        NAME(add_gradients)(x, dy, y, beside, NULL, copy, count, mean, scale, 1, job->stream, lanes);
    else
        NAME(add_gradients)(x, dy, y, beside, NULL, NULL, count, mean, scale, 1, job->stream, lanes);
}

/* dx of channels [c0, c0 + width) of image n. */
TARGET static void NAME(spread_image)(const NAME(norm_job) *job, const REAL *copies, ptrdiff_t n, ptrdiff_t c0,
                                      ptrdiff_t width, const NAME(slopes) *slopes)
{
    const xpc_norm *norm = &job->norm;
    ptrdiff_t length = norm->x.shape[2];
    for (ptrdiff_t c = 0; c < width; c++) {
        REAL *dx = NAME(run)(&norm->dx, n, c0 + c);
        const REAL *x = NAME(run)(&norm->x, n, c0 + c), *dy = NAME(run)(&norm->dy, n, c0 + c);
        if (copies)
            NAME(spread_copy)(dx, copies + 2 * (n * job->width + c) * job->pitch, length, slopes[c], job->stream);
        else if (norm->relu)
            NAME(spread_run)(dx, x, dy, NAME(run)(&norm->y, n, c0 + c), length, slopes[c], 1, job->stream);
        else
            NAME(spread_run)(dx, x, dy, x, length, slopes[c], 0, job->stream);
    }
}

/* Where groups are copied, dx of a group is written while the next is summed: its copy goes where that of the former was,
 * image by image. */
TARGET static void NAME(backward_groups)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(norm_job) *job = argument;
    const xpc_norm *norm = &job->norm;
    ptrdiff_t batch = norm->x.shape[0], channels = norm->x.shape[1], length = norm->x.shape[2];
    ptrdiff_t part = 2 * LANES * FLUSH;
    REAL *copies = job->copied ? job->copies + slot * job->copied : NULL;
    NAME(slopes) slopes[GROUP];

    for (ptrdiff_t group = begin; group <= end; group++) {
        ptrdiff_t c0 = group * job->width, width = group < end ? xpc_min(job->width, channels - c0) : 0, since = 0;
        NAME(lanes) lanes[GROUP];
        NAME(sums) sums[GROUP] = {{0, 0}};
        REAL scales[GROUP];
        for (ptrdiff_t c = 0; c < width; c++) {
            lanes[c].first = lanes[c].second = SPLAT(0);
            scales[c] = NAME(scale)(norm, c0 + c);
        }
        for (ptrdiff_t n = 0; n < batch; n++) {
            NAME(look_ahead)(&norm->x, n + 1, c0, width);
            NAME(look_ahead)(&norm->dy, n + 1, c0, width);
            NAME(look_ahead)(&norm->y, n + 1, c0, width);
            if (group > begin && copies)
                NAME(spread_image)(job, copies, n, c0 - job->width, xpc_min(job->width, channels - c0 + job->width),
                                   slopes);
            for (ptrdiff_t k = 0; k < length && width > 0; k += part) {
                ptrdiff_t count = xpc_min(part, length - k);
                for (ptrdiff_t c = 0; c < width; c++) {
                    REAL *copy = copies ? copies + 2 * ((n * job->width + c) * job->pitch + k) : NULL;
                    NAME(add_run)(job, n, c0 + c, k, count, copy, scales[c], &lanes[c]);
                }
                since += 2 * NAME(depth)(count);
                if (since >= FLUSH) {
                    for (ptrdiff_t c = 0; c < width; c++)
                        NAME(flush)(&lanes[c], &sums[c]);
                    since = 0;
                }
            }
        }
        for (ptrdiff_t c = 0; c < width; c++) {
            NAME(flush)(&lanes[c], &sums[c]);
            slopes[c] = NAME(settle_gradient)(norm, c0 + c, sums[c]);
        }
        for (ptrdiff_t n = 0; n < batch && !copies && !norm->given && width > 0; n++) {
            NAME(look_ahead)(&norm->x, n + 1, c0, width);
            NAME(look_ahead)(&norm->dy, n + 1, c0, width);
            NAME(look_ahead)(&norm->y, n + 1, c0, width);
            NAME(spread_image)(job, NULL, n, c0, width, slopes);
        }
    }
    FENCE();
}

/* ---- rows of channels ------------------------------------------------------------------------------------------- */

/* Rows [*row, ...) up to `end` that are the same distance apart: how many, at least one. */
INLINE ptrdiff_t NAME(rows_of_image)(const xpc_runs *array, ptrdiff_t row, ptrdiff_t end)
{
    return xpc_min(end, (row / array->shape[2] + 1) * array->shape[2]) - row;
}

INLINE REAL *NAME(row)(const xpc_runs *array, ptrdiff_t row)
{
    if (!array->data)
        return NULL;
    ptrdiff_t n = row / array->shape[2], l = row % array->shape[2];
    return (REAL *)(array->data + n * array->strides[0] + l * array->strides[2]);
}

INLINE void NAME(widen)(VEC from, double *restrict to, ptrdiff_t count)
{
    REAL lane[LANES];
    STORE(lane, from);
    for (ptrdiff_t l = 0; l < count; l++)
        to[l] += lane[l];
}

/* Up to four vectors of channels of some rows; numbers of rows and of vectors that are constants make it fast. */
INLINE void NAME(sum_tile)(const char *x, ptrdiff_t step, ptrdiff_t rows, const REAL *centres, ptrdiff_t vectors,
                           MASK last, double *first, double *second, ptrdiff_t channels)
{
    VEC sum[4], squares[4], centre[4];
    for (ptrdiff_t v = 0; v < vectors; v++) {
        sum[v] = squares[v] = SPLAT(0);
        centre[v] = v + 1 < vectors ? LOAD(centres + v * LANES) : LOAD_FIRST(last, centres + v * LANES);
    }
    for (ptrdiff_t r = 0; r < rows; r++, x += step)
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const REAL *from = (const REAL *)x + v * LANES;
            VEC value = (v + 1 < vectors ? LOAD(from) : LOAD_FIRST(last, from)) - centre[v];
            sum[v] += value;
            squares[v] = FMA(value, value, squares[v]);
        }
    for (ptrdiff_t v = 0; v < vectors; v++) {
        ptrdiff_t count = xpc_min(LANES, channels - v * LANES);
        NAME(widen)(sum[v], first + v * LANES, count);
        NAME(widen)(squares[v], second + v * LANES, count);
    }
}

/* The same of gradients and of their products with x - mean. */
INLINE void NAME(sum_gradient_tile)(const char *x, ptrdiff_t x_step, const char *dy, ptrdiff_t dy_step, const char *y,
                                    ptrdiff_t y_step, ptrdiff_t rows, const REAL *means, ptrdiff_t vectors, MASK last,
                                    double *first, double *second, ptrdiff_t channels, int relu)
{
    VEC sum[4], products[4], mean[4];
    for (ptrdiff_t v = 0; v < vectors; v++) {
        sum[v] = products[v] = SPLAT(0);
        mean[v] = v + 1 < vectors ? LOAD(means + v * LANES) : LOAD_FIRST(last, means + v * LANES);
    }
    for (ptrdiff_t r = 0; r < rows; r++, x += x_step, dy += dy_step, y += y_step)
        for (ptrdiff_t v = 0; v < vectors; v++) {
            const REAL *from = (const REAL *)x + v * LANES, *gradients = (const REAL *)dy + v * LANES;
            const REAL *passed = (const REAL *)y + v * LANES;
            VEC value = (v + 1 < vectors ? LOAD(from) : LOAD_FIRST(last, from)) - mean[v];
            VEC g = v + 1 < vectors ? NAME(gradient)(gradients, passed, relu)
                                    : NAME(some_gradient)(last, gradients, passed, relu);
            sum[v] += g;
            products[v] = FMA(value, g, products[v]);
        }
    for (ptrdiff_t v = 0; v < vectors; v++) {
        ptrdiff_t count = xpc_min(LANES, channels - v * LANES);
        NAME(widen)(sum[v], first + v * LANES, count);
        NAME(widen)(products[v], second + v * LANES, count);
    }
}

/* All in double, relative to means in double. */
INLINE void NAME(sum_row_wide)(const REAL *restrict x, const double *restrict mean, double *restrict first,
                               double *restrict second, ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        double centred = x[c] - mean[c];
        first[c] += centred;
        second[c] += centred * centred;
    }
}

/* Sums of shares [begin, end) of the rows. */
TARGET static void NAME(sum_shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(norm_job) *job = argument;
    const xpc_norm *norm = &job->norm;
    const xpc_runs *x = &norm->x;
    int backward = norm->dy.data != NULL;
    ptrdiff_t channels = x->shape[1], all = x->shape[0] * x->shape[2];
    ptrdiff_t band = xpc_max(4, xpc_min(FLUSH, BAND / (channels * (ptrdiff_t)sizeof(REAL))));
    const REAL *centres = backward ? norm->mean : job->factors;
    (void)slot;

    for (ptrdiff_t share = begin; share < end; share++) {
        double *first = job->shared + 2 * channels * share, *second = first + channels;
        ptrdiff_t row = all * share / job->shares, behind = all * (share + 1) / job->shares;
        memset(first, 0, (size_t)(2 * channels) * sizeof(double));
        while (row < behind) {
            ptrdiff_t rows = xpc_min(band, NAME(rows_of_image)(x, row, behind));
            const char *from = (const char *)NAME(row)(x, row);
            if (job->again) {
                for (ptrdiff_t r = 0; r < rows; r++)
                    NAME(sum_row_wide)((const REAL *)(from + r * x->strides[2]), job->found, first, second, channels);
                row += rows;
                continue;
            }
            const char *dy = (const char *)NAME(row)(&norm->dy, row), *y = (const char *)NAME(row)(&norm->y, row);
            for (ptrdiff_t c = 0; c < channels; c += 4 * LANES) {
                ptrdiff_t vectors = xpc_min(4, xpc_ceil_div(channels - c, LANES)), left = channels - c;
                MASK last = left < vectors * LANES ? FIRST(left - (vectors - 1) * LANES) : ALL;
                const char *at = from + c * (ptrdiff_t)sizeof(REAL);
                if (backward) {
                    const char *g = dy + c * (ptrdiff_t)sizeof(REAL);
                    const char *passed = norm->relu ? y + c * (ptrdiff_t)sizeof(REAL) : at;
                    ptrdiff_t passed_step = norm->relu ? norm->y.strides[2] : x->strides[2];
#define TILE(vectors, relu) \
    NAME(sum_gradient_tile)(at, x->strides[2], g, norm->dy.strides[2], passed, passed_step, rows, centres + c, \
                            vectors, last, first + c, second + c, left, relu)
                    switch (2 * vectors + (norm->relu ? 1 : 0)) {
                    case 2: TILE(1, 0); break;
                    case 3: TILE(1, 1); break;
                    case 4: TILE(2, 0); break;
                    case 5: TILE(2, 1); break;
                    case 6: TILE(3, 0); break;
                    case 7: TILE(3, 1); break;
                    case 8: TILE(4, 0); break;
                    default: TILE(4, 1);
                    }
#undef TILE
                    continue;
                }
#define TILE(vectors) \
    NAME(sum_tile)(at, x->strides[2], rows, centres + c, vectors, last, first + c, second + c, left)
                switch (vectors) {
                case 1: TILE(1); break;
                case 2: TILE(2); break;
                case 3: TILE(3); break;
                default: TILE(4);
                }
#undef TILE
            }
            row += rows;
        }
    }
}

/* The sums of all shares, in order, in the first of them. */
TARGET static void NAME(add_shares)(const NAME(norm_job) *job)
{
    ptrdiff_t count = 2 * job->norm.x.shape[1];
    for (ptrdiff_t share = 1; share < job->shares; share++) {
        double *restrict to = job->shared;
        const double *restrict from = job->shared + count * share;
        for (ptrdiff_t c = 0; c < count; c++)
            to[c] += from[c];
    }
}

/* Numbers near the means: exactly them where a channel is constant. */
TARGET static void NAME(guess_rows)(const NAME(norm_job) *job)
{
    const xpc_runs *x = &job->norm.x;
    ptrdiff_t channels = x->shape[1], all = x->shape[0] * x->shape[2], places = xpc_min(SAMPLES, all);
    REAL *restrict centres = job->factors;
    for (ptrdiff_t c = 0; c < channels; c++)
        centres[c] = 0;
    if (all == 0)
        return;
    const REAL *restrict zeroth = NAME(row)(x, 0);
    for (ptrdiff_t place = 1; place < places; place++) {
        const REAL *restrict from = NAME(row)(x, all / places * place);
        for (ptrdiff_t c = 0; c < channels; c++)
            centres[c] += from[c] - zeroth[c];
    }
    for (ptrdiff_t c = 0; c < channels; c++) {
        REAL found = zeroth[c] + centres[c] / (REAL)places;
        centres[c] = isfinite(found) ? found : zeroth[c];
    }
}

/* One row, or one where the copy is; centres, scales and shifts of all channels. */
INLINE void NAME(apply_row)(REAL *y, const REAL *x, const REAL *residual, ptrdiff_t channels, const REAL *factors,
                            int add, int relu, int stream)
{
    const REAL *centres = factors, *scales = factors + channels, *shifts = factors + 2 * channels;
    ptrdiff_t c = 0;
    for (; c + LANES <= channels; c += LANES)
        NAME(store)(y + c,
                    NAME(normalised)(LOAD(x + c), LOAD(centres + c), LOAD(scales + c), LOAD(shifts + c),
                                     LOAD(residual + c), add, relu),
                    stream);
    if (c < channels) {
        MASK some = FIRST(channels - c);
        STORE_FIRST(y + c, some,
                    NAME(normalised)(LOAD_FIRST(some, x + c), LOAD_FIRST(some, centres + c),
                                     LOAD_FIRST(some, scales + c), LOAD_FIRST(some, shifts + c),
                                     LOAD_FIRST(some, residual + c), add, relu));
    }
}

TARGET static void NAME(forward_rows)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(norm_job) *job = argument;
    const xpc_norm *norm = &job->norm;
    ptrdiff_t channels = norm->x.shape[1];
    int kind = (norm->residual.data ? 4 : 0) + (norm->relu ? 2 : 0) + (job->stream ? 1 : 0);
    (void)slot;
    while (begin < end) {
        ptrdiff_t rows = NAME(rows_of_image)(&norm->x, begin, end);
        const char *x = (const char *)NAME(row)(&norm->x, begin);
        const char *beside = norm->residual.data ? (const char *)NAME(row)(&norm->residual, begin) : x;
        ptrdiff_t step = norm->residual.data ? norm->residual.strides[2] : norm->x.strides[2];
        char *y = (char *)NAME(row)(&norm->y, begin);
        begin += rows;
        for (; rows > 0; rows--, x += norm->x.strides[2], beside += step, y += norm->y.strides[2]) {
#define ROW(add, relu, stream) \
    NAME(apply_row)((REAL *)y, (const REAL *)x, (const REAL *)beside, channels, job->factors, add, relu, stream)
            switch (kind) {
            case 0: ROW(0, 0, 0); break;
            case 1: ROW(0, 0, 1); break;
            case 2: ROW(0, 1, 0); break;
            case 3: ROW(0, 1, 1); break;
            case 4: ROW(1, 0, 0); break;
            case 5: ROW(1, 0, 1); break;
            case 6: ROW(1, 1, 0); break;
            default: ROW(1, 1, 1);
            }
#undef ROW
        }
    }
    FENCE();
}

INLINE void NAME(spread_row)(REAL *dx, REAL *dresidual, const REAL *x, const REAL *dy, const REAL *y,
                             ptrdiff_t channels, const REAL *factors, int training, int relu, int stream)
{
    const REAL *means = factors, *scales = factors + channels, *slopes = factors + 2 * channels;
    const REAL *offsets = factors + 3 * channels;
    ptrdiff_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
        VEC g = NAME(gradient)(dy + c, y + c, relu);
        if (dresidual)
            NAME(store)(dresidual + c, g, stream);
        VEC scaled = training ? NAME(spread)(LOAD(x + c) - LOAD(means + c), g, LOAD(scales + c), LOAD(slopes + c),
                                             LOAD(offsets + c))
                              : (VEC)(g * LOAD(scales + c));
        NAME(store)(dx + c, scaled, stream);
    }
    if (c < channels) {
        MASK some = FIRST(channels - c);
        VEC g = NAME(some_gradient)(some, dy + c, y + c, relu), scale = LOAD_FIRST(some, scales + c);
        if (dresidual)
            STORE_FIRST(dresidual + c, some, g);
        STORE_FIRST(dx + c, some,
                    training ? NAME(spread)(LOAD_FIRST(some, x + c) - LOAD_FIRST(some, means + c), g, scale,
                                            LOAD_FIRST(some, slopes + c), LOAD_FIRST(some, offsets + c))
                             : (VEC)(g * scale));
    }
}

TARGET static void NAME(backward_rows)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(norm_job) *job = argument;
    const xpc_norm *norm = &job->norm;
    ptrdiff_t channels = norm->x.shape[1];
    (void)slot;
    while (begin < end) {
        ptrdiff_t rows = NAME(rows_of_image)(&norm->x, begin, end);
        const char *x = (const char *)NAME(row)(&norm->x, begin), *dy = (const char *)NAME(row)(&norm->dy, begin);
        const char *y = norm->relu ? (const char *)NAME(row)(&norm->y, begin) : x;
        ptrdiff_t step = norm->relu ? norm->y.strides[2] : 0;
        char *dx = (char *)NAME(row)(&norm->dx, begin), *dresidual = (char *)NAME(row)(&norm->dresidual, begin);
        begin += rows;
        for (; rows > 0; rows--) {
            const REAL *of_x = (const REAL *)x, *of_dy = (const REAL *)dy, *of_y = (const REAL *)y;
#define ROW(training, relu) \
    NAME(spread_row)((REAL *)dx, (REAL *)dresidual, of_x, of_dy, of_y, channels, job->factors, training, relu, \
                     job->stream)
            if (norm->given && norm->relu)
                ROW(0, 1);
            else if (norm->given)
                ROW(0, 0);
            else if (norm->relu)
                ROW(1, 1);
            else
                ROW(1, 0);
#undef ROW
            x += norm->x.strides[2], dy += norm->dy.strides[2], y += step, dx += norm->dx.strides[2];
            if (dresidual)
                dresidual += norm->dresidual.strides[2];
        }
    }
    FENCE();
}

/* Working memory of the rows, in one piece; NULL if there is none. */
TARGET static void *NAME(take_rows)(NAME(norm_job) *job)
{
    ptrdiff_t channels = job->norm.x.shape[1], all = job->norm.x.shape[0] * job->norm.x.shape[2];
    /* a share costs memory for its sums: so many rows that it is little beside them */
    job->shares = xpc_max(1, xpc_min(SHARES, xpc_min(all / 32, all * channels / 16384)));
    double *memory = xpc_arena_take((size_t)(2 * job->shares * channels + 2 * channels) * sizeof(double) +
                                    (size_t)(4 * channels) * sizeof(REAL));
    if (memory) {
        job->shared = memory;
        job->found = memory + 2 * job->shares * channels;
        job->factors = (REAL *)(job->found + 2 * channels);
    }
    return memory;
}

TARGET static void NAME(sum_rows)(const NAME(norm_job) *job)
{
    ptrdiff_t all = job->norm.x.shape[0] * job->norm.x.shape[2], channels = job->norm.x.shape[1];
    ptrdiff_t cost = all / job->shares * channels;
    xpc_parallel_items(NAME(sum_shares), job, job->shares, cost, xpc_slots(job->shares, cost));
    NAME(add_shares)(job);
}

/* The moments of all channels, in `found`. */
TARGET static void NAME(find_rows)(NAME(norm_job) *job)
{
    ptrdiff_t channels = job->norm.x.shape[1];
    double count = (double)job->norm.x.shape[0] * (double)job->norm.x.shape[2];
    double *mean = job->found, *variance = job->found + channels;
    int good = 1;
    NAME(guess_rows)(job);
    NAME(sum_rows)(job);
    for (ptrdiff_t c = 0; c < channels; c++) {
        NAME(sums) sums = {job->shared[c], job->shared[channels + c]};
        good &= NAME(conclude)(sums, count, job->factors[c], &mean[c], &variance[c]);
        variance[c] = variance[c] < 0 ? 0 : variance[c];
    }
    if (good)
        return;
    job->again = 1;
    NAME(sum_rows)(job);
    for (ptrdiff_t c = 0; c < channels; c++) {
        double rest = job->shared[c] / count, found = job->shared[channels + c] / count - rest * rest;
        mean[c] += rest;
        variance[c] = found < 0 ? 0 : found;
        job->factors[c] = (REAL)mean[c];
    }
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

/* Whether what is written goes past the caches. */
TARGET static int NAME(streams)(const xpc_runs *first, const xpc_runs *second, int rows)
{
    ptrdiff_t vector = sizeof(VEC);
    int axis = rows ? 2 : 1;
    return numbers(first) * sizeof(REAL) >= STREAMED_BYTES && is_aligned(first, axis, vector) &&
           (!second->data || is_aligned(second, axis, vector));
}

TARGET static int NAME(batch_norm)(const xpc_norm *norm)
{
    NAME(norm_job) job = {.norm = *norm};
    xpc_norm *n = &job.norm;
    xpc_runs *const arrays[] = {&n->x, &n->residual, &n->y}, none = {0};
    ptrdiff_t channels = norm->x.shape[1];
    join(arrays, 3);
    job.stream = NAME(streams)(&n->y, &none, n->rows);
    if (!n->rows) {
        ptrdiff_t groups, cost;
        int slots = NAME(plan_groups)(&job, &groups, &cost, n->given ? 0 : 1);
        xpc_parallel_items(NAME(forward_groups), &job, groups, cost, slots);
        xpc_arena_give(job.copies);
        return 1;
    }
    void *memory = NAME(take_rows)(&job);
    if (!memory)
        return 0;
    if (!n->given)
        NAME(find_rows)(&job);
    for (ptrdiff_t c = 0; c < channels; c++) {
        double mean = n->given ? ((const REAL *)n->mean)[c] : job.found[c];
        double variance = n->given ? ((const REAL *)n->variance)[c] : job.found[channels + c];
        NAME(factors) f = NAME(settle)(n, c, n->given ? (REAL)mean : job.factors[c], mean, variance);
        job.factors[c] = f.centre;
        job.factors[channels + c] = f.scale;
        job.factors[2 * channels + c] = f.shift;
    }
    ptrdiff_t all = n->x.shape[0] * n->x.shape[2];
    xpc_parallel_items(NAME(forward_rows), &job, all, channels, xpc_slots(all, channels));
    xpc_arena_give(memory);
    return 1;
}

TARGET static int NAME(batch_norm_backward)(const xpc_norm *norm)
{
    NAME(norm_job) job = {.norm = *norm};
    xpc_norm *n = &job.norm;
    xpc_runs *const arrays[] = {&n->x, &n->dy, &n->y, &n->dx, &n->dresidual};
    ptrdiff_t channels = norm->x.shape[1];
    join(arrays, 5);
    job.stream = NAME(streams)(&n->dx, &n->dresidual, n->rows);
    if (!n->rows) {
        ptrdiff_t groups, cost;
        int slots = NAME(plan_groups)(&job, &groups, &cost, n->given ? 0 : 2);
        xpc_parallel_items(NAME(backward_groups), &job, groups, cost, slots);
        xpc_arena_give(job.copies);
        return 1;
    }
    void *memory = NAME(take_rows)(&job);
    if (!memory)
        return 0;
    NAME(sum_rows)(&job);
    for (ptrdiff_t c = 0; c < channels; c++) {
        NAME(sums) sums = {job.shared[c], job.shared[channels + c]};
        NAME(slopes) s = NAME(settle_gradient)(n, c, sums);
        job.factors[c] = s.mean;
        job.factors[channels + c] = s.scale;
        job.factors[2 * channels + c] = s.slope;
        job.factors[3 * channels + c] = s.offset;
    }
    ptrdiff_t all = n->x.shape[0] * n->x.shape[2];
    xpc_parallel_items(NAME(backward_rows), &job, all, channels, xpc_slots(all, channels));
    xpc_arena_give(memory);
    return 1;
}

#include "simd_end.h"
