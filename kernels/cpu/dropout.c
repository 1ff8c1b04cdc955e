#include "dropout.h"

#include <string.h>

#include "geometry.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

enum {
    WIDTH = 16, /* blocks made side by side, so that the rounds run in vectors */
    ROUNDS = 10,
    CHUNK = 16 * BLOCK, /* elements that one thread makes at a time; a multiple of 4 * WIDTH */
    COST = 8            /* ten rounds for a word: about so many times the cost of touching an element */
};

#define XPC_SOURCE "dropout_impl.h"
#include "instances.h"

void xpc_dropout_f32(const float *x, float *y, float *mask, ptrdiff_t count, xpc_dropout_key key, uint64_t threshold,
                     double kept)
{
    XPC_PICK(dropout, f32)(x, y, mask, count, key, threshold, kept);
}

void xpc_dropout_f64(const double *x, double *y, double *mask, ptrdiff_t count, xpc_dropout_key key,
                     uint64_t threshold, double kept)
{
    XPC_PICK(dropout, f64)(x, y, mask, count, key, threshold, kept);
}
