// The activation Snake, y = x + sin(a x)^2 / a, with an a for each channel.
//
// Arrays are (images, channels, pixels) in C order: element i belongs to channel i / pixels % channels.
// T is float or double; indices are 64 bits wide, so that arrays of any size work.
typedef long long Index;

constexpr int THREADS = 256;  // of a block, a power of two; xpconv launches as many

// Every thread takes one element for each round of the whole grid, which may be of any size.
template <class T>
__global__ void snake(const T* x, const T* alpha, T* y, Index channels, Index pixels, Index count) {
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < count; i += (Index)gridDim.x * blockDim.x) {
        const T a = alpha[i / pixels % channels], s = sin(a * x[i]);
        y[i] = x[i] + s * s / a;
    }
}

// dx = dy (1 + sin(2 a x)), and dalpha = the sum of dy (x sin(2 a x) - sin(a x)^2 / a) / a over a channel.
//
// One block for each channel. Its threads add up what they meet; then their sums are added in pairs, in an order that is
// always the same:
//
//     sums  0 1 2 3 4 5 6 7
//           └─┼─┼─┼─┘ │ │ │     first the upper half to the lower one, then again with half as many
template <class T>
__global__ void snake_backward(const T* dy, const T* x, const T* alpha, T* dx, T* dalpha, Index images, Index channels,
                               Index pixels) {
    SHARED_ARRAY(T, sums, THREADS);
    const Index c = blockIdx.x;
    const T a = alpha[c];
    T sum = 0;
    for (Index k = threadIdx.x; k < images * pixels; k += THREADS) {
        const Index i = (k / pixels * channels + c) * pixels + k % pixels;
        const T s = sin(a * x[i]), twice = sin(2 * a * x[i]);
        dx[i] = dy[i] * (1 + twice);
        sum += dy[i] * (x[i] * twice - s * s / a) / a;
    }
    sums[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();  // what is read next has been written
        if ((int)threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) dalpha[c] = sums[0];
}
