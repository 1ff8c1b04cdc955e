/* A small pool of threads for the kernels, one for the whole process.
 *
 * Work comes as rows of planes; every row is computed independently of all others, so results do not depend on the
 * number of threads or on which thread takes which rows.
 */
#ifndef XPC_THREADS_H
#define XPC_THREADS_H

#include <stddef.h>

/* An int that the rows of one job may all set. */
#ifdef XPC_THREADS
#include <stdatomic.h>
typedef atomic_int xpc_flag;
#else
typedef int xpc_flag;
#endif

/* Compute items [begin, end). `slot` is below the number of threads, and no other thread of the call has it meanwhile: the
 * number of a piece of working memory. Which thread gets which items changes from call to call. */
typedef void (*xpc_items_fn)(const void *job, ptrdiff_t begin, ptrdiff_t end, int slot);

/* How many threads a call would use at most: as many slots need working memory. */
int xpc_slots(ptrdiff_t items, ptrdiff_t item_cost);

/* Call `fn` so that each of `items` items is covered exactly once, in up to `slots` threads, and return when all is done.
 * `item_cost` is as for rows below. */
void xpc_parallel_items(xpc_items_fn fn, const void *job, ptrdiff_t items, ptrdiff_t item_cost, int slots);

/* Compute rows [row_begin, row_end) of one plane. */
typedef void (*xpc_rows_fn)(const void *job, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end);

/* Call `fn` so that each of `rows` rows of each of `planes` planes is covered exactly once, and return when all is
 * done. `row_cost` is about the number of array elements that a row touches, or of 16 multiplications if that is more; too
 * little work runs in the caller alone,
 * and so does everything while another thread of the process uses the pool (also a nested call). */
void xpc_parallel_rows(xpc_rows_fn fn, const void *job, ptrdiff_t planes, ptrdiff_t rows, ptrdiff_t row_cost);

/* How many threads the next call may use, the caller included; at least 1. Always 1 in a serial build. */
void xpc_set_num_threads(int number);
int xpc_get_num_threads(void);

/* Take the pool for threads of the caller's own: until it is given back, every kernel runs alone in the thread that calls
 * it. Returns 0 where the pool is in use; then there is nothing to give back. */
int xpc_claim_pool(void);
void xpc_release_pool(void);

/* How often a thread of the pool was kept off a processor for its waking. */
unsigned xpc_spread_helpers(void);

/* Whether the build has threads at all. */
int xpc_has_threads(void);

#endif
