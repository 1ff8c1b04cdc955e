// One step of an optimizer over one flat parameter, by the formulas of xpconv._generic.optim. Parameter and state are
// updated in place. Learning rate and step count are read from the device if their pointers are not null, so that a
// captured graph can be replayed with new ones. A factor 1 - x comes as `share`, from the host's float64.
#include "common.cuh"

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    sgd_step(T* __restrict__ parameter, const T* __restrict__ gradient, T* __restrict__ velocity, bool first,
             const Wide<T>* __restrict__ device_lr, Wide<T> lr, Wide<T> momentum, Wide<T> share, bool nesterov,
             Wide<T> weight_decay, I count) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    GRID_STRIDE_LOOP(I, i, count) {
        const W p = widen<T>(parameter[i]);
        W g = widen<T>(gradient[i]) + weight_decay * p;
        if (velocity) {
            const W v = first ? g : momentum * widen<T>(velocity[i]) + share * g;
            velocity[i] = narrow<T>(v);
            g = nesterov ? g + momentum * v : v;
        }
        parameter[i] = narrow<T>(p - lr * g);
    }
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    rmsprop_step(T* __restrict__ parameter, const T* __restrict__ gradient, T* __restrict__ square_avg,
                 T* __restrict__ buffer, bool first, const Wide<T>* __restrict__ device_lr, Wide<T> lr, Wide<T> alpha,
                 Wide<T> share, Wide<T> eps, Wide<T> momentum, Wide<T> weight_decay, I count) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    GRID_STRIDE_LOOP(I, i, count) {
        const W p = widen<T>(parameter[i]), g = widen<T>(gradient[i]) + weight_decay * p;
        const W square = alpha * widen<T>(square_avg[i]) + share * g * g;
        square_avg[i] = narrow<T>(square);
        W step = g / (sqrt(square) + eps);
        if (buffer) {
            if (!first) step += momentum * widen<T>(buffer[i]);
            buffer[i] = narrow<T>(step);
        }
        parameter[i] = narrow<T>(p - lr * step);
    }
}

// What a moving average needs of its beta, from the host's float64: share is 1 - beta, and 1 - beta**step follows from
// the logarithm without cancellation.
template <class T> struct Decay {
    Wide<T> beta, share, log;
};

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    adam_step(T* __restrict__ parameter, const T* __restrict__ gradient, T* __restrict__ m, T* __restrict__ v,
              const int64* __restrict__ device_step, int64 step, const Wide<T>* __restrict__ device_lr, Wide<T> lr,
              Decay<T> of_m, Decay<T> of_v, Wide<T> eps, Wide<T> weight_decay, bool decoupled, I count) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    if (device_step) step = *device_step;
    const W size = lr / -expm1((W)step * of_m.log), scale = 1 / sqrt(-expm1((W)step * of_v.log));
    GRID_STRIDE_LOOP(I, i, count) {
        W p = widen<T>(parameter[i]), g = widen<T>(gradient[i]);
        if (decoupled)
            p *= 1 - lr * weight_decay;
        else
            g += weight_decay * p;
        const W mean = of_m.beta * widen<T>(m[i]) + of_m.share * g;
        const W square = of_v.beta * widen<T>(v[i]) + of_v.share * g * g;
        m[i] = narrow<T>(mean);
        v[i] = narrow<T>(square);
        parameter[i] = narrow<T>(p - size * mean / (sqrt(square) * scale + eps));
    }
}
