/* Included by pool.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"

#include "strided_impl.h"

/* INDEX has the width of REAL, so that values and indices move through vectors in step. */
#if DOUBLE
#define INDEX int64_t
#else
#define INDEX int32_t
#endif

typedef struct {
    xpc_array4 image, out, argmax; /* x or dx, y or dy */
    xpc_axis vertical, horizontal;
    xpc_counted counted;
    int argmax_size;
    xpc_flag *bad_index;
    row_plan plan;
    xpc_rows_fn function; /* and how many rows of a plane it makes, */
    ptrdiff_t rows;
    int stream;           /* past the caches */
} NAME(pool_job);

INLINE wide NAME(sum_run)(const char *from, ptrdiff_t step, ptrdiff_t count)
{
    wide lanes[LANE_SUMS] = {0}, sum = 0;
    const REAL *source = (const REAL *)from;
    ptrdiff_t k = 0;
    if (step == sizeof(REAL))
        for (; k + LANE_SUMS <= count; k += LANE_SUMS)
            for (int lane = 0; lane < LANE_SUMS; lane++)
                lanes[lane] += source[k + lane];
    for (; k < count; k++)
        sum += *(const REAL *)(from + k * step);
    for (int lane = 0; lane < LANE_SUMS; lane++)
        sum += lanes[lane];
    return sum;
}

/* How many tap rows of output p count. */
TARGET static REAL NAME(count_rows)(const NAME(pool_job) *job, ptrdiff_t p)
{
    xpc_range taps = taps_between(job->vertical, p, job->counted.vertical.begin, job->counted.vertical.end);
    return (REAL)(taps.end - taps.begin);
}

#include "pool_planes_impl.h"
#include "pool_pairs_impl.h"

/* ---- max ------------------------------------------------------------------------------------------------------- */

/* True where `value` replaces `best`: it is greater, or the first NaN. */
#define BETTER(value, best) (!((value) <= (best)) & ((best) == (best)))

INLINE void NAME(better)(REAL *restrict best, INDEX *restrict at, const char *from, ptrdiff_t step, ptrdiff_t count,
                             INDEX tap)
{
    const REAL *restrict source = (const REAL *)from;
    if (step == sizeof(REAL)) {
        for (ptrdiff_t k = 0; k < count; k++) {
            REAL value = source[k];
            int take = BETTER(value, best[k]);
            best[k] = take ? value : best[k];
            at[k] = take ? tap : at[k];
        }
    } else if (step == 2 * sizeof(REAL)) {
        for (ptrdiff_t k = 0; k < count; k++) {
            REAL value = source[2 * k];
            int take = BETTER(value, best[k]);
            best[k] = take ? value : best[k];
            at[k] = take ? tap : at[k];
        }
    } else {
        for (ptrdiff_t k = 0; k < count; k++) {
            REAL value = *(const REAL *)(from + k * step);
            int take = BETTER(value, best[k]);
            best[k] = take ? value : best[k];
            at[k] = take ? tap : at[k];
        }
    }
}

/* Two taps side by side at stride 2. Reading both columns of each pair leaves no gaps, which vector loads like. */
INLINE void NAME(better_pair)(REAL *restrict best, INDEX *restrict at, const char *from, ptrdiff_t count, INDEX tap)
{
    const REAL *restrict source = (const REAL *)from;
    INDEX next = tap + 1;
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL left = source[2 * k], right = source[2 * k + 1];
        int take_right = BETTER(right, left);
        REAL value = take_right ? right : left;
        INDEX which = take_right ? next : tap;
        int take = BETTER(value, best[k]);
        best[k] = take ? value : best[k];
        at[k] = take ? which : at[k];
    }
}

/* One row of taps of outputs [first, last); the first of them is number `tap` of the window. */
INLINE void NAME(better_row)(REAL *best, INDEX *at, const char *row, ptrdiff_t unit, xpc_axis horizontal,
                                 ptrdiff_t width, ptrdiff_t first, ptrdiff_t last, INDEX tap)
{
    int in_pairs = unit == sizeof(REAL) && horizontal.stride == 2 && horizontal.dilation == 1;
    for (ptrdiff_t j = 0; j < horizontal.kernel; j++) {
        xpc_range inside = xpc_outputs(horizontal, j, 0, width, first, last);
        if (inside.begin == inside.end)
            continue;
        const char *from =
            row + (inside.begin * horizontal.stride + j * horizontal.dilation - horizontal.pad) * unit;
        if (in_pairs && j + 1 < horizontal.kernel) {
            xpc_range next = xpc_outputs(horizontal, j + 1, 0, width, first, last);
            if (next.begin == inside.begin && next.end == inside.end) {
                NAME(better_pair)(best + (inside.begin - first), at + (inside.begin - first), from,
                                  inside.end - inside.begin, (INDEX)(tap + j));
                /* of an odd number of taps, the last but one is compared twice, which changes nothing */
                if (j + 3 != horizontal.kernel)
                    j++;
                continue;
            }
        }
        NAME(better)(best + (inside.begin - first), at + (inside.begin - first), from, horizontal.stride * unit,
                     inside.end - inside.begin, (INDEX)(tap + j));
    }
}

INLINE void NAME(store_index)(char *to, ptrdiff_t step, int size, const INDEX *restrict from, ptrdiff_t count)
{
    if (size == 1 && step == 1) {
        uint8_t *restrict target = (uint8_t *)to;
        for (ptrdiff_t k = 0; k < count; k++)
            target[k] = (uint8_t)from[k];
    } else if (size == 1) {
        for (ptrdiff_t k = 0; k < count; k++)
            *(uint8_t *)(to + k * step) = (uint8_t)from[k];
    } else {
        for (ptrdiff_t k = 0; k < count; k++)
            *(int32_t *)(to + k * step) = (int32_t)from[k];
    }
}

TARGET static void NAME(max_pool_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out, *argmax = &job->argmax;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = x->shape[2], width = x->shape[3], out_w = y->shape[3];
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    char *to_index = argmax->data + n * argmax->strides[0] + c * argmax->strides[1];
    /* from here on, windows do not begin in the padding on the left */
    ptrdiff_t whole = xpc_outputs(horizontal, 0, 0, width, 0, out_w).begin;
    REAL best[CHUNK];
    INDEX at[CHUNK];

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        xpc_range taps = taps_between(vertical, p, 0, height);
        for (ptrdiff_t first = 0; first < out_w; first += CHUNK) {
            ptrdiff_t last = xpc_min(first + CHUNK, out_w), count = last - first;
            /* the first tap that sees a pixel stands where nothing exceeds minus infinity */
            for (ptrdiff_t k = 0; k < count; k++) {
                best[k] = -(REAL)INFINITY;
                at[k] = (INDEX)(taps.begin * horizontal.kernel);
            }
            for (ptrdiff_t q = first; q < xpc_min(last, whole); q++)
                at[q - first] += (INDEX)taps_between(horizontal, q, 0, width).begin;
            for (ptrdiff_t i = taps.begin; i < taps.end; i++)
                NAME(better_row)(
                    best, at, from + (p * vertical.stride - vertical.pad + i * vertical.dilation) * x->strides[2],
                    x->strides[3], horizontal, width, first, last, (INDEX)(i * horizontal.kernel));
            NAME(copy)(to + p * y->strides[2] + first * y->strides[3], y->strides[3], (const char *)best, sizeof(REAL),
                       count);
            NAME(store_index)(to_index + p * argmax->strides[2] + first * argmax->strides[3], argmax->strides[3],
                              job->argmax_size, at, count);
        }
    }
}

/* The same where channels are innermost; a plane is a whole image. */
TARGET static void NAME(max_pool_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out, *argmax = &job->argmax;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t channels = x->shape[1], unit = x->strides[1];
    REAL best[CHUNK];
    INDEX at[CHUNK];

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        xpc_range rows = taps_between(vertical, p, 0, x->shape[2]);
        for (ptrdiff_t q = 0; q < y->shape[3]; q++) {
            xpc_range columns = taps_between(horizontal, q, 0, x->shape[3]);
            const char *window = x->data + n * x->strides[0] + (p * vertical.stride - vertical.pad) * x->strides[2] +
                                 (q * horizontal.stride - horizontal.pad) * x->strides[3];
            char *to = y->data + n * y->strides[0] + p * y->strides[2] + q * y->strides[3];
            char *to_index = argmax->data + n * argmax->strides[0] + p * argmax->strides[2] + q * argmax->strides[3];
            for (ptrdiff_t first = 0; first < channels; first += CHUNK) {
                ptrdiff_t count = xpc_min(CHUNK, channels - first);
                for (ptrdiff_t k = 0; k < count; k++) {
                    best[k] = -(REAL)INFINITY;
                    at[k] = (INDEX)(rows.begin * horizontal.kernel + columns.begin);
                }
                for (ptrdiff_t i = rows.begin; i < rows.end; i++)
                    for (ptrdiff_t j = columns.begin; j < columns.end; j++)
                        NAME(better)(best, at,
                                     window + i * vertical.dilation * x->strides[2] +
                                         j * horizontal.dilation * x->strides[3] + first * unit,
                                     unit, count, (INDEX)(i * horizontal.kernel + j));
                NAME(copy)(to + first * y->strides[1], y->strides[1], (const char *)best, sizeof(REAL), count);
                NAME(store_index)(to_index + first * argmax->strides[1], argmax->strides[1], job->argmax_size, at,
                                  count);
            }
        }
    }
}

TARGET static void NAME(max_pool)(const xpc_array4 *x, const xpc_array4 *y, const xpc_array4 *argmax, int argmax_size,
                        xpc_axis vertical, xpc_axis horizontal)
{
    NAME(pool_job) job = {.image = *x, .out = *y, .argmax = *argmax, .vertical = vertical, .horizontal = horizontal,
                          .argmax_size = argmax_size};
    ptrdiff_t row_cost = y->shape[3] * vertical.kernel * horizontal.kernel;
    int bytes = argmax_size == 1 && argmax->strides[3] == 1;
    job.plan = NAME(plan_row)(x, y, vertical, horizontal);
#ifdef XPC_HAS_VECTORS
    if (bytes && NAME(are_pairs)(x, y, vertical, horizontal)) {
        NAME(go)(&job, NAME(max_pool_pairs), &job.out, row_cost);
        return;
    }
#endif
    if (job.plan.usable && bytes)
        NAME(go)(&job, NAME(max_pool_planes), &job.out, row_cost);
    else if (channels_innermost(x))
        xpc_parallel_rows(NAME(max_pool_pixels), &job, y->shape[0], y->shape[2], row_cost * y->shape[1]);
    else
        xpc_parallel_rows(NAME(max_pool_rows), &job, y->shape[0] * y->shape[1], y->shape[2], row_cost);
}

INLINE void NAME(zero_rows)(const xpc_array4 *images, char *plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    for (ptrdiff_t h = row_begin; h < row_end; h++)
        NAME(fill_zero)(plane + h * images->strides[2], images->strides[3], images->shape[3]);
}

/* The same rows of all channels of an image, where channels are innermost. */
INLINE void NAME(zero_pixels)(const xpc_array4 *images, char *image, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    for (ptrdiff_t h = row_begin; h < row_end; h++)
        for (ptrdiff_t w = 0; w < images->shape[3]; w++)
            NAME(fill_zero)(image + h * images->strides[2] + w * images->strides[3], images->strides[1],
                            images->shape[1]);
}

TARGET static void NAME(max_pool_backward_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                         ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out, *argmax = &job->argmax;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = dx->shape[2], width = dx->shape[3], out_h = dy->shape[2], out_w = dy->shape[3];
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1];
    ptrdiff_t taps = vertical.kernel * horizontal.kernel;
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];
    const char *from_index = argmax->data + n * argmax->strides[0] + c * argmax->strides[1];
    int good = 1;

    tap_table table;
    fill_table(&table, vertical, horizontal);
    NAME(zero_rows)(dx, to, row_begin, row_end);
    xpc_range rows = outputs_touching(vertical, row_begin, row_end, out_h);
    for (ptrdiff_t p = rows.begin; p < rows.end; p++) {
        const char *gradient = from + p * dy->strides[2], *index = from_index + p * argmax->strides[2];
        ptrdiff_t top = p * vertical.stride - vertical.pad, left = -horizontal.pad;
        for (ptrdiff_t q = 0; q < out_w; q++) {
            ptrdiff_t tap = load_index(index, job->argmax_size);
            if (tap >= 0 && tap < taps) {
                ptrdiff_t h = top + tap_down(&table, tap), w = left + tap_right(&table, tap);
                if (h < 0 || h >= height || w < 0 || w >= width)
                    good = 0;
                else if (h >= row_begin && h < row_end) /* else another call has that row */
                    *(REAL *)(to + h * dx->strides[2] + w * dx->strides[3]) += *(const REAL *)gradient;
            } else {
                good = 0;
            }
            gradient += dy->strides[3];
            index += argmax->strides[3];
            left += horizontal.stride;
        }
    }
    if (!good)
        *job->bad_index = 1;
}

/* The same where channels are innermost; a plane is a whole image. */
TARGET static void NAME(max_pool_backward_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out, *argmax = &job->argmax;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = dx->shape[2], width = dx->shape[3], taps = vertical.kernel * horizontal.kernel;
    char *image = dx->data + n * dx->strides[0];
    tap_table table;
    int good = 1;

    fill_table(&table, vertical, horizontal);
    NAME(zero_pixels)(dx, image, row_begin, row_end);
    xpc_range rows = outputs_touching(vertical, row_begin, row_end, dy->shape[2]);
    for (ptrdiff_t p = rows.begin; p < rows.end; p++)
        for (ptrdiff_t q = 0; q < dy->shape[3]; q++) {
            const char *gradient = dy->data + n * dy->strides[0] + p * dy->strides[2] + q * dy->strides[3];
            const char *index =
                argmax->data + n * argmax->strides[0] + p * argmax->strides[2] + q * argmax->strides[3];
            ptrdiff_t top = p * vertical.stride - vertical.pad, left = q * horizontal.stride - horizontal.pad;
            for (ptrdiff_t c = 0; c < dx->shape[1]; c++) {
                ptrdiff_t tap = load_index(index + c * argmax->strides[1], job->argmax_size);
                if (tap < 0 || tap >= taps) {
                    good = 0;
                    continue;
                }
                ptrdiff_t h = top + tap_down(&table, tap), w = left + tap_right(&table, tap);
                if (h < 0 || h >= height || w < 0 || w >= width)
                    good = 0;
                else if (h >= row_begin && h < row_end) /* else another call has that row */
                    *(REAL *)(image + h * dx->strides[2] + w * dx->strides[3] + c * dx->strides[1]) +=
                        *(const REAL *)(gradient + c * dy->strides[1]);
            }
        }
    if (!good)
        *job->bad_index = 1;
}

TARGET static int NAME(max_pool_backward)(const xpc_array4 *dy, const xpc_array4 *argmax, int argmax_size,
                                          const xpc_array4 *dx, xpc_axis vertical, xpc_axis horizontal)
{
    xpc_flag bad_index = 0;
    NAME(pool_job) job = {.image = *dx, .out = *dy, .argmax = *argmax, .vertical = vertical, .horizontal = horizontal,
                          .argmax_size = argmax_size, .bad_index = &bad_index};
    int bytes = argmax_size == 1 && argmax->strides[3] == 1;
    job.plan = NAME(plan_row)(dx, dy, vertical, horizontal);
#ifdef XPC_HAS_VECTORS
    if (bytes && NAME(are_pairs)(dx, dy, vertical, horizontal)) {
        NAME(go)(&job, NAME(max_pool_backward_pairs), &job.image, dx->shape[3]);
        return !bad_index;
    }
#endif
    if (job.plan.usable && bytes)
        NAME(go)(&job, NAME(max_pool_backward_planes), &job.image, dx->shape[3] * horizontal.kernel);
    else if (channels_innermost(dx))
        xpc_parallel_rows(NAME(max_pool_backward_pixels), &job, dx->shape[0], dx->shape[2],
                          dx->shape[3] * dx->shape[1]);
    else
        xpc_parallel_rows(NAME(max_pool_backward_rows), &job, dx->shape[0] * dx->shape[1], dx->shape[2], dx->shape[3]);
    return !bad_index;
}

/* ---- average --------------------------------------------------------------------------------------------------- */

INLINE void NAME(accumulate)(wide *restrict sum, const char *from, ptrdiff_t step, ptrdiff_t count)
{
    const REAL *restrict source = (const REAL *)from;
    if (step == sizeof(REAL))
        for (ptrdiff_t k = 0; k < count; k++)
            sum[k] += source[k];
    else if (step == 2 * sizeof(REAL))
        for (ptrdiff_t k = 0; k < count; k++)
            sum[k] += source[2 * k];
    else
        for (ptrdiff_t k = 0; k < count; k++)
            sum[k] += *(const REAL *)(from + k * step);
}

/* How many tap columns of outputs [first, last) count. */
INLINE void NAME(count_columns)(REAL *columns, xpc_axis horizontal, xpc_range counted, ptrdiff_t first,
                                ptrdiff_t last)
{
    for (ptrdiff_t q = first; q < last; q++) {
        xpc_range taps = taps_between(horizontal, q, counted.begin, counted.end);
        columns[q - first] = (REAL)(taps.end - taps.begin);
    }
}

/* Means of all channels over the pixels of some rows and columns, where channels are innermost. */
INLINE void NAME(mean_of_pixels)(char *to, ptrdiff_t to_step, const char *window, const xpc_array4 *x,
                                     xpc_range rows, ptrdiff_t row_step, xpc_range columns, ptrdiff_t column_step,
                                     wide divisor)
{
    wide sum[CHUNK];
    for (ptrdiff_t first = 0; first < x->shape[1]; first += CHUNK) {
        ptrdiff_t count = xpc_min(CHUNK, x->shape[1] - first);
        for (ptrdiff_t k = 0; k < count; k++)
            sum[k] = 0;
        for (ptrdiff_t i = rows.begin; i < rows.end; i++)
            for (ptrdiff_t j = columns.begin; j < columns.end; j++)
                NAME(accumulate)(sum,
                                 window + i * row_step * x->strides[2] + j * column_step * x->strides[3] +
                                     first * x->strides[1],
                                 x->strides[1], count);
        for (ptrdiff_t k = 0; k < count; k++)
            *(REAL *)(to + (first + k) * to_step) = (REAL)(sum[k] / divisor);
    }
}

TARGET static void NAME(avg_pool_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = x->shape[2], width = x->shape[3], out_w = y->shape[3];
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    wide sum[CHUNK];
    REAL mean[CHUNK], columns[CHUNK];

    for (ptrdiff_t first = 0; first < out_w; first += CHUNK) {
        ptrdiff_t last = xpc_min(first + CHUNK, out_w);
        NAME(count_columns)(columns, horizontal, job->counted.horizontal, first, last);
        for (ptrdiff_t p = row_begin; p < row_end; p++) {
            xpc_range taps = taps_between(vertical, p, 0, height);
            ptrdiff_t top = p * vertical.stride - vertical.pad;
            for (ptrdiff_t k = 0; k < last - first; k++)
                sum[k] = 0;
            for (ptrdiff_t i = taps.begin; i < taps.end; i++)
                for (ptrdiff_t j = 0; j < horizontal.kernel; j++) {
                    xpc_range inside = xpc_outputs(horizontal, j, 0, width, first, last);
                    if (inside.begin == inside.end)
                        continue;
                    ptrdiff_t w = inside.begin * horizontal.stride + j * horizontal.dilation - horizontal.pad;
                    NAME(accumulate)(sum + (inside.begin - first),
                                     from + (top + i * vertical.dilation) * x->strides[2] + w * x->strides[3],
                                     x->strides[3] * horizontal.stride, inside.end - inside.begin);
                }
            REAL rows = NAME(count_rows)(job, p);
            for (ptrdiff_t k = 0; k < last - first; k++)
                mean[k] = (REAL)(sum[k] / (rows * columns[k]));
            NAME(copy)(to + p * y->strides[2] + first * y->strides[3], y->strides[3], (const char *)mean, sizeof(REAL),
                       last - first);
        }
    }
}

/* The same where channels are innermost; a plane is a whole image. */
TARGET static void NAME(avg_pool_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    REAL column_count;

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        xpc_range rows = taps_between(vertical, p, 0, x->shape[2]);
        REAL row_count = NAME(count_rows)(job, p);
        for (ptrdiff_t q = 0; q < y->shape[3]; q++) {
            xpc_range columns = taps_between(horizontal, q, 0, x->shape[3]);
            const char *window = x->data + n * x->strides[0] + (p * vertical.stride - vertical.pad) * x->strides[2] +
                                 (q * horizontal.stride - horizontal.pad) * x->strides[3];
            char *to = y->data + n * y->strides[0] + p * y->strides[2] + q * y->strides[3];
            NAME(count_columns)(&column_count, horizontal, job->counted.horizontal, q, q + 1);
            NAME(mean_of_pixels)(to, y->strides[1], window, x, rows, vertical.dilation, columns, horizontal.dilation,
                                 row_count * column_count);
        }
    }
}

TARGET static void NAME(avg_pool)(const xpc_array4 *x, const xpc_array4 *y, xpc_axis vertical, xpc_axis horizontal,
                        xpc_counted counted)
{
    NAME(pool_job) job = {.image = *x, .out = *y, .vertical = vertical, .horizontal = horizontal, .counted = counted};
    ptrdiff_t row_cost = y->shape[3] * vertical.kernel * horizontal.kernel;
    job.plan = NAME(plan_row)(x, y, vertical, horizontal);
    if (job.plan.usable)
        NAME(go)(&job, NAME(avg_pool_planes), &job.out, row_cost);
    else if (channels_innermost(x))
        xpc_parallel_rows(NAME(avg_pool_pixels), &job, y->shape[0], y->shape[2], row_cost * y->shape[1]);
    else
        xpc_parallel_rows(NAME(avg_pool_rows), &job, y->shape[0] * y->shape[1], y->shape[2], row_cost);
}

TARGET static void NAME(avg_pool_backward_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                         ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t width = dx->shape[3], out_w = dy->shape[3];
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1];
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];
    xpc_range rows = outputs_touching(vertical, row_begin, row_end, dy->shape[2]);
    REAL share[CHUNK], columns[CHUNK];

    NAME(zero_rows)(dx, to, row_begin, row_end);
    for (ptrdiff_t first = 0; first < out_w; first += CHUNK) {
        ptrdiff_t last = xpc_min(first + CHUNK, out_w);
        NAME(count_columns)(columns, horizontal, job->counted.horizontal, first, last);
        for (ptrdiff_t p = rows.begin; p < rows.end; p++) {
            const char *gradient = from + p * dy->strides[2] + first * dy->strides[3];
            REAL count = NAME(count_rows)(job, p);
            for (ptrdiff_t k = 0; k < last - first; k++)
                share[k] = *(const REAL *)(gradient + k * dy->strides[3]) / (count * columns[k]);
            xpc_range taps = taps_between(vertical, p, row_begin, row_end);
            ptrdiff_t top = p * vertical.stride - vertical.pad;
            for (ptrdiff_t i = taps.begin; i < taps.end; i++)
                for (ptrdiff_t j = 0; j < horizontal.kernel; j++) {
                    xpc_range inside = xpc_outputs(horizontal, j, 0, width, first, last);
                    if (inside.begin == inside.end)
                        continue;
                    ptrdiff_t w = inside.begin * horizontal.stride + j * horizontal.dilation - horizontal.pad;
                    NAME(add)(to + (top + i * vertical.dilation) * dx->strides[2] + w * dx->strides[3],
                              dx->strides[3] * horizontal.stride, (const char *)(share + (inside.begin - first)),
                              sizeof(REAL), inside.end - inside.begin);
                }
        }
    }
}

/* The same where channels are innermost; a plane is a whole image. */
TARGET static void NAME(avg_pool_backward_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    xpc_range rows = outputs_touching(vertical, row_begin, row_end, dy->shape[2]);
    char *image = dx->data + n * dx->strides[0];
    REAL share[CHUNK], column_count;

    NAME(zero_pixels)(dx, image, row_begin, row_end);
    for (ptrdiff_t p = rows.begin; p < rows.end; p++) {
        xpc_range down = taps_between(vertical, p, row_begin, row_end);
        REAL row_count = NAME(count_rows)(job, p);
        for (ptrdiff_t q = 0; q < dy->shape[3]; q++) {
            xpc_range right = taps_between(horizontal, q, 0, dx->shape[3]);
            const char *gradient = dy->data + n * dy->strides[0] + p * dy->strides[2] + q * dy->strides[3];
            char *window = image + (p * vertical.stride - vertical.pad) * dx->strides[2] +
                           (q * horizontal.stride - horizontal.pad) * dx->strides[3];
            NAME(count_columns)(&column_count, horizontal, job->counted.horizontal, q, q + 1);
            for (ptrdiff_t first = 0; first < dx->shape[1]; first += CHUNK) {
                ptrdiff_t count = xpc_min(CHUNK, dx->shape[1] - first);
                for (ptrdiff_t k = 0; k < count; k++)
                    share[k] = *(const REAL *)(gradient + (first + k) * dy->strides[1]) / (row_count * column_count);
                for (ptrdiff_t i = down.begin; i < down.end; i++)
                    for (ptrdiff_t j = right.begin; j < right.end; j++)
                        NAME(add)(window + i * vertical.dilation * dx->strides[2] +
                                      j * horizontal.dilation * dx->strides[3] + first * dx->strides[1],
                                  dx->strides[1], (const char *)share, sizeof(REAL), count);
            }
        }
    }
}

TARGET static void NAME(avg_pool_backward)(const xpc_array4 *dy, const xpc_array4 *dx, xpc_axis vertical, xpc_axis horizontal,
                                 xpc_counted counted)
{
    NAME(pool_job) job = {.image = *dx, .out = *dy, .vertical = vertical, .horizontal = horizontal,
                          .counted = counted};
    ptrdiff_t taps = vertical.kernel * horizontal.kernel;
    ptrdiff_t overlap = xpc_max(1, taps / (vertical.stride * horizontal.stride));
    ptrdiff_t row_cost = dx->shape[3] * overlap;
    job.plan = NAME(plan_row)(dx, dy, vertical, horizontal);
    if (job.plan.usable)
        NAME(go)(&job, NAME(avg_pool_backward_planes), &job.image, row_cost);
    else if (channels_innermost(dx))
        xpc_parallel_rows(NAME(avg_pool_backward_pixels), &job, dx->shape[0], dx->shape[2], row_cost * dx->shape[1]);
    else
        xpc_parallel_rows(NAME(avg_pool_backward_rows), &job, dx->shape[0] * dx->shape[1], dx->shape[2], row_cost);
}

/* ---- adaptive average -------------------------------------------------------------------------------------------- */

TARGET static void NAME(adaptive_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];

    ptrdiff_t width = x->shape[3], out_w = y->shape[3];
    int by_columns = width <= CHUNK; /* rows are added first: in vectors, however narrow the bins are */
    wide columns_sums[CHUNK];

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        xpc_range rows = bin(p, y->shape[2], x->shape[2]);
        const char *top = from + rows.begin * x->strides[2];
        if (by_columns) {
            for (ptrdiff_t k = 0; k < width; k++)
                columns_sums[k] = 0;
            for (ptrdiff_t h = 0; h < rows.end - rows.begin; h++)
                NAME(accumulate)(columns_sums, top + h * x->strides[2], x->strides[3], width);
        }
        for (ptrdiff_t q = 0; q < out_w; q++) {
            xpc_range columns = bin(q, out_w, width);
            ptrdiff_t count = columns.end - columns.begin;
            wide sum = 0;
            if (by_columns)
                for (ptrdiff_t k = columns.begin; k < columns.end; k++)
                    sum += columns_sums[k];
            else
                for (ptrdiff_t h = 0; h < rows.end - rows.begin; h++)
                    sum += NAME(sum_run)(top + h * x->strides[2] + columns.begin * x->strides[3], x->strides[3], count);
            *(REAL *)(to + p * y->strides[2] + q * y->strides[3]) =
                (REAL)(sum / ((wide)(rows.end - rows.begin) * (wide)count));
        }
    }
}

TARGET static void NAME(adaptive_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        xpc_range rows = bin(p, y->shape[2], x->shape[2]);
        for (ptrdiff_t q = 0; q < y->shape[3]; q++) {
            xpc_range columns = bin(q, y->shape[3], x->shape[3]);
            NAME(mean_of_pixels)(y->data + n * y->strides[0] + p * y->strides[2] + q * y->strides[3], y->strides[1],
                                 x->data + n * x->strides[0], x, rows, 1, columns, 1,
                                 (wide)(rows.end - rows.begin) * (wide)(columns.end - columns.begin));
        }
    }
}

TARGET static void NAME(adaptive_avg_pool)(const xpc_array4 *x, const xpc_array4 *y)
{
    NAME(pool_job) job = {.image = *x, .out = *y};
    ptrdiff_t row_cost = (x->shape[2] / y->shape[2] + 1) * x->shape[3];
    ptrdiff_t planes = x->shape[0] * x->shape[1], pixels = x->shape[2] * x->shape[3];
    if (y->shape[2] == 1 && y->shape[3] == 1 && rows_joined(x, sizeof(REAL)))
        xpc_parallel_items(NAME(plane_means), &job, planes, pixels, xpc_slots(planes, pixels));
    else if (channels_innermost(x))
        xpc_parallel_rows(NAME(adaptive_pixels), &job, y->shape[0], y->shape[2], row_cost * y->shape[1]);
    else
        xpc_parallel_rows(NAME(adaptive_rows), &job, y->shape[0] * y->shape[1], y->shape[2], row_cost);
}

/* Rows of dx of any memory; a plane is one channel of an image. */
TARGET static void NAME(adaptive_backward_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                                ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1];
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];

    NAME(zero_rows)(dx, to, row_begin, row_end);
    for (ptrdiff_t row = row_begin; row < row_end; row++) {
        xpc_range bins = bins_of(row, dy->shape[2], dx->shape[2]);
        for (ptrdiff_t p = bins.begin; p < bins.end; p++) {
            xpc_range rows = bin(p, dy->shape[2], dx->shape[2]);
            for (ptrdiff_t q = 0; q < dy->shape[3]; q++) {
                xpc_range columns = bin(q, dy->shape[3], dx->shape[3]);
                REAL share = *(const REAL *)(from + p * dy->strides[2] + q * dy->strides[3]) /
                             ((REAL)(rows.end - rows.begin) * (REAL)(columns.end - columns.begin));
                for (ptrdiff_t w = columns.begin; w < columns.end; w++)
                    *(REAL *)(to + row * dx->strides[2] + w * dx->strides[3]) += share;
            }
        }
    }
}

/* The same where channels are innermost; a plane is a whole image. */
TARGET static void NAME(adaptive_backward_pixels)(const void *argument, ptrdiff_t n, ptrdiff_t row_begin,
                                                  ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    char *image = dx->data + n * dx->strides[0];
    REAL share[CHUNK];

    NAME(zero_pixels)(dx, image, row_begin, row_end);
    for (ptrdiff_t row = row_begin; row < row_end; row++) {
        xpc_range bins = bins_of(row, dy->shape[2], dx->shape[2]);
        for (ptrdiff_t p = bins.begin; p < bins.end; p++) {
            xpc_range rows = bin(p, dy->shape[2], dx->shape[2]);
            for (ptrdiff_t q = 0; q < dy->shape[3]; q++) {
                xpc_range columns = bin(q, dy->shape[3], dx->shape[3]);
                const char *gradient = dy->data + n * dy->strides[0] + p * dy->strides[2] + q * dy->strides[3];
                REAL count = (REAL)(rows.end - rows.begin) * (REAL)(columns.end - columns.begin);
                for (ptrdiff_t first = 0; first < dx->shape[1]; first += CHUNK) {
                    ptrdiff_t channels = xpc_min(CHUNK, dx->shape[1] - first);
                    for (ptrdiff_t k = 0; k < channels; k++)
                        share[k] = *(const REAL *)(gradient + (first + k) * dy->strides[1]) / count;
                    for (ptrdiff_t w = columns.begin; w < columns.end; w++)
                        NAME(add)(image + row * dx->strides[2] + w * dx->strides[3] + first * dx->strides[1],
                                  dx->strides[1], (const char *)share, sizeof(REAL), channels);
                }
            }
        }
    }
}

TARGET static void NAME(adaptive_avg_pool_backward)(const xpc_array4 *dy, const xpc_array4 *dx)
{
    NAME(pool_job) job = {.image = *dx, .out = *dy};
    ptrdiff_t planes = dx->shape[0] * dx->shape[1], pixels = dx->shape[2] * dx->shape[3];
    if (dy->shape[2] == 1 && dy->shape[3] == 1 && rows_joined(dx, sizeof(REAL))) {
        job.stream = NAME(streams)(dx);
        xpc_parallel_items(NAME(fill_planes), &job, planes, pixels, xpc_slots(planes, pixels));
    } else if (dx->strides[3] == sizeof(REAL) && dx->shape[3] <= LINE && dy->shape[3] <= CHUNK &&
               dy->shape[2] / dx->shape[2] + 2 <= HELD / (dx->shape[3] + LANES))
        NAME(go)(&job, NAME(adaptive_backward_planes), &job.image, dx->shape[3]);
    else if (channels_innermost(dx))
        xpc_parallel_rows(NAME(adaptive_backward_pixels), &job, dx->shape[0], dx->shape[2],
                          dx->shape[3] * dx->shape[1]);
    else
        xpc_parallel_rows(NAME(adaptive_backward_rows), &job, dx->shape[0] * dx->shape[1], dx->shape[2], dx->shape[3]);
}

#undef BETTER
#undef INDEX
#include "simd_end.h"
