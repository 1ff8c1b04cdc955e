/* Layer norm and group norm: a row is read from memory once, then from the cache; forward, and backward in layer norm, piece
 * by piece in turn with the next. Group norm asks for the next row while it works on one, backward.
 *
 *     forward      piece of row r + 1: sums of values and of squares, from memory    piece of row r: y
 *     backward     sums of gradients and of their products with x - mean             dx; dw and db of layer norm
 *
 * Backward, layer norm works on eight rows at a time: x and dy of two rows, dx, w, dw and db. With 65536 numbers that is all
 * of a second-level cache of 2 MiB. So it goes to and fro: each row begins where the row before it ended.
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
    SHORT = 4096,       /* numbers of a row: up to here its mean is guessed from the first of them, */
    SHORT_SAMPLE = 128, /* so many */
    PIECE = 4096,       /* bytes of a row that are worked on at a time: they stay in the first-level cache */
    ROWS_A_SHARE = 32,  /* with sums of their own: at least, so that the memory for these is little beside them */
    ROW_SHARES = 32     /* at most, unless they are so large that sums in REAL lose digits */
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
