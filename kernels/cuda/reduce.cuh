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

// Calls take(first, width) for the elements start .. stop - 1, which the threads of the block share, in vectors of 16 bytes
// if there are only such.
template <class T, class I, class Take>
__device__ __forceinline__ void over_chunk(bool vectors, I start, I stop, Take take) {
    constexpr int N = VECTOR<T>;
    constexpr int UNROLLED = sizeof(I) == 8 ? 1 : 2;  // more of 64-bit indices takes too many registers
    if (vectors)
#pragma unroll UNROLLED
        for (I i = start + (I)threadIdx.x * N; i < stop; i += THREADS * N) take(i, Width<N>());
    else
#pragma unroll UNROLLED
        for (I i = start + (I)threadIdx.x; i < stop; i += THREADS) take(i, Width<1>());
}

// Calls take(row, lane) for rows, one warp for each.
template <class I, class Take> __device__ __forceinline__ void over_rows_by_warp(I rows, Take take) {
    for (I row = (I)blockIdx.x * WARPS + (I)(threadIdx.x / 32); row < rows; row += (I)gridDim.x * WARPS)
        take(row, (int)(threadIdx.x % 32));
}
