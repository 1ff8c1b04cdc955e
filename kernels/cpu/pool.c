#include "pool.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"

enum {
    CHUNK = 256,        /* outputs worked on at a time: their running values stay in the first-level cache */
    TABLE_TAPS = 256,   /* windows of at most that many taps look up where a tap is; larger ones divide */
    LEAST_CHANNELS = 8, /* fewer make no vectors worth it */
    LANES = 8           /* partial sums of a run side by side */
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

static inline ptrdiff_t load_index(const char *from, int size)
{
    return size == 1 ? (ptrdiff_t) * (const uint8_t *)from : (ptrdiff_t) * (const int32_t *)from;
}

/* INDEX has the width of REAL, so that values and indices move through vectors in step. */
#define REAL float
#define INDEX int32_t
#define NAME(name) name##_f32
#include "strided_impl.h"
#include "pool_impl.h"
#undef REAL
#undef INDEX
#undef NAME

#define REAL double
#define INDEX int64_t
#define NAME(name) name##_f64
#include "strided_impl.h"
#include "pool_impl.h"
