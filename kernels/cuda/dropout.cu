// Dropout masks from Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), the same bits as xpconv._generic.dropout:
//
//     element   0 1 2 3   4 5 6 7   8 ...
//     counter   block 0   block 1   ...      = (block low, block high, layer, step), key = (seed low, seed high)
//     word      x y z w   x y z w
//
// An element is dropped if its word is below the threshold. One thread makes one block.
#include "common.cuh"

__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// `first` is the block that the array begins with, where it is a part of a larger one. The step is read from the device
// if `device_step` is not null, so that a captured graph can be replayed.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    dropout_mask(T* __restrict__ mask, Wide<T> kept, unsigned threshold, unsigned seed_low, unsigned seed_high,
                 unsigned layer, unsigned step, const unsigned* __restrict__ device_step, unsigned long long first,
                 I count) {
    if (device_step) step = *device_step;
    GRID_STRIDE_LOOP(I, block, count / 4 + (count % 4 != 0)) {
        const unsigned long long whole = first + (unsigned long long)block;
        const uint4 counter = make_uint4((unsigned)whole, (unsigned)(whole >> 32), layer, step);
        const uint4 words = philox(counter, make_uint2(seed_low, seed_high));
        const unsigned of_element[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (block * 4 + i < count) mask[block * 4 + i] = narrow<T>(of_element[i] < threshold ? Wide<T>(0) : kept);
    }
}
