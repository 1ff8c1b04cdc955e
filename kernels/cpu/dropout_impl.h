/* Included once for each type and instruction set by dropout.c. */
#include "simd.h"
#include "stream_impl.h"

typedef struct {
    const REAL *x;
    REAL *y, *mask;
    ptrdiff_t count;
    xpc_dropout_key key;
    uint32_t threshold;
    REAL kept;
    int streamed, mask_streamed;
} NAME(dropout_job);

/* words[w][l] = word w of block first + l. The loops are short and simple so that compilers turn each into vectors. */
INLINE void NAME(philox)(uint32_t words[4][WIDTH], uint64_t first, xpc_dropout_key key)
{
    uint32_t *restrict c0 = words[0], *restrict c1 = words[1], *restrict c2 = words[2], *restrict c3 = words[3];
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
    for (int l = 0; l < WIDTH; l++) {
        c0[l] = (uint32_t)(first + (uint64_t)l);
        c1[l] = (uint32_t)((first + (uint64_t)l) >> 32);
        c2[l] = key.layer;
        c3[l] = key.step;
    }
    for (int turn = 0; turn < ROUNDS; turn++) {
        uint64_t product0[WIDTH], product1[WIDTH];
        for (int l = 0; l < WIDTH; l++)
            product0[l] = (uint64_t)c0[l] * 0xD2511F53u;
        for (int l = 0; l < WIDTH; l++)
            product1[l] = (uint64_t)c2[l] * 0xCD9E8D57u;
        for (int l = 0; l < WIDTH; l++)
            c0[l] = (uint32_t)(product1[l] >> 32) ^ c1[l] ^ k0;
        for (int l = 0; l < WIDTH; l++)
            c1[l] = (uint32_t)product1[l];
        for (int l = 0; l < WIDTH; l++)
            c2[l] = (uint32_t)(product0[l] >> 32) ^ c3[l] ^ k1;
        for (int l = 0; l < WIDTH; l++)
            c3[l] = (uint32_t)product0[l];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

INLINE void NAME(compare)(REAL *restrict mask, uint32_t words[4][WIDTH], uint32_t threshold, REAL kept)
{
    const uint32_t *restrict c0 = words[0], *restrict c1 = words[1], *restrict c2 = words[2], *restrict c3 = words[3];
    for (int l = 0; l < WIDTH; l++) {
        mask[4 * l] = c0[l] < threshold ? 0 : kept;
        mask[4 * l + 1] = c1[l] < threshold ? 0 : kept;
        mask[4 * l + 2] = c2[l] < threshold ? 0 : kept;
        mask[4 * l + 3] = c3[l] < threshold ? 0 : kept;
    }
}

/* The masks of elements first to first + count, at most BLOCK of them; `mask` has room for whole groups. */
TARGET static void NAME(mask_block)(const NAME(dropout_job) *job, REAL *mask, ptrdiff_t first, ptrdiff_t count)
{
    uint32_t words[4][WIDTH];
    for (ptrdiff_t k = 0; k < count; k += 4 * WIDTH) {
        NAME(philox)(words, job->key.block + (uint64_t)(first + k) / 4, job->key);
        NAME(compare)(mask + k, words, job->threshold, job->kept);
    }
}

TARGET static void NAME(multiply_block)(const REAL *restrict a, const REAL *restrict b, REAL *restrict result,
                                        ptrdiff_t count)
{
    for (ptrdiff_t k = 0; k < count; k++)
        result[k] = a[k] * b[k];
}

static void NAME(write)(REAL *to, const REAL *block, ptrdiff_t count, int streamed)
{
    if (streamed)
        NAME(stream)(to, block, count);
    else
        memcpy(to, block, (size_t)count * sizeof(REAL));
}

static void NAME(dropout_chunks)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(dropout_job) *job = argument;
    ptrdiff_t first = begin * CHUNK, last = xpc_min(end * CHUNK, job->count);
    XPC_LINE_ALIGNED REAL mask[BLOCK];
    XPC_LINE_ALIGNED REAL product[BLOCK];
    (void)slot;
    for (; first < last; first += BLOCK) {
        ptrdiff_t count = xpc_min(BLOCK, last - first);
        NAME(mask_block)(job, mask, first, count);
        NAME(write)(job->mask + first, mask, count, job->mask_streamed);
        if (job->x) {
            NAME(multiply_block)(job->x + first, mask, product, count);
            NAME(write)(job->y + first, product, count, job->streamed);
        }
    }
    NAME(end_of_stream)();
}

static void NAME(dropout)(const REAL *x, REAL *y, REAL *mask, ptrdiff_t count, xpc_dropout_key key, uint64_t threshold,
                          double kept)
{
    NAME(dropout_job) job = {x, y, mask, count, key, (uint32_t)threshold, (REAL)kept, 0, 0};
    if (threshold > UINT32_MAX) { /* everything is dropped */
        job.threshold = UINT32_MAX;
        job.kept = 0;
    }
    ptrdiff_t chunks = xpc_ceil_div(count, CHUNK);
    job.streamed = x && NAME(is_streamed)(y, count);
    job.mask_streamed = NAME(is_streamed)(mask, count);
    xpc_parallel_items(NAME(dropout_chunks), &job, chunks, COST * CHUNK, xpc_slots(chunks, COST * CHUNK));
}

#include "simd_end.h"
