/* Dropout by masks from Philox 4x32-10, float32 and float64.
 *
 * J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 *
 *     element      0 1 2 3 | 4 5 6 7 | 8 ...          in C order of the array
 *     block           0    |    1    | 2 ...          counter (block low, block high, layer, step)
 *     word         0 1 2 3 | 0 1 2 3 | 0 ...          of the four that the counter gives
 *
 * Every element depends on its index and the key alone, so any part can be made by any thread, and a part of an array
 * anywhere: `block` in the key says at which one it begins.
 */
#ifndef XPC_DROPOUT_H
#define XPC_DROPOUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t seed;
    uint32_t layer, step;
    uint64_t block; /* of the first element, where the array is a part of a larger one; else 0 */
} xpc_dropout_key;

/* mask[k] = 0 where the word of element k is below `threshold`, else `kept`; and y[k] = x[k] * mask[k], unless x and y are
 * NULL. */
void xpc_dropout_f32(const float *x, float *y, float *mask, ptrdiff_t count, xpc_dropout_key key, uint64_t threshold,
                     double kept);
void xpc_dropout_f64(const double *x, double *y, double *mask, ptrdiff_t count, xpc_dropout_key key,
                     uint64_t threshold, double kept);

#endif
