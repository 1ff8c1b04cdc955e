#include "dropout.h"

#include "geometry.h"
#include "threads.h"

enum {
    LANES = 16, /* blocks made side by side, so that the rounds run in vectors */
    ROUNDS = 10,
    ROW = 4096 /* elements that one thread makes at a time; a multiple of 4 * LANES */
};

/* words[w][l] = word w of block first + l. */
static void philox(uint32_t words[4][LANES], uint64_t first, xpc_dropout_key key)
{
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
    for (int l = 0; l < LANES; l++) {
        uint64_t block = first + (uint64_t)l;
        words[0][l] = (uint32_t)block;
        words[1][l] = (uint32_t)(block >> 32);
        words[2][l] = key.layer;
        words[3][l] = key.step;
    }
    for (int turn = 0; turn < ROUNDS; turn++) {
        for (int l = 0; l < LANES; l++) {
            uint64_t product0 = (uint64_t)words[0][l] * 0xD2511F53u;
            uint64_t product1 = (uint64_t)words[2][l] * 0xCD9E8D57u;
            words[0][l] = (uint32_t)(product1 >> 32) ^ words[1][l] ^ k0;
            words[1][l] = (uint32_t)product1;
            words[2][l] = (uint32_t)(product0 >> 32) ^ words[3][l] ^ k1;
            words[3][l] = (uint32_t)product0;
        }
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
