/* Included once for each type by dropout.c, which defines REAL and NAME. */

typedef struct {
    REAL *mask;
    ptrdiff_t count;
    xpc_dropout_key key;
    uint64_t threshold;
    REAL kept;
} NAME(dropout_job);

static void NAME(dropout_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(dropout_job) *job = argument;
    ptrdiff_t end = xpc_min(row_end * ROW, job->count);
    uint32_t words[4][LANES];
    (void)plane;
    for (ptrdiff_t first = row_begin * ROW; first < end; first += 4 * LANES) {
        philox(words, (uint64_t)first / 4, job->key);
        REAL *mask = job->mask + first;
        ptrdiff_t count = xpc_min(4 * LANES, end - first);
        for (ptrdiff_t k = 0; k < count; k++)
            mask[k] = words[k % 4][k / 4] < job->threshold ? 0 : job->kept;
    }
}

void NAME(xpc_dropout_mask)(REAL *mask, ptrdiff_t count, xpc_dropout_key key, uint64_t threshold, double kept)
{
    NAME(dropout_job) job = {mask, count, key, threshold, (REAL)kept};
    /* ten rounds for a word: about 8 times the cost of touching an element */
    xpc_parallel_rows(NAME(dropout_rows), &job, 1, xpc_ceil_div(count, ROW), 8 * ROW);
}
