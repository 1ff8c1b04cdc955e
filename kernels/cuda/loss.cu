// Softmax cross-entropy with its gradient: one warp for each row of scores, which it reads three times from the cache.
//
//     scores (N, K)    row n:  lane 0  lane 1 ... lane 31  lane 0 ...
//
// loss[n] and the gradient carry the factor 1 / N; a label outside 0 .. K - 1 makes both NaN.
#include "reduce.cuh"

// exp and log of double take more registers than four blocks leave them.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 8 ? 2 : MIN_BLOCKS)
    softmax_cross_entropy(const T* __restrict__ scores, const int64* __restrict__ labels, T* __restrict__ gradient,
                          Wide<T>* __restrict__ losses, Wide<T> smoothing, I count, I classes) {
    typedef Wide<T> W;
    const int lane = (int)(threadIdx.x % 32);
    for (I row = (I)blockIdx.x * WARPS + (I)(threadIdx.x / 32); row < count; row += (I)gridDim.x * WARPS) {
        const T* in = scores + row * classes;
        W top = widen<T>(in[0]);
        for (I k = lane; k < classes; k += 32) {
            const W score = widen<T>(in[k]);
            top = score > top || score != score ? score : top;
        }
        top = warp_max(top);
        W total = 0, all = 0;
        for (I k = lane; k < classes; k += 32) {
            const W score = widen<T>(in[k]) - top;
            total += exp(score);
            all += score;
        }
        total = warp_sum(total);
        if (smoothing != 0) all = warp_sum(all);
        const W log_total = log(total);
        const int64 label = labels[row];
        const bool valid = label >= 0 && label < (int64)classes;
        const W weight = (valid ? W(1) : W(0)) / (valid ? (W)count : W(0));  // 0 / 0 is NaN
        for (I k = lane; k < classes; k += 32) {
            const W target = ((int64)k == label ? 1 - smoothing : W(0)) + smoothing / (W)classes;
            gradient[row * classes + k] = narrow<T>((exp(widen<T>(in[k]) - top) / total - target) * weight);
        }
        if (lane == 0) {
            W loss = valid ? -(1 - smoothing) * (widen<T>(in[label]) - top - log_total) : W(0);
            if (smoothing != 0) loss -= smoothing * (all / (W)classes - log_total);
            losses[row] = loss * weight;
        }
    }
}
