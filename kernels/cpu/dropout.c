#include "dropout.h"

#include <string.h>

#include "geometry.h"
#include "threads.h"

enum {
    LANES = 16, /* blocks made side by side, so that the rounds run in vectors */
    ROUNDS = 10,
    ROW = 4096 /* elements that one thread makes at a time; a multiple of 4 * LANES */
};

/* words[w][l] = word w of block first + l. The loops are short and simple so that compilers turn each into vectors. */
XPC_INLINE void philox(uint32_t words[4][LANES], uint64_t first, xpc_dropout_key key)
{
    uint32_t *restrict c0 = words[0], *restrict c1 = words[1], *restrict c2 = words[2], *restrict c3 = words[3];
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
    for (int l = 0; l < LANES; l++) {
        c0[l] = (uint32_t)(first + (uint64_t)l);
        c1[l] = (uint32_t)((first + (uint64_t)l) >> 32);
        c2[l] = key.layer;
        c3[l] = key.step;
    }
    for (int turn = 0; turn < ROUNDS; turn++) {
        uint64_t product0[LANES], product1[LANES];
        for (int l = 0; l < LANES; l++)
            product0[l] = (uint64_t)c0[l] * 0xD2511F53u;
        for (int l = 0; l < LANES; l++)
            product1[l] = (uint64_t)c2[l] * 0xCD9E8D57u;
        for (int l = 0; l < LANES; l++)
            c0[l] = (uint32_t)(product1[l] >> 32) ^ c1[l] ^ k0;
        for (int l = 0; l < LANES; l++)
            c1[l] = (uint32_t)product1[l];
        for (int l = 0; l < LANES; l++)
            c2[l] = (uint32_t)(product0[l] >> 32) ^ c3[l] ^ k1;
        for (int l = 0; l < LANES; l++)
            c3[l] = (uint32_t)product0[l];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

#define REAL float
#define NAME(name) name##_f32
#include "dropout_impl.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_f64
#include "dropout_impl.h"
