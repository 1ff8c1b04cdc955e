// Losses with their gradients. Those of scores take one warp for each row, which it reads several times from the cache:
//
//     scores (N, K)    row n:  lane 0  lane 1 ... lane 31  lane 0 ...
//
// loss[n] and the gradient carry the factor 1 / N; a label outside 0 .. K - 1 makes both NaN.
#include "reduce.cuh"

// 1 / N, and NaN for a label that is none.
template <class W, class I> __device__ __forceinline__ W weight_of(bool valid, I count) {
    return (valid ? W(1) : W(0)) / (valid ? (W)count : W(0));
}

// exp and log of double take more registers than four blocks leave them.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 8 ? 2 : MIN_BLOCKS)
    softmax_cross_entropy(const T* __restrict__ scores, const int64* __restrict__ labels, T* __restrict__ gradient,
                          Wide<T>* __restrict__ losses, Wide<T> smoothing, I count, I classes) {
    typedef Wide<T> W;
    over_rows_by_warp(count, [&](I row, int lane) {
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
        const W weight = weight_of<W>(valid, count);
        for (I k = lane; k < classes; k += 32) {
            const W target = ((int64)k == label ? 1 - smoothing : W(0)) + smoothing / (W)classes;
            gradient[row * classes + k] = narrow<T>((exp(widen<T>(in[k]) - top) / total - target) * weight);
        }
        if (lane == 0) {
            W loss = valid ? -(1 - smoothing) * (widen<T>(in[label]) - top - log_total) : W(0);
            if (smoothing != 0) loss -= smoothing * (all / (W)classes - log_total);
            losses[row] = loss * weight;
        }
    });
}

// The sum over k != label of max(0, s[k] - s[label] + margin).
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    multiclass_hinge(const T* __restrict__ scores, const int64* __restrict__ labels, T* __restrict__ gradient,
                     Wide<T>* __restrict__ losses, Wide<T> margin, I count, I classes) {
    typedef Wide<T> W;
    over_rows_by_warp(count, [&](I row, int lane) {
        const T* in = scores + row * classes;
        const int64 label = labels[row];
        const bool valid = label >= 0 && label < (int64)classes;
        const W own = valid ? widen<T>(in[label]) : W(0);
        W total = 0, wrong = 0;
        for (I k = lane; k < classes; k += 32) {
            const W excess = widen<T>(in[k]) - own + margin;
            if ((int64)k == label || excess <= 0) continue;  // a NaN goes on
            total += excess;
            wrong += 1;
        }
        total = warp_sum(total);
        wrong = warp_sum(wrong);
        W weight = weight_of<W>(valid, count);
        if (lane == 0) losses[row] = total * weight;
        if (total != total || own != own) weight = total + own;  // NaN exceeds nothing, and must not give 0
        for (I k = lane; k < classes; k += 32) {
            const bool exceeds = widen<T>(in[k]) - own + margin > 0;
            const W share = (int64)k == label ? -wrong : exceeds ? W(1) : W(0);
            gradient[row * classes + k] = narrow<T>(share * weight);
        }
    });
}

// Mean of the squared differences: the sums of the blocks carry its factor.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    mse(const T* __restrict__ pred, const T* __restrict__ target, T* __restrict__ gradient,
        Wide<T>* __restrict__ losses, I count) {
    typedef Wide<T> W;
    const W share = 1 / (W)count;
    W sum = 0;
    over_elements<T>(aligned(pred) && aligned(target) && aligned(gradient), count, [&](I at, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> wanted = load<N>(target + at);
        Pack<T, N> pack = load<N>(pred + at);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const W difference = widen<T>(pack.of[k]) - widen<T>(wanted.of[k]);
            sum += difference * difference;
            pack.of[k] = narrow<T>(difference * (2 * share));
        }
        store(gradient + at, pack);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum * share;
}
