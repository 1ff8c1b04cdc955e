/* Small windows over planes whose rows are contiguous, taken apart in columns and rows of taps; see `row_plan`. Included by
 * pool_impl.h. */

/* How rows of the image are held, if windows are of that kind. `reach` is of the rows. */
static row_plan NAME(plan_row)(const xpc_array4 *image, const xpc_array4 *out, xpc_axis vertical, xpc_axis horizontal)
{
    row_plan plan = {0};
    ptrdiff_t width = image->shape[3], out_w = out->shape[3], stride = horizontal.stride;
    ptrdiff_t reach = (horizontal.kernel - 1) * horizontal.dilation, down = (vertical.kernel - 1) * vertical.dilation;
    plan.width = (out_w + LANES - 1) / LANES * LANES;
    if (image->shape[2] < 1 || width < 1 || out_w < 1 || plan.width > LINE || width > BAND || horizontal.pad < 0 ||
        vertical.pad < 0 || horizontal.kernel > WIDEST || vertical.kernel > MOST_TAPS / horizontal.kernel ||
        stride > WIDEST || down >= HELD / plan.width || image->strides[3] != sizeof(REAL) ||
        out->strides[3] != sizeof(REAL))
        return plan;
    plan.pitch = xpc_max(plan.width + reach / stride, (width - 1 + horizontal.pad) / stride) + 1;
    if (plan.pitch > PHASES / stride)
        return plan;
    for (ptrdiff_t j = 0; j < horizontal.kernel; j++) {
        ptrdiff_t at = j * horizontal.dilation;
        plan.offsets[j] = at % stride * plan.pitch + at / stride;
    }
    plan.margin = reach / stride;
    plan.held_pitch = plan.margin + xpc_max(plan.width, (width - 1 + horizontal.pad) / stride + 1) + LANES;
    if (down >= HELD / plan.held_pitch)
        return plan;
    ptrdiff_t count = 0;
    for (ptrdiff_t phase = 0; phase < stride; phase++) {
        plan.starts[phase] = count;
        for (ptrdiff_t j = horizontal.kernel - 1; j >= 0; j--)
            if (j * horizontal.dilation % stride == phase) {
                plan.order[count] = j;
                plan.back[count++] = j * horizontal.dilation / stride;
            }
    }
    plan.starts[stride] = count;
    plan.first = xpc_outputs(horizontal, 0, 0, width, 0, out_w).begin;
    plan.last = xpc_max(plan.first, xpc_outputs(horizontal, horizontal.kernel - 1, 0, width, 0, out_w).end);
    plan.usable = 1;
    return plan;
}

INLINE void NAME(fill)(REAL *to, ptrdiff_t count, REAL number)
{
    for (ptrdiff_t k = 0; k < count; k++)
        to[k] = number;
}

/* A row of the image into its phases. */
INLINE void NAME(split_row)(const REAL *from, ptrdiff_t width, ptrdiff_t pad, ptrdiff_t stride, REAL *phases,
                            ptrdiff_t pitch)
{
    ptrdiff_t k = 0;
    if (stride == 1) {
        for (; k + LANES <= width; k += LANES)
            STORE(phases + pad + k, LOAD(from + k));
        if (k < width) {
            MASK rest = FIRST(width - k);
            STORE_FIRST(phases + pad + k, rest, LOAD_FIRST(rest, from + k));
        }
    } else if (stride == 2) {
        REAL *even = phases + pad % 2 * pitch + pad / 2, *odd = phases + (pad + 1) % 2 * pitch + (pad + 1) / 2;
#ifdef XPC_HAS_VECTORS
        for (; k + 2 * LANES <= width; k += 2 * LANES) {
            VEC a = LOAD(from + k), b = LOAD(from + k + LANES);
            STORE(even + k / 2, EVEN(a, b));
            STORE(odd + k / 2, ODD(a, b));
        }
        if (k < width) {
            ptrdiff_t rest = width - k, first = xpc_min(rest, LANES);
            VEC a = LOAD_FIRST(FIRST(first), from + k), b = LOAD_FIRST(FIRST(rest - first), from + k + first);
            STORE_FIRST(even + k / 2, FIRST((rest + 1) / 2), EVEN(a, b));
            STORE_FIRST(odd + k / 2, FIRST(rest / 2), ODD(a, b));
        }
#else
        for (; k < width; k++)
            (k % 2 ? odd : even)[k / 2] = from[k];
#endif
    } else {
        ptrdiff_t phase = pad % stride, at = pad / stride;
        for (; k < width; k++) {
            phases[phase * pitch + at] = from[k];
            if (++phase == stride)
                phase = 0, at++;
        }
    }
}

/* Rows that are made one after the other, and written when they are many. */
typedef struct {
    REAL *to;        /* where the first of them goes */
    ptrdiff_t count; /* numbers */
    int stream;
    REAL numbers[BAND];
} NAME(band);

INLINE void NAME(write_band)(NAME(band) *band)
{
    REAL *to = band->to;
    const REAL *from = band->numbers;
    ptrdiff_t k = 0;
    if (band->stream) {
        for (; k < band->count && ((size_t)(to + k) & (sizeof(VEC) - 1)); k++)
            to[k] = from[k];
        for (; k + LANES <= band->count; k += LANES)
            STREAM(to + k, LOAD(from + k));
    } else {
        for (; k + LANES <= band->count; k += LANES)
            STORE(to + k, LOAD(from + k));
    }
    for (; k < band->count; k++)
        to[k] = from[k];
    band->count = 0;
}

/* Where `width` numbers of a row go first; `to` is where they are for good. */
INLINE REAL *NAME(next_row)(NAME(band) *band, REAL *to, ptrdiff_t width)
{
    if (band->count && (band->count + width > BAND || band->to + band->count != to))
        NAME(write_band)(band);
    if (!band->count)
        band->to = to;
    band->count += width;
    return band->numbers + band->count - width;
}

/* ---- max -------------------------------------------------------------------------------------------------------- */

/* The best of the taps of one row, and which it is. */
INLINE void NAME(best_of_row)(const REAL *phases, const row_plan *plan, const REAL *first, ptrdiff_t kernel, REAL *best,
                              REAL *at)
{
    for (ptrdiff_t q = 0; q < plan->width; q += LANES) {
        VEC value = SPLAT(-(REAL)INFINITY), tap = LOAD(first + q);
        for (ptrdiff_t j = 0; j < kernel; j++)
            TAKE_BETTER(value, tap, LOAD(phases + plan->offsets[j] + q), SPLAT((REAL)j));
        STORE(best + q, value);
        STORE(at + q, tap);
    }
}

INLINE void NAME(store_taps)(uint8_t *to, VEC taps, ptrdiff_t count)
{
    REAL lane[LANES];
    uint8_t bytes[LANES];
    STORE(lane, taps);
    for (int l = 0; l < LANES; l++) /* always all: the compiler makes vectors of it */
        bytes[l] = (uint8_t)(int)lane[l];
    memcpy(to, bytes, (size_t)xpc_min(count, LANES));
}

TARGET static void NAME(max_pool_planes)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out, *argmax = &job->argmax;
    const row_plan *plan = &job->plan;
    xpc_axis v = job->vertical, h = job->horizontal;
    ptrdiff_t height = x->shape[2], out_w = y->shape[3], held = HELD / plan->width;
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1], reach = (v.kernel - 1) * v.dilation;
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    char *to_index = argmax->data + n * argmax->strides[0] + c * argmax->strides[1];
    REAL phases[PHASES], best[HELD], at[HELD], first[LINE];

    NAME(fill)(phases, h.stride * plan->pitch, -(REAL)INFINITY);
    NAME(fill)(first, plan->width, 0);
    for (ptrdiff_t q = 0; q < plan->first; q++)
        first[q] = (REAL)taps_between(h, q, 0, x->shape[3]).begin;
    while (row_begin < row_end) {
        /* as many outputs as the rows of the image are held for, from `low` on */
        ptrdiff_t low = xpc_min(xpc_max(row_begin * v.stride - v.pad, 0), height - 1);
        ptrdiff_t end = (held - 1 + low + v.pad - reach) / v.stride + 1;
        end = xpc_min(xpc_max(end, row_begin + 1), row_end);
        ptrdiff_t high = xpc_min((end - 1) * v.stride - v.pad + reach, height - 1);
        for (ptrdiff_t row = low; row <= high; row++) {
            REAL *values = best + (row - low) * plan->width, *taps = at + (row - low) * plan->width;
            NAME(split_row)((const REAL *)(from + row * x->strides[2]), x->shape[3], h.pad, h.stride, phases,
                            plan->pitch);
            if (h.kernel == 2)
                NAME(best_of_row)(phases, plan, first, 2, values, taps);
            else if (h.kernel == 3)
                NAME(best_of_row)(phases, plan, first, 3, values, taps);
            else
                NAME(best_of_row)(phases, plan, first, h.kernel, values, taps);
        }
        for (ptrdiff_t p = row_begin; p < end; p++) {
            xpc_range rows = taps_between(v, p, 0, height);
            ptrdiff_t start = (p * v.stride - v.pad + rows.begin * v.dilation - low) * plan->width;
            ptrdiff_t step = v.dilation * plan->width;
            REAL *out = (REAL *)(to + p * y->strides[2]);
            uint8_t *index = (uint8_t *)(to_index + p * argmax->strides[2]);
            for (ptrdiff_t q = 0; q < out_w; q += LANES) {
                VEC value = SPLAT(-(REAL)INFINITY), tap = LOAD(first + q);
                if (rows.begin < rows.end) {
                    value = LOAD(best + start + q);
                    tap = LOAD(at + start + q);
                }
                tap += SPLAT((REAL)(rows.begin * h.kernel));
                for (ptrdiff_t i = rows.begin + 1, k = start + step + q; i < rows.end; i++, k += step) {
                    VEC shifted = LOAD(at + k) + SPLAT((REAL)(i * h.kernel));
                    TAKE_BETTER(value, tap, LOAD(best + k), shifted);
                }
                if (q + LANES <= out_w)
                    STORE(out + q, value);
                else
                    STORE_FIRST(out + q, FIRST(out_w - q), value);
                NAME(store_taps)(index + q, tap, out_w - q);
            }
        }
        row_begin = end;
    }
}

/* ---- average ---------------------------------------------------------------------------------------------------- */

/* How many tap columns of each output count; 1 behind the last. */
INLINE void NAME(count_taps)(REAL *counts, const row_plan *plan, xpc_axis horizontal, xpc_range counted, ptrdiff_t out_w)
{
    for (ptrdiff_t q = 0; q < out_w; q++) {
        xpc_range taps = taps_between(horizontal, q, counted.begin, counted.end);
        counts[q] = (REAL)(taps.end - taps.begin);
    }
    NAME(fill)(counts + out_w, plan->width - out_w, 1);
}

INLINE void NAME(sum_of_row)(const REAL *phases, const row_plan *plan, ptrdiff_t kernel, REAL *sums)
{
    for (ptrdiff_t q = 0; q < plan->width; q += LANES) {
        VEC sum = LOAD(phases + plan->offsets[0] + q);
        for (ptrdiff_t j = 1; j < kernel; j++)
            sum += LOAD(phases + plan->offsets[j] + q);
        STORE(sums + q, sum);
    }
}

TARGET static void NAME(avg_pool_planes)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    const row_plan *plan = &job->plan;
    xpc_axis v = job->vertical, h = job->horizontal;
    ptrdiff_t height = x->shape[2], out_w = y->shape[3], held = HELD / plan->width;
    ptrdiff_t c = plane % x->shape[1], n = plane / x->shape[1], reach = (v.kernel - 1) * v.dilation;
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    REAL phases[PHASES], sums[HELD], counts[LINE];

    NAME(fill)(phases, h.stride * plan->pitch, 0);
    NAME(count_taps)(counts, plan, h, job->counted.horizontal, out_w);
    while (row_begin < row_end) {
        ptrdiff_t low = xpc_min(xpc_max(row_begin * v.stride - v.pad, 0), height - 1);
        ptrdiff_t end = (held - 1 + low + v.pad - reach) / v.stride + 1;
        end = xpc_min(xpc_max(end, row_begin + 1), row_end);
        ptrdiff_t high = xpc_min((end - 1) * v.stride - v.pad + reach, height - 1);
        for (ptrdiff_t row = low; row <= high; row++) {
            NAME(split_row)((const REAL *)(from + row * x->strides[2]), x->shape[3], h.pad, h.stride, phases,
                            plan->pitch);
            if (h.kernel == 2)
                NAME(sum_of_row)(phases, plan, 2, sums + (row - low) * plan->width);
            else if (h.kernel == 3)
                NAME(sum_of_row)(phases, plan, 3, sums + (row - low) * plan->width);
            else
                NAME(sum_of_row)(phases, plan, h.kernel, sums + (row - low) * plan->width);
        }
        for (ptrdiff_t p = row_begin; p < end; p++) {
            xpc_range rows = taps_between(v, p, 0, height);
            ptrdiff_t start = (p * v.stride - v.pad + rows.begin * v.dilation - low) * plan->width;
            ptrdiff_t step = v.dilation * plan->width;
            REAL *out = (REAL *)(to + p * y->strides[2]), count = NAME(count_rows)(job, p);
            for (ptrdiff_t q = 0; q < out_w; q += LANES) {
                VEC sum = SPLAT(0);
                for (ptrdiff_t i = rows.begin, k = start + q; i < rows.end; i++, k += step)
                    sum += LOAD(sums + k);
                sum = sum / (LOAD(counts + q) * SPLAT(count));
                if (q + LANES <= out_w)
                    STORE(out + q, sum);
                else
                    STORE_FIRST(out + q, FIRST(out_w - q), sum);
            }
        }
        row_begin = end;
    }
}

/* ---- the way back ---------------------------------------------------------------------------------------------- */

/* Whether what argmax has for output rows [begin, end) are taps inside the image. */
INLINE int NAME(are_taps)(const NAME(pool_job) *job, const char *from, ptrdiff_t begin, ptrdiff_t end)
{
    const row_plan *plan = &job->plan;
    xpc_axis v = job->vertical, h = job->horizontal;
    ptrdiff_t out_w = job->out.shape[3], step = job->argmax.strides[2];
    int good = 1;
    uint8_t worst = 0;
    if (step == out_w) {
        const uint8_t *index = (const uint8_t *)(from + begin * step);
        for (ptrdiff_t k = 0; k < (end - begin) * out_w; k++)
            worst = index[k] > worst ? index[k] : worst;
    } else {
        for (ptrdiff_t p = begin; p < end; p++)
            for (ptrdiff_t q = 0; q < out_w; q++) {
                uint8_t tap = ((const uint8_t *)(from + p * step))[q];
                worst = tap > worst ? tap : worst;
            }
    }
    for (ptrdiff_t p = begin; p < end; p++) {
        const uint8_t *index = (const uint8_t *)(from + p * step);
        xpc_range rows = taps_between(v, p, 0, job->image.shape[2]);
        if (rows.end - rows.begin < v.kernel)
            for (ptrdiff_t q = 0; q < out_w; q++)
                good &= index[q] >= rows.begin * h.kernel && index[q] < rows.end * h.kernel;
        for (ptrdiff_t q = 0; q < out_w; q++) { /* those whose columns of taps are clipped */
            if (q == plan->first)
                q = plan->last;
            if (q >= out_w)
                break;
            xpc_range columns = taps_between(h, q, 0, job->image.shape[3]);
            ptrdiff_t j = index[q] % h.kernel;
            good &= j >= columns.begin && j < columns.end;
        }
    }
    return good && worst < v.kernel * h.kernel;
}

/* Rows of outputs that give to one row of the image: their gradients, the number of the first tap of theirs that is
 * there, and their argmax. */
typedef struct {
    ptrdiff_t count;
    const REAL *gradients[MOST_TAPS], *taps[MOST_TAPS];
    REAL first[MOST_TAPS];
} NAME(givers);

/* Entries k, k + 1, ... of a phase, from taps [begin, end) of the order. */
INLINE VEC NAME(gather)(const NAME(givers) *givers, const row_plan *plan, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t k,
                        int is_max)
{
    VEC sum = SPLAT(0);
    for (ptrdiff_t g = 0; g < givers->count; g++)
        for (ptrdiff_t t = begin; t < end; t++) {
            VEC gradient = LOAD(givers->gradients[g] + k - plan->back[t]);
            if (is_max)
                gradient = WHERE_EQUAL(LOAD(givers->taps[g] + k - plan->back[t]),
                                       SPLAT(givers->first[g] + (REAL)plan->order[t]), gradient);
            sum += gradient;
        }
    return sum;
}

/* One row of dx. */
INLINE void NAME(gather_row)(REAL *to, ptrdiff_t width, ptrdiff_t pad, ptrdiff_t stride, const NAME(givers) *givers,
                             const row_plan *plan, int is_max)
{
    const ptrdiff_t *starts = plan->starts;
    ptrdiff_t k = 0;
    if (stride == 1) {
        for (; k + LANES <= width; k += LANES)
            STORE(to + k, NAME(gather)(givers, plan, starts[0], starts[1], pad + k, is_max));
        if (k < width)
            STORE_FIRST(to + k, FIRST(width - k), NAME(gather)(givers, plan, starts[0], starts[1], pad + k, is_max));
#ifdef XPC_HAS_VECTORS
    } else if (stride == 2) {
        ptrdiff_t one = pad % 2, other = 1 - one;
        for (; k < width; k += 2 * LANES) {
            VEC a = NAME(gather)(givers, plan, starts[one], starts[one + 1], (pad + k) / 2, is_max);
            VEC b = NAME(gather)(givers, plan, starts[other], starts[other + 1], (pad + 1 + k) / 2, is_max);
            VEC low = ZIP_LOW(a, b), high = ZIP_HIGH(a, b);
            if (k + 2 * LANES <= width) {
                STORE(to + k, low);
                STORE(to + k + LANES, high);
            } else if (k + LANES <= width) {
                STORE(to + k, low);
                STORE_FIRST(to + k + LANES, FIRST(width - k - LANES), high);
            } else {
                STORE_FIRST(to + k, FIRST(width - k), low);
            }
        }
#endif
    } else {
        REAL lane[LANES];
        for (ptrdiff_t phase = 0; phase < stride; phase++) {
            /* the pixels at entries `at`, at + 1, ... of the phase are `first`, first + stride, ... */
            ptrdiff_t at = pad / stride + (phase < pad % stride), first = at * stride + phase - pad;
            for (; first < width; at += LANES, first += LANES * stride) {
                STORE(lane, NAME(gather)(givers, plan, starts[phase], starts[phase + 1], at, is_max));
                for (ptrdiff_t l = 0; l < LANES && first + l * stride < width; l++)
                    to[first + l * stride] = lane[l];
            }
        }
    }
}

/* Rows of dx from the gradients of the maxima, or of the means. */
INLINE void NAME(give_back)(const NAME(pool_job) *job, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end,
                            int is_max)
{
    const xpc_array4 *dx = &job->image, *dy = &job->out, *argmax = &job->argmax;
    const row_plan *plan = &job->plan;
    xpc_axis v = job->vertical, h = job->horizontal;
    ptrdiff_t width = dx->shape[3], out_h = dy->shape[2], out_w = dy->shape[3], pitch = plan->held_pitch;
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1], reach = (v.kernel - 1) * v.dilation;
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];
    const char *from_index = is_max ? argmax->data + n * argmax->strides[0] + c * argmax->strides[1] : NULL;
    REAL gradients[HELD], taps[HELD], counts[LINE];
    NAME(band) band;
    NAME(givers) givers;
    /* output rows [begin, end) touch the row, rows [low, high) are held */
    xpc_range touching = outputs_touching(v, row_begin, row_begin + 1, out_h);
    ptrdiff_t begin = touching.begin, end = touching.end, low = 0, high = 0, held = HELD / pitch;

    band.count = 0, band.stream = job->stream;
    xpc_range all = outputs_touching(v, row_begin, row_end, out_h);
    held = xpc_min(held, all.end - all.begin);
    NAME(fill)(gradients, held * pitch, 0);
    if (is_max) {
        if (!NAME(are_taps)(job, from_index, all.begin, all.end))
            *job->bad_index = 1;
        NAME(fill)(taps, held * pitch, 0);
    } else {
        NAME(count_taps)(counts, plan, h, job->counted.horizontal, out_w);
    }
    for (ptrdiff_t row = row_begin; row < row_end; row++) {
        while (begin < out_h && begin * v.stride - v.pad + reach < row)
            begin++;
        while (end < out_h && end * v.stride - v.pad <= row)
            end++;
        if (end > high) {
            low = begin, high = xpc_min(low + held, out_h);
            for (ptrdiff_t p = low; p < high; p++) {
                const REAL *gradient = (const REAL *)(from + p * dy->strides[2]);
                REAL *target = gradients + (p - low) * pitch + plan->margin;
                REAL *restrict chosen = taps + (p - low) * pitch + plan->margin;
                VEC count = is_max ? SPLAT(1) : SPLAT(NAME(count_rows)(job, p));
                for (ptrdiff_t q = 0; q < out_w; q += LANES) {
                    VEC g = q + LANES <= out_w ? LOAD(gradient + q) : LOAD_FIRST(FIRST(out_w - q), gradient + q);
                    STORE(target + q, is_max ? g : (VEC)(g / (LOAD(counts + q) * count)));
                }
                if (is_max) {
                    const uint8_t *restrict index = (const uint8_t *)(from_index + p * argmax->strides[2]);
                    for (ptrdiff_t q = 0; q < out_w; q += LANES) {
                        uint8_t bytes[LANES] = {0};
                        memcpy(bytes, index + q, (size_t)xpc_min(out_w - q, LANES));
                        for (int l = 0; l < LANES; l++)
                            chosen[q + l] = (REAL)(int)bytes[l];
                    }
                }
            }
        }
        givers.count = 0;
        for (ptrdiff_t p = begin; p < end; p++) {
            ptrdiff_t i = row + v.pad - p * v.stride;
            if (v.dilation > 1) {
                if (i % v.dilation)
                    continue;
                i /= v.dilation;
            }
            givers.gradients[givers.count] = gradients + (p - low) * pitch + plan->margin;
            givers.taps[givers.count] = taps + (p - low) * pitch + plan->margin;
            givers.first[givers.count++] = (REAL)(i * h.kernel);
        }
        REAL *out = NAME(next_row)(&band, (REAL *)(to + row * dx->strides[2]), width);
        NAME(gather_row)(out, width, h.pad, h.stride, &givers, plan, is_max);
    }
    if (band.count)
        NAME(write_band)(&band);
}

TARGET static void NAME(max_pool_backward_planes)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                                  ptrdiff_t row_end)
{
    NAME(give_back)(argument, plane, row_begin, row_end, 1);
}

TARGET static void NAME(avg_pool_backward_planes)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                                  ptrdiff_t row_end)
{
    NAME(give_back)(argument, plane, row_begin, row_end, 0);
}

/* ---- adaptive average ------------------------------------------------------------------------------------------- */

/* A row of bins as a row of pixels: each gets its share of the bins that it is in. */
INLINE void NAME(spread_bins)(REAL *to, ptrdiff_t width, const char *dy, ptrdiff_t step, ptrdiff_t out_w,
                              const xpc_range *columns, ptrdiff_t rows)
{
    NAME(fill)(to, width, 0);
    for (ptrdiff_t q = 0; q < out_w; q++) {
        REAL share = *(const REAL *)(dy + q * step) / ((REAL)rows * (REAL)(columns[q].end - columns[q].begin));
        for (ptrdiff_t w = columns[q].begin; w < columns[q].end; w++)
            to[w] += share;
    }
}

TARGET static void NAME(adaptive_backward_planes)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                                  ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    ptrdiff_t height = dx->shape[2], width = dx->shape[3], out_h = dy->shape[2], out_w = dy->shape[3];
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1];
    ptrdiff_t pitch = (width + LANES - 1) / LANES * LANES, held = HELD / pitch, low = 0, high = 0;
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];
    REAL shares[HELD]; /* of bins [low, high), as rows of pixels */
    xpc_range columns[CHUNK];
    NAME(band) band;

    band.count = 0, band.stream = job->stream;
    for (ptrdiff_t q = 0; q < out_w; q++)
        columns[q] = bin(q, out_w, width);
    for (ptrdiff_t row = row_begin; row < row_end; row++) {
        xpc_range bins = bins_of(row, out_h, height);
        if (bins.end > high) {
            low = bins.begin, high = xpc_min(low + held, out_h);
            for (ptrdiff_t p = low; p < high; p++) {
                xpc_range rows = bin(p, out_h, height);
                NAME(spread_bins)(shares + (p - low) * pitch, width, from + p * dy->strides[2], dy->strides[3], out_w,
                                  columns, rows.end - rows.begin);
            }
        }
        REAL *out = NAME(next_row)(&band, (REAL *)(to + row * dx->strides[2]), width);
        for (ptrdiff_t k = 0; k < width; k += LANES) {
            VEC sum = SPLAT(0);
            for (ptrdiff_t p = bins.begin - low; p < bins.end - low; p++)
                sum += LOAD(shares + p * pitch + k);
            if (k + LANES <= width)
                STORE(out + k, sum);
            else
                STORE_FIRST(out + k, FIRST(width - k), sum);
        }
    }
    if (band.count)
        NAME(write_band)(&band);
}

/* ---- means of whole planes, whose rows follow each other ---------------------------------------------------------- */

TARGET static void NAME(plane_means)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out;
    ptrdiff_t count = x->shape[2] * x->shape[3], c = begin % x->shape[1], n = begin / x->shape[1];
    (void)slot;
    for (; begin < end; begin++) {
        const char *from = x->data + n * x->strides[0] + c * x->strides[1];
        wide sum = NAME(sum_run)(from, sizeof(REAL), count);
        *(REAL *)(y->data + n * y->strides[0] + c * y->strides[1]) = (REAL)(sum / (wide)count);
        if (++c == x->shape[1])
            c = 0, n++;
    }
}

TARGET static void NAME(fill_planes)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out;
    ptrdiff_t count = dx->shape[2] * dx->shape[3], c = begin % dx->shape[1], n = begin / dx->shape[1];
    (void)slot;
    for (; begin < end; begin++) {
        REAL *to = (REAL *)(dx->data + n * dx->strides[0] + c * dx->strides[1]);
        REAL share = *(const REAL *)(dy->data + n * dy->strides[0] + c * dy->strides[1]) / (REAL)count;
        VEC number = SPLAT(share);
        ptrdiff_t k = 0;
        if (job->stream) {
            for (; k < count && ((size_t)(to + k) & (sizeof(VEC) - 1)); k++)
                to[k] = share;
            for (; k + LANES <= count; k += LANES)
                STREAM(to + k, number);
        }
        for (; k + LANES <= count; k += LANES)
            STORE(to + k, number);
        if (k < count)
            STORE_FIRST(to + k, FIRST(count - k), number);
        if (++c == dx->shape[1])
            c = 0, n++;
    }
    FENCE();
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

/* Rows [begin, end), counted plane by plane; what went past the caches is waited for. */
TARGET static void NAME(run_planes)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(pool_job) *job = argument;
    (void)slot;
    while (begin < end) {
        ptrdiff_t plane = begin / job->rows, row = begin % job->rows, count = xpc_min(job->rows - row, end - begin);
        job->function(job, plane, row, row + count);
        begin += count;
    }
    FENCE();
}

/* Whether the result goes past the caches. */
static int NAME(streams)(const xpc_array4 *result)
{
    double numbers = (double)result->shape[0] * (double)result->shape[1] * (double)result->shape[2];
    return numbers * (double)result->shape[3] * sizeof(REAL) >= STREAMED_BYTES && (size_t)result->data % 64 == 0 &&
           rows_joined(result, sizeof(REAL));
}

/* Compute all rows of all planes of the result. */
static void NAME(go)(NAME(pool_job) *job, xpc_rows_fn function, const xpc_array4 *result, ptrdiff_t row_cost)
{
    ptrdiff_t planes = result->shape[0] * result->shape[1], items = planes * result->shape[2];
    job->function = function;
    job->rows = result->shape[2];
    job->stream = result == &job->image && NAME(streams)(result);
    xpc_parallel_items(NAME(run_planes), job, items, row_cost, xpc_slots(items, row_cost));
}
