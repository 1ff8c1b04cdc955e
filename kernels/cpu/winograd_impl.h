/* Included by winograd.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"
#include "stream_impl.h"
#include "transpose_impl.h"

/* Tiles by vectors of filters whose sums fill the registers. */
#if REGISTERS >= 32
enum { NAME(ROWS) = 14 };
#elif ISA == XPC_AVX2
enum { NAME(ROWS) = 6 };
#else
enum { NAME(ROWS) = 5 }; /* without fused multiply-add a product takes a register of its own */
#endif
/* The same for sums over tiles: filters, all of one vector, by vectors of channels. */
#if REGISTERS >= 32
enum { NAME(FILTERS) = LANES < 8 ? LANES : 8, NAME(VECTORS) = LANES < 8 ? 4 : 3 };
#else
enum { NAME(FILTERS) = LANES < 4 ? LANES : 4, NAME(VECTORS) = 3 };
#endif

/* Of a pointer that moves from point to point: otherwise the compiler keeps an address for each, more than there are
 * registers. */
#define KEEP_ADDRESS(pointer) __asm__("" : "+r"(pointer))

/* ---- the transforms, along one axis ------------------------------------------------------------------------------- */

/* Of 4 x 4: the points A and B, their squares, and the factors of G. */
#define A ((REAL)0.70710678118654752440)
#define B ((REAL)1.41421356237309504880)
#define A2 ((REAL)0.5)
#define B2 ((REAL)2)
#define GA ((REAL)(1 / (2 * 0.5 * (0.5 - 2)))) /* 1 / (2 A2 (A2 - B2)) */
#define GB ((REAL)(1 / (2 * 2 * (2 - 0.5))))   /* 1 / (2 B2 (B2 - A2)) */

/* o = B' d: from m + 2 pixels to as many points. */
INLINE void NAME(pixels_to_points)(const int m, const VEC *d, const int step, VEC *o, const int to)
{
    VEC d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    if (m == 2) {
        o[0] = d0 - d2;
        o[to] = d1 + d2;
        o[2 * to] = d2 - d1;
        o[3 * to] = d1 - d3;
    } else {
        VEC d4 = d[4 * step], d5 = d[5 * step];
        VEC minus_sum = SPLAT(-(A2 + B2)), a2 = SPLAT(-A2), b2 = SPLAT(-B2);
        VEC even = FMA(b2, d2, d4), odd = FMA(b2, d1, d3);
        o[0] = FMA(minus_sum, d2, d0 + d4);
        o[to] = FMA(SPLAT(A), odd, even);
        o[2 * to] = FMA(SPLAT(-A), odd, even);
        even = FMA(a2, d2, d4);
        odd = FMA(a2, d1, d3);
        o[3 * to] = FMA(SPLAT(B), odd, even);
        o[4 * to] = FMA(SPLAT(-B), odd, even);
        o[5 * to] = FMA(minus_sum, d3, d1 + d5);
    }
}

/* o = A' p: from m + 2 points to m outputs, which are still to be multiplied by `output_scale`. */
INLINE void NAME(points_to_outputs)(const int m, const VEC *p, const int step, VEC *o, const int to)
{
    VEC p0 = p[0], p1 = p[step], p2 = p[2 * step], p3 = p[3 * step];
    if (m == 2) {
        o[0] = p0 + p1 + p2;
        o[to] = p1 - p2 - p3;
    } else {
        VEC p4 = p[4 * step], p5 = p[5 * step];
        VEC even = p1 + p2, odd = p1 - p2, later_even = p3 + p4, later_odd = p3 - p4;
        o[0] = p0 + even + later_even;
        o[to] = FMA(SPLAT(B / A), later_odd, odd);
        o[2 * to] = FMA(SPLAT(B2 / A2), later_even, even);
        o[3 * to] = FMA(SPLAT(1 / (A * A2)), p5, FMA(SPLAT(B * B2 / (A * A2)), later_odd, odd));
    }
}

/* Of outputs i and j of the two axes. */
INLINE REAL NAME(output_scale)(const int m, int i, int j)
{
    static const REAL scales[4] = {1, A, A2, A * A2};
    return m == 2 ? 1 : scales[i] * scales[j];
}

/* o = G g: from 3 weights to m + 2 points. */
INLINE void NAME(weights_to_points)(const int m, const VEC *g, const int step, VEC *o, const int to)
{
    VEC g0 = g[0], g1 = g[step], g2 = g[2 * step];
    o[0] = g0;
    if (m == 2) {
        VEC half = SPLAT((REAL)0.5), even = (g0 + g2) * half, odd = g1 * half;
        o[to] = even + odd;
        o[2 * to] = even - odd;
        o[3 * to] = g2;
    } else {
        VEC a = SPLAT(GA), b = SPLAT(GB);
        VEC even = FMA(SPLAT(A2), g2, g0) * a, odd = g1 * (a * SPLAT(A));
        o[to] = even + odd;
        o[2 * to] = even - odd;
        even = FMA(SPLAT(B2), g2, g0) * b;
        odd = g1 * (b * SPLAT(B));
        o[3 * to] = even + odd;
        o[4 * to] = even - odd;
        o[5 * to] = g2;
    }
}

/* o = A y: from m outputs' gradients to m + 2 points. */
INLINE void NAME(outputs_to_points)(const int m, const VEC *y, const int step, VEC *o, const int to)
{
    VEC y0 = y[0], y1 = y[step];
    o[0] = y0;
    if (m == 2) {
        o[to] = y0 + y1;
        o[2 * to] = y0 - y1;
        o[3 * to] = -y1;
    } else {
        VEC y2 = y[2 * step], y3 = y[3 * step];
        VEC even = FMA(SPLAT(A2), y2, y0), odd = FMA(SPLAT(A2), y3, y1);
        o[to] = FMA(SPLAT(A), odd, even);
        o[2 * to] = FMA(SPLAT(-A), odd, even);
        even = FMA(SPLAT(B2), y2, y0);
        odd = FMA(SPLAT(B2), y3, y1);
        o[3 * to] = FMA(SPLAT(B), odd, even);
        o[4 * to] = FMA(SPLAT(-B), odd, even);
        o[5 * to] = y3;
    }
}

/* o = G' p: from m + 2 points to 3 weights. */
INLINE void NAME(points_to_weights)(const int m, const VEC *p, const int step, VEC *o, const int to)
{
    VEC p0 = p[0], p1 = p[step], p2 = p[2 * step], p3 = p[3 * step];
    if (m == 2) {
        VEC half = SPLAT((REAL)0.5), even = (p1 + p2) * half;
        o[0] = p0 + even;
        o[to] = (p1 - p2) * half;
        o[2 * to] = even + p3;
    } else {
        VEC a = SPLAT(GA), b = SPLAT(GB), p4 = p[4 * step], p5 = p[5 * step];
        VEC even = (p1 + p2) * a, odd = (p1 - p2) * a, later_even = (p3 + p4) * b, later_odd = (p3 - p4) * b;
        o[0] = p0 + even + later_even;
        o[to] = FMA(SPLAT(B), later_odd, odd * SPLAT(A));
        o[2 * to] = FMA(SPLAT(A2), even, FMA(SPLAT(B2), later_even, p5));
    }
}

#undef A
#undef B
#undef GA
#undef GB
#undef A2
#undef B2

/* ---- weights ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const xpc_winograd *conv;
    const layout *plan;
    const xpc_array4 *x;
    const REAL *w, *b;
    REAL *y;
    const xpc_array4 *dy;
    REAL *dw, *db;
    char *memory;
    ptrdiff_t first; /* panel, or vector of filters, of the pass */
    int rotated, relu;
    int streamed; /* whether whole lines of y are written past the caches */
} NAME(call);

/* One channel of LANES filters, of which there are `known`: from w, whose filters are `step` apart, to a lane for each. */
INLINE void NAME(weight_tile)(const int m, const REAL *w, ptrdiff_t step, int known, int rotated, REAL *to,
                              ptrdiff_t plane)
{
    VEC taps[9 + LANES], half[6 * 3], points[6 * 6];
    for (int k = 0; k < 9; k += LANES) {
        MASK mask = FIRST(9 - k < LANES ? 9 - k : LANES);
        VEC rows[LANES];
        for (int l = 0; l < LANES; l++)
            rows[l] = l < known ? LOAD_FIRST(mask, w + l * step + k) : SPLAT((REAL)0);
        NAME(transpose)(rows);
        for (int l = 0; l < LANES && k + l < 9; l++)
            taps[rotated ? 8 - k - l : k + l] = rows[l];
    }
    for (int j = 0; j < 3; j++)
        NAME(weights_to_points)(m, taps + j, 3, half + j, 3);
    for (int i = 0; i < m + 2; i++)
        NAME(weights_to_points)(m, half + 3 * i, 1, points + (m + 2) * i, 1);
    for (int p = 0; p < (m + 2) * (m + 2); p++)
        STORE(to + p * plane, points[p]);
}

/* Vectors of filters of the pass, one for each item. */
TARGET static void NAME(weights)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(call) *call = argument;
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    ptrdiff_t plane = plan->weight_plane, vectors = xpc_ceil_div(conv->filters, LANES);
    (void)slot;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t vector = item / conv->channels + call->first * PANEL, c = item % conv->channels, f = vector * LANES;
        ptrdiff_t panel = vector / PANEL, width = xpc_min(vectors - panel * PANEL, PANEL);
        const REAL *from = call->rotated ? call->w + (c * conv->filters + f) * 9 : call->w + (f * conv->channels + c) * 9;
        ptrdiff_t step = call->rotated ? 9 : conv->channels * 9;
        int known = (int)xpc_min(conv->filters - f, LANES);
        REAL *to = (REAL *)call->memory + (panel - call->first) * plan->points * plane;
        to += (c * width + vector % PANEL) * LANES;
        if (plan->m == 4)
            NAME(weight_tile)(4, from, step, known, call->rotated, to, plane);
        else
            NAME(weight_tile)(2, from, step, known, call->rotated, to, plane);
    }
}

/* ---- from planes to lanes ----------------------------------------------------------------------------------------- */

/* `count` pixels of `known` planes, `step` numbers apart: one vector for each pixel, where the table of places says. */
TARGET static void NAME(gather)(const REAL *from, ptrdiff_t step, int known, ptrdiff_t count, const ptrdiff_t *places,
                                REAL *to)
{
    ptrdiff_t p = 0;
    if (known == LANES)
        for (; p + LANES <= count; p += LANES) {
            VEC rows[LANES];
            for (int l = 0; l < LANES; l++)
                rows[l] = LOAD(from + l * step + p);
            NAME(transpose)(rows);
            for (int l = 0; l < LANES; l++)
                STORE(to + places[p + l], rows[l]);
        }
    for (; p < count; p += LANES) {
        VEC rows[LANES];
        int pixels = (int)xpc_min(count - p, LANES);
        MASK mask = FIRST(pixels);
        for (int l = 0; l < LANES; l++)
            rows[l] = l < known ? LOAD_FIRST(mask, from + l * step + p) : SPLAT((REAL)0);
        NAME(transpose)(rows);
        for (int l = 0; l < pixels; l++)
            STORE(to + places[p + l], rows[l]);
    }
}

/* A part of an image, with what lies around it: pixels of rows [top, bottom) and columns [left, right) are known. */
typedef struct {
    ptrdiff_t top, bottom, left, right;
} NAME(window);

/* The part of the image below tiles of `rows` rows from `row` on, columns [left, right), with `more` pixels beyond; zeros
 * into the band where there are none, and the places of the others. */
TARGET static NAME(window) NAME(prepare)(const xpc_winograd *conv, ptrdiff_t first_row, ptrdiff_t rows,
                                         ptrdiff_t first_column, ptrdiff_t columns, ptrdiff_t pitch, REAL *band,
                                         ptrdiff_t *places)
{
    NAME(window) part;
    part.top = xpc_max(first_row, 0);
    part.bottom = xpc_max(xpc_min(first_row + rows, conv->height), part.top);
    part.left = xpc_max(first_column, 0);
    part.right = xpc_max(xpc_min(first_column + columns, conv->width), part.left);
    VEC zero = SPLAT((REAL)0);
    for (ptrdiff_t r = first_row; r < first_row + rows; r++, band += pitch * LANES) {
        int is_known = r >= part.top && r < part.bottom;
        ptrdiff_t before = is_known ? xpc_min(part.left - first_column, columns) : columns;
        ptrdiff_t behind = is_known ? part.right - first_column : columns;
        for (ptrdiff_t q = 0; q < before; q++)
            STORE(band + q * LANES, zero);
        for (ptrdiff_t q = behind; q < columns; q++)
            STORE(band + q * LANES, zero);
        if (is_known)
            for (ptrdiff_t q = part.left; q < part.right; q++)
                *places++ = ((r - first_row) * pitch + q - first_column) * LANES;
    }
    return part;
}

/* The known pixels of LANES channels, of which there are `known`, into the band. */
INLINE void NAME(load)(const xpc_winograd *conv, const NAME(window) *part, const REAL *planes, ptrdiff_t step, int known,
                       const ptrdiff_t *places, REAL *band)
{
    ptrdiff_t columns = part->right - part->left, rows = part->bottom - part->top;
    planes += part->top * conv->width + part->left;
    if (columns == conv->width) { /* all in one run */
        columns *= rows;
        rows = 1;
    }
    for (ptrdiff_t r = 0; r < rows; r++)
        NAME(gather)(planes + r * conv->width, step, known, columns, places + r * columns, band);
}

INLINE void NAME(image_tile)(const int m, const REAL *from, ptrdiff_t pitch, REAL *to, ptrdiff_t plane)
{
    VEC half[6 * 6];
    for (int j = 0; j < m + 2; j++) {
        VEC pixels[6];
        for (int i = 0; i < m + 2; i++)
            pixels[i] = LOAD(from + (i * pitch + j) * LANES);
        NAME(pixels_to_points)(m, pixels, 1, half + j, m + 2);
    }
    for (int i = 0; i < m + 2; i++) {
        VEC points[6];
        NAME(pixels_to_points)(m, half + (m + 2) * i, 1, points, 1);
        if (i > 0)
            to += (m + 2) * plane;
        KEEP_ADDRESS(to);
        for (int j = 0; j < m + 2; j++)
            STORE(to + j * plane, points[j]);
    }
}

/* V of the block. */
INLINE void NAME(images)(const int m, const NAME(call) *call, block part, char *memory)
{
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    const xpc_array4 *x = call->x;
    ptrdiff_t *places = (ptrdiff_t *)memory;
    REAL *band = (REAL *)(memory + plan->band), *to = (REAL *)(memory + plan->images);
    ptrdiff_t wide = part.right - part.left, step = x->strides[1] / (ptrdiff_t)sizeof(REAL);
    for (ptrdiff_t line = part.first, end; line < part.last; line = end) {
        ptrdiff_t image = line / plan->rows, row = line % plan->rows;
        end = xpc_min((image + 1) * plan->rows, part.last);
        NAME(window) known = NAME(prepare)(conv, row * m - conv->pad_top, (end - line) * m + 2,
                                           part.left * m - conv->pad_left, wide * m + 2, plan->pitch, band, places);
        for (ptrdiff_t c = 0; c < conv->channels; c += LANES) {
            const REAL *planes = (const REAL *)(x->data + image * x->strides[0] + c * x->strides[1]);
            int channels = (int)xpc_min(conv->channels - c, LANES);
            NAME(load)(conv, &known, planes, step, channels, places, band);
            REAL *tile = to + (c * plan->tiles + (line - part.first) * wide * LANES);
            for (ptrdiff_t r = 0; r < end - line; r++)
                for (ptrdiff_t q = 0; q < wide; q++, tile += LANES)
                    NAME(image_tile)(m, band + (r * plan->pitch + q) * m * LANES, plan->pitch, tile,
                                     plan->image_plane);
        }
    }
}

/* ---- products ----------------------------------------------------------------------------------------------------- */

/* Of `rows` tiles with `width` vectors of filters, for one point; added to what is there unless it is the first part. */
INLINE void NAME(product_tile)(const int rows, const int width, const REAL *v, ptrdiff_t v_step, const REAL *u,
                               ptrdiff_t channels, int is_first, REAL *m)
{
    VEC sums[NAME(ROWS)][PANEL];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < width; j++)
            sums[r][j] = SPLAT((REAL)0);
    do { /* loops that run once at least: otherwise the sums go through memory */
        int lanes = (int)xpc_min(channels, LANES), c = 0;
        do {
            VEC weights[PANEL];
            for (int j = 0; j < width; j++)
                weights[j] = LOAD(u + j * LANES);
            __builtin_prefetch(u + AHEAD * width * LANES);
            if (width == 2)
                __builtin_prefetch(u + (AHEAD * width + 1) * LANES);
            __builtin_prefetch(v + v_step + c * LANES);
            for (int r = 0; r < rows; r++) {
                VEC number = SPLAT(v[r * LANES + c]);
                for (int j = 0; j < width; j++)
                    sums[r][j] = FMA(number, weights[j], sums[r][j]);
            }
            u += width * LANES;
        } while (++c < lanes);
        v += v_step;
        channels -= LANES;
    } while (channels > 0);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < width; j++) {
            REAL *to = m + (r * width + j) * LANES;
            if (!is_first)
                sums[r][j] = LOAD(to) + sums[r][j];
            STORE(to, sums[r][j]);
        }
}

#define XPC_PRODUCT(rows) \
    TARGET static void NAME(product_##rows)(int width, const REAL *v, ptrdiff_t v_step, const REAL *u, \
                                            ptrdiff_t channels, int is_first, REAL *m) \
    { \
        if (width == 2) \
            NAME(product_tile)(rows, 2, v, v_step, u, channels, is_first, m); \
        else \
            NAME(product_tile)(rows, 1, v, v_step, u, channels, is_first, m); \
    }
XPC_PRODUCT(1)
XPC_PRODUCT(2)
XPC_PRODUCT(3)
XPC_PRODUCT(4)
XPC_PRODUCT(5)
#if REGISTERS >= 32 || ISA == XPC_AVX2
XPC_PRODUCT(6)
#endif
#if REGISTERS >= 32
XPC_PRODUCT(7)
XPC_PRODUCT(8)
XPC_PRODUCT(9)
XPC_PRODUCT(10)
XPC_PRODUCT(11)
XPC_PRODUCT(12)
XPC_PRODUCT(13)
XPC_PRODUCT(14)
#endif
#undef XPC_PRODUCT

/* All tiles of a block with one panel, for one point: CHUNK channels at a time, so that their weights stay in the
 * first-level cache from one row of tiles to the next, and rounding grows with the length of two shorter sums. */
TARGET static void NAME(products)(ptrdiff_t tiles, int width, const REAL *v, ptrdiff_t v_step, const REAL *u,
                                  ptrdiff_t channels, REAL *m)
{
    typedef void (*product)(int, const REAL *, ptrdiff_t, const REAL *, ptrdiff_t, int, REAL *);
    static const product by_rows[] = {
        NAME(product_1), NAME(product_2), NAME(product_3), NAME(product_4), NAME(product_5),
#if REGISTERS >= 32 || ISA == XPC_AVX2
        NAME(product_6),
#endif
#if REGISTERS >= 32
        NAME(product_7), NAME(product_8), NAME(product_9), NAME(product_10), NAME(product_11), NAME(product_12),
        NAME(product_13), NAME(product_14),
#endif
    };
    ptrdiff_t parts = xpc_ceil_div(channels, CHUNK);
    ptrdiff_t chunk = round_up(xpc_ceil_div(channels, parts), LANES);
    for (ptrdiff_t c = 0; c < channels; c += chunk, v += chunk / LANES * v_step, u += chunk * width * LANES) {
        ptrdiff_t left = tiles, known = xpc_min(channels - c, chunk);
        const REAL *numbers = v;
        REAL *to = m;
        for (ptrdiff_t steps = xpc_ceil_div(tiles, NAME(ROWS)); steps > 0; steps--) {
            ptrdiff_t rows = xpc_ceil_div(left, steps);
            by_rows[rows - 1](width, numbers, v_step, u, known, c == 0, to);
            left -= rows;
            numbers += rows * LANES;
            to += rows * width * LANES;
        }
    }
}

/* ---- from lanes to planes ----------------------------------------------------------------------------------------- */

/* `count` vectors, a pixel of LANES planes each, to the first `known` planes, which are `step` numbers apart. */
TARGET static void NAME(scatter)(const REAL *from, ptrdiff_t count, REAL *to, ptrdiff_t step, int known, int streamed)
{
    ptrdiff_t p = 0;
    if (known == LANES && streamed && (size_t)to % LINE == 0)
        for (; p + LANES <= count; p += LANES) {
            VEC rows[LANES];
            for (int l = 0; l < LANES; l++)
                rows[l] = LOAD(from + (p + l) * LANES);
            NAME(transpose)(rows);
            for (int l = 0; l < LANES; l++)
                STREAM(to + l * step + p, rows[l]);
        }
    else if (known == LANES)
        for (; p + LANES <= count; p += LANES) {
            VEC rows[LANES];
            for (int l = 0; l < LANES; l++)
                rows[l] = LOAD(from + (p + l) * LANES);
            NAME(transpose)(rows);
            for (int l = 0; l < LANES; l++)
                STORE(to + l * step + p, rows[l]);
        }
    for (; p < count; p += LANES) {
        VEC rows[LANES];
        int pixels = (int)xpc_min(count - p, LANES);
        MASK mask = FIRST(pixels);
        for (int l = 0; l < LANES; l++)
            rows[l] = LOAD(from + (p + l) * LANES);
        NAME(transpose)(rows);
        for (int l = 0; l < known; l++)
            STORE_FIRST(to + l * step + p, mask, rows[l]);
    }
}

/* The outputs of a tile, of which `rows` by `columns` exist, into rows of `pitch` pixels. */
INLINE void NAME(output_tile)(const int m, const REAL *from, ptrdiff_t plane, VEC bias, int relu, REAL *to,
                              ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t columns)
{
    VEC half[4 * 6];
    for (int j = 0; j < m + 2; j++) {
        VEC points[6];
        if (j > 0)
            from += plane;
        KEEP_ADDRESS(from);
        for (int i = 0; i < m + 2; i++)
            points[i] = LOAD(from + (m + 2) * i * plane);
        NAME(points_to_outputs)(m, points, 1, half + j, m + 2);
    }
    for (int i = 0; i < m; i++) {
        VEC outputs[4];
        NAME(points_to_outputs)(m, half + (m + 2) * i, 1, outputs, 1);
        for (int j = 0; j < m; j++) {
            outputs[j] = FMA(SPLAT(NAME(output_scale)(m, i, j)), outputs[j], bias);
            if (relu)
                outputs[j] = POSITIVE(outputs[j]);
        }
        if (i < rows)
            for (int j = 0; j < m; j++)
                if (j < columns)
                    STORE(to + (i * pitch + j) * LANES, outputs[j]);
    }
}

/* One vector of filters of all tiles of a block into y. */
INLINE void NAME(outputs)(const int m, const NAME(call) *call, block part, ptrdiff_t f, const REAL *from,
                          ptrdiff_t from_step, REAL *buffer)
{
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    ptrdiff_t pixels = conv->out_h * conv->out_w, left = part.left * m;
    ptrdiff_t wide = xpc_min(part.right * m, conv->out_w) - left;
    int known = (int)xpc_min(conv->filters - f, LANES);
    VEC bias = call->b ? LOAD_FIRST(FIRST(known), call->b + f) : SPLAT((REAL)0);
    for (ptrdiff_t line = part.first; line < part.last; line++) {
        ptrdiff_t image = line / plan->rows, top = line % plan->rows * m, high = xpc_min(conv->out_h - top, m);
        for (ptrdiff_t q = 0; q < wide; q += m, from += from_step) {
            if (high == m && q + m <= wide)
                NAME(output_tile)(m, from, plan->product_plane, bias, call->relu, buffer + q * LANES, wide, m, m);
            else
                NAME(output_tile)(m, from, plan->product_plane, bias, call->relu, buffer + q * LANES, wide, high, wide - q);
        }
        REAL *to = call->y + (image * conv->filters + f) * pixels + top * conv->out_w + left;
        if (wide == conv->out_w)
            NAME(scatter)(buffer, high * wide, to, pixels, known, call->streamed);
        else
            for (ptrdiff_t r = 0; r < high; r++)
                NAME(scatter)(buffer + r * wide * LANES, wide, to + r * conv->out_w, pixels, known,
                              call->streamed);
    }
}

/* ---- a call ------------------------------------------------------------------------------------------------------- */

/* Blocks, or parts of them: some panels of filters of one block. */
TARGET static void NAME(blocks)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(call) *call = argument;
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    char *memory = call->memory + plan->weights + slot * plan->slot;
    const REAL *v = (const REAL *)(memory + plan->images);
    REAL *products = (REAL *)(memory + plan->products), *buffer = (REAL *)(memory + plan->result);
    ptrdiff_t vectors = xpc_ceil_div(conv->filters, LANES), v_step = plan->tiles * LANES;
    ptrdiff_t last = xpc_min(call->first + plan->pass, plan->panels), each = xpc_ceil_div(last - call->first, plan->parts);
    for (ptrdiff_t item = begin; item < end; item++) {
        block part = block_at(plan, item / plan->parts);
        part.last = xpc_min(part.last, conv->batch * plan->rows);
        ptrdiff_t tiles = (part.last - part.first) * (part.right - part.left);
        ptrdiff_t from = call->first + item % plan->parts * each, to = xpc_min(from + each, last);
        if (from >= to)
            continue;
        if (plan->m == 4)
            NAME(images)(4, call, part, memory);
        else
            NAME(images)(2, call, part, memory);
        for (ptrdiff_t group = from; group < to; group += plan->group) {
            ptrdiff_t behind = xpc_min(group + plan->group, to);
            for (int point = 0; point < plan->points; point++)
                for (ptrdiff_t panel = group; panel < behind; panel++) {
                    const REAL *u = (const REAL *)call->memory;
                    u += ((panel - call->first) * plan->points + point) * plan->weight_plane;
                    NAME(products)(tiles, (int)xpc_min(vectors - panel * PANEL, PANEL), v + point * plan->image_plane,
                                   v_step, u, conv->channels,
                                   products + ((panel - group) * plan->points + point) * plan->product_plane);
                }
            for (ptrdiff_t panel = group; panel < behind; panel++) {
                ptrdiff_t width = xpc_min(vectors - panel * PANEL, PANEL);
                for (ptrdiff_t j = 0; j < width; j++) {
                    const REAL *m = products + (panel - group) * plan->points * plan->product_plane + j * LANES;
                    ptrdiff_t f = (panel * PANEL + j) * LANES;
                    if (plan->m == 4)
                        NAME(outputs)(4, call, part, f, m, width * LANES, buffer);
                    else
                        NAME(outputs)(2, call, part, f, m, width * LANES, buffer);
                }
            }
        }
    }
    if (call->streamed)
        NAME(end_of_stream)();
}

TARGET static int NAME(convolve)(const xpc_winograd *conv, const xpc_array4 *x, const REAL *w, const REAL *b, int rotated,
                                 int relu, REAL *y, size_t most)
{
    layout plan;
    char *memory = take(conv, &plan, lay_out, LANES, sizeof(REAL), most);
    if (!memory)
        return 0;
    NAME(call) call = {.conv = conv, .plan = &plan, .x = x, .w = w, .b = b, .y = y, .memory = memory, .rotated = rotated,
                       .relu = relu};
    ptrdiff_t pixels = conv->out_h * conv->out_w;
    call.streamed = LANES * sizeof(REAL) == LINE && pixels % LANES == 0 &&
                    NAME(is_streamed)(y, conv->batch * conv->filters * pixels);
    ptrdiff_t vectors = xpc_ceil_div(conv->filters, LANES);
    for (; call.first < plan.panels; call.first += plan.pass) {
        ptrdiff_t items = (xpc_min(vectors, (call.first + plan.pass) * PANEL) - call.first * PANEL) * conv->channels;
        xpc_parallel_items(NAME(weights), &call, items, 4 * LANES, xpc_slots(items, 4 * LANES));
        items = plan.blocks * plan.parts;
        ptrdiff_t cost = xpc_max(plan.tiles * plan.points * conv->channels / COST * conv->filters / plan.parts, 1);
        xpc_parallel_items(NAME(blocks), &call, items, cost, (int)xpc_min(xpc_slots(items, cost), plan.slots));
    }
    xpc_arena_give(memory);
    return 1;
}

/* ---- the gradient of the weights ---------------------------------------------------------------------------------- */

/* A tile of dy to the points; returns the sum of its pixels. */
INLINE VEC NAME(gradient_tile)(const int m, const REAL *from, ptrdiff_t pitch, REAL *to, ptrdiff_t plane)
{
    VEC half[6 * 4], sums[4];
    for (int j = 0; j < m; j++) {
        VEC pixels[4];
        for (int i = 0; i < m; i++)
            pixels[i] = LOAD(from + (i * pitch + j) * LANES);
        sums[j] = pixels[0] + pixels[1];
        if (m == 4)
            sums[j] = sums[j] + (pixels[2] + pixels[3]);
        NAME(outputs_to_points)(m, pixels, 1, half + j, m);
    }
    for (int i = 0; i < m + 2; i++) {
        VEC points[6];
        NAME(outputs_to_points)(m, half + m * i, 1, points, 1);
        if (i > 0)
            to += (m + 2) * plane;
        KEEP_ADDRESS(to);
        for (int j = 0; j < m + 2; j++)
            STORE(to + j * plane, points[j]);
    }
    return m == 4 ? (sums[0] + sums[1]) + (sums[2] + sums[3]) : sums[0] + sums[1];
}

/* dy of vectors [begin, end) of filters of the block to the points, and its sums into two rows for db: of whole images,
 * and of the image that the block ends in the middle of; so they do not depend on where blocks end. */
INLINE void NAME(gradients)(const int m, const NAME(call) *call, block part, ptrdiff_t begin, ptrdiff_t end, char *memory,
                            REAL *db)
{
    xpc_winograd conv = *call->conv;
    const layout *plan = call->plan;
    const xpc_array4 *dy = call->dy;
    ptrdiff_t *places = (ptrdiff_t *)memory;
    REAL *band = (REAL *)(memory + plan->band), *to = (REAL *)(memory + plan->gradients);
    ptrdiff_t wide = part.right - part.left, step = dy->strides[1] / (ptrdiff_t)sizeof(REAL);
    conv.height = conv.out_h;
    conv.width = conv.out_w;
    for (ptrdiff_t line = part.first, behind; line < part.last; line = behind) {
        ptrdiff_t image = line / plan->rows, row = line % plan->rows;
        behind = xpc_min((image + 1) * plan->rows, part.last);
        NAME(window) known = NAME(prepare)(&conv, row * m, (behind - line) * m, part.left * m, wide * m, plan->pitch, band,
                                           places);
        int is_done = behind == (image + 1) * plan->rows && part.right == plan->columns;
        for (ptrdiff_t vector = begin; vector < end; vector++) {
            ptrdiff_t f = vector * LANES;
            const REAL *planes = (const REAL *)(dy->data + image * dy->strides[0] + f * dy->strides[1]);
            int filters = (int)xpc_min(conv.filters - f, LANES);
            NAME(load)(&conv, &known, planes, step, filters, places, band);
            REAL *tile = to + ((vector - begin) * plan->tiles + (line - part.first) * wide) * LANES;
            REAL *whole = db + (vector - call->first) * LANES, *current = whole + plan->pass * LANES;
            VEC sum = LOAD(current);
            for (ptrdiff_t r = 0; r < behind - line; r++)
                for (ptrdiff_t q = 0; q < wide; q++, tile += LANES)
                    sum = sum + NAME(gradient_tile)(m, band + (r * plan->pitch + q) * m * LANES, plan->pitch, tile,
                                                    plan->product_plane);
            if (is_done) {
                STORE(whole, LOAD(whole) + sum);
                sum = SPLAT((REAL)0);
            }
            STORE(current, sum);
        }
    }
}

/* sums (filters, LANES channels) of each of some vectors of channels += over tiles, gradient times pixel. */
INLINE void NAME(sum_tile)(const int vectors, ptrdiff_t tiles, const REAL *d, const REAL *v, ptrdiff_t v_step, REAL *sums,
                           ptrdiff_t step, int is_first)
{
    VEC acc[NAME(FILTERS)][NAME(VECTORS)];
    for (int f = 0; f < NAME(FILTERS); f++)
        for (int j = 0; j < vectors; j++)
            acc[f][j] = is_first ? SPLAT((REAL)0) : LOAD(sums + j * step + f * LANES);
    for (int f = 0; f < NAME(FILTERS); f++) /* the next filters; sums are a large part of what is read */
        for (int j = 0; j < vectors; j++)
            __builtin_prefetch(sums + j * step + (NAME(FILTERS) + f) * LANES);
    for (ptrdiff_t t = 0; t < tiles; t++, v += LANES, d += LANES) {
        VEC pixels[NAME(VECTORS)];
        for (int j = 0; j < vectors; j++)
            pixels[j] = LOAD(v + j * v_step);
        for (int f = 0; f < NAME(FILTERS); f++) {
            VEC gradient = SPLAT(d[f]);
            for (int j = 0; j < vectors; j++)
                acc[f][j] = FMA(gradient, pixels[j], acc[f][j]);
        }
    }
    for (int f = 0; f < NAME(FILTERS); f++)
        for (int j = 0; j < vectors; j++)
            STORE(sums + j * step + f * LANES, acc[f][j]);
}

/* One point of a block: `filters` vectors of them by all channels. */
TARGET static void NAME(sums)(ptrdiff_t tiles, ptrdiff_t filters, ptrdiff_t channels, const REAL *d, const REAL *v,
                              ptrdiff_t step, REAL *sums, ptrdiff_t sums_step, int is_first)
{
    for (ptrdiff_t steps = xpc_ceil_div(channels, NAME(VECTORS)); steps > 0; steps--) {
        ptrdiff_t vectors = xpc_ceil_div(channels, steps);
        for (ptrdiff_t f = 0; f < filters; f++)
            for (int k = 0; k < LANES; k += NAME(FILTERS)) {
                const REAL *from = d + f * step + k;
                REAL *to = sums + (f * LANES + k) * LANES;
#define XPC_SUM(number) \
    if (vectors == number) \
        NAME(sum_tile)(number, tiles, from, v, step, to, sums_step, is_first)
                XPC_SUM(1);
                XPC_SUM(2);
                XPC_SUM(3);
#if REGISTERS >= 32 && LANES < 8
                XPC_SUM(4);
#endif
#undef XPC_SUM
            }
        channels -= vectors;
        v += vectors * step;
        sums += vectors * sums_step;
    }
}

/* Shares of the batch, or parts of them: some vectors of filters of one share. */
TARGET static void NAME(shares)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(call) *call = argument;
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    char *memory = call->memory + plan->shares * plan->sums + slot * plan->slot;
    const REAL *v = (const REAL *)(memory + plan->images), *d = (const REAL *)(memory + plan->gradients);
    ptrdiff_t pass_end = xpc_min(call->first + plan->pass, plan->panels), vectors = xpc_ceil_div(conv->channels, LANES);
    ptrdiff_t step = plan->tiles * LANES, sums_step = plan->pass * LANES * LANES;
    for (ptrdiff_t item = begin; item < end; item++) {
        ptrdiff_t share = item / plan->parts, from = call->first + item % plan->parts * plan->group;
        ptrdiff_t to = xpc_min(from + plan->group, pass_end);
        REAL *sums = (REAL *)(call->memory + share * plan->sums), *db = sums + plan->points * plan->sum_plane;
        for (ptrdiff_t f = (from - call->first) * LANES; f < (to - call->first) * LANES; f++)
            db[f] = db[f + plan->pass * LANES] = 0;
        ptrdiff_t last = xpc_min((share + 1) * plan->share, conv->batch * plan->rows);
        int is_first = 1;
        if (from >= to)
            continue;
        for (ptrdiff_t line = share * plan->share, behind; line < last; line = behind) {
            behind = xpc_min(line + plan->lines, last);
            if (plan->lines < plan->rows)
                behind = xpc_min(behind, (line / plan->rows + 1) * plan->rows);
            for (ptrdiff_t left = 0; left < plan->columns; left += plan->slice) {
                block part = {line, behind, left, xpc_min(left + plan->slice, plan->columns)};
                ptrdiff_t tiles = (behind - line) * (part.right - part.left);
                if (plan->m == 4) {
                    NAME(images)(4, call, part, memory);
                    NAME(gradients)(4, call, part, from, to, memory, db);
                } else {
                    NAME(images)(2, call, part, memory);
                    NAME(gradients)(2, call, part, from, to, memory, db);
                }
                for (int point = 0; point < plan->points; point++)
                    NAME(sums)(tiles, to - from, vectors, d + point * plan->product_plane, v + point * plan->image_plane,
                               step, sums + point * plan->sum_plane + (from - call->first) * LANES * LANES, sums_step,
                               is_first);
                is_first = 0;
            }
        }
        for (ptrdiff_t f = (from - call->first) * LANES; f < (to - call->first) * LANES; f++)
            db[f] += db[f + plan->pass * LANES];
    }
}

/* Sums of all shares of LANES channels of a filter back to weights, of as many channels as there are. */
INLINE void NAME(gradient_of_weights)(const int m, const layout *plan, const REAL *sums, ptrdiff_t known, REAL *dw)
{
    VEC half[3 * 6];
    ptrdiff_t share = plan->sums / (ptrdiff_t)sizeof(REAL);
    for (int j = 0; j < m + 2; j++) {
        VEC points[6];
        for (int i = 0; i < m + 2; i++) {
            const REAL *from = sums + ((m + 2) * i + j) * plan->sum_plane;
            points[i] = LOAD(from);
            for (ptrdiff_t s = 1; s < plan->shares; s++)
                points[i] = points[i] + LOAD(from + s * share);
        }
        NAME(points_to_weights)(m, points, 1, half + j, m + 2);
    }
    REAL taps[9 * LANES];
    for (int i = 0; i < 3; i++) {
        VEC row[3];
        NAME(points_to_weights)(m, half + (m + 2) * i, 1, row, 1);
        for (int j = 0; j < 3; j++)
            STORE(taps + (3 * i + j) * LANES, row[j]);
    }
    for (ptrdiff_t l = 0; l < known; l++)
        for (int k = 0; k < 9; k++)
            dw[l * 9 + k] = taps[k * LANES + l];
}

/* Filters of the pass. */
TARGET static void NAME(finish)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(call) *call = argument;
    const xpc_winograd *conv = call->conv;
    const layout *plan = call->plan;
    (void)slot;
    for (ptrdiff_t c = 0; c < conv->channels; c += LANES) /* sums of filters are beside each other */
        for (ptrdiff_t item = begin; item < end; item++) {
            const REAL *sums = (const REAL *)call->memory + (c * plan->pass + item) * LANES;
            REAL *dw = call->dw + ((call->first * LANES + item) * conv->channels + c) * 9;
            ptrdiff_t known = xpc_min(conv->channels - c, LANES);
            if (plan->m == 4)
                NAME(gradient_of_weights)(4, plan, sums, known, dw);
            else
                NAME(gradient_of_weights)(2, plan, sums, known, dw);
        }
    for (ptrdiff_t item = begin; item < end; item++) {
        REAL sum = 0;
        for (ptrdiff_t share = 0; share < plan->shares; share++)
            sum += ((const REAL *)(call->memory + share * plan->sums))[plan->points * plan->sum_plane + item];
        call->db[call->first * LANES + item] = sum;
    }
}

TARGET static int NAME(differentiate)(const xpc_winograd *conv, const xpc_array4 *dy, const xpc_array4 *x, REAL *dw,
                                      REAL *db, size_t most)
{
    layout plan;
    char *memory = take(conv, &plan, lay_out_weights, LANES, sizeof(REAL), most);
    if (!memory)
        return 0;
    NAME(call) call = {.conv = conv, .plan = &plan, .x = x, .dy = dy, .dw = dw, .db = db, .memory = memory};
    for (; call.first < plan.panels; call.first += plan.pass) {
        ptrdiff_t items = plan.shares * plan.parts;
        ptrdiff_t tiles = plan.share * plan.columns;
        ptrdiff_t cost = xpc_max(tiles * plan.points * conv->channels / COST * plan.group * LANES, 1);
        xpc_parallel_items(NAME(shares), &call, items, cost, (int)xpc_min(xpc_slots(items, cost), plan.slots));
        items = xpc_min(conv->filters - call.first * LANES, plan.pass * LANES);
        cost = conv->channels * plan.points * plan.shares;
        xpc_parallel_items(NAME(finish), &call, items, cost, xpc_slots(items, cost));
    }
    xpc_arena_give(memory);
    return 1;
}

#undef KEEP_ADDRESS
#include "simd_end.h"
