#include "linear.h"

#include "ahead.h"
#include "arena.h"
#include "geometry.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

#ifdef XPC_HAS_VECTORS

enum {
    LINE = 64,              /* bytes; alignment of everything in working memory, and the widest vector */
    CHUNK = 192,            /* terms of a sum at a time: a panel of b and a tile of a in the first-level cache */
    STRETCH = 8,            /* terms; between them a few lines of what comes next are asked for */
    PANELS = 4,             /* of b side by side, at most */
    GROUP_BYTES = 160 << 10, /* of a, for all panels in turn: a part of the second-level cache */
    ROWS = 2048,            /* of a at a time */
    PACKED_BYTES = 8 << 20, /* about, of a at a time */
    LONG_SUM = 192,         /* terms: from here on they are the lanes, */
    FEW = 16,               /* where rows or columns are no more */
    SUMMED = 64             /* rows of dy that are added up by themselves */
};

static ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t unit)
{
    return (number + unit - 1) / unit * unit;
}

#define XPC_SOURCE "linear_impl.h"
#include "instances.h"

#define CALL(name, type, ...) XPC_PICK(name, type)(__VA_ARGS__)

#else /* a compiler without vectors */

#define CALL(name, type, ...) ((void)batch, XPC_LINEAR_NO_KERNELS)

#endif

#define XPC_LINEAR(type, real) \
    int xpc_linear_##type(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const real *x, const real *w, \
                          const real *b, real *y) \
    { \
        return CALL(linear, type, batch, inputs, outputs, x, w, b, y); \
    } \
    int xpc_linear_backward_##type(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const real *dy, \
                                   const real *x, const real *w, real *dx, real *dw, real *db) \
    { \
        return CALL(linear_backward, type, batch, inputs, outputs, dy, x, w, dx, dw, db); \
    }
XPC_LINEAR(f32, float)
XPC_LINEAR(f64, double)
