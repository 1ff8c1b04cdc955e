#include "winograd.h"

#include <string.h>

#include "arena.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

#ifdef XPC_HAS_VECTORS

enum {
    LINE = 64,          /* bytes; alignment of everything in the working memory */
    PANEL = 2,          /* vectors of filters in a panel */
    AHEAD = 16,         /* channels whose weights are fetched ahead */
    CHUNK = 128,        /* channels of a product at a time */
    FEW = 28,           /* tiles: with fewer in the cache, the weights' way to the core is what takes the time */
    SOME = 36,          /* tiles: with so many it takes little time */
    MANY = 128,         /* tiles of a block that is larger than the cache */
    BLOCK_BYTES = 720 << 10, /* bytes of a block's working memory if that is room for SOME tiles, */
    CACHE = 1280 << 10, /* and at most, of a second-level cache of 2 MiB */
    SHARES = 8,         /* of the batch at most, with sums of their own, */
    SHARES_BYTES = 16 << 20, /* and not more than so many bytes of them */
    SHARE_TILES = 64,   /* and not less than so many tiles in each */
    COST = 16           /* multiplications that count as one array element to the threads */
};

/* How a call is cut into blocks, and where things lie in the working memory, in numbers unless it says bytes. */
typedef struct {
    int m, points;
    ptrdiff_t rows, columns;   /* tiles of an image */
    ptrdiff_t slices, slice;   /* a row of tiles is cut into so many, of so many tiles at most, */
    ptrdiff_t lines;           /* and a block has so many rows at most */
    ptrdiff_t tiles, blocks;   /* tiles of a block at most; how many blocks there are */
    ptrdiff_t pitch;           /* pixels in a row of a block's images, padded */
    ptrdiff_t panels, pass;    /* of filters; as many as have their weights transformed at a time, */
    ptrdiff_t group, parts;    /* as many as a block takes at a time; parts that threads share a block in */
    ptrdiff_t image_plane, weight_plane, product_plane; /* one point of V, of U of one panel, of M of one panel */
    ptrdiff_t weights;         /* bytes of U */
    ptrdiff_t images, products, band, result; /* in a thread's memory, in bytes; the table of places comes first */
    ptrdiff_t slot;            /* bytes of a thread's memory */
    int slots;
    size_t bytes;
    /* for the gradient of the weights, where a pass, a part and a panel are vectors of filters */
    ptrdiff_t shares, share;        /* of all lines; lines of one */
    ptrdiff_t sum_plane, gradients; /* one point of the sums; where the gradients lie in a thread's memory, in bytes */
    ptrdiff_t sums;                 /* bytes of a share's sums, those of db last */
} layout;

/* Some rows of tiles, counted through all images, and of each the tiles from left to right. */
typedef struct {
    ptrdiff_t first, last, left, right;
} block;

static ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t unit)
{
    return (number + unit - 1) / unit * unit;
}

/* An odd number of lines: planes that far apart do not fall into the same places of a cache. */
static ptrdiff_t apart(ptrdiff_t numbers, int itemsize)
{
    ptrdiff_t lines = (numbers * itemsize + LINE - 1) / LINE;
    return (lines | 1) * (LINE / itemsize);
}

/* Cut the tiles into blocks of at most `most` tiles. */
static void cut(const xpc_winograd *conv, layout *plan, ptrdiff_t most)
{
    plan->slices = xpc_ceil_div(plan->columns, most);
    plan->slice = xpc_ceil_div(plan->columns, plan->slices);
    ptrdiff_t lines = plan->slices > 1 ? 1 : most / plan->columns;
    if (lines >= plan->rows) { /* whole images */
        lines = xpc_min(lines / plan->rows, conv->batch) * plan->rows;
        plan->blocks = xpc_ceil_div(conv->batch * plan->rows, lines) * plan->slices;
    } else { /* equal parts of one */
        ptrdiff_t parts = xpc_ceil_div(plan->rows, lines);
        lines = xpc_ceil_div(plan->rows, parts);
        plan->blocks = conv->batch * xpc_ceil_div(plan->rows, lines) * plan->slices;
    }
    plan->lines = lines;
    plan->tiles = lines * plan->slice;
    plan->pitch = plan->slice * plan->m + 2;
}

static block block_at(const layout *plan, ptrdiff_t number)
{
    block part;
    ptrdiff_t slice = number % plan->slices, step = number / plan->slices;
    if (plan->lines >= plan->rows) {
        part.first = step * plan->lines;
        part.last = part.first + plan->lines;
    } else {
        ptrdiff_t steps = xpc_ceil_div(plan->rows, plan->lines), image = step / steps;
        part.first = image * plan->rows + step % steps * plan->lines;
        part.last = xpc_min(part.first + plan->lines, (image + 1) * plan->rows);
    }
    part.left = slice * plan->slice;
    part.right = xpc_min(part.left + plan->slice, plan->columns);
    return part;
}

/* Numbers in the padded image rows of a block of one image. */
static ptrdiff_t band_pixels(const layout *plan)
{
    return (xpc_min(plan->lines, plan->rows) * plan->m + 2) * plan->pitch;
}

static void place(const xpc_winograd *conv, layout *plan, int lanes, int itemsize)
{
    ptrdiff_t blocks = xpc_ceil_div(conv->channels, lanes), wide = PANEL * lanes;
    plan->image_plane = apart(blocks * plan->tiles * lanes, itemsize);
    plan->weight_plane = apart(conv->channels * wide, itemsize);
    plan->product_plane = apart(plan->tiles * wide, itemsize);
    plan->weights = round_up(plan->pass * plan->points * plan->weight_plane * itemsize, LINE);
    plan->images = round_up(band_pixels(plan) * (ptrdiff_t)sizeof(ptrdiff_t), LINE);
    plan->products = plan->images + plan->points * plan->image_plane * itemsize;
    plan->band = plan->products + plan->group * plan->points * plan->product_plane * itemsize;
    plan->result = plan->band + band_pixels(plan) * lanes * itemsize;
    /* transposes take whole vectors, also behind the last pixel */
    plan->slot = plan->result + (plan->m * plan->slice * plan->m + lanes) * lanes * itemsize;
    plan->slot = apart(plan->slot / itemsize, itemsize) * itemsize;
    plan->bytes = (size_t)plan->weights + (size_t)plan->slots * (size_t)plan->slot;
}

static layout lay_out(const xpc_winograd *conv, int lanes, int itemsize, size_t most)
{
    layout plan = {0};
    plan.m = conv->tile;
    plan.points = (conv->tile + 2) * (conv->tile + 2);
    plan.rows = xpc_ceil_div(conv->out_h, plan.m);
    plan.columns = xpc_ceil_div(conv->out_w, plan.m);
    plan.panels = plan.pass = xpc_ceil_div(conv->filters, PANEL * lanes);
    plan.group = 1;
    ptrdiff_t total = conv->batch * plan.rows * plan.columns;
    ptrdiff_t tile = plan.points * itemsize * (round_up(conv->channels, lanes) + PANEL * lanes);
    ptrdiff_t tiles = xpc_max(BLOCK_BYTES / tile, xpc_min(CACHE / tile, SOME));
    if (tiles < FEW) {
        tiles = MANY;
        plan.group = plan.panels;
    }
    int threads = xpc_get_num_threads();
    tiles = xpc_min(tiles, xpc_max(xpc_ceil_div(total, 2 * threads), FEW));
    plan.slots = threads;
    for (;;) {
        cut(conv, &plan, tiles);
        plan.parts = plan.blocks < threads ? xpc_min(xpc_ceil_div(threads, plan.blocks), plan.pass) : 1;
        plan.group = xpc_min(plan.group, xpc_ceil_div(plan.pass, plan.parts));
        plan.slots = (int)xpc_min(plan.slots, plan.blocks * plan.parts);
        place(conv, &plan, lanes, itemsize);
        if (plan.bytes <= most)
            return plan;
        if (tiles > FEW / 2)
            tiles = tiles / 2;
        else if (plan.group > 1)
            plan.group = (plan.group + 1) / 2;
        else if (plan.slots > 1)
            plan.slots--;
        else if (plan.pass > 1)
            plan.pass = (plan.pass + 1) / 2;
        else if (tiles > 1)
            tiles = tiles / 2;
        else
            return plan;
    }
}

/* The same for the gradient of the weights. */
static void place_weights(const xpc_winograd *conv, layout *plan, int lanes, int itemsize)
{
    ptrdiff_t blocks = xpc_ceil_div(conv->channels, lanes);
    plan->image_plane = apart(blocks * plan->tiles * lanes, itemsize);
    plan->product_plane = apart(plan->group * plan->tiles * lanes, itemsize);
    plan->sum_plane = apart(blocks * plan->pass * lanes * lanes, itemsize);
    plan->sums = (plan->points * plan->sum_plane + 2 * plan->pass * lanes) * itemsize;
    plan->sums = round_up(plan->sums, LINE);
    plan->images = round_up(band_pixels(plan) * (ptrdiff_t)sizeof(ptrdiff_t), LINE);
    plan->gradients = plan->images + plan->points * plan->image_plane * itemsize;
    plan->band = plan->gradients + plan->points * plan->product_plane * itemsize;
    plan->slot = plan->band + band_pixels(plan) * lanes * itemsize;
    plan->slot = apart(plan->slot / itemsize, itemsize) * itemsize;
    plan->bytes = (size_t)plan->shares * (size_t)plan->sums + (size_t)plan->slots * (size_t)plan->slot;
}

static layout lay_out_weights(const xpc_winograd *conv, int lanes, int itemsize, size_t most)
{
    layout plan = {0};
    plan.m = conv->tile;
    plan.points = (conv->tile + 2) * (conv->tile + 2);
    plan.rows = xpc_ceil_div(conv->out_h, plan.m);
    plan.columns = xpc_ceil_div(conv->out_w, plan.m);
    plan.panels = xpc_ceil_div(conv->filters, lanes);
    ptrdiff_t lines = conv->batch * plan.rows, channels = round_up(conv->channels, lanes);
    ptrdiff_t sums = plan.points * channels * lanes * itemsize; /* of one vector of filters */
    plan.pass = xpc_min(xpc_max((ptrdiff_t)(most / 2) / sums, 1), plan.panels);
    plan.pass = xpc_ceil_div(plan.panels, xpc_ceil_div(plan.panels, plan.pass));
    plan.shares = xpc_min((ptrdiff_t)xpc_min(SHARES_BYTES, (ptrdiff_t)(most / 2)) / (sums * plan.pass), SHARES);
    plan.shares = xpc_max(xpc_min(plan.shares, lines * plan.columns / SHARE_TILES), 1);
    plan.share = plan.shares <= conv->batch ? xpc_ceil_div(conv->batch, plan.shares) * plan.rows
                                            : xpc_ceil_div(lines, plan.shares);
    plan.shares = xpc_ceil_div(lines, plan.share);
    int threads = xpc_get_num_threads();
    plan.parts = xpc_min(xpc_ceil_div(threads, plan.shares), plan.pass);
    plan.group = xpc_ceil_div(plan.pass, plan.parts);
    ptrdiff_t tile = plan.points * itemsize * (channels + plan.group * lanes);
    /* each block reads and writes all sums, so it has SOME tiles at least, beyond the cache if need be */
    ptrdiff_t tiles = xpc_max((BLOCK_BYTES - sums * plan.group) / tile, xpc_min(CACHE / tile, SOME));
    if (tiles < FEW)
        tiles = SOME;
    plan.slots = (int)xpc_min(threads, plan.shares * plan.parts);
    for (;;) {
        cut(conv, &plan, tiles);
        place_weights(conv, &plan, lanes, itemsize);
        if (plan.bytes <= most)
            return plan;
        if (tiles > FEW / 2)
            tiles = tiles / 2;
        else if (plan.slots > 1)
            plan.slots--;
        else if (tiles > 1)
            tiles = tiles / 2;
        else
            return plan;
    }
}

/* Working memory as the plan says, or by a smaller plan where the system has less; NULL if there is none. */
static char *take(const xpc_winograd *conv, layout *plan, layout (*plans)(const xpc_winograd *, int, int, size_t), int lanes,
                  int itemsize, size_t most)
{
    *plan = plans(conv, lanes, itemsize, most);
    for (;;) {
        char *memory = xpc_arena_take(plan->bytes);
        if (memory)
            return memory;
        layout smaller = plans(conv, lanes, itemsize, plan->bytes / 2);
        if (smaller.bytes >= plan->bytes)
            return NULL;
        *plan = smaller;
    }
}

#define XPC_SOURCE "winograd_impl.h"
#include "instances.h"

#define CALL(name, type, ...) XPC_PICK(name, type)(__VA_ARGS__)

#else /* a compiler without vectors */

#define CALL(name, type, ...) ((void)conv, 0)

#endif

int xpc_winograd_f32(const xpc_winograd *conv, const xpc_array4 *x, const float *w, const float *b, int rotated, int relu,
                     float *y, size_t most)
{
    return CALL(convolve, f32, conv, x, w, b, rotated, relu, y, most);
}

int xpc_winograd_f64(const xpc_winograd *conv, const xpc_array4 *x, const double *w, const double *b, int rotated,
                     int relu, double *y, size_t most)
{
    return CALL(convolve, f64, conv, x, w, b, rotated, relu, y, most);
}

int xpc_winograd_weights_f32(const xpc_winograd *conv, const xpc_array4 *dy, const xpc_array4 *x, float *dw, float *db,
                             size_t most)
{
    return CALL(differentiate, f32, conv, dy, x, dw, db, most);
}

int xpc_winograd_weights_f64(const xpc_winograd *conv, const xpc_array4 *dy, const xpc_array4 *x, double *dw, double *db,
                             size_t most)
{
    return CALL(differentiate, f64, conv, dy, x, dw, db, most);
}
