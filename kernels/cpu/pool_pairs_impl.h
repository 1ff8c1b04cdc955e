/* Windows of 2 x 2 side by side, which most pooling is: planes as narrow as 5 x 5 take no more than their share of time.
 * A window that is there has all of its taps inside the image; included by pool_impl.h.
 *
 *     row 2p        a0 b0 a1 b1 a2 b2 ...        the lanes of one vector are the taps 0 (a) of neighbouring outputs, of
 *     row 2p + 1    c0 d0 c1 d1 c2 d2 ...        others the taps 1 (b), 2 (c) and 3 (d)
 */

#ifdef XPC_HAS_VECTORS

/* Whether windows are of that kind: the image may have a last row and column that are in none. */
static int NAME(are_pairs)(const xpc_array4 *image, const xpc_array4 *out, xpc_axis vertical, xpc_axis horizontal)
{
    const xpc_axis *axes[2] = {&vertical, &horizontal};
    for (int k = 0; k < 2; k++)
        if (axes[k]->kernel != 2 || axes[k]->stride != 2 || axes[k]->dilation != 1 || axes[k]->pad != 0 ||
            2 * out->shape[2 + k] > image->shape[2 + k])
            return 0;
    return image->strides[3] == sizeof(REAL) && out->strides[3] == sizeof(REAL);
}

/* 2 * count numbers, taken apart in those of even and of odd columns. */
INLINE void NAME(load_pairs)(const REAL *from, ptrdiff_t count, VEC *even, VEC *odd)
{
    VEC a, b;
    if (count >= LANES) {
        a = LOAD(from);
        b = LOAD(from + LANES);
    } else {
        ptrdiff_t first = xpc_min(2 * count, LANES), rest = 2 * count - first;
        a = LOAD_FIRST(FIRST(first), from);
        b = rest ? LOAD_FIRST(FIRST(rest), from + LANES) : SPLAT(0);
    }
    *even = EVEN(a, b);
    *odd = ODD(a, b);
}

INLINE void NAME(store_pairs)(REAL *to, ptrdiff_t count, VEC even, VEC odd)
{
    VEC a = ZIP_LOW(even, odd), b = ZIP_HIGH(even, odd);
    if (count >= LANES) {
        STORE(to, a);
        STORE(to + LANES, b);
    } else {
        ptrdiff_t first = xpc_min(2 * count, LANES), rest = 2 * count - first;
        STORE_FIRST(to, FIRST(first), a);
        if (rest)
            STORE_FIRST(to + LANES, FIRST(rest), b);
    }
}

TARGET static void NAME(max_pool_pairs)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *x = &job->image, *y = &job->out, *argmax = &job->argmax;
    ptrdiff_t out_w = y->shape[3], c = plane % x->shape[1], n = plane / x->shape[1];
    const char *from = x->data + n * x->strides[0] + c * x->strides[1];
    char *to = y->data + n * y->strides[0] + c * y->strides[1];
    char *to_index = argmax->data + n * argmax->strides[0] + c * argmax->strides[1];
    int joined = argmax->strides[2] == out_w;

    for (ptrdiff_t p = row_begin; p < row_end; p++) {
        const REAL *top = (const REAL *)(from + 2 * p * x->strides[2]);
        const REAL *bottom = (const REAL *)(from + (2 * p + 1) * x->strides[2]);
        REAL *out = (REAL *)(to + p * y->strides[2]);
        uint8_t *index = (uint8_t *)(to_index + p * argmax->strides[2]);
        for (ptrdiff_t q = 0; q < out_w; q += LANES) {
            ptrdiff_t count = xpc_min(out_w - q, LANES);
            VEC value, other, low, high, tap = SPLAT(0);
            NAME(load_pairs)(top + 2 * q, count, &value, &other);
            NAME(load_pairs)(bottom + 2 * q, count, &low, &high);
            TAKE_BETTER(value, tap, other, SPLAT(1));
            TAKE_BETTER(value, tap, low, SPLAT(2));
            TAKE_BETTER(value, tap, high, SPLAT(3));
            if (count == LANES)
                STORE(out + q, value);
            else
                STORE_FIRST(out + q, FIRST(count), value);
            /* lanes behind the row are overwritten by the next one, where that is written after it */
            int room = joined && (row_end - p) * out_w - q >= LANES;
            NAME(store_taps)(index + q, tap, room ? LANES : count);
        }
    }
}

TARGET static void NAME(max_pool_backward_pairs)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin,
                                                 ptrdiff_t row_end)
{
    const NAME(pool_job) *job = argument;
    const xpc_array4 *dx = &job->image, *dy = &job->out, *argmax = &job->argmax;
    ptrdiff_t width = dx->shape[3], out_h = dy->shape[2], out_w = dy->shape[3];
    ptrdiff_t c = plane % dx->shape[1], n = plane / dx->shape[1];
    char *to = dx->data + n * dx->strides[0] + c * dx->strides[1];
    const char *from = dy->data + n * dy->strides[0] + c * dy->strides[1];
    const char *from_index = argmax->data + n * argmax->strides[0] + c * argmax->strides[1];
    int joined = argmax->strides[2] == out_w;
    uint8_t worst[LANES] = {0};
    NAME(band) band;

    band.count = 0, band.stream = 1;
    for (ptrdiff_t row = row_begin; row < row_end; row++) {
        ptrdiff_t p = row / 2;
        REAL *out = (REAL *)(to + row * dx->strides[2]);
        if (job->stream)
            out = NAME(next_row)(&band, out, width);
        if (p >= out_h) {
            NAME(fill)(out, width, 0);
            continue;
        }
        const REAL *gradient = (const REAL *)(from + p * dy->strides[2]);
        const uint8_t *index = (const uint8_t *)(from_index + p * argmax->strides[2]);
        VEC left = SPLAT((REAL)(row % 2 * 2)), right = SPLAT((REAL)(row % 2 * 2 + 1));
        for (ptrdiff_t q = 0; q < out_w; q += LANES) {
            ptrdiff_t count = xpc_min(out_w - q, LANES);
            REAL lane[LANES];
            uint8_t bytes[LANES] = {0};
            memcpy(bytes, index + q, joined && (out_h - p) * out_w - q >= LANES ? LANES : (size_t)count);
            for (int l = 0; l < LANES; l++) {
                worst[l] = bytes[l] > worst[l] ? bytes[l] : worst[l];
                lane[l] = (REAL)(int)bytes[l];
            }
            VEC tap = LOAD(lane), g = count == LANES ? LOAD(gradient + q) : LOAD_FIRST(FIRST(count), gradient + q);
            NAME(store_pairs)(out + 2 * q, count, WHERE_EQUAL(tap, left, g), WHERE_EQUAL(tap, right, g));
        }
        NAME(fill)(out + 2 * out_w, width - 2 * out_w, 0);
    }
    if (band.count)
        NAME(write_band)(&band);
    for (int l = 0; l < LANES; l++)
        if (worst[l] > 3)
            *job->bad_index = 1;
}

#endif
