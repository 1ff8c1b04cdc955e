/* Memory that is used again: results of operators and working memory, from one place for the whole process.
 *
 * Fresh memory from the system costs a page fault for every 4 KiB, more time than many a kernel takes to fill it. What is
 * given back here is kept, and the next call that needs about as much gets it. A training step asks for the same sizes
 * over and over, so after the first few steps it asks the system for nothing.
 */
#ifndef XPC_ARENA_H
#define XPC_ARENA_H

#include <stddef.h>

/* At least `bytes` bytes, uninitialised, aligned to 64; NULL if the system has no more. */
void *xpc_arena_take(size_t bytes);

/* Give back what was taken; NULL is nothing. */
void xpc_arena_give(void *memory);

/* Hand all memory that nobody uses to the system; returns how many bytes. */
size_t xpc_arena_trim(void);

/* Bytes that are in use, and bytes kept for later. */
void xpc_arena_sizes(size_t *used, size_t *kept);

#endif
