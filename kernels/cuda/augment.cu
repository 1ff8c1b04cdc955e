// Batches of a set of bytes that lies on the device: chosen, cropped, mirrored and normalised in one pass.
#include "common.cuh"

// One rounding for the product and one for the sum, so that all backends agree in every bit; the compiler would make
// one multiply-add of the two operators.
__device__ __forceinline__ float scaled(float x, float scale, float shift) {
    return __fadd_rn(__fmul_rn(x, scale), shift);
}
__device__ __forceinline__ double scaled(double x, double scale, double shift) {
    return __dadd_rn(__dmul_rn(x, scale), shift);
}

// y (count, C, H, W) of images (N, C, H, W) and choices (count, 4): image, dy, dx, whether it is mirrored.
// Each thread makes V pixels of a row; V divides W, and a walk's width is W / V. Neighbouring planes of y are channels of
// one image: in the walk channels take the part of a batch.
//
//     row of the image    a b c d e f              dx = 2, width 6
//     shifted             c d e f 0 0              pixel x is pixel x + dx
//     mirrored            0 0 f e d c              pixel x is pixel (W - 1 - x) + dx
template <class T, class I, int V>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    crop_flip_normalize(const uint8* __restrict__ images, const int* __restrict__ choices,
                        const Wide<T>* __restrict__ scale, const Wide<T>* __restrict__ shift, T* __restrict__ y,
                        Walk<I> walk, int channels, int height) {
    constexpr int N = V < VECTOR<T> ? V : VECTOR<T>;  // stored at once
    const int width = (int)walk.width.number * V;
    GRID_STRIDE_LOOP(I, i, walk.count) {
        const Pixel<I> piece = walk(i);
        const int channel = (int)piece.n, first = piece.w * V;
        const int* choice = choices + piece.c * 4;
        const int row = piece.h + choice[1];
        const bool row_inside = row >= 0 && row < height, mirrored = choice[3] != 0;
        // the set may have more elements than a batch has
        const uint8* source = images + (((int64)choice[0] * channels + channel) * height + row) * width;
        const Wide<T> a = scale[channel], b = shift[channel];
        Pack<T, N> packs[V / N];
#pragma unroll
        for (int v = 0; v < V; v++) {
            const int x = (mirrored ? width - 1 - (first + v) : first + v) + choice[2];
            const bool inside = row_inside && x >= 0 && x < width;
            packs[v / N].of[v % N] = narrow<T>(scaled(inside ? (Wide<T>)source[x] : (Wide<T>)0, a, b));
        }
#pragma unroll
        for (int k = 0; k < V / N; k++) store<N>(y + i * V + k * N, packs[k]);
    }
}
