/* Rows of an image and of its phases; included after simd.h, once for each type and instruction set. */
#include "stream_impl.h"

/* Whether each vector of a result's rows is a line to be written past the caches: they take few operations, so that
 * nothing is gained where the next reader finds them in a third-level cache. */
static int NAME(is_in_lines)(const xpc_array4 *y)
{
    ptrdiff_t numbers = y->shape[0] * y->shape[1] * y->shape[2] * y->shape[3];
    return LANES * sizeof(REAL) == LINE && y->shape[3] % LANES == 0 && y->strides[0] % LINE == 0 &&
           y->strides[1] % LINE == 0 && NAME(is_streamed)((const REAL *)y->data, numbers / 8);
}

/* What the pixels of a row are to its horizontal phases. */
typedef struct {
    ptrdiff_t known;   /* pixels that a window reaches, the first of the row */
    ptrdiff_t whole;   /* of those, how many are in whole vectors of each phase; for strides of 1 and 2 */
    MASK first, second; /* the rest, of one vector for each phase */
} NAME(pixels);

INLINE NAME(pixels) NAME(pixels_of)(xpc_axis axis, ptrdiff_t width, ptrdiff_t pitch)
{
    ptrdiff_t known = xpc_max(xpc_min(width, axis.stride * pitch - axis.pad), 0), step = axis.stride * LANES;
    ptrdiff_t rest = known % step;
    return (NAME(pixels)){known, known - rest, FIRST((int)xpc_min(rest, LANES)), FIRST((int)xpc_max(rest - LANES, 0))};
}

/* One row of the image into its horizontal phases, `plane` numbers apart. Zeros before the pixels and behind are there
 * already; up to a vector of zeros is written behind a row, where the next one is yet to come. */
INLINE void NAME(split_row)(xpc_axis axis, const NAME(pixels) *row, const REAL *from, REAL *to, ptrdiff_t plane)
{
    ptrdiff_t stride = axis.stride;
    if (stride == 1) {
        to += axis.pad;
        for (ptrdiff_t q = 0; q < row->whole; q += LANES)
            STORE(to + q, LOAD(from + q));
        STORE(to + row->whole, LOAD_FIRST(row->first, from + row->whole));
    } else if (stride == 2) {
        REAL *even = to + axis.pad % 2 * plane + axis.pad / 2;
        REAL *odd = to + (axis.pad + 1) % 2 * plane + (axis.pad + 1) / 2;
        for (ptrdiff_t q = 0; q < row->whole; q += 2 * LANES) {
            VEC a = LOAD(from + q), b = LOAD(from + q + LANES);
            STORE(even + q / 2, EVEN(a, b));
            STORE(odd + q / 2, ODD(a, b));
        }
        from += row->whole;
        VEC a = LOAD_FIRST(row->first, from), b = LOAD_FIRST(row->second, from + LANES);
        STORE(even + row->whole / 2, EVEN(a, b));
        STORE(odd + row->whole / 2, ODD(a, b));
    } else {
        for (ptrdiff_t b = 0; b < xpc_min(stride, row->known); b++) {
            REAL *target = to + (b + axis.pad) % stride * plane + (b + axis.pad) / stride;
            for (ptrdiff_t q = b; q < row->known; q += stride)
                *target++ = from[q];
        }
    }
}

/* A row of an image from its horizontal phases, `plane` numbers apart. */
INLINE void NAME(join_row)(xpc_axis axis, const NAME(pixels) *row, const REAL *from, ptrdiff_t plane, REAL *to,
                           ptrdiff_t width)
{
    ptrdiff_t stride = axis.stride;
    if (stride == 1) {
        from += axis.pad;
        for (ptrdiff_t q = 0; q < row->whole; q += LANES)
            STORE(to + q, LOAD(from + q));
        STORE_FIRST(to + row->whole, row->first, LOAD(from + row->whole));
    } else if (stride == 2) {
        const REAL *even = from + axis.pad % 2 * plane + axis.pad / 2;
        const REAL *odd = from + (axis.pad + 1) % 2 * plane + (axis.pad + 1) / 2;
        for (ptrdiff_t q = 0; q < row->whole; q += 2 * LANES) {
            VEC a = LOAD(even + q / 2), b = LOAD(odd + q / 2);
            STORE(to + q, ZIP_LOW(a, b));
            STORE(to + q + LANES, ZIP_HIGH(a, b));
        }
        VEC a = LOAD(even + row->whole / 2), b = LOAD(odd + row->whole / 2);
        STORE_FIRST(to + row->whole, row->first, ZIP_LOW(a, b));
        STORE_FIRST(to + row->whole + LANES, row->second, ZIP_HIGH(a, b));
    } else {
        for (ptrdiff_t b = 0; b < xpc_min(stride, row->known); b++) {
            const REAL *source = from + (b + axis.pad) % stride * plane + (b + axis.pad) / stride;
            for (ptrdiff_t q = b; q < row->known; q += stride)
                to[q] = *source++;
        }
    }
    for (ptrdiff_t q = row->known; q < width; q++) /* no window reaches them */
        to[q] = 0;
}
