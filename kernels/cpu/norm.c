#include "norm.h"

#include <math.h>
#include <string.h>

#include "arena.h"
#include "geometry.h"
#include "stream.h"
#include "threads.h"

enum {
    GROUP = 64,           /* channels at most that are worked on side by side */
    FLUSH = 64,           /* vectors that are added in the lanes of REAL before the sum goes on in double */
    LANE_SUMS = 8,        /* sums side by side where all is in double */
    SAMPLES = 8,          /* places of a channel that are looked at for a value near its mean, */
    SAMPLE = 32,          /* and how many numbers there */
    AHEAD = 1024,         /* bytes of the next image that are asked for early: a new page, where nobody guesses */
    COPIED = 512 << 10,   /* bytes of an array that are copied to be read again: the copy stays in the second-level cache, */
    MOST_COPIED = 1280 << 10, /* where the original at a large power of two from image to image would not */
    LEAST_COPIED = 1 << 20,   /* smaller arrays stay there anyway */
    BAND = 16384,         /* bytes of rows that are worked on at a time: they stay in the first-level cache */
    SHARES = 64           /* at most, of the rows, with sums of their own */
};

/* A sum whose mean is more than that many standard deviations off the guess is made again. */
#define FAR 4.0

static ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t unit)
{
    return (number + unit - 1) / unit * unit;
}

/* Where the images of all arrays follow each other they are one, of N times the pixels. */
static void join(xpc_runs *const *arrays, int count)
{
    for (int k = 0; k < count; k++)
        if (arrays[k]->data && arrays[k]->shape[0] > 1 &&
            (arrays[k]->shape[2] < 2 || arrays[k]->strides[0] != arrays[k]->shape[2] * arrays[k]->strides[2]))
            return;
    for (int k = 0; k < count; k++) {
        arrays[k]->shape[2] *= arrays[k]->shape[0];
        arrays[k]->shape[0] = 1;
    }
}

/* Whether all of what is written lies at multiples of a vector, of `bytes` bytes; `axis` is the one not contiguous
 * beside the batch. */
static int is_aligned(const xpc_runs *array, int axis, ptrdiff_t bytes)
{
    ptrdiff_t bits = array->strides[axis];
    if (array->shape[0] > 1)
        bits |= array->strides[0];
    if (array->shape[axis] < 2)
        bits = array->shape[0] > 1 ? array->strides[0] : 0;
    return (((ptrdiff_t)array->data | bits) & (bytes - 1)) == 0;
}

static double numbers(const xpc_runs *array)
{
    return (double)array->shape[0] * (double)array->shape[1] * (double)array->shape[2];
}

#define XPC_SOURCE "norm_impl.h"
#include "instances.h"

int xpc_batch_norm(const xpc_norm *norm, int is_double)
{
    return is_double ? XPC_PICK(batch_norm, f64)(norm) : XPC_PICK(batch_norm, f32)(norm);
}

int xpc_batch_norm_backward(const xpc_norm *norm, int is_double)
{
    return is_double ? XPC_PICK(batch_norm_backward, f64)(norm) : XPC_PICK(batch_norm_backward, f32)(norm);
}
