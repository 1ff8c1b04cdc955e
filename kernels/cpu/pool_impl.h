/* Included once for each type by pool.c, which defines REAL, INDEX and NAME. */

typedef struct {
    xpc_array4 image, out, argmax; /* x or dx, y or dy */
    xpc_axis vertical, horizontal;
    xpc_counted counted;
    int argmax_size;
    xpc_flag *bad_index;
} NAME(pool_job);

/* ---- max ------------------------------------------------------------------------------------------------------- */

/* True where `value` replaces `best`: it is greater, or the first NaN. */
#define BETTER(value, best) (!((value) <= (best)) & ((best) == (best)))

XPC_INLINE void NAME(better)(REAL *restrict best, INDEX *restrict at, const char *from, ptrdiff_t step, ptrdiff_t count,
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
XPC_INLINE void NAME(better_pair)(REAL *restrict best, INDEX *restrict at, const char *from, ptrdiff_t count, INDEX tap)
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
XPC_INLINE void NAME(better_row)(REAL *best, INDEX *at, const char *row, ptrdiff_t unit, xpc_axis horizontal,
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

XPC_INLINE void NAME(store)(char *to, ptrdiff_t step, const REAL *from, ptrdiff_t count)
{
    if (step == sizeof(REAL))
        memcpy(to, from, (size_t)count * sizeof(REAL));
    else
        for (ptrdiff_t k = 0; k < count; k++)
            *(REAL *)(to + k * step) = from[k];
}

XPC_INLINE void NAME(store_index)(char *to, ptrdiff_t step, int size, const INDEX *restrict from, ptrdiff_t count)
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

XPC_CLONES
static void NAME(max_pool_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
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
            NAME(store)(to + p * y->strides[2] + first * y->strides[3], y->strides[3], best, count);
            NAME(store_index)(to_index + p * argmax->strides[2] + first * argmax->strides[3], argmax->strides[3],
                              job->argmax_size, at, count);
        }
    }
}

void NAME(xpc_max_pool)(const xpc_array4 *x, const xpc_array4 *y, const xpc_array4 *argmax, int argmax_size,
                        xpc_axis vertical, xpc_axis horizontal)
{
    NAME(pool_job) job = {.image = *x, .out = *y, .argmax = *argmax, .vertical = vertical, .horizontal = horizontal,
                          .argmax_size = argmax_size};
    xpc_parallel_rows(NAME(max_pool_rows), &job, y->shape[0] * y->shape[1], y->shape[2],
                      y->shape[3] * vertical.kernel * horizontal.kernel);
}

XPC_INLINE void NAME(zero_rows)(const xpc_array4 *images, char *plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    for (ptrdiff_t h = row_begin; h < row_end; h++) {
        char *row = plane + h * images->strides[2];
        if (images->strides[3] == sizeof(REAL))
            memset(row, 0, (size_t)images->shape[3] * sizeof(REAL));
        else
            for (ptrdiff_t w = 0; w < images->shape[3]; w++)
                *(REAL *)(row + w * images->strides[3]) = 0;
    }
}

/* A row of dx where windows are 2 x 2 pixels side by side and one after the other in memory: selects instead of zeroing
 * and adding. Returns whether all indices were taps. */
XPC_CLONES XPC_NOINLINE
static int NAME(select_2x2)(REAL *restrict row, ptrdiff_t width, const REAL *restrict dy,
                                const uint8_t *restrict argmax, ptrdiff_t count, INDEX tap)
{
    INDEX at[CHUNK], bits = 0, next = tap + 1;
    for (ptrdiff_t first = 0; first < count; first += CHUNK) {
        ptrdiff_t part = xpc_min(CHUNK, count - first);
        for (ptrdiff_t k = 0; k < part; k++)
            at[k] = argmax[first + k];
        for (ptrdiff_t k = 0; k < part; k++)
            bits |= at[k];
        for (ptrdiff_t k = 0; k < part; k++) {
            REAL gradient = dy[first + k]; /* loaded always: a conditional load would be a branch */
            row[2 * (first + k)] = at[k] == tap ? gradient : 0;
            row[2 * (first + k) + 1] = at[k] == next ? gradient : 0;
        }
    }
    for (ptrdiff_t w = 2 * count; w < width; w++)
        row[w] = 0;
    return bits < 4;
}

XPC_CLONES
static void NAME(max_pool_backward_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
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

    if (vertical.kernel == 2 && horizontal.kernel == 2 && vertical.stride == 2 && horizontal.stride == 2 &&
        vertical.dilation == 1 && horizontal.dilation == 1 && vertical.pad == 0 && horizontal.pad == 0 &&
        2 * out_h <= height && 2 * out_w <= width && job->argmax_size == 1 && argmax->strides[3] == 1 &&
        dy->strides[3] == sizeof(REAL) && dx->strides[3] == sizeof(REAL)) {
        for (ptrdiff_t h = row_begin; h < row_end; h++) {
            ptrdiff_t p = h / 2;
            if (p < out_h)
                good &= NAME(select_2x2)((REAL *)(to + h * dx->strides[2]), width,
                                         (const REAL *)(from + p * dy->strides[2]),
                                         (const uint8_t *)(from_index + p * argmax->strides[2]), out_w,
                                         (INDEX)(h % 2) * 2);
            else
                NAME(zero_rows)(dx, to, h, h + 1);
        }
    } else {
        ptrdiff_t down[TABLE_TAPS], right[TABLE_TAPS];
        if (taps <= TABLE_TAPS)
            for (ptrdiff_t tap = 0; tap < taps; tap++) {
                down[tap] = tap / horizontal.kernel * vertical.dilation;
                right[tap] = tap % horizontal.kernel * horizontal.dilation;
            }
        NAME(zero_rows)(dx, to, row_begin, row_end);
        xpc_range rows = outputs_touching(vertical, row_begin, row_end, out_h);
        for (ptrdiff_t p = rows.begin; p < rows.end; p++) {
            const char *gradient = from + p * dy->strides[2], *index = from_index + p * argmax->strides[2];
            ptrdiff_t top = p * vertical.stride - vertical.pad, left = -horizontal.pad;
            for (ptrdiff_t q = 0; q < out_w; q++) {
                ptrdiff_t tap = load_index(index, job->argmax_size);
                if (tap >= 0 && tap < taps) {
                    ptrdiff_t h = top, w = left;
                    if (taps <= TABLE_TAPS) {
                        h += down[tap];
                        w += right[tap];
                    } else {
                        h += tap / horizontal.kernel * vertical.dilation;
                        w += tap % horizontal.kernel * horizontal.dilation;
                    }
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
    }
    if (!good)
        *job->bad_index = 1;
}

int NAME(xpc_max_pool_backward)(const xpc_array4 *dy, const xpc_array4 *argmax, int argmax_size, const xpc_array4 *dx,
                                xpc_axis vertical, xpc_axis horizontal)
{
    xpc_flag bad_index = 0;
    NAME(pool_job) job = {.image = *dx, .out = *dy, .argmax = *argmax, .vertical = vertical, .horizontal = horizontal,
                          .argmax_size = argmax_size, .bad_index = &bad_index};
    xpc_parallel_rows(NAME(max_pool_backward_rows), &job, dx->shape[0] * dx->shape[1], dx->shape[2], dx->shape[3]);
    return !bad_index;
}

/* ---- average --------------------------------------------------------------------------------------------------- */

XPC_INLINE void NAME(add_step)(REAL *restrict sum, const char *from, ptrdiff_t step, ptrdiff_t count)
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

XPC_INLINE void NAME(add_to_step)(char *to, ptrdiff_t step, const REAL *restrict from, ptrdiff_t count)
{
    REAL *restrict target = (REAL *)to;
    if (step == sizeof(REAL))
        for (ptrdiff_t k = 0; k < count; k++)
            target[k] += from[k];
    else if (step == 2 * sizeof(REAL))
        for (ptrdiff_t k = 0; k < count; k++)
            target[2 * k] += from[k];
    else
        for (ptrdiff_t k = 0; k < count; k++)
            *(REAL *)(to + k * step) += from[k];
}

/* How many tap columns of outputs [first, last) count. */
XPC_INLINE void NAME(count_columns)(REAL *columns, xpc_axis horizontal, xpc_range counted, ptrdiff_t first,
                                ptrdiff_t last)
{
    for (ptrdiff_t q = first; q < last; q++) {
        xpc_range taps = taps_between(horizontal, q, counted.begin, counted.end);
        columns[q - first] = (REAL)(taps.end - taps.begin);
    }
}

static REAL NAME(count_rows)(const NAME(pool_job) *job, ptrdiff_t p)
{
    xpc_range taps = taps_between(job->vertical, p, job->counted.vertical.begin, job->counted.vertical.end);
    return (REAL)(taps.end - taps.begin);
}

XPC_CLONES
static void NAME(avg_pool_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    xpc_axis vertical = job->vertical, horizontal = job->horizontal;
    ptrdiff_t height = x->shape[2], width = x->shape[3], out_w = y->shape[3];
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    REAL sum[CHUNK], columns[CHUNK];

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
                    NAME(add_step)(sum + (inside.begin - first),
                                   from + (top + i * vertical.dilation) * x->strides[2] + w * x->strides[3],
                                   x->strides[3] * horizontal.stride, inside.end - inside.begin);
                }
            REAL rows = NAME(count_rows)(job, p);
            for (ptrdiff_t k = 0; k < last - first; k++)
                sum[k] /= rows * columns[k];
            NAME(store)(to + p * y->strides[2] + first * y->strides[3], y->strides[3], sum, last - first);
        }
    }
}

void NAME(xpc_avg_pool)(const xpc_array4 *x, const xpc_array4 *y, xpc_axis vertical, xpc_axis horizontal,
                        xpc_counted counted)
{
    NAME(pool_job) job = {.image = *x, .out = *y, .vertical = vertical, .horizontal = horizontal, .counted = counted};
    xpc_parallel_rows(NAME(avg_pool_rows), &job, y->shape[0] * y->shape[1], y->shape[2],
                      y->shape[3] * vertical.kernel * horizontal.kernel);
}

XPC_CLONES
static void NAME(avg_pool_backward_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
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
                    NAME(add_to_step)(to + (top + i * vertical.dilation) * dx->strides[2] + w * dx->strides[3],
                                      dx->strides[3] * horizontal.stride, share + (inside.begin - first),
                                      inside.end - inside.begin);
                }
        }
    }
}

void NAME(xpc_avg_pool_backward)(const xpc_array4 *dy, const xpc_array4 *dx, xpc_axis vertical, xpc_axis horizontal,
                                 xpc_counted counted)
{
    NAME(pool_job) job = {.image = *dx, .out = *dy, .vertical = vertical, .horizontal = horizontal,
                          .counted = counted};
    ptrdiff_t taps = vertical.kernel * horizontal.kernel;
    ptrdiff_t overlap = xpc_max(1, taps / (vertical.stride * horizontal.stride));
    xpc_parallel_rows(NAME(avg_pool_backward_rows), &job, dx->shape[0] * dx->shape[1], dx->shape[2],
                      dx->shape[3] * overlap);
}

#undef BETTER
