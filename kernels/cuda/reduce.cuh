// Sums over the threads of a block.
#pragma once

#include "common.cuh"

constexpr unsigned ALL_LANES = 0xFFFFFFFFu;
constexpr int WARPS = THREADS / 32;

template <class W> __device__ __forceinline__ W warp_sum(W value) {
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(ALL_LANES, value, lanes);
    return value;
}

template <class W> __device__ __forceinline__ W warp_max(W value) {
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2) {
        const W other = __shfl_xor_sync(ALL_LANES, value, lanes);
        value = other > value || other != other ? other : value;  // NaN is the maximum
    }
    return value;
}

// The sum over all threads of the block, in every thread; the same bits in every run.
template <class W> __device__ __forceinline__ W block_sum(W value) {
    SHARED_ARRAY(W, of_warp, WARPS);
    value = warp_sum(value);
    __syncthreads();  // a sum before this one has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    W sum = 0;
    for (int warp = 0; warp < WARPS; warp++) sum += of_warp[warp];
    return sum;
}
