// Sums over the rows of a matrix, in two steps, so that few long rows fill the device as well as many short ones:
//
//     row 0   [ chunk 0 | chunk 1 | chunk 2 ]  ->  partial[0, 0..2]  ->  sums[0]
//     row 1   [ chunk 0 | chunk 1 | chunk 2 ]  ->  partial[1, 0..2]  ->  sums[1]
//              one block each                        one thread a row
#include "reduce.cuh"

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS) partial_row_sums(const T* __restrict__ x, Wide<T>* __restrict__ partial,
                                                            I length, I chunk) {
    const I row = blockIdx.y, start = (I)blockIdx.x * chunk, stop = start + chunk < length ? start + chunk : length;
    Wide<T> sum = 0;
    for (I i = start + (I)threadIdx.x; i < stop; i += THREADS) sum += widen<T>(x[row * length + i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[row * gridDim.x + blockIdx.x] = sum;
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS) finish_row_sums(const Wide<T>* __restrict__ partial, T* __restrict__ sums,
                                                           I rows, I chunks) {
    GRID_STRIDE_LOOP(I, row, rows) {
        Wide<T> sum = 0;
        for (I i = 0; i < chunks; i++) sum += partial[row * chunks + i];
        sums[row] = narrow<T>(sum);
    }
}
