/* Constants and helpers of norm_sums_impl.h. */
#ifndef XPC_NORM_SUMS_H
#define XPC_NORM_SUMS_H

#include "norm.h"

enum {
    FLUSH = 64,   /* vectors that are added in the lanes of REAL before the sum goes on in double */
    SAMPLES = 8,  /* places of a channel that are looked at for a value near its mean, */
    SAMPLE = 32,  /* and how many numbers there */
    LANE_SUMS = 8 /* sums side by side where all is in double */
};

/* A sum whose mean is more than that many standard deviations off the guess is made again. */
#define FAR 4.0

static inline ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t unit)
{
    return (number + unit - 1) / unit * unit;
}

/* Whether all of what is written lies at multiples of a vector, of `bytes` bytes; `axis` is the one not contiguous
 * beside the batch. */
static inline int is_aligned(const xpc_runs *array, int axis, ptrdiff_t bytes)
{
    ptrdiff_t bits = array->shape[axis] > 1 ? array->strides[axis] : 0;
    if (array->shape[0] > 1)
        bits |= array->strides[0];
    return (((ptrdiff_t)array->data | bits) & (bytes - 1)) == 0;
}

static inline double numbers(const xpc_runs *array)
{
    return (double)array->shape[0] * (double)array->shape[1] * (double)array->shape[2];
}

#endif
