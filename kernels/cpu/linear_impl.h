/* Included by linear.c once for each type and instruction set; NAME makes names of their own. */
#include "simd.h"
#include "transpose_impl.h"

#if REGISTERS >= 32
enum { NAME(DR) = 14, NAME(DOT_ROWS) = 5, NAME(DOT_COLUMNS) = 5 };
#else
enum { NAME(DR) = 6, NAME(DOT_ROWS) = 3, NAME(DOT_COLUMNS) = 4 };
#endif
enum {
    /* rows of tiles that copy a panel of b on the way, and stream: more than there are where that is no gain */
    NAME(COPYING) = LANES * (int)sizeof(REAL) == LINE && !DOUBLE ? NAME(DR) - 2 : NAME(DR) + 1,
    NAME(NV) = 2, /* vectors of columns; `tile` knows this number */
    NAME(DOT_CHUNK) = (16 << 10) / (NAME(DOT_COLUMNS) * (int)sizeof(REAL)), /* of x and w together in the first cache */
    /* from k to k of a tile of a: stores of it meet no line twice */
    NAME(STEP) = (NAME(DR) + LANES - 1) / LANES * LANES,
    NAME(GROUP) = GROUP_BYTES / (CHUNK * NAME(STEP) * (int)sizeof(REAL)) /* tiles of a, for all panels in turn */
};

/* Element (i, k) is data[i * row + k * step], where one of the two is 1. */
typedef struct {
    const REAL *data;
    ptrdiff_t row, step, rows;
} NAME(matrix);

typedef struct {
    NAME(matrix) a, b; /* rows of b are the columns of the result */
    const REAL *bias;
    REAL *c, *row_sums; /* of a, unless NULL */
    ptrdiff_t rows, columns, depth;
    ptrdiff_t row, rows_now, k, depth_now; /* what of a is packed now */
    ptrdiff_t tiles, panels;               /* of the rows that are packed, and of all columns */
    ptrdiff_t row_blocks, blocks;          /* items: of tiles, and of panels */
    ptrdiff_t bytes;                       /* of a slot's memory */
    ptrdiff_t chunk;                       /* terms of a sum at a time */
    int slots, streamed;                   /* whether the result goes past the caches */
    REAL *packed;
    char *memory;
} NAME(product_job);

/* What happens while a tile is multiplied. */
typedef struct {
    xpc_ahead *next;
    int lines;         /* of it that are fetched with each stretch of k: in larger portions a core waits for them */
    ptrdiff_t stretch; /* a variable: of a number compilers make straight code, much of it and no faster */
    const REAL *from;  /* what b is copied from on the way, or NULL */
    ptrdiff_t from_step;
    int streamed; /* whether sums go past the caches */
} NAME(meanwhile);

/* c[r, lane] = bias[lane] + sum over k of a[k, r] * b[k, lane], or without bias, or added to what is there. Where it
 * `copies`, b is read from elsewhere and left in its place for the other tiles. */
INLINE void NAME(tile_product)(const int rows, const int nv, const int copies, ptrdiff_t depth, const REAL *a, REAL *b,
                               ptrdiff_t b_step, const REAL *bias, int add, REAL *c, ptrdiff_t c_row,
                               const NAME(meanwhile) *meanwhile)
{
    const REAL *from = meanwhile->from;
    VEC sums[NAME(DR)][NAME(NV)];
    XPC_UNROLL for (int r = 0; r < rows; r++)
        XPC_UNROLL for (int j = 0; j < nv; j++)
            sums[r][j] = bias ? LOAD(bias + j * LANES) : SPLAT((REAL)0);
    const int streamed = rows >= NAME(COPYING) && nv == NAME(NV) && meanwhile->streamed;
    /* sums that are written are there when they are ready; streamed ones need not be, and b is there already: no branch */
    const REAL *soon = streamed ? b : c;
    ptrdiff_t stretch = meanwhile->stretch;
    for (int row = streamed ? rows : 1; depth > 0; depth -= stretch, row++) {
        xpc_fetch(meanwhile->next, meanwhile->lines);
        XPC_UNROLL for (int j = 0; j < nv; j++)
            __builtin_prefetch(soon + j * LANES, 1, 2);
        soon += row < rows ? c_row : 0;
        for (ptrdiff_t k = xpc_min(depth, stretch); k > 0; k--, a += NAME(STEP), b += b_step) {
            VEC lanes[NAME(NV)];
            XPC_UNROLL for (int j = 0; j < nv; j++) {
                lanes[j] = LOAD((copies ? from : b) + j * LANES);
                if (copies)
                    STORE(b + j * LANES, lanes[j]);
            }
            if (copies)
                from += meanwhile->from_step;
            XPC_UNROLL for (int r = 0; r < rows; r++) {
                VEC number = SPLAT(a[r]);
                XPC_UNROLL for (int j = 0; j < nv; j++)
                    sums[r][j] = FMA(number, lanes[j], sums[r][j]);
            }
        }
    }
    if (add)
        XPC_UNROLL for (int r = 0; r < rows; r++)
            XPC_UNROLL for (int j = 0; j < nv; j++)
                sums[r][j] += LOAD(c + r * c_row + j * LANES);
    if (streamed)
        XPC_UNROLL for (int r = 0; r < rows; r++)
            XPC_UNROLL for (int j = 0; j < nv; j++)
                STREAM(c + r * c_row + j * LANES, sums[r][j]);
    else
        XPC_UNROLL for (int r = 0; r < rows; r++)
            XPC_UNROLL for (int j = 0; j < nv; j++)
                STORE(c + r * c_row + j * LANES, sums[r][j]);
}

TARGET static void NAME(tile)(int rows, int nv, ptrdiff_t depth, const REAL *a, REAL *b, ptrdiff_t b_step,
                              const REAL *bias, int add, REAL *c, ptrdiff_t c_row, const NAME(meanwhile) *meanwhile)
{
#define XPC_ROWS(r) \
    case r: \
        if (nv == 1) \
            NAME(tile_product)(r, 1, 0, depth, a, b, b_step, bias, add, c, c_row, meanwhile); \
        else if (r < NAME(COPYING) || !meanwhile->from) \
            NAME(tile_product)(r, 2, 0, depth, a, b, b_step, bias, add, c, c_row, meanwhile); \
        else \
            NAME(tile_product)(r, 2, 1, depth, a, b, b_step, bias, add, c, c_row, meanwhile); \
        break;
    switch (rows) {
        XPC_EACH_ROWS(XPC_ROWS)
    }
#undef XPC_ROWS
}

/* [k][row] of up to LANES rows, `step` numbers apart; lanes beyond the rows hold anything. `there` rows may be read. */
INLINE void NAME(turn_rows)(const REAL *from, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t there, ptrdiff_t depth, REAL *to,
                            ptrdiff_t step)
{
    /* from a line to its end: rows 4 KiB apart push one another out of the first cache */
    ptrdiff_t size = sizeof(REAL), head = row * size % (LANES * size) == 0 ? -(ptrdiff_t)from / size & (LANES - 1) : 0;
    for (ptrdiff_t k = 0, count; k < depth; k += count) {
        VEC lanes[LANES];
        count = xpc_min(k < head ? head : LANES, depth - k);
        if (count == LANES && there >= LANES) {
            for (int l = 0; l < LANES; l++)
                lanes[l] = LOAD(from + l * row + k);
            NAME(transpose)(lanes);
            for (int l = 0; l < LANES; l++)
                STORE(to + (k + l) * step, lanes[l]);
            continue;
        }
        for (int l = 0; l < LANES; l++)
            lanes[l] = LOAD_FIRST(FIRST((int)count), from + xpc_min(l, rows - 1) * row + k);
        NAME(transpose)(lanes);
        for (int l = 0; l < count; l++)
            STORE(to + (k + l) * step, lanes[l]);
    }
}

/* [k][row] of some rows of a matrix, `step` numbers apart, a multiple of vectors; other lanes hold anything. */
INLINE void NAME(pack)(const NAME(matrix) *from, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t depth, REAL *to,
                       ptrdiff_t step)
{
    const REAL *data = from->data + row * from->row + k * from->step;
    ptrdiff_t whole = rows / LANES * LANES;
    if (from->step == 1) {
        for (ptrdiff_t l = 0; l < rows; l += LANES)
            NAME(turn_rows)(data + l * from->row, from->row, xpc_min(rows - l, LANES), from->rows - row - l, depth,
                            to + l, step);
        return;
    }
    MASK rest = FIRST((int)(rows - whole));
    for (ptrdiff_t d = 0; d < depth; d++, data += from->step, to += step) {
        for (ptrdiff_t l = 0; l < whole; l += LANES)
            STORE(to + l, LOAD(data + l));
        if (whole < rows)
            STORE(to + whole, LOAD_FIRST(rest, data + whole));
    }
}

INLINE xpc_range NAME(part_of)(ptrdiff_t total, ptrdiff_t parts, ptrdiff_t part)
{
    return (xpc_range){total * part / parts, total * (part + 1) / parts};
}

/* Where tile `t` of a is packed, [depth][STEP]. */
INLINE REAL *NAME(packed_tile)(const NAME(product_job) *job, ptrdiff_t t)
{
    return job->packed + t * NAME(STEP) * job->depth_now;
}

/* The sums of the rows of a tile, which is packed, on top of those of what was packed before. */
INLINE void NAME(add_rows)(const NAME(product_job) *job, const REAL *packed, ptrdiff_t rows, REAL *to)
{
    for (ptrdiff_t l = 0; l < rows; l += LANES) {
        MASK some = FIRST((int)xpc_min(rows - l, LANES));
        VEC total = job->k > 0 ? LOAD_FIRST(some, to + l) : SPLAT((REAL)0);
        for (ptrdiff_t first = 0, end; first < job->depth_now; first = end) {
            end = xpc_min(first + job->chunk, job->depth_now);
            VEC sum[4] = {SPLAT((REAL)0), SPLAT((REAL)0), SPLAT((REAL)0), SPLAT((REAL)0)};
            ptrdiff_t k = first;
            for (; k + 4 <= end; k += 4)
                XPC_UNROLL for (int i = 0; i < 4; i++)
                    sum[i] += LOAD(packed + (k + i) * NAME(STEP) + l);
            for (; k < end; k++)
                sum[0] += LOAD(packed + k * NAME(STEP) + l);
            total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
        STORE_FIRST(to + l, some, total);
    }
}

TARGET static void NAME(pack_tiles)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(product_job) *job = argument;
    (void)slot;
    for (ptrdiff_t t = begin; t < end; t++) {
        xpc_range rows = NAME(part_of)(job->rows_now, job->tiles, t);
        ptrdiff_t row = job->row + rows.begin, count = rows.end - rows.begin;
        REAL *packed = NAME(packed_tile)(job, t);
        NAME(pack)(&job->a, row, count, job->k, job->depth_now, packed, NAME(STEP));
        if (job->row_sums)
            NAME(add_rows)(job, packed, count, job->row_sums + row);
    }
}

/* All of some tiles times one panel of b, for one chunk of the sum. */
TARGET static void NAME(panel_product)(const NAME(product_job) *job, xpc_range tiles, ptrdiff_t k, ptrdiff_t depth,
                                       ptrdiff_t panel, REAL *b, ptrdiff_t b_step, const REAL *bias,
                                       const REAL *from, xpc_ahead *next)
{
    ptrdiff_t column = panel * NAME(NV) * LANES, columns = xpc_min(job->columns - column, NAME(NV) * LANES);
    int nv = (int)xpc_ceil_div(columns, LANES), add = k > 0;
    ptrdiff_t lines = next->left * xpc_ceil_div(next->length, LINE);
    lines = xpc_ceil_div(lines, (tiles.end - tiles.begin) * xpc_ceil_div(depth, STRETCH));
    NAME(meanwhile) meanwhile = {next, (int)lines, STRETCH, from, job->b.step, 0};
    for (ptrdiff_t t = tiles.begin; t < tiles.end; t++, meanwhile.from = NULL) {
        xpc_range rows = NAME(part_of)(job->rows_now, job->tiles, t);
        ptrdiff_t count = rows.end - rows.begin;
        const REAL *a = NAME(packed_tile)(job, t) + (k - job->k) * NAME(STEP);
        REAL *c = job->c + (job->row + rows.begin) * job->columns + column;
        meanwhile.streamed = job->streamed && nv == NAME(NV) && count >= NAME(COPYING);
        if (columns == nv * LANES && job->streamed == meanwhile.streamed) {
            NAME(tile)((int)count, nv, depth, a, b, b_step, bias, add, c, job->columns, &meanwhile);
            continue;
        }
        REAL sums[NAME(DR) * NAME(NV) * LANES];
        NAME(tile)((int)count, nv, depth, a, b, b_step, bias, 0, sums, nv * LANES, &meanwhile);
        MASK last = FIRST((int)(columns - (nv - 1) * LANES));
        for (ptrdiff_t r = 0; r < count; r++, c += job->columns)
            for (int j = 0; j < nv; j++) {
                MASK some = j < nv - 1 ? ALL : last;
                VEC sum = LOAD(sums + (r * nv + j) * LANES);
                if (job->streamed) {
                    STREAM(c + j * LANES, sum);
                    continue;
                }
                if (add)
                    sum += LOAD_FIRST(some, c + j * LANES);
                STORE_FIRST(c + j * LANES, some, sum);
            }
    }
}

/* What of b a panel is packed from. */
INLINE xpc_ahead NAME(look_ahead)(const NAME(product_job) *job, ptrdiff_t panel, ptrdiff_t k)
{
    ptrdiff_t column = panel * NAME(NV) * LANES, columns = xpc_min(job->columns - column, NAME(NV) * LANES);
    ptrdiff_t depth = xpc_min(job->k + job->depth_now - k, job->chunk), size = sizeof(REAL);
    if (panel >= job->panels || depth <= 0)
        return (xpc_ahead){0};
    const char *from = (const char *)(job->b.data + column * job->b.row + k * job->b.step);
    if (job->b.step == 1) /* rows that begin within a line end in one more */
        return (xpc_ahead){from, job->b.row * size, depth * size + LINE - 1, columns, 0};
    /* the line in which a row begins has come with the panel before */
    return (xpc_ahead){from + -(size_t)from % LINE, job->b.step * size, columns * size, depth, 0};
}

TARGET static void NAME(product_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(product_job) *job = argument;
    REAL *memory = (REAL *)(job->memory + slot * job->bytes);
    ptrdiff_t width = NAME(NV) * LANES;
    REAL bias[PANELS][NAME(NV) * LANES];
    for (ptrdiff_t item = begin; item < end; item++) {
        xpc_range tiles = NAME(part_of)(job->tiles, job->row_blocks, item % job->row_blocks);
        xpc_range panels = NAME(part_of)(job->panels, job->blocks, item / job->row_blocks);
        /* the next item of this thread, if others are as fast */
        ptrdiff_t later = item + 1 < end ? item + 1 : end + (job->slots - 1) * (end - begin);
        later = NAME(part_of)(job->panels, job->blocks, xpc_min(later / job->row_blocks, job->blocks)).begin;
        for (ptrdiff_t p = panels.begin; job->bias && p < panels.end; p++)
            for (ptrdiff_t l = 0; l < width; l++)
                bias[p - panels.begin][l] = p * width + l < job->columns ? job->bias[p * width + l] : (REAL)0;
        for (ptrdiff_t k = job->k, depth; k < job->k + job->depth_now; k += depth) {
            depth = xpc_min(job->k + job->depth_now - k, job->chunk);
            for (ptrdiff_t t = tiles.begin; t < tiles.end; t += NAME(GROUP))
                for (ptrdiff_t p = panels.begin; p < panels.end; p++) {
                    ptrdiff_t column = p * width, columns = xpc_min(job->columns - column, width);
                    ptrdiff_t step = round_up(columns, LANES);
                    REAL *panel = memory + (job->tiles <= NAME(GROUP) ? 0 : p - panels.begin) * job->chunk * width;
                    REAL *b = panel;
                    const REAL *from = NULL; /* where b lies as it is read, if it does */
                    if (job->b.row == 1 && columns == step)
                        from = job->b.data + column + k * job->b.step;
                    if (from && tiles.end - tiles.begin == 1) {
                        b = (REAL *)from; /* it is read but once, and not written, as nothing is copied */
                        step = job->b.step;
                        from = NULL;
                    } else if (!from || columns < width || job->rows_now / job->tiles < NAME(COPYING)) {
                        if (t == tiles.begin)
                            NAME(pack)(&job->b, column, columns, k, depth, panel, step);
                        from = NULL;
                    } else if (t > tiles.begin)
                        from = NULL; /* the first tile has left a copy */
                    xpc_range now = {t, xpc_min(t + NAME(GROUP), tiles.end)};
                    xpc_ahead next = {0};
                    if (p + 1 < panels.end && t == tiles.begin)
                        next = NAME(look_ahead)(job, p + 1, k);
                    else if (p + 1 == panels.end && now.end == tiles.end)
                        next = k + depth < job->k + job->depth_now ? NAME(look_ahead)(job, panels.begin, k + depth)
                                                                   : NAME(look_ahead)(job, later, job->k);
                    NAME(panel_product)(job, now, k, depth, p, b, step,
                                        job->bias && k == 0 ? bias[p - panels.begin] : NULL,
                                        from, &next);
                }
        }
    }
    FENCE();
}

static int NAME(product)(NAME(product_job) *job)
{
    ptrdiff_t size = sizeof(REAL), most = xpc_min(job->rows, ROWS), width = NAME(NV) * LANES;
    job->chunk = round_up(xpc_ceil_div(job->depth, xpc_ceil_div(job->depth, CHUNK)), LANES); /* all of about one size */
    job->panels = xpc_ceil_div(job->columns, width);
    job->blocks = xpc_ceil_div(job->panels, xpc_max(xpc_min(job->panels / 8, PANELS), 1));
    ptrdiff_t depth = xpc_max(PACKED_BYTES / (most * size) / job->chunk, 1) * job->chunk;
    ptrdiff_t tiles = xpc_ceil_div(most, NAME(DR));
    ptrdiff_t multiplications = most * xpc_min(depth, job->depth) / 16 * job->columns;
    /* few panels: the rows are shared out as well, though each share packs b again */
    job->row_blocks = xpc_max(xpc_min(8 / job->blocks, tiles / 4), 1);
    ptrdiff_t items = job->blocks * job->row_blocks, cost = xpc_max(multiplications / items, 1);
    int slots = job->slots = xpc_slots(items, cost);
    if (slots == 1) {
        job->row_blocks = 1;
        depth = job->chunk; /* no thread waits for another one: little memory, which stays in a cache */
    }
    depth = xpc_min(depth, job->depth);
    job->streamed = LANES * size == LINE && (size_t)job->c % LINE == 0 && job->columns % LANES == 0 &&
                    job->depth <= job->chunk && job->rows >= STREAMED_BYTES / size / job->columns;
    job->bytes = round_up((tiles <= NAME(GROUP) ? 1 : PANELS) * job->chunk * width * size, LINE);
    job->packed = xpc_arena_take((size_t)(tiles * NAME(STEP) * depth * size));
    job->memory = job->packed ? xpc_arena_take((size_t)(job->bytes * slots)) : NULL;
    int done = job->memory ? XPC_LINEAR_DONE : XPC_LINEAR_NO_MEMORY;
    for (job->row = 0; job->memory && job->row < job->rows; job->row += job->rows_now) {
        job->rows_now = xpc_min(job->rows - job->row, most);
        job->tiles = xpc_ceil_div(job->rows_now, NAME(DR));
        job->row_blocks = xpc_min(job->row_blocks, job->tiles);
        for (job->k = 0; job->k < job->depth; job->k += job->depth_now) {
            job->depth_now = xpc_min(job->depth - job->k, depth);
            xpc_parallel_items(NAME(pack_tiles), job, job->tiles, NAME(DR) * job->depth_now, slots);
            xpc_parallel_items(NAME(product_items), job, job->blocks * job->row_blocks, cost, slots);
        }
    }
    xpc_arena_give(job->memory);
    xpc_arena_give(job->packed);
    return done;
}

/* ---- forward, where the sums are long: their terms are the lanes, both matrices are read where they lie ---------- */

/* sums[i] = all lanes of vectors[i] added up, for LANES of them. */
INLINE VEC NAME(sums_of)(VEC vectors[LANES])
{
    NAME(transpose)(vectors);
    for (int half = LANES / 2; half >= 1; half /= 2)
        for (int l = 0; l < half; l++)
            vectors[l] += vectors[l + half];
    return vectors[0];
}

/* The dot products of `rows` rows of x with `columns` rows of w, into sums [row][column]. */
INLINE void NAME(dots)(const int rows, const int columns, ptrdiff_t depth, const REAL *x, ptrdiff_t x_row,
                       const REAL *w, ptrdiff_t w_row, REAL *sums)
{
    VEC acc[NAME(DOT_ROWS) * NAME(DOT_COLUMNS) + LANES];
    XPC_UNROLL for (int n = 0; n < rows * columns; n++)
        acc[n] = SPLAT((REAL)0);
    ptrdiff_t k = 0;
    for (; k + LANES <= depth; k += LANES) {
        VEC right[NAME(DOT_COLUMNS)];
        XPC_UNROLL for (int c = 0; c < columns; c++)
            right[c] = LOAD(w + c * w_row + k);
        XPC_UNROLL for (int r = 0; r < rows; r++) {
            VEC left = LOAD(x + r * x_row + k);
            XPC_UNROLL for (int c = 0; c < columns; c++)
                acc[r * columns + c] = FMA(left, right[c], acc[r * columns + c]);
        }
    }
    if (k < depth) {
        MASK some = FIRST((int)(depth - k));
        XPC_UNROLL for (int r = 0; r < rows; r++) {
            VEC left = LOAD_FIRST(some, x + r * x_row + k);
            XPC_UNROLL for (int c = 0; c < columns; c++)
                acc[r * columns + c] = FMA(left, LOAD_FIRST(some, w + c * w_row + k), acc[r * columns + c]);
        }
    }
    for (int n = rows * columns; n % LANES; n++)
        acc[n] = SPLAT((REAL)0);
    XPC_UNROLL for (int n = 0; n < rows * columns; n += LANES)
        STORE(sums + n, NAME(sums_of)(acc + n));
}

/* The same of up to DOT_ROWS and DOT_COLUMNS of them. */
TARGET static void NAME(some_dots)(int rows, int columns, ptrdiff_t depth, const REAL *x, ptrdiff_t x_row,
                                   const REAL *w, ptrdiff_t w_row, REAL *sums)
{
#define XPC_DOTS(r, c) \
    if (rows == r && columns == c) { \
        NAME(dots)(r, c, depth, x, x_row, w, w_row, sums); \
        return; \
    }
#define XPC_ALL_DOTS(r) \
    XPC_DOTS(r, 1) \
    XPC_DOTS(r, 2) \
    XPC_DOTS(r, 3) \
    XPC_DOTS(r, 4)
#if REGISTERS >= 32
    XPC_DOTS(5, 5)
    XPC_DOTS(4, 5)
    XPC_DOTS(3, 5)
    XPC_DOTS(2, 5)
    XPC_DOTS(1, 5)
    XPC_ALL_DOTS(5)
    XPC_ALL_DOTS(4)
#endif
    XPC_ALL_DOTS(3)
    XPC_ALL_DOTS(2)
    XPC_ALL_DOTS(1)
#undef XPC_ALL_DOTS
#undef XPC_DOTS
}

typedef struct {
    ptrdiff_t batch, inputs, outputs;
    const REAL *x, *w, *b;
    REAL *y;
    ptrdiff_t parts, strips; /* of the batch, and of DOT_COLUMNS outputs */
} NAME(dots_job);

TARGET static void NAME(dots_items)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(dots_job) *job = argument;
    ptrdiff_t tiles = xpc_ceil_div(job->batch, NAME(DOT_ROWS)), outputs = job->outputs, inputs = job->inputs;
    REAL sums[NAME(DOT_ROWS) * NAME(DOT_COLUMNS) + LANES] = {0};
    (void)slot;
    for (ptrdiff_t item = begin; item < end; item++) {
        xpc_range part = NAME(part_of)(tiles, job->parts, item % job->parts);
        xpc_range strip = NAME(part_of)(outputs, job->strips, item / job->parts);
        int columns = (int)(strip.end - strip.begin);
        for (ptrdiff_t k = 0, depth; k < inputs; k += depth) {
            depth = xpc_min(inputs - k, NAME(DOT_CHUNK));
            for (ptrdiff_t t = part.begin; t < part.end; t++) {
                xpc_range rows = NAME(part_of)(job->batch, tiles, t);
                const REAL *w = job->w + strip.begin * inputs + k;
                NAME(some_dots)((int)(rows.end - rows.begin), columns, depth, job->x + rows.begin * inputs + k, inputs,
                                w, inputs, sums);
                REAL *y = job->y + rows.begin * outputs + strip.begin;
                for (ptrdiff_t r = 0; r < rows.end - rows.begin; r++, y += outputs)
                    for (int c = 0; c < columns; c++)
                        y[c] = sums[r * columns + c] + (k > 0 ? y[c] : job->b ? job->b[strip.begin + c] : (REAL)0);
            }
        }
    }
}

static int NAME(linear)(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const REAL *x, const REAL *w,
                        const REAL *b, REAL *y)
{
    if (inputs >= LONG_SUM && (batch <= FEW || outputs <= FEW)) {
        NAME(dots_job) dots = {batch, inputs, outputs, x, w, b, y, 1, xpc_ceil_div(outputs, NAME(DOT_COLUMNS))};
        ptrdiff_t tiles = xpc_ceil_div(batch, NAME(DOT_ROWS));
        dots.parts = xpc_max(xpc_min(xpc_ceil_div(8, dots.strips), tiles / 4), 1);
        ptrdiff_t items = dots.strips * dots.parts, cost = batch * inputs / dots.parts * NAME(DOT_COLUMNS) / 16;
        xpc_parallel_items(NAME(dots_items), &dots, items, cost, xpc_slots(items, cost));
        return XPC_LINEAR_DONE;
    }
    NAME(product_job) job = {.bias = b, .c = y, .rows = batch, .columns = outputs, .depth = inputs};
    job.a = (NAME(matrix)){x, inputs, 1, batch};
    job.b = (NAME(matrix)){w, inputs, 1, outputs};
    return NAME(product)(&job);
}

/* db = sums of dy over the batch, SUMMED of its rows at a time. */
TARGET static void NAME(column_sums)(ptrdiff_t batch, ptrdiff_t outputs, const REAL *dy, REAL *db)
{
    for (ptrdiff_t column = 0; column < outputs; column += LANES) {
        MASK some = FIRST((int)xpc_min(outputs - column, LANES));
        VEC total = SPLAT((REAL)0);
        for (ptrdiff_t first = 0; first < batch; first += SUMMED) {
            VEC sum = SPLAT((REAL)0);
            for (ptrdiff_t n = first; n < xpc_min(first + SUMMED, batch); n++)
                sum += LOAD_FIRST(some, dy + n * outputs + column);
            total += sum;
        }
        STORE_FIRST(db + column, some, total);
    }
}

static int NAME(linear_backward)(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const REAL *dy, const REAL *x,
                                 const REAL *w, REAL *dx, REAL *dw, REAL *db)
{
    NAME(product_job) job = {.c = dw, .row_sums = db, .rows = outputs, .columns = inputs, .depth = batch};
    job.a = (NAME(matrix)){dy, 1, outputs, outputs};
    job.b = (NAME(matrix)){x, 1, inputs, inputs};
    if (db && !dw)
        NAME(column_sums)(batch, outputs, dy, db);
    int done = dw ? NAME(product)(&job) : XPC_LINEAR_DONE;
    if (!dx || done != XPC_LINEAR_DONE)
        return done;
    job = (NAME(product_job)){.c = dx, .rows = batch, .columns = inputs, .depth = outputs};
    job.a = (NAME(matrix)){dy, outputs, 1, batch};
    job.b = (NAME(matrix)){w, 1, inputs, inputs};
    return NAME(product)(&job);
}

#include "simd_end.h"
