/* Images laid out by the phases of a stride, for engines that read runs of pixels: sizes and places of planes. */
#ifndef XPC_PHASES_H
#define XPC_PHASES_H

#include "arena.h"
#include "geometry.h"

enum {
    LINE = 64,      /* bytes; alignment of everything in the working memory, and the widest vector */
    ALIASING = 1024 /* bytes; planes a multiple of it apart fall into few sets of a cache */
};

/* A vector of output pixels: where it is read from, where the result goes. */
typedef struct {
    ptrdiff_t from, to;
} spot;

static inline ptrdiff_t rounded(ptrdiff_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

/* As many numbers or some more, from one plane to the next. */
static inline ptrdiff_t apart(ptrdiff_t numbers, int itemsize)
{
    ptrdiff_t bytes = rounded(numbers * itemsize);
    return (bytes % ALIASING ? bytes : bytes + LINE) / itemsize;
}

/* Rows at a time, about equally many each time, so that they take no more than `bytes` where a row takes `row`. */
static inline ptrdiff_t rows_within(ptrdiff_t rows, ptrdiff_t bytes, ptrdiff_t row, ptrdiff_t more)
{
    ptrdiff_t most = xpc_min(xpc_max(bytes / row - more, 1), rows);
    return xpc_ceil_div(rows, xpc_ceil_div(rows, most));
}

static inline int is_read(xpc_axis axis, ptrdiff_t number)
{
    for (ptrdiff_t k = 0; k < axis.kernel; k++)
        if (k * axis.dilation % axis.stride == number)
            return 1;
    return 0;
}

/* Panel `index` of `count` about equal ones. */
static inline xpc_range panel(ptrdiff_t total, ptrdiff_t count, ptrdiff_t index)
{
    return (xpc_range){total * index / count, total * (index + 1) / count};
}

/* Memory for a call, `shared` bytes for all and `each` for each slot: for fewer slots where that would be more than `most`,
 * or than there is. NULL if it does not even do for one. */
static inline char *take_slots(ptrdiff_t shared, ptrdiff_t each, ptrdiff_t most, int *slots)
{
    char *memory = NULL;
    while (*slots > 1 && shared + *slots * each > most)
        --*slots;
    while (!(memory = xpc_arena_take((size_t)(shared + *slots * each))) && *slots > 1)
        *slots = 1;
    return memory;
}

#endif
