/* Large results, past the caches. Included once for each type and instruction set, after simd.h.
 *
 *     loop of a kernel --> block of BLOCK numbers in the first cache --> memory
 *
 * A line that is written as a whole past the caches need not be read first, which saves a third of the traffic; but
 * whoever reads the result next must get it from memory. So results that would stay in a cache are written as usual. */

static int NAME(is_streamed)(const REAL *result, ptrdiff_t count)
{
#ifdef XPC_HAS_VECTORS
    return (size_t)result % 64 == 0 && count >= (ptrdiff_t)(STREAMED_BYTES / sizeof(REAL));
#else
    (void)result, (void)count;
    return 0;
#endif
}

/* `to` is aligned to 64 bytes, as `from` is. */
TARGET static inline void NAME(stream)(REAL *to, const REAL *from, ptrdiff_t count)
{
    ptrdiff_t k = 0;
#ifdef XPC_HAS_VECTORS
    for (; count - k >= LANES; k += LANES)
        STREAM(to + k, LOAD(from + k));
#endif
    for (; k < count; k++)
        to[k] = from[k];
}

TARGET static inline void NAME(end_of_stream)(void)
{
#ifdef XPC_HAS_VECTORS
    FENCE();
#endif
}
