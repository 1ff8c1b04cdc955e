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
//     moments of the channel                     mean, variance                      one thread a channel

// Calls take(offset) for the elements of the block's chunk of its channel.
template <class I, class Take>
__device__ __forceinline__ void over_chunk(Planes<I> planes, I batch, I length, I chunk, Take take) {
    const I count = batch * length, start = (I)blockIdx.x * chunk;
    const I stop = count - start < chunk ? count : start + chunk;
    const I channel = (I)blockIdx.y * planes.channel;
    for (I i = start + (I)threadIdx.x; i < stop; i += THREADS) take(i / length * planes.image + channel + i % length);
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_moments(const T* __restrict__ x, Wide<T>* __restrict__ means, Wide<T>* __restrict__ rests,
                  Wide<T>* __restrict__ squares, Planes<I> planes, I batch, I length, I chunk) {
    typedef Wide<T> W;
    const I count = batch * length, start = (I)blockIdx.x * chunk;
    const W size = (W)(count - start < chunk ? count - start : chunk);
    W sum = 0;
    over_chunk(planes, batch, length, chunk, [&](I at) { sum += widen<T>(x[at]); });
    const W mean = block_sum(sum) / size;
    W rest = 0, square = 0;
    over_chunk(planes, batch, length, chunk, [&](I at) {
        const W centred = widen<T>(x[at]) - mean;
        rest += centred;
        square += centred * centred;
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

// The moments of all chunks together (Chan, Golub, LeVeque 1983), in double: it is little work.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    finish_batch_moments(const Wide<T>* __restrict__ means, const Wide<T>* __restrict__ rests,
                         const Wide<T>* __restrict__ squares, Wide<T>* __restrict__ mean, Wide<T>* __restrict__ rest,
                         Wide<T>* __restrict__ variance, Wide<T>* __restrict__ inv_std, Wide<T> eps, I channels,
                         I chunks, I count, I chunk) {
    typedef Wide<T> W;
    GRID_STRIDE_LOOP(I, c, channels) {
        double sum = 0, square = 0;
        for (I i = 0; i < chunks; i++) {
            const I size = count - i * chunk < chunk ? count - i * chunk : chunk;
            sum += ((double)means[c * chunks + i] + (double)rests[c * chunks + i]) * (double)size;
        }
        const double centre = sum / (double)count;
        for (I i = 0; i < chunks; i++) {
            const I size = count - i * chunk < chunk ? count - i * chunk : chunk;
            const double apart = (double)means[c * chunks + i] + (double)rests[c * chunks + i] - centre;
            square += (double)squares[c * chunks + i] + apart * apart * (double)size;
        }
        const double spread = square / (double)count;
        mean[c] = (W)centre;
        rest[c] = (W)(centre - (double)mean[c]);
        variance[c] = (W)spread;
        inv_std[c] = (W)(1 / sqrt(spread + (double)eps));
    }
}

// y = (x - mean) * inv_std * weight + bias; rest, weight and bias may be null.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_normalise(const T* __restrict__ x, T* __restrict__ y, const Wide<T>* __restrict__ mean,
                    const Wide<T>* __restrict__ rest, const Wide<T>* __restrict__ inv_std,
                    const T* __restrict__ weight, const T* __restrict__ bias, Planes<I> in, Planes<I> out, I batch,
                    I channels, I length) {
    typedef Wide<T> W;
    GRID_STRIDE_LOOP(I, index, channels * batch * length) {
        const I l = index % length, plane = index / length, n = plane % batch, c = plane / batch;
        W value = widen<T>(x[n * in.image + c * in.channel + l]) - mean[c];
        if (rest) value -= rest[c];
        value *= weight ? inv_std[c] * widen<T>(weight[c]) : inv_std[c];
        if (bias) value += widen<T>(bias[c]);
        y[n * out.image + c * out.channel + l] = narrow<T>(value);
    }
}

// For each chunk the sums of dy and of dy * (x - mean).
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_gradient_sums(const T* __restrict__ dy, const T* __restrict__ x, const Wide<T>* __restrict__ mean,
                        Wide<T>* __restrict__ sums, Wide<T>* __restrict__ dots, Planes<I> of_dy, Planes<I> of_x,
                        I batch, I length, I chunk) {
    typedef Wide<T> W;
    const W centre = mean[blockIdx.y];
    const I count = batch * length, start = (I)blockIdx.x * chunk, c = (I)blockIdx.y;
    const I stop = count - start < chunk ? count : start + chunk;
    W sum = 0, dot = 0;
    for (I i = start + (I)threadIdx.x; i < stop; i += THREADS) {
        const I n = i / length, l = i % length;
        const W gradient = widen<T>(dy[n * of_dy.image + c * of_dy.channel + l]);
        sum += gradient;
        dot += gradient * (widen<T>(x[n * of_x.image + c * of_x.channel + l]) - centre);
    }
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
    GRID_STRIDE_LOOP(I, c, channels) {
        W sum = 0, dot = 0;
        for (I i = 0; i < chunks; i++) {
            sum += sums[c * chunks + i];
            dot += dots[c * chunks + i];
        }
        if (inv_std) dot *= inv_std[c];  // null where it is in the sums already
        wide_db[c] = sum;
        wide_dw[c] = dot;
        db[c] = narrow<T>(sum);
        dw[c] = narrow<T>(dot);
    }
}

// dx = scale * (dy - db / count - normalised x * dw / count) where the moments depend on x, else scale * dy.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_normalise_backward(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx,
                             const Wide<T>* __restrict__ mean, const Wide<T>* __restrict__ inv_std,
                             const T* __restrict__ weight, const Wide<T>* __restrict__ db,
                             const Wide<T>* __restrict__ dw, bool training, Planes<I> of_dy, Planes<I> of_x,
                             Planes<I> of_dx, I batch, I channels, I length) {
    typedef Wide<T> W;
    const W share = 1 / ((W)batch * (W)length);
    GRID_STRIDE_LOOP(I, index, channels * batch * length) {
        const I l = index % length, plane = index / length, n = plane % batch, c = plane / batch;
        W gradient = widen<T>(dy[n * of_dy.image + c * of_dy.channel + l]);
        if (training) {
            const W centred = widen<T>(x[n * of_x.image + c * of_x.channel + l]) - mean[c];
            gradient -= (db[c] + centred * inv_std[c] * dw[c]) * share;
        }
        gradient *= weight ? inv_std[c] * widen<T>(weight[c]) : inv_std[c];
        dx[n * of_dx.image + c * of_dx.channel + l] = narrow<T>(gradient);
    }
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
// neighbouring threads read neighbouring parameters.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    row_parameter_sums(const T* __restrict__ dy, const T* __restrict__ x, const Wide<T>* __restrict__ mean,
                       const Wide<T>* __restrict__ inv_std, Wide<T>* __restrict__ sums, Wide<T>* __restrict__ dots,
                       I examples, I groups, I channels, I pixels, I chunk, I chunks) {
    typedef Wide<T> W;
    GRID_STRIDE_LOOP(I, index, channels * chunks) {
        const I c = index % channels, start = index / channels * chunk;
        const I stop = examples - start < chunk ? examples : start + chunk;
        W sum = 0, dot = 0;
        for (I n = start; n < stop; n++) {
            const I row = n * groups + c / (channels / groups), from = (n * channels + c) * pixels;
            const W centre = mean[row], scale = inv_std[row];
            for (I i = 0; i < pixels; i++) {
                const W gradient = widen<T>(dy[from + i]);
                sum += gradient;
                dot += gradient * (widen<T>(x[from + i]) - centre) * scale;
            }
        }
        sums[c * chunks + start / chunk] = sum;
        dots[c * chunks + start / chunk] = dot;
    }
}
