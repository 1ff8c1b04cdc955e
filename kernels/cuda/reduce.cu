// Sums over the rows of a matrix, in two steps, so that few long rows fill the device as well as many short ones:
//
//     row 0   [ chunk 0 | chunk 1 | chunk 2 ]  ->  partial[0, 0..2]  ->  sums[0]
//     row 1   [ chunk 0 | chunk 1 | chunk 2 ]  ->  partial[1, 0..2]  ->  sums[1]
//              one block each                        one warp a row
#include "reduce.cuh"

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    partial_row_sums(const T* __restrict__ x, Wide<T>* __restrict__ partial, I length, I chunk) {
    const I row = blockIdx.y, start = (I)blockIdx.x * chunk, stop = start + chunk < length ? start + chunk : length;
    const bool vectors = aligned(x) && length % VECTOR<T> == 0 && chunk % VECTOR<T> == 0;
    Wide<T> sum = 0;
    over_chunk<T>(vectors, start, stop, [&](I i, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> pack = load<N>(x + row * length + i);
#pragma unroll
        for (int k = 0; k < N; k++) sum += widen<T>(pack.of[k]);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[row * gridDim.x + blockIdx.x] = sum;
}

// One thread for each column and chunk of rows; neighbouring threads read neighbouring columns.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    partial_column_sums(const T* __restrict__ x, Wide<T>* __restrict__ partial, I rows, I columns, I chunk, I chunks) {
    GRID_STRIDE_LOOP(I, index, columns * chunks) {
        const I column = index % columns, part = index / columns, start = part * chunk;
        const I stop = rows - start < chunk ? rows : start + chunk;
        Wide<T> sum = 0;
        for (I row = start; row < stop; row++) sum += widen<T>(x[row * columns + column]);
        partial[column * chunks + part] = sum;
    }
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    finish_row_sums(const Wide<T>* __restrict__ partial, T* __restrict__ sums, I rows, I chunks) {
    over_rows_by_warp(rows, [&](I row, int lane) {
        Wide<T> sum = 0;
        for (I i = lane; i < chunks; i += 32) sum += partial[row * chunks + i];
        sum = warp_sum(sum);
        if (lane == 0) sums[row] = narrow<T>(sum);
    });
}
