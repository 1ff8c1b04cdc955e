/* Included by direct.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"

/* Tiles that fill the registers: accumulators, what is loaded along, and one number in all lanes. */
#if REGISTERS >= 32
enum { NAME(MR) = 8, NAME(DOT_FILTERS) = 6, NAME(DOT_TAPS) = 4 };
#else
enum { NAME(MR) = 4, NAME(DOT_FILTERS) = 4, NAME(DOT_TAPS) = 2 };
#endif
enum { NAME(NV) = 3 }; /* `rows` knows this number */

/* ---- an image and its phases ------------------------------------------------------------------------------------ */

/* One row of the image into its horizontal phases, `plane` numbers apart, zeros around the pixels. */
INLINE void NAME(split_row)(const char *from, ptrdiff_t step, const phase *columns, ptrdiff_t phases, REAL *to,
                            ptrdiff_t plane, ptrdiff_t pitch)
{
    ptrdiff_t stride = phases * step;
    for (ptrdiff_t b = 0; b < phases; b++, to += plane) {
        phase entries = columns[b];
        if (!entries.is_read)
            continue;
        ptrdiff_t begin = xpc_min(entries.begin, pitch), behind = begin + entries.known;
        const char *source = from + (entries.begin * phases + entries.offset) * step;
        REAL *restrict target = to + begin;
        for (ptrdiff_t q = 0; q < begin; q++)
            to[q] = 0;
        if (stride == sizeof(REAL))
            memcpy(target, source, (size_t)entries.known * sizeof(REAL));
        else if (stride == 2 * sizeof(REAL))
            for (ptrdiff_t q = 0; q < entries.known; q++)
                target[q] = ((const REAL *)source)[2 * q];
        else
            for (ptrdiff_t q = 0; q < entries.known; q++)
                target[q] = *(const REAL *)(source + q * stride);
        for (ptrdiff_t q = behind; q < pitch; q++)
            to[q] = 0;
    }
}

/* Image n of x into its phases, zeros around it. */
TARGET static void NAME(split)(const xpc_direct *conv, const layout *plan, const phase *columns, const xpc_array4 *x,
                               ptrdiff_t n, REAL *phases)
{
    xpc_axis v = conv->vertical;
    ptrdiff_t plane = plan->rows * plan->pitch, across = conv->horizontal.stride;
    for (ptrdiff_t c = 0; c < conv->channels; c++) {
        const char *channel = x->data + n * x->strides[0] + c * x->strides[1];
        for (ptrdiff_t a = 0; a < v.stride; a++, phases += across * plane) {
            if (!is_read(v, a))
                continue;
            for (ptrdiff_t r = 0; r < plan->rows; r++) {
                ptrdiff_t row = r * v.stride + a - v.pad;
                REAL *to = phases + r * plan->pitch;
                if (row >= 0 && row < conv->height)
                    NAME(split_row)(channel + row * x->strides[2], x->strides[3], columns, across, to, plane,
                                    plan->pitch);
                else
                    for (ptrdiff_t b = 0; b < across; b++)
                        memset(to + b * plane, 0, (size_t)plan->pitch * sizeof(REAL));
            }
        }
    }
}

/* The phases back into image n of dx; pixels that no window reaches are zero. */
TARGET static void NAME(unsplit)(const xpc_direct *conv, const layout *plan, const phase *columns, const REAL *phases,
                                 const xpc_array4 *dx, ptrdiff_t n)
{
    xpc_axis v = conv->vertical;
    ptrdiff_t plane = plan->rows * plan->pitch, across = conv->horizontal.stride;
    ptrdiff_t step = dx->strides[3], stride = across * step;
    for (ptrdiff_t c = 0; c < conv->channels; c++, phases += v.stride * across * plane)
        for (ptrdiff_t row = 0; row < conv->height; row++) {
            char *to = dx->data + n * dx->strides[0] + c * dx->strides[1] + row * dx->strides[2];
            ptrdiff_t a = (row + v.pad) % v.stride, r = (row + v.pad) / v.stride;
            if (r >= plan->rows) {
                for (ptrdiff_t column = 0; column < conv->width; column++)
                    *(REAL *)(to + column * step) = 0;
                continue;
            }
            const REAL *from = phases + a * across * plane + r * plan->pitch;
            for (ptrdiff_t b = 0; b < across; b++, from += plane) {
                phase entries = columns[b];
                char *target = to + (entries.begin * across + entries.offset) * step;
                const REAL *restrict source = from + entries.begin;
                if (stride == sizeof(REAL))
                    memcpy(target, source, (size_t)entries.known * sizeof(REAL));
                else if (stride == 2 * sizeof(REAL))
                    for (ptrdiff_t q = 0; q < entries.known; q++)
                        ((REAL *)target)[2 * q] = source[q];
                else
                    for (ptrdiff_t q = 0; q < entries.known; q++)
                        *(REAL *)(target + q * stride) = source[q];
                target += entries.known * stride;
                for (ptrdiff_t q = 0; q < entries.beyond; q++)
                    *(REAL *)(target + q * stride) = 0;
            }
        }
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

/* y[m, q] = b[m] + sum over k of w[k, m] * x[tab[k] + q], for mr rows m and nv vectors of q, of the last of which only
 * some lanes count. w is packed, mr numbers for each k. */
INLINE void NAME(tile)(const int mr, const int nv, const REAL *w, const REAL *b, const ptrdiff_t *tab, ptrdiff_t taps,
                       const REAL *x, MASK last, REAL *y, ptrdiff_t y_step)
{
    VEC sums[NAME(MR)][NAME(NV)];
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nv; j++)
            sums[m][j] = SPLAT(b ? b[m] : (REAL)0);
    for (ptrdiff_t k = 0; k < taps; k++, w += mr) {
        const REAL *from = x + tab[k];
        VEC pixels[NAME(NV)];
        for (int j = 0; j < nv - 1; j++)
            pixels[j] = LOAD(from + j * LANES);
        pixels[nv - 1] = LOAD_FIRST(last, from + (nv - 1) * LANES);
        for (int m = 0; m < mr; m++) {
            VEC weight = SPLAT(w[m]);
            for (int j = 0; j < nv; j++)
                sums[m][j] = FMA(weight, pixels[j], sums[m][j]);
        }
    }
    for (int m = 0; m < mr; m++, y += y_step) {
        for (int j = 0; j < nv - 1; j++)
            STORE(y + j * LANES, sums[m][j]);
        STORE_FIRST(y + (nv - 1) * LANES, last, sums[m][nv - 1]);
    }
}

/* dx[tab[m] + q] += sum over f of w[f, m] * dy[f, q]: the same with filters for taps and taps for filters. */
INLINE void NAME(back_tile)(const int mr, const int nv, const REAL *w, ptrdiff_t filters, const REAL *dy,
                            ptrdiff_t dy_step, MASK last, const ptrdiff_t *tab, REAL *dx)
{
    VEC sums[NAME(MR)][NAME(NV)];
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nv; j++)
            sums[m][j] = SPLAT((REAL)0);
    for (ptrdiff_t f = 0; f < filters; f++, w += mr, dy += dy_step) {
        VEC pixels[NAME(NV)];
        for (int j = 0; j < nv - 1; j++)
            pixels[j] = LOAD(dy + j * LANES);
        pixels[nv - 1] = LOAD_FIRST(last, dy + (nv - 1) * LANES);
        for (int m = 0; m < mr; m++) {
            VEC weight = SPLAT(w[m]);
            for (int j = 0; j < nv; j++)
                sums[m][j] = FMA(weight, pixels[j], sums[m][j]);
        }
    }
    for (int m = 0; m < mr; m++) {
        REAL *to = dx + tab[m];
        for (int j = 0; j < nv - 1; j++)
            STORE(to + j * LANES, LOAD(to + j * LANES) + sums[m][j]);
        to += (nv - 1) * LANES;
        STORE_FIRST(to, last, LOAD_FIRST(last, to) + sums[m][nv - 1]);
    }
}

/* sums[f, k] += dy[f, pixels] * x[tab[k] + pixels], lane by lane, over all pixels of one image. */
INLINE void NAME(dot_tile)(const int filters, const int taps, const xpc_direct *conv, ptrdiff_t pitch,
                           const REAL *dy, ptrdiff_t dy_step, ptrdiff_t dy_row, const REAL *x, const ptrdiff_t *tab,
                           REAL *sums, ptrdiff_t sums_step)
{
    VEC acc[NAME(DOT_FILTERS)][NAME(DOT_TAPS)];
    for (int f = 0; f < filters; f++)
        for (int k = 0; k < taps; k++)
            acc[f][k] = LOAD(sums + f * sums_step + k * LANES);
    ptrdiff_t whole = conv->out_w / LANES * LANES;
    for (ptrdiff_t p = 0; p < conv->out_h; p++)
        for (ptrdiff_t q = 0; q < whole; q += LANES) {
            const REAL *gradients = dy + p * dy_row + q, *pixels = x + p * pitch + q;
            VEC seen[NAME(DOT_TAPS)];
            for (int k = 0; k < taps; k++)
                seen[k] = LOAD(pixels + tab[k]);
            for (int f = 0; f < filters; f++) {
                VEC gradient = LOAD(gradients + f * dy_step);
                for (int k = 0; k < taps; k++)
                    acc[f][k] = FMA(gradient, seen[k], acc[f][k]);
            }
        }
    /* The ends of the rows, in a loop of their own, which keeps the sums in registers in both. Lanes behind the row are
     * zero in both factors, so that no infinity next door becomes NaN. */
    MASK last = FIRST((int)(conv->out_w - whole));
    for (ptrdiff_t p = 0; whole < conv->out_w && p < conv->out_h; p++) {
        const REAL *gradients = dy + p * dy_row + whole, *pixels = x + p * pitch + whole;
        VEC seen[NAME(DOT_TAPS)];
        for (int k = 0; k < taps; k++)
            seen[k] = LOAD_FIRST(last, pixels + tab[k]);
        for (int f = 0; f < filters; f++) {
            VEC gradient = LOAD_FIRST(last, gradients + f * dy_step);
            for (int k = 0; k < taps; k++)
                acc[f][k] = FMA(gradient, seen[k], acc[f][k]);
        }
    }
    for (int f = 0; f < filters; f++)
        for (int k = 0; k < taps; k++)
            STORE(sums + f * sums_step + k * LANES, acc[f][k]);
}

/* ---- whole rows of tiles: the sizes of tiles become constants ----------------------------------------------------- */

/* How many filters, or taps, the next panel of those that are left takes: 8 where that fits, 4, 3, 2, 1. */
static int NAME(panel)(ptrdiff_t left)
{
    int size = NAME(MR);
    while (size > left)
        size = size == 4 ? 3 : size == 3 ? 2 : size / 2;
    return size;
}

/* How many filters the next row of dot products takes: 6 where that fits, 4, 2, 1. */
static int NAME(dot_filters)(ptrdiff_t left)
{
    int size = NAME(DOT_FILTERS);
    while (size > left)
        size = size == 6 ? 4 : size / 2;
    return size;
}

/* All output pixels of one panel of filters, or of one panel of taps backwards. */
INLINE void NAME(rows)(const int mr, const xpc_direct *conv, ptrdiff_t pitch, const REAL *w, const REAL *b,
                       const ptrdiff_t *tab, ptrdiff_t inner, REAL *image, REAL *y, ptrdiff_t y_step, ptrdiff_t y_row,
                       const int back)
{
    for (ptrdiff_t p = 0; p < conv->out_h; p++)
        for (ptrdiff_t q = 0; q < conv->out_w;) {
            ptrdiff_t left = conv->out_w - q;
            int vectors = left >= NAME(NV) * LANES ? NAME(NV) : (int)((left + LANES - 1) / LANES);
            MASK last = FIRST(left < vectors * LANES ? (int)(left - (vectors - 1) * LANES) : LANES);
            REAL *pixel = image + p * pitch + q, *out = y + p * y_row + q;
#define XPC_TILE(nv) \
    if (back) \
        NAME(back_tile)(mr, nv, w, inner, out, y_step, last, tab, pixel); \
    else \
        NAME(tile)(mr, nv, w, b, tab, inner, pixel, last, out, y_step)
            if (vectors == 3) {
                XPC_TILE(3);
            } else if (vectors == 2) {
                XPC_TILE(2);
            } else {
                XPC_TILE(1);
            }
#undef XPC_TILE
            q += vectors * LANES;
        }
}

#define XPC_ROWS(name, back) \
    TARGET static void NAME(name)(int mr, const xpc_direct *conv, ptrdiff_t pitch, const REAL *w, const REAL *b, \
                                  const ptrdiff_t *tab, ptrdiff_t inner, REAL *image, REAL *y, ptrdiff_t y_step, \
                                  ptrdiff_t y_row) \
    { \
        if (mr == 8 && NAME(MR) == 8) \
            NAME(rows)(NAME(MR), conv, pitch, w, b, tab, inner, image, y, y_step, y_row, back); \
        else if (mr == 4) \
            NAME(rows)(4, conv, pitch, w, b, tab, inner, image, y, y_step, y_row, back); \
        else if (mr == 3) \
            NAME(rows)(3, conv, pitch, w, b, tab, inner, image, y, y_step, y_row, back); \
        else if (mr == 2) \
            NAME(rows)(2, conv, pitch, w, b, tab, inner, image, y, y_step, y_row, back); \
        else \
            NAME(rows)(1, conv, pitch, w, b, tab, inner, image, y, y_step, y_row, back); \
    }
XPC_ROWS(forward_rows, 0)
XPC_ROWS(backward_rows, 1)
#undef XPC_ROWS

TARGET static void NAME(dots)(int filters, int taps, const xpc_direct *conv, ptrdiff_t pitch, const REAL *dy,
                              ptrdiff_t dy_step, ptrdiff_t dy_row, const REAL *x, const ptrdiff_t *tab, REAL *sums,
                              ptrdiff_t sums_step)
{
#define XPC_DOT(f, k) \
    if (filters == f && taps == k) \
    NAME(dot_tile)(f, k, conv, pitch, dy, dy_step, dy_row, x, tab, sums, sums_step)
#define XPC_DOTS(k) \
    XPC_DOT(4, k); \
    XPC_DOT(2, k); \
    XPC_DOT(1, k)
#if REGISTERS >= 32
    XPC_DOT(6, 4);
    XPC_DOT(6, 3);
    XPC_DOT(6, 2);
    XPC_DOT(6, 1);
    XPC_DOTS(4);
    XPC_DOTS(3);
#endif
    XPC_DOTS(2);
    XPC_DOTS(1);
#undef XPC_DOTS
#undef XPC_DOT
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

TARGET static void NAME(forward)(const xpc_direct *conv, const xpc_array4 *x, const REAL *w, const REAL *b,
                                 const xpc_array4 *y, char *memory)
{
    layout plan = lay_out(conv, sizeof(REAL));
    ptrdiff_t *tab = (ptrdiff_t *)(memory + plan.tab);
    phase *columns = (phase *)(memory + plan.columns);
    REAL *image = (REAL *)(memory + plan.image), *packed = (REAL *)(memory + plan.weights);
    fill_tab(conv, &plan, tab);
    fill_columns(conv, &plan, columns);
    for (ptrdiff_t f = 0, size; f < conv->filters; f += size) {
        size = NAME(panel)(conv->filters - f);
        for (ptrdiff_t k = 0; k < plan.taps; k++)
            for (ptrdiff_t m = 0; m < size; m++)
                packed[f * plan.taps + k * size + m] = w[(f + m) * plan.taps + k];
    }
    ptrdiff_t step = y->strides[1] / (ptrdiff_t)sizeof(REAL), row = y->strides[2] / (ptrdiff_t)sizeof(REAL);
    for (ptrdiff_t n = 0; n < x->shape[0]; n++) {
        NAME(split)(conv, &plan, columns, x, n, image);
        REAL *out = (REAL *)(y->data + n * y->strides[0]);
        for (ptrdiff_t f = 0, size; f < conv->filters; f += size) {
            size = NAME(panel)(conv->filters - f);
            NAME(forward_rows)((int)size, conv, plan.pitch, packed + f * plan.taps, b ? b + f : NULL, tab, plan.taps,
                               image, out + f * step, step, row);
        }
    }
}

TARGET static void NAME(backward)(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const REAL *w,
                                  const xpc_array4 *dx, REAL *dw, REAL *db, char *memory)
{
    layout plan = lay_out(conv, sizeof(REAL));
    ptrdiff_t taps = plan.taps, filters = conv->filters, seen = taps + 1; /* the last tap sees ones: db */
    ptrdiff_t *tab = (ptrdiff_t *)(memory + plan.tab);
    phase *columns = (phase *)(memory + plan.columns);
    REAL *image = (REAL *)(memory + plan.image), *packed = (REAL *)(memory + plan.weights);
    REAL *gradient = (REAL *)(memory + plan.gradient), *sums = (REAL *)(memory + plan.sums);
    fill_tab(conv, &plan, tab);
    fill_columns(conv, &plan, columns);
    memset(sums, 0, (size_t)(seen * filters * LANES) * sizeof(REAL));
    for (ptrdiff_t entry = 0; entry < plan.rows * plan.pitch; entry++)
        image[plan.phases + entry] = 1;
    for (ptrdiff_t k = 0, size; dx && k < taps; k += size) {
        size = NAME(panel)(taps - k);
        for (ptrdiff_t f = 0; f < filters; f++)
            for (ptrdiff_t m = 0; m < size; m++)
                packed[k * filters + f * size + m] = w[f * taps + k + m];
    }
    ptrdiff_t step = dy->strides[1] / (ptrdiff_t)sizeof(REAL), row = dy->strides[2] / (ptrdiff_t)sizeof(REAL);
    for (ptrdiff_t n = 0; n < x->shape[0]; n++) {
        REAL *from = (REAL *)(dy->data + n * dy->strides[0]);
        NAME(split)(conv, &plan, columns, x, n, image);
        for (ptrdiff_t f = 0, size; f < filters; f += size) {
            size = NAME(dot_filters)(filters - f);
            for (ptrdiff_t k = 0; k < seen; k += NAME(DOT_TAPS))
                NAME(dots)((int)size, (int)xpc_min(seen - k, NAME(DOT_TAPS)), conv, plan.pitch, from + f * step, step,
                           row, image, tab + k, sums + (f * seen + k) * LANES, seen * LANES);
        }
        if (!dx)
            continue;
        memset(gradient, 0, (size_t)plan.phases * sizeof(REAL));
        for (ptrdiff_t k = 0, size; k < taps; k += size) {
            size = NAME(panel)(taps - k);
            NAME(backward_rows)((int)size, conv, plan.pitch, packed + k * filters, NULL, tab + k, filters, gradient,
                                from, step, row);
        }
        NAME(unsplit)(conv, &plan, columns, gradient, dx, n);
    }
    for (ptrdiff_t f = 0; f < filters; f++) {
        for (ptrdiff_t k = 0; k < taps; k++)
            dw[f * taps + k] = SUM(LOAD(sums + (f * seen + k) * LANES));
        db[f] = SUM(LOAD(sums + (f * seen + taps) * LANES));
    }
}

#include "simd_end.h"
