#include "norm.h"

#include <math.h>
#include <string.h>

#include "arena.h"
#include "geometry.h"
#include "norm_sums.h"
#include "stream.h"
#include "threads.h"

enum {
    GROUP = 64,           /* channels at most that are worked on side by side */
    AHEAD = 1024,         /* bytes of the next image that are asked for early: a new page, where nobody guesses */
    COPIED = 512 << 10,   /* bytes of an array that are copied to be read again: the copy stays in the second-level cache, */
    MOST_COPIED = 1280 << 10, /* where the original at a large power of two from image to image would not */
    LEAST_COPIED = 1 << 20,   /* smaller arrays stay there anyway */
    BAND = 16384,         /* bytes of rows that are worked on at a time: they stay in the first-level cache */
    SHARES = 64           /* at most, of the rows, with sums of their own */
};

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
