/* Layer norm and group norm: a row is read from memory once, then from the cache.
 *
 *     forward     mean --> mean of the squares about it --> y
 *     backward    sums of the gradients and of their products with x - mean --> dx
 */
#include <math.h>
#include <string.h>

#include "arena.h"
#include "geometry.h"
#include "norm.h"
#include "norm_sums.h"
#include "stream.h"
#include "threads.h"

enum {
    ROWS_A_SHARE = 32, /* at least, so that the memory for sums of their own is little beside them */
    ROW_SHARES = 32    /* at most, with sums of their own */
};

#define XPC_SOURCE "norm_rows_impl.h"
#include "instances.h"

void xpc_norm_rows_forward(const xpc_norm_rows *norm, int is_double)
{
    if (is_double)
        XPC_PICK(rows_forward, f64)(norm);
    else
        XPC_PICK(rows_forward, f32)(norm);
}

int xpc_norm_rows_backward(const xpc_norm_rows *norm, int is_double)
{
    return is_double ? XPC_PICK(rows_backward, f64)(norm) : XPC_PICK(rows_backward, f32)(norm);
}
