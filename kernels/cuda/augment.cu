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

// V neighbouring pixels, stored at once: in stores of 16 bytes where they have as many.
template <class T, int V> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pixels { T pixel[V]; };

// y (count, C, H, W) of images (N, C, H, W) and choices (count, 4): image, dy, dx, whether it is mirrored.
// Each thread makes V pixels of a row; V divides W.
//
//     row of the image    a b c d e f              dx = 2, width 6
//     shifted             c d e f 0 0              pixel x is pixel x + dx
//     mirrored            0 0 f e d c              pixel x is pixel (W - 1 - x) + dx
template <class T, class I, int V>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
crop_flip_normalize(const uint8 *images, const int *choices, const Wide<T> *scale, const Wide<T> *shift, T *y, I count,
                    int channels, int height, int width) {
    const int pieces = width / V;
    GRID_STRIDE_LOOP(I, i, count * channels * height * pieces) {
        const I row = i / pieces, plane = row / height;
        const int first = (int)(i - row * pieces) * V, channel = (int)(plane % channels);
        const int *choice = choices + plane / channels * 4;
        const int source_row = (int)(row - plane * height) + choice[1];
        const bool row_inside = source_row >= 0 && source_row < height, mirrored = choice[3] != 0;
        // the set may have more elements than a batch has
        const uint8 *source = images + (((int64)choice[0] * channels + channel) * height + source_row) * width;
        const Wide<T> a = scale[channel], b = shift[channel];
        Pixels<T, V> result;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int x = (mirrored ? width - 1 - (first + v) : first + v) + choice[2];
            const bool inside = row_inside && x >= 0 && x < width;
            result.pixel[v] = narrow<T>(scaled(inside ? (Wide<T>)source[x] : (Wide<T>)0, a, b));
        }
        ((Pixels<T, V> *)y)[i] = result;
    }
}
