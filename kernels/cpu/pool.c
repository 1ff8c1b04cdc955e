#include "pool.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "stream.h"
#include "threads.h"

enum {
    CHUNK = 256,        /* outputs worked on at a time: their running values stay in the first-level cache */
    TABLE_TAPS = 256,   /* windows of at most that many taps look up where a tap is; larger ones divide */
    LEAST_CHANNELS = 8, /* fewer make no vectors worth it */
    LANE_SUMS = 16,     /* partial sums of a run side by side */
    WIDEST = 16,        /* columns of taps, and */
    MOST_TAPS = 64,     /* taps of windows that are taken apart in columns and rows; sums of so few need no double */
    LINE = 1024,        /* outputs of a row of those, */
    PHASES = 2048,      /* numbers in a row with its padding, */
    HELD = 2048,        /* and in the rows that are kept: all stays in the first-level cache */
    BAND = 2048         /* numbers that are made before they are written */
};

/* Averages add up in double: a running sum of many float32 would lose digits. */
typedef double wide;

/* The taps of output `o` that lie in [low, high). */
static xpc_range taps_between(xpc_axis axis, ptrdiff_t o, ptrdiff_t low, ptrdiff_t high)
{
    ptrdiff_t start = o * axis.stride - axis.pad;
    xpc_range taps = {0, axis.kernel};
    if (start < low)
        taps.begin = xpc_min(xpc_ceil_div(low - start, axis.dilation), axis.kernel);
    if (start + (axis.kernel - 1) * axis.dilation >= high)
        taps.end = xpc_min(xpc_ceil_div(high - start, axis.dilation), axis.kernel);
    taps.end = xpc_max(taps.begin, taps.end);
    return taps;
}

/* The outputs of which any tap can lie in rows [first, last) of the image. */
static xpc_range outputs_touching(xpc_axis axis, ptrdiff_t first, ptrdiff_t last, ptrdiff_t out)
{
    ptrdiff_t reach = (axis.kernel - 1) * axis.dilation;
    xpc_range range;
    range.begin = xpc_min(xpc_max(xpc_ceil_div(first + axis.pad - reach, axis.stride), 0), out);
    range.end = xpc_min(xpc_max(xpc_ceil_div(last + axis.pad, axis.stride), range.begin), out);
    return range;
}

/* Where the taps of a window are, in pixels from its first: looked up, or divided where they are many. */
typedef struct {
    ptrdiff_t taps, kernel_w, dilation_h, dilation_w, down[TABLE_TAPS], right[TABLE_TAPS];
} tap_table;

static void fill_table(tap_table *table, xpc_axis vertical, xpc_axis horizontal)
{
    table->taps = vertical.kernel * horizontal.kernel;
    table->kernel_w = horizontal.kernel;
    table->dilation_h = vertical.dilation;
    table->dilation_w = horizontal.dilation;
    if (table->taps <= TABLE_TAPS)
        for (ptrdiff_t tap = 0; tap < table->taps; tap++) {
            table->down[tap] = tap / horizontal.kernel * vertical.dilation;
            table->right[tap] = tap % horizontal.kernel * horizontal.dilation;
        }
}

static inline ptrdiff_t tap_down(const tap_table *table, ptrdiff_t tap)
{
    return table->taps <= TABLE_TAPS ? table->down[tap] : tap / table->kernel_w * table->dilation_h;
}

static inline ptrdiff_t tap_right(const tap_table *table, ptrdiff_t tap)
{
    return table->taps <= TABLE_TAPS ? table->right[tap] : tap % table->kernel_w * table->dilation_w;
}

/* Whether pixels lie channel by channel in memory, (N, H, W, C): then loops run over the channels of one output, where
 * otherwise they run over the outputs of one row. */
static int channels_innermost(const xpc_array4 *images)
{
    ptrdiff_t channel = images->strides[1] < 0 ? -images->strides[1] : images->strides[1];
    ptrdiff_t row = images->strides[2] < 0 ? -images->strides[2] : images->strides[2];
    ptrdiff_t column = images->strides[3] < 0 ? -images->strides[3] : images->strides[3];
    return images->shape[1] >= LEAST_CHANNELS && channel < column && channel < row;
}

/* The pixels of bin `k` of `out` over an axis of `size`: neighbours overlap unless `out` divides `size`. */
static xpc_range bin(ptrdiff_t k, ptrdiff_t out, ptrdiff_t size)
{
    xpc_range pixels = {k * size / out, ((k + 1) * size - 1) / out + 1};
    return pixels;
}

/* The bins that pixel `k` of `size` is in. */
static xpc_range bins_of(ptrdiff_t k, ptrdiff_t out, ptrdiff_t size)
{
    xpc_range bins = {k * out / size, ((k + 1) * out - 1) / size + 1};
    return bins;
}

static inline ptrdiff_t load_index(const char *from, int size)
{
    return size == 1 ? (ptrdiff_t) * (const uint8_t *)from : (ptrdiff_t) * (const int32_t *)from;
}

/* A row of the image with its padding, cut into phases:
 *
 *     stride 2, kernel 3, pad 1          .  a | b  c | d  e | f  .        outputs 0, 1, 2, 3
 *
 *     phase 0     .  b  d  f             tap 0 of all outputs is phase 0, tap 1 phase 1, tap 2 phase 0 one number later:
 *     phase 1     a  c  e  .             the outputs lie side by side as the lanes of vectors
 *
 * And the way back: entry k of phase 0 gets from outputs k (tap 0) and k - 1 (tap 2), of phase 1 from output k (tap 1). */
typedef struct {
    int usable;
    ptrdiff_t width;           /* of the outputs, in whole vectors */
    ptrdiff_t pitch;           /* of a phase */
    ptrdiff_t offsets[WIDEST]; /* where tap j of output 0 is */
    ptrdiff_t first, last;     /* outputs [first, last) of a row have all their taps in the image */
    /* the way back: a row of outputs is held with zeros around, so many on the left; taps in the order of their phases,
     * the last columns first, so that pixels get what they get in the order of the outputs */
    ptrdiff_t margin, held_pitch;
    ptrdiff_t order[WIDEST], back[WIDEST], starts[WIDEST + 1];
} row_plan;

/* Whether the rows of one plane follow each other in memory. */
static int rows_joined(const xpc_array4 *images, ptrdiff_t itemsize)
{
    return images->strides[3] == itemsize && images->strides[2] == images->shape[3] * itemsize;
}

#define XPC_SOURCE "pool_impl.h"
#include "instances.h"

#define CALL(name) (is_double ? XPC_PICK(name, f64) : XPC_PICK(name, f32))

void xpc_max_pool(const xpc_array4 *x, const xpc_array4 *y, const xpc_array4 *argmax, int argmax_size,
                  xpc_axis vertical, xpc_axis horizontal, int is_double)
{
    CALL(max_pool)(x, y, argmax, argmax_size, vertical, horizontal);
}

int xpc_max_pool_backward(const xpc_array4 *dy, const xpc_array4 *argmax, int argmax_size, const xpc_array4 *dx,
                          xpc_axis vertical, xpc_axis horizontal, int is_double)
{
    return CALL(max_pool_backward)(dy, argmax, argmax_size, dx, vertical, horizontal);
}

void xpc_avg_pool(const xpc_array4 *x, const xpc_array4 *y, xpc_axis vertical, xpc_axis horizontal,
                  xpc_counted counted, int is_double)
{
    CALL(avg_pool)(x, y, vertical, horizontal, counted);
}

void xpc_avg_pool_backward(const xpc_array4 *dy, const xpc_array4 *dx, xpc_axis vertical, xpc_axis horizontal,
                           xpc_counted counted, int is_double)
{
    CALL(avg_pool_backward)(dy, dx, vertical, horizontal, counted);
}

void xpc_adaptive_avg_pool(const xpc_array4 *x, const xpc_array4 *y, int is_double)
{
    CALL(adaptive_avg_pool)(x, y);
}

void xpc_adaptive_avg_pool_backward(const xpc_array4 *dy, const xpc_array4 *dx, int is_double)
{
    CALL(adaptive_avg_pool_backward)(dy, dx);
}
