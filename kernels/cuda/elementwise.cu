// Kernels that treat every element by itself: bias, activations and their gradients.
#include "common.cuh"

// y[f, i] += b[f]: rows as long as a channel of the whole batch, as convolution makes them.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    add_bias(T* __restrict__ y, const T* __restrict__ b, I length, I count) {
    over_elements<T>(aligned(y) && length % VECTOR<T> == 0, count, [&](I at, auto width) {
        constexpr int N = decltype(width)::value;
        const Wide<T> bias = widen<T>(b[at / length]);
        Pack<T, N> pack = load<N>(y + at);
#pragma unroll
        for (int k = 0; k < N; k++) pack.of[k] = narrow<T>(widen<T>(pack.of[k]) + bias);
        store(y + at, pack);
    });
}

// y[n, f] += b[f]: rows of as many features as a linear layer has.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    add_bias_to_rows(T* __restrict__ y, const T* __restrict__ b, I features, I count) {
    over_elements<T>(aligned(y) && aligned(b) && features % VECTOR<T> == 0, count, [&](I at, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> bias = load<N>(b + at % features);
        Pack<T, N> pack = load<N>(y + at);
#pragma unroll
        for (int k = 0; k < N; k++) pack.of[k] = narrow<T>(widen<T>(pack.of[k]) + widen<T>(bias.of[k]));
        store(y + at, pack);
    });
}

// An activation is a class with forward(x, parameter) and backward(dy, kept, parameter), where kept is the result for
// those whose gradient follows from it, else the argument; see xpconv._generic.activation.

struct Relu {  // keeps the result
    template <class W> static __device__ W forward(W x, W) { return x > 0 || x != x ? x : W(0); }
    template <class W> static __device__ W backward(W dy, W y, W) { return y > 0 ? dy : W(0); }
};

struct LeakyRelu {
    // a slope of 0 cuts off, where a product with an infinity would be NaN
    template <class W> static __device__ W below(W value, W slope) { return slope == 0 ? W(0) : value * slope; }
    template <class W> static __device__ W forward(W x, W slope) { return x > 0 || x != x ? x : below(x, slope); }
    template <class W> static __device__ W backward(W dy, W x, W slope) { return x > 0 ? dy : below(dy, slope); }
};

struct Tanh {  // keeps the result
    template <class W> static __device__ W forward(W x, W) { return tanh(x); }
    template <class W> static __device__ W backward(W dy, W y, W) { return dy * (1 - y * y); }
};

struct Sigmoid {  // keeps the result
    template <class W> static __device__ W forward(W x, W) {
        const W decay = exp(x < 0 ? x : -x);  // of negative numbers only: no overflow
        return (x < 0 ? decay : W(1)) / (1 + decay);
    }
    template <class W> static __device__ W backward(W dy, W y, W) { return dy * (y * (1 - y)); }
};

struct Silu {
    template <class W> static __device__ W forward(W x, W) { return x * Sigmoid::forward(x, x); }
    template <class W> static __device__ W backward(W dy, W x, W) {
        const W s = Sigmoid::forward(x, x);
        return dy * (s * (1 + x * (1 - s)));
    }
};

struct Gelu {
    // the normal distribution function, without cancellation in its tail
    template <class W> static __device__ W phi(W x) { return W(0.5) * erfc(x * W(-0.7071067811865476)); }
    template <class W> static __device__ W forward(W x, W) { return x * phi(x); }
    template <class W> static __device__ W backward(W dy, W x, W) {
        return dy * (phi(x) + x * exp(x * x * W(-0.5)) * W(0.3989422804014327));
    }
};

template <class T, class I, class Activation>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    activate(const T* __restrict__ x, T* __restrict__ y, Wide<T> parameter, I count) {
    over_elements<T>(aligned(x) && aligned(y), count, [&](I at, auto width) {
        constexpr int N = decltype(width)::value;
        Pack<T, N> pack = load<N>(x + at);
#pragma unroll
        for (int k = 0; k < N; k++) pack.of[k] = narrow<T>(Activation::forward(widen<T>(pack.of[k]), parameter));
        store(y + at, pack);
    });
}

template <class T, class I, class Activation>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    activate_backward(const T* __restrict__ dy, const T* __restrict__ kept, T* __restrict__ dx, Wide<T> parameter,
                      I count) {
    over_elements<T>(aligned(dy) && aligned(kept) && aligned(dx), count, [&](I at, auto width) {
        constexpr int N = decltype(width)::value;
        const Pack<T, N> of_kept = load<N>(kept + at);
        Pack<T, N> pack = load<N>(dy + at);
#pragma unroll
        for (int k = 0; k < N; k++)
            pack.of[k] = narrow<T>(Activation::backward(widen<T>(pack.of[k]), widen<T>(of_kept.of[k]), parameter));
        store(dx + at, pack);
    });
}
