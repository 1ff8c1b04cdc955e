/* Included once for each type by dropout.c, which defines REAL and NAME. */

typedef struct {
    REAL *mask;
    ptrdiff_t count;
    xpc_dropout_key key;
    uint32_t threshold;
    REAL kept;
} NAME(dropout_job);

XPC_INLINE void NAME(compare)(REAL *restrict mask, uint32_t words[4][LANES], uint32_t threshold, REAL kept)
{
    const uint32_t *restrict c0 = words[0], *restrict c1 = words[1], *restrict c2 = words[2], *restrict c3 = words[3];
    for (int l = 0; l < LANES; l++) {
        mask[4 * l] = c0[l] < threshold ? 0 : kept;
        mask[4 * l + 1] = c1[l] < threshold ? 0 : kept;
        mask[4 * l + 2] = c2[l] < threshold ? 0 : kept;
        mask[4 * l + 3] = c3[l] < threshold ? 0 : kept;
    }
}

XPC_CLONES
static void NAME(dropout_rows)(const void *argument, ptrdiff_t plane, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(dropout_job) *job = argument;
    ptrdiff_t first = row_begin * ROW, end = xpc_min(row_end * ROW, job->count);
    uint32_t words[4][LANES];
    REAL part[4 * LANES];
    (void)plane;
    for (; end - first >= 4 * LANES; first += 4 * LANES) {
        philox(words, (uint64_t)first / 4, job->key);
        NAME(compare)(job->mask + first, words, job->threshold, job->kept);
    }
    if (first < end) {
        philox(words, (uint64_t)first / 4, job->key);
        NAME(compare)(part, words, job->threshold, job->kept);
        memcpy(job->mask + first, part, (size_t)(end - first) * sizeof(REAL));
    }
}

void NAME(xpc_dropout_mask)(REAL *mask, ptrdiff_t count, xpc_dropout_key key, uint64_t threshold, double kept)
{
    if (threshold > UINT32_MAX) { /* everything is dropped */
        memset(mask, 0, (size_t)count * sizeof(REAL));
        return;
    }
    NAME(dropout_job) job = {mask, count, key, (uint32_t)threshold, (REAL)kept};
    /* ten rounds for a word: about 8 times the cost of touching an element */
    xpc_parallel_rows(NAME(dropout_rows), &job, 1, xpc_ceil_div(count, ROW), 8 * ROW);
}
