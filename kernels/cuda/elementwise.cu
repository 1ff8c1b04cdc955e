// Kernels that treat every element by itself.
#include "common.cuh"

// y[f, i] += b[f], rows of y as long as a channel of the whole batch
template <class T, class I>
__global__ void __launch_bounds__(THREADS) add_bias(T* __restrict__ y, const T* __restrict__ b, I length, I count) {
    GRID_STRIDE_LOOP(I, i, count) y[i] = narrow<T>(widen<T>(y[i]) + widen<T>(b[i / length]));
}
