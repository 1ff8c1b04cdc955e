#include "pool.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"

enum {
    CHUNK = 256,     /* outputs of one row worked on at a time: their running values stay in the first-level cache */
    TABLE_TAPS = 256 /* windows of at most that many taps look up where a tap is; larger ones divide */
};

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

static inline ptrdiff_t load_index(const char *from, int size)
{
    return size == 1 ? (ptrdiff_t) * (const uint8_t *)from : (ptrdiff_t) * (const int32_t *)from;
}

/* INDEX has the width of REAL, so that values and indices move through vectors in step. */
#define REAL float
#define INDEX int32_t
#define NAME(name) name##_f32
#include "pool_impl.h"
#undef REAL
#undef INDEX
#undef NAME

#define REAL double
#define INDEX int64_t
#define NAME(name) name##_f64
#include "pool_impl.h"
