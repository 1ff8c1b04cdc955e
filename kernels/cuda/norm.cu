// Normalisation. Moments are taken in two passes, over values less their mean, what rounding left of the mean being kept
// apart ("rest"): an offset of 1e4 costs no accuracy. See xpconv._generic.norm.
#include "reduce.cuh"

// ---- batch norm -------------------------------------------------------------------------------------------------
//
// A channel of images (N, C, L) is cut into chunks, so that 16 channels fill a device as well as 2048:
//
//     channel c, its N * L elements     [ chunk 0 | chunk 1 | chunk 2 | chunk 3 ]    one block (chunk, c) each
//                                            |         |         |         |
//     moments of each chunk             mean, rest, squares  ...                      (C, chunks)
//                                            \_________\____ ____/_________/
//     moments of the channel                     mean, variance                      one warp a channel
//
// Where images of a channel lie one after the other (channel-major memory), the caller passes them as one image. Else
// consecutive threads read runs of L elements, an image apart:
//
//     batch-major memory      n0c0 n0c1 n0c2 ... n1c0 n1c1 n1c2 ...       channel 0:  n0c0 n1c0 ...
//     channel-major memory    n0c0 n1c0 n2c0 ... n0c1 n1c1 n2c1 ...       channel 0:  n0c0 n1c0 n2c0 ... at once

// Where element i of a channel is, relative to its first.
template <class I> __device__ __forceinline__ I place(Planes<I> planes, I i, I batch, I length) {
    return batch == 1 ? i : i / length * planes.image + i % length;
}

// Calls take(c, n, l, width) for all elements l of all planes (n, c), in vectors if those begin at 16 bytes in each of
// the arrays; neighbouring threads take neighbouring elements of a channel.
template <class T, class I, class Take>
__device__ __forceinline__ void over_planes(bool vectors, I batch, I channels, I length, Take take) {
    constexpr int N = VECTOR<T>;
    if (vectors) {
        const I steps = length / N;
        GRID_STRIDE_LOOP(I, index, channels * batch * steps) {
            const I plane = index / steps, c = batch == 1 ? plane : plane / batch;
            take(c, plane - c * batch, (index - plane * steps) * N, Width<N>());
        }
    } else {
        GRID_STRIDE_LOOP(I, index, channels * batch * length) {
            const I plane = index / length, c = batch == 1 ? plane : plane / batch;
            take(c, plane - c * batch, index - plane * length, Width<1>());
        }
    }
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_moments(const T* __restrict__ x, Wide<T>* __restrict__ means, Wide<T>* __restrict__ rests,
                  Wide<T>* __restrict__ squares, Planes<I> planes, I batch, I length, I chunk) {
    typedef Wide<T> W;
    const I count = batch * length, start = (I)blockIdx.x * chunk;
    const I stop = count - start < chunk ? count : start + chunk;
    const W size = (W)(stop - start);
    const bool vectors = aligned(x) && planes.template in_vectors<T>(length) && chunk % VECTOR<T> == 0;
    const T* channel = x + (I)blockIdx.y * planes.channel;
    W sum = 0;
    over_chunk<T>(vectors, start, stop, [&](I i, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> pack = load<N>(channel + place(planes, i, batch, length));
#pragma unroll
        for (int k = 0; k < N; k++) sum += widen<T>(pack.of[k]);
    });
    const W mean = block_sum(sum) / size;
    W rest = 0, square = 0;
    over_chunk<T>(vectors, start, stop, [&](I i, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> pack = load<N>(channel + place(planes, i, batch, length));
#pragma unroll
        for (int k = 0; k < N; k++) {
            const W centred = widen<T>(pack.of[k]) - mean;
            rest += centred;
            square += centred * centred;
        }
    });
    rest = block_sum(rest);
    square = block_sum(square);
    if (threadIdx.x == 0) {
        const I to = (I)blockIdx.y * (I)gridDim.x + (I)blockIdx.x;
        means[to] = mean;
        rests[to] = rest / size;
        squares[to] = square - rest * rest / size;
    }
}

// The moments of all chunks together (Chan, Golub, LeVeque 1983), in double: it is little work. The running statistics
// become keep * old + share * new, with another share for the variance, which makes it unbiased; they may be null.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    finish_batch_moments(const Wide<T>* __restrict__ means, const Wide<T>* __restrict__ rests,
                         const Wide<T>* __restrict__ squares, Wide<T>* __restrict__ mean, Wide<T>* __restrict__ rest,
                         Wide<T>* __restrict__ variance, Wide<T>* __restrict__ inv_std,
                         const Wide<T>* __restrict__ old_mean, const Wide<T>* __restrict__ old_variance,
                         Wide<T>* __restrict__ new_mean, Wide<T>* __restrict__ new_variance, Wide<T> eps, Wide<T> keep,
                         Wide<T> share_of_mean, Wide<T> share_of_variance, I channels, I chunks, I count, I chunk) {
    typedef Wide<T> W;
    over_rows_by_warp(channels, [&](I c, int lane) {
        double sum = 0, square = 0;
        for (I i = lane; i < chunks; i += 32) {
            const I size = count - i * chunk < chunk ? count - i * chunk : chunk;
            sum += ((double)means[c * chunks + i] + (double)rests[c * chunks + i]) * (double)size;
        }
        const double centre = warp_sum(sum) / (double)count;
        for (I i = lane; i < chunks; i += 32) {
            const I size = count - i * chunk < chunk ? count - i * chunk : chunk;
            const double apart = (double)means[c * chunks + i] + (double)rests[c * chunks + i] - centre;
            square += (double)squares[c * chunks + i] + apart * apart * (double)size;
        }
        const double spread = warp_sum(square) / (double)count;
        if (lane == 0) {
            mean[c] = (W)centre;
            rest[c] = (W)(centre - (double)(W)centre);
            variance[c] = (W)spread;
            inv_std[c] = (W)(1 / sqrt(spread + (double)eps));
            if (old_mean) new_mean[c] = keep * old_mean[c] + share_of_mean * (W)centre;
            if (old_variance) new_variance[c] = keep * old_variance[c] + share_of_variance * (W)spread;
        }
    });
}

// y = (x - mean) * inv_std * weight + bias, and with `relu` max(that + residual, 0), all in one pass. rest, weight, bias
// and residual may be null.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_normalise(const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y,
                    const Wide<T>* __restrict__ mean, const Wide<T>* __restrict__ rest,
                    const Wide<T>* __restrict__ inv_std, const T* __restrict__ weight, const T* __restrict__ bias,
                    bool relu, Planes<I> in, Planes<I> of_residual, Planes<I> out, I batch, I channels, I length) {
    typedef Wide<T> W;
    const bool vectors = aligned(x) && aligned(residual) && aligned(y) && in.template in_vectors<T>(length) &&
                         of_residual.template in_vectors<T>(length) && out.template in_vectors<T>(length);
    over_planes<T>(vectors, batch, channels, length, [&](I c, I n, I l, auto width) {
        constexpr int N = decltype(width)::value;
        const W centre = mean[c], below = rest ? rest[c] : W(0), shift = bias ? widen<T>(bias[c]) : W(0);
        const W scale = weight ? inv_std[c] * widen<T>(weight[c]) : inv_std[c];
        Pack<T, N> pack = load<N>(x + n * in.image + c * in.channel + l), beside;
        if (residual) beside = load<N>(residual + n * of_residual.image + c * of_residual.channel + l);
#pragma unroll
        for (int k = 0; k < N; k++) {
            W value = (widen<T>(pack.of[k]) - centre - below) * scale + shift;
            if (residual) value += widen<T>(beside.of[k]);
            if (relu) value = value > 0 || value != value ? value : W(0);
            pack.of[k] = narrow<T>(value);
        }
        store(y + n * out.image + c * out.channel + l, pack);
    });
}

// For each chunk the sums of dy and of dy * (x - mean). Where y is given, the result of a ReLU behind, dy counts only
// where that is positive: the masked gradient is never in memory.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_gradient_sums(const T* __restrict__ dy, const T* __restrict__ y, const T* __restrict__ x,
                        const Wide<T>* __restrict__ mean, Wide<T>* __restrict__ sums, Wide<T>* __restrict__ dots,
                        Planes<I> of_dy, Planes<I> of_y, Planes<I> of_x, I batch, I length, I chunk) {
    typedef Wide<T> W;
    const W centre = mean[blockIdx.y];
    const I count = batch * length, start = (I)blockIdx.x * chunk, c = (I)blockIdx.y;
    const I stop = count - start < chunk ? count : start + chunk;
    const bool vectors = aligned(dy) && aligned(y) && aligned(x) && of_dy.template in_vectors<T>(length) &&
                         of_y.template in_vectors<T>(length) && of_x.template in_vectors<T>(length) &&
                         chunk % VECTOR<T> == 0;
    W sum = 0, dot = 0;
    over_chunk<T>(vectors, start, stop, [&](I i, auto width) {
        constexpr int N = decltype(width)::value;
        const I n = batch == 1 ? 0 : i / length, l = i - n * length;
        const Pack<T, N> gradients = load<N>(dy + n * of_dy.image + c * of_dy.channel + l);
        const Pack<T, N> inputs = load<N>(x + n * of_x.image + c * of_x.channel + l);
        Pack<T, N> results;
        if (y) results = load<N>(y + n * of_y.image + c * of_y.channel + l);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const W gradient = !y || widen<T>(results.of[k]) > 0 ? widen<T>(gradients.of[k]) : W(0);
            sum += gradient;
            dot += gradient * (widen<T>(inputs.of[k]) - centre);
        }
    });
    sum = block_sum(sum);
    dot = block_sum(dot);
    if (threadIdx.x == 0) {
        sums[c * (I)gridDim.x + (I)blockIdx.x] = sum;
        dots[c * (I)gridDim.x + (I)blockIdx.x] = dot;
    }
}

// db and dw in the type of the parameters, and before rounding for what follows.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    finish_gradient_sums(const Wide<T>* __restrict__ sums, const Wide<T>* __restrict__ dots,
                         const Wide<T>* __restrict__ inv_std, T* __restrict__ db, T* __restrict__ dw,
                         Wide<T>* __restrict__ wide_db, Wide<T>* __restrict__ wide_dw, I channels, I chunks) {
    typedef Wide<T> W;
    over_rows_by_warp(channels, [&](I c, int lane) {
        W sum = 0, dot = 0;
        for (I i = lane; i < chunks; i += 32) {
            sum += sums[c * chunks + i];
            dot += dots[c * chunks + i];
        }
        sum = warp_sum(sum);
        dot = warp_sum(dot);
        if (inv_std) dot *= inv_std[c];  // null where it is in the sums already
        if (lane == 0) {
            wide_db[c] = sum;
            wide_dw[c] = dot;
            db[c] = narrow<T>(sum);
            dw[c] = narrow<T>(dot);
        }
    });
}

// dx = scale * (dy - db / count - normalised x * dw / count) where the moments depend on x, else scale * dy. dy counts
// as in batch_gradient_sums; what counts of it is also written to dresidual, unless that is null.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_normalise_backward(const T* __restrict__ dy, const T* __restrict__ y, const T* __restrict__ x,
                             T* __restrict__ dx, T* __restrict__ dresidual, const Wide<T>* __restrict__ mean,
                             const Wide<T>* __restrict__ inv_std, const T* __restrict__ weight,
                             const Wide<T>* __restrict__ db, const Wide<T>* __restrict__ dw, bool training,
                             Planes<I> of_dy, Planes<I> of_y, Planes<I> of_x, Planes<I> of_dx, I batch, I channels,
                             I length) {
    typedef Wide<T> W;
    const W share = 1 / ((W)batch * (W)length);
    const bool vectors = aligned(dy) && aligned(y) && aligned(x) && aligned(dx) && aligned(dresidual) &&
                         of_dy.template in_vectors<T>(length) && of_y.template in_vectors<T>(length) &&
                         of_x.template in_vectors<T>(length) && of_dx.template in_vectors<T>(length);
    over_planes<T>(vectors, batch, channels, length, [&](I c, I n, I l, auto width) {
        constexpr int N = decltype(width)::value;
        const W scale = weight ? inv_std[c] * widen<T>(weight[c]) : inv_std[c];
        const I to = n * of_dx.image + c * of_dx.channel + l;
        Pack<T, N> pack = load<N>(dy + n * of_dy.image + c * of_dy.channel + l), beside;
        if (y) {
            beside = load<N>(y + n * of_y.image + c * of_y.channel + l);
#pragma unroll
            for (int k = 0; k < N; k++)
                if (!(widen<T>(beside.of[k]) > 0)) pack.of[k] = narrow<T>(0);
        }
        if (dresidual) store(dresidual + to, pack);
        if (training) beside = load<N>(x + n * of_x.image + c * of_x.channel + l);
        const W centre = mean[c], towards = inv_std[c], bias = db[c], slope = dw[c];
#pragma unroll
        for (int k = 0; k < N; k++) {
            W gradient = widen<T>(pack.of[k]);
            if (training) gradient -= (bias + (widen<T>(beside.of[k]) - centre) * towards * slope) * share;
            pack.of[k] = narrow<T>(gradient * scale);
        }
        store(dx + to, pack);
    });
}

// ---- layer norm and group norm ----------------------------------------------------------------------------------
//
// Both normalise the rows of a matrix; they differ in which parameter belongs to an element:
//
//     layer norm   row = example                    element i has parameter i                      pixels 1, groups 1
//     group norm   row = example, group of channels element i has parameter (row % groups) * (length / pixels)
//                                                                                + i / pixels
template <class I> struct Parameters {
    I groups, pixels;
    __device__ I of(I row, I i, I length) const { return row % groups * (length / pixels) + i / pixels; }
};

// One block for each row; weight and bias may be null.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    row_norm(const T* __restrict__ x, T* __restrict__ y, const T* __restrict__ weight, const T* __restrict__ bias,
             Wide<T>* __restrict__ mean, Wide<T>* __restrict__ inv_std, Wide<T> eps, Parameters<I> parameters, I rows,
             I length) {
    typedef Wide<T> W;
    for (I row = (I)blockIdx.x; row < rows; row += (I)gridDim.x) {
        const T* in = x + row * length;
        W sum = 0;
        for (I i = (I)threadIdx.x; i < length; i += THREADS) sum += widen<T>(in[i]);
        const W centre = block_sum(sum) / (W)length;
        W rest = 0, square = 0;
        for (I i = (I)threadIdx.x; i < length; i += THREADS) {
            const W centred = widen<T>(in[i]) - centre;
            rest += centred;
            square += centred * centred;
        }
        rest = block_sum(rest) / (W)length;
        const W variance = block_sum(square) / (W)length - rest * rest;
        const W scale = 1 / sqrt((variance > 0 || variance != variance ? variance : W(0)) + eps);
        for (I i = (I)threadIdx.x; i < length; i += THREADS) {
            const I parameter = parameters.of(row, i, length);
            W value = (widen<T>(in[i]) - centre - rest) * scale;
            if (weight) value *= widen<T>(weight[parameter]);
            if (bias) value += widen<T>(bias[parameter]);
            y[row * length + i] = narrow<T>(value);
        }
        if (threadIdx.x == 0) {
            mean[row] = centre + rest;
            inv_std[row] = scale;
        }
    }
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    row_norm_backward(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx,
                      const T* __restrict__ weight, const Wide<T>* __restrict__ mean,
                      const Wide<T>* __restrict__ inv_std, Parameters<I> parameters, I rows, I length) {
    typedef Wide<T> W;
    for (I row = (I)blockIdx.x; row < rows; row += (I)gridDim.x) {
        const W centre = mean[row], scale = inv_std[row];
        W sum = 0, dot = 0;
        for (I i = (I)threadIdx.x; i < length; i += THREADS) {
            W gradient = widen<T>(dy[row * length + i]);
            if (weight) gradient *= widen<T>(weight[parameters.of(row, i, length)]);
            sum += gradient;
            dot += gradient * (widen<T>(x[row * length + i]) - centre) * scale;
        }
        sum = block_sum(sum) / (W)length;
        dot = block_sum(dot) / (W)length;
        for (I i = (I)threadIdx.x; i < length; i += THREADS) {
            W gradient = widen<T>(dy[row * length + i]);
            if (weight) gradient *= widen<T>(weight[parameters.of(row, i, length)]);
            const W normalised = (widen<T>(x[row * length + i]) - centre) * scale;
            dx[row * length + i] = narrow<T>((gradient - sum - normalised * dot) * scale);
        }
    }
}

// Sums for the gradients of weight and bias over a chunk of the examples: one thread for each parameter and chunk, and
// neighbouring threads read neighbouring parameters, which have one pixel each.
//
//     (examples, parameters)    . . . . . .  } chunk 0          thread 0 adds up column 0 of chunk 0
//                               . . . . . .                     thread 1            column 1
//                               . . . . . .  } chunk 1
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    row_parameter_sums(const T* __restrict__ dy, const T* __restrict__ x, const Wide<T>* __restrict__ mean,
                       const Wide<T>* __restrict__ inv_std, Wide<T>* __restrict__ sums, Wide<T>* __restrict__ dots,
                       I examples, I groups, I channels, I chunk, I chunks) {
    typedef Wide<T> W;
    GRID_STRIDE_LOOP(I, index, channels * chunks) {
        const I c = index % channels, start = index / channels * chunk;
        const I stop = examples - start < chunk ? examples : start + chunk;
        W sum = 0, dot = 0;
        for (I n = start; n < stop; n++) {
            const I row = n * groups + c / (channels / groups), at = n * channels + c;
            const W gradient = widen<T>(dy[at]);
            sum += gradient;
            dot += gradient * (widen<T>(x[at]) - mean[row]) * inv_std[row];
        }
        sums[c * chunks + start / chunk] = sum;
        dots[c * chunks + start / chunk] = dot;
    }
}

// The same where a channel has many pixels: one block for each chunk (in x) of each channel (in y, from `first` on), and
// neighbouring threads read neighbouring pixels.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    plane_parameter_sums(const T* __restrict__ dy, const T* __restrict__ x, const Wide<T>* __restrict__ mean,
                         const Wide<T>* __restrict__ inv_std, Wide<T>* __restrict__ sums, Wide<T>* __restrict__ dots,
                         I first, I examples, I groups, I channels, I pixels, I chunk) {
    typedef Wide<T> W;
    const I c = first + (I)blockIdx.y, group = c / (channels / groups);
    const I count = examples * pixels, start = (I)blockIdx.x * chunk;
    const I stop = count - start < chunk ? count : start + chunk;
    const bool vectors = aligned(dy) && aligned(x) && pixels % VECTOR<T> == 0 && chunk % VECTOR<T> == 0;
    W sum = 0, dot = 0;
    over_chunk<T>(vectors, start, stop, [&](I i, auto width) {
        constexpr int N = decltype(width)::value;
        const I n = i / pixels, row = n * groups + group, at = (n * channels + c) * pixels + (i - n * pixels);
        const Pack<T, N> gradients = load<N>(dy + at), inputs = load<N>(x + at);
        const W centre = mean[row], scale = inv_std[row];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const W gradient = widen<T>(gradients.of[k]);
            sum += gradient;
            dot += gradient * (widen<T>(inputs.of[k]) - centre) * scale;
        }
    });
    sum = block_sum(sum);
    dot = block_sum(dot);
    if (threadIdx.x == 0) {
        sums[c * (I)gridDim.x + (I)blockIdx.x] = sum;
        dots[c * (I)gridDim.x + (I)blockIdx.x] = dot;
    }
}
