// Steps of optimizers and the clipping of gradients, for many tensors in one launch, by the formulas of
// xpconv._generic.optim. Parameters and state are updated in place. Learning rate and step count are read from the
// device if their pointers are not null, so that a captured graph can be replayed with new ones. A factor 1 - x comes as
// `share`, from the host's float64.
#include "reduce.cuh"

// ---- many tensors in one launch ---------------------------------------------------------------------------------

// A tensor's arrays, by what they are to a kernel. Those of state may be absent: null pointers.
enum Role { PARAMETER, GRADIENT, STATE, SECOND_STATE, ROLES };
constexpr int ONLY_GRADIENT = 1 << GRADIENT, ALL = (1 << ROLES) - 1, ALL_BUT_GRADIENT = ALL - ONLY_GRADIENT;

constexpr int TENSORS = 88;  // of a launch at most: with the largest other arguments it makes 4 KiB, all that CUDA takes

// Tensors cut into chunks, one block for each, so that many small ones and a large one fill the device alike:
//
//     tensor      0 0 0 0 0 . 1 1 2 2 2 2 2 2
//     block       0   1   2   3   4   5   6        here with chunks of 2; first_block is 0 3 4
//
// It is passed by value: a graph that has recorded a launch keeps its addresses. The order of members is that of optim.py.
template <class T> struct Tensors {
    T* data[ROLES][TENSORS];
    int64 size[TENSORS];
    int first_block[TENSORS];
    int count, chunk;
};

template <class T> __device__ __forceinline__ int tensor_of_block(const Tensors<T>& tensors) {
    int low = 0, high = tensors.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tensors.first_block[middle] <= (int)blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Calls update(values) for every element of the block's chunk, values[role] being its numbers: READ and WRITTEN say, in
// one bit for each role, what it needs of them and what it changes.
template <class T, class I, int READ, int WRITTEN, class Update>
__device__ __forceinline__ void over_tensors(const Tensors<T>& tensors, Update update) {
    const int tensor = tensor_of_block(tensors);
    const I start = (I)((int)blockIdx.x - tensors.first_block[tensor]) * tensors.chunk;
    const I left = (I)tensors.size[tensor] - start;
    const int length = left < tensors.chunk ? (int)left : tensors.chunk;
    T* memory[ROLES];
    bool vectors = true;
#pragma unroll
    for (int role = 0; role < ROLES; role++) {
        memory[role] = (READ | WRITTEN) >> role & 1 ? tensors.data[role][tensor] : nullptr;
        vectors = vectors && aligned(memory[role]);  // then the chunk is so as well
        if (memory[role]) memory[role] += start;
    }
    auto take = [&](int i, auto width) {
        constexpr int N = decltype(width)::value;
        Pack<T, N> packs[ROLES] = {};
#pragma unroll
        for (int role = 0; role < ROLES; role++)
            if (READ >> role & 1 && memory[role]) packs[role] = load<N>(memory[role] + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            Wide<T> values[ROLES];
#pragma unroll
            for (int role = 0; role < ROLES; role++) values[role] = widen<T>(packs[role].of[k]);
            update(values);
#pragma unroll
            for (int role = 0; role < ROLES; role++)
                if (WRITTEN >> role & 1) packs[role].of[k] = narrow<T>(values[role]);
        }
#pragma unroll
        for (int role = 0; role < ROLES; role++)
            if (WRITTEN >> role & 1 && memory[role]) store<N>(memory[role] + i, packs[role]);
    };
    constexpr int N = VECTOR<T>;
    const int whole = vectors ? length / N * N : 0;
    for (int i = (int)threadIdx.x * N; i < whole; i += THREADS * N) take(i, Width<N>());
#pragma unroll 1  // rarely more than a turn: no registers for it
    for (int i = whole + (int)threadIdx.x; i < length; i += THREADS) take(i, Width<1>());
}

// ---- optimizers -------------------------------------------------------------------------------------------------

// Roots and quotients of doubles take more registers than MIN_BLOCKS leaves.
template <class T> constexpr int ROOT_BLOCKS = sizeof(T) == 8 ? MIN_BLOCKS - 1 : MIN_BLOCKS;

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    sgd_steps(const Tensors<T> tensors, bool first, const Wide<T>* __restrict__ device_lr, Wide<T> lr, Wide<T> momentum,
              Wide<T> share, bool nesterov, Wide<T> weight_decay) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    const bool moving = tensors.data[STATE][0];
    over_tensors<T, I, ALL, ALL_BUT_GRADIENT>(tensors, [&](W* of) {
        const W p = of[PARAMETER];
        W g = of[GRADIENT] + weight_decay * p;
        if (moving) {
            const W velocity = first ? g : momentum * of[STATE] + share * g;
            of[STATE] = velocity;
            g = nesterov ? g + momentum * velocity : velocity;
        }
        of[PARAMETER] = p - lr * g;
    });
}

// State is the mean of squares, and with momentum the second one its buffer.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, ROOT_BLOCKS<T>)
    rmsprop_steps(const Tensors<T> tensors, bool first, const Wide<T>* __restrict__ device_lr, Wide<T> lr, Wide<T> alpha,
                  Wide<T> share, Wide<T> eps, Wide<T> momentum, Wide<T> weight_decay) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    const bool moving = tensors.data[SECOND_STATE][0];
    over_tensors<T, I, ALL, ALL_BUT_GRADIENT>(tensors, [&](W* of) {
        const W p = of[PARAMETER], g = of[GRADIENT] + weight_decay * p;
        const W square = alpha * of[STATE] + share * g * g;
        of[STATE] = square;
        W step = g / (sqrt(square) + eps);
        if (moving) {
            if (!first) step += momentum * of[SECOND_STATE];
            of[SECOND_STATE] = step;
        }
        of[PARAMETER] = p - lr * step;
    });
}

// What a moving average needs of its beta, from the host's float64: share is 1 - beta, and 1 - beta**step follows from
// the logarithm without cancellation.
template <class T> struct Decay {
    Wide<T> beta, share, log;
};

// State is the mean, the second one the mean of squares.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, ROOT_BLOCKS<T>)
    adam_steps(const Tensors<T> tensors, const int64* __restrict__ device_step, int64 step,
               const Wide<T>* __restrict__ device_lr, Wide<T> lr, Decay<T> of_m, Decay<T> of_v, Wide<T> eps,
               Wide<T> weight_decay, bool decoupled) {
    typedef Wide<T> W;
    if (device_lr) lr = *device_lr;
    if (device_step) step = *device_step;
    const W size = lr / -expm1((W)step * of_m.log), scale = 1 / sqrt(-expm1((W)step * of_v.log));
    over_tensors<T, I, ALL, ALL_BUT_GRADIENT>(tensors, [&](W* of) {
        W p = of[PARAMETER], g = of[GRADIENT];
        if (decoupled)
            p *= 1 - lr * weight_decay;
        else
            g += weight_decay * p;
        const W mean = of_m.beta * of[STATE] + of_m.share * g;
        const W square = of_v.beta * of[SECOND_STATE] + of_v.share * g * g;
        of[STATE] = mean;
        of[SECOND_STATE] = square;
        of[PARAMETER] = p - size * mean / (sqrt(square) * scale + eps);
    });
}

// Counts a step, in one thread.
template <class T, class I> __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) count_step(int64* __restrict__ step) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *step += 1;
}

// ---- clipping ---------------------------------------------------------------------------------------------------

// The sum of squares of gradients, in two steps: of each chunk, into partial[first + block], then of all.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    partial_squares(const Tensors<T> tensors, Wide<T>* __restrict__ partial, I first) {
    typedef Wide<T> W;
    W sum = 0;
    over_tensors<T, I, ONLY_GRADIENT, 0>(tensors, [&](W* of) { sum += of[GRADIENT] * of[GRADIENT]; });
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[first + (I)blockIdx.x] = sum;
}

// For one block.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    finish_squares(const Wide<T>* __restrict__ partial, Wide<T>* __restrict__ square, I count) {
    Wide<T> sum = 0;
    for (I i = (I)threadIdx.x; i < count; i += THREADS) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *square = sum;
}

// Gradients times max_norm / (norm + 1e-6) where that is below one, into the arrays in the place of parameters. A norm
// that is not finite leaves them as they are.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    clip_gradients(const Tensors<T> tensors, const Wide<T>* __restrict__ square, Wide<T>* __restrict__ norm,
                   Wide<T> max_norm) {
    typedef Wide<T> W;
    const W length = sqrt(*square);
    if (blockIdx.x == 0 && threadIdx.x == 0) *norm = length;
    const W scale = max_norm / (length + (W)1e-6);
    const bool finite = length * 0 == 0;
    const W factor = finite && scale < 1 ? scale : (W)1;
    over_tensors<T, I, ONLY_GRADIENT, 1 << PARAMETER>(tensors, [&](W* of) { of[PARAMETER] = factor * of[GRADIENT]; });
}

// Arrays in the place of gradients into those in the place of parameters. Nothing is computed, so integers may pass for
// floating-point numbers.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS) copy_tensors(const Tensors<T> tensors) {
    over_tensors<T, I, ONLY_GRADIENT, 1 << PARAMETER>(tensors, [&](Wide<T>* of) { of[PARAMETER] = of[GRADIENT]; });
}
