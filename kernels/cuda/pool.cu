// Pooling. Forward, one thread for each output pixel reads its window; backward, one thread for each input pixel gathers
// from the windows over it, so that no two threads add to the same place and every run gives the same bits.
//
//     3 x 3 windows, stride 2      pixel (2, 2) is tap (2,2) of window (0,0), (2,0) of (0,1), (0,2) of (1,0)
//     . . . . .                    and (0,0) of (1,1)
//     . 0 . 1 .
//     . . # . .                    tap (i, j) of window (p, q) is pixel
//     . 2 . 3 .                        (p * stride_h + i * dilation_h - pad_top, q * stride_w + ... - pad_left)
//     . . . . .
//
// Index: type of the numbers that say where the maximum was, uint8 or int.
#include "reduce.cuh"

template <class T, class I, class Index>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    max_pool(const T* __restrict__ x, T* __restrict__ y, Index* __restrict__ argmax, Window window, Planes<I> in,
             Planes<I> out, Walk<I> walk) {
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const int top = to.h * window.stride_h - window.pad_top, left = to.w * window.stride_w - window.pad_left;
        const T* image = x + to.n * in.image + to.c * in.channel;
        Wide<T> best = 0;
        int tap = -1;
        for (int i = 0; i < window.kernel_h; i++) {
            const int h = top + i * window.dilation_h;
            if (h < 0 || h >= window.height) continue;
            for (int j = 0; j < window.kernel_w; j++) {
                const int w = left + j * window.dilation_w;
                if (w < 0 || w >= window.width) continue;
                const Wide<T> value = widen<T>(image[(I)h * window.width + w]);
                // the first of equal maxima; the first NaN, once there is one
                if (tap < 0 || value > best || (value != value && best == best)) {
                    best = value;
                    tap = i * window.kernel_w + j;
                }
            }
        }
        const I at = to.n * out.image + to.c * out.channel + to.at;
        y[at] = narrow<T>(best);
        argmax[at] = (Index)tap;
    }
}

// The window row (or column) of which `pixel` is tap `tap`, or -1.
__device__ __forceinline__ int window_of(int pixel, int tap, int stride, int pad, int dilation, int out) {
    const int start = pixel + pad - tap * dilation, p = by_stride(start, stride);
    return start >= 0 && p * stride == start && p < out ? p : -1;
}

template <class T, class I, class Index>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    max_pool_backward(const T* __restrict__ dy, const Index* __restrict__ argmax, T* __restrict__ dx, Window window,
                      Planes<I> of_dy, Planes<I> of_argmax, Planes<I> of_dx, Walk<I> walk) {
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const T* gradient = dy + to.n * of_dy.image + to.c * of_dy.channel;
        const Index* chosen = argmax + to.n * of_argmax.image + to.c * of_argmax.channel;
        Wide<T> sum = 0;
        for (int i = 0; i < window.kernel_h; i++) {
            const int p = window_of(to.h, i, window.stride_h, window.pad_top, window.dilation_h, window.out_h);
            if (p < 0) continue;
            for (int j = 0; j < window.kernel_w; j++) {
                const int q = window_of(to.w, j, window.stride_w, window.pad_left, window.dilation_w, window.out_w);
                if (q < 0) continue;
                const I at = (I)p * window.out_w + q;
                if ((int)chosen[at] == i * window.kernel_w + j) sum += widen<T>(gradient[at]);
            }
        }
        dx[to.n * of_dx.image + to.c * of_dx.channel + to.at] = narrow<T>(sum);
    }
}

// The same for windows that tile the image, each pixel being in exactly one: a thread for each window writes all its
// pixels, a pair at a time where windows are two pixels wide.
//
//     a a b b      window a: dy where its argmax says, 0 elsewhere
//     a a b b
template <class T, class I, class Index>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    max_pool_backward_tiled(const T* __restrict__ dy, const Index* __restrict__ argmax, T* __restrict__ dx,
                            Window window, Planes<I> of_dy, Planes<I> of_argmax, Planes<I> of_dx, Walk<I> walk) {
    const int kernel_h = window.kernel_h, kernel_w = window.kernel_w;
    const bool pairs = kernel_w == 2 && aligned(dx) && of_dx.image % 2 == 0 && of_dx.channel % 2 == 0;
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> from = walk(index);
        const T gradient = dy[from.n * of_dy.image + from.c * of_dy.channel + from.at], zero = narrow<T>(0);
        const int chosen = (int)argmax[from.n * of_argmax.image + from.c * of_argmax.channel + from.at];
        T* out = dx + from.n * of_dx.image + from.c * of_dx.channel;
        out += (I)from.h * kernel_h * window.width + from.w * kernel_w;
        for (int i = 0, tap = 0; i < kernel_h; i++) {
            if (pairs) {
                store(out, Pack<T, 2>{{tap == chosen ? gradient : zero, tap + 1 == chosen ? gradient : zero}});
                tap += 2;
            } else {
                for (int j = 0; j < kernel_w; j++, tap++) out[j] = tap == chosen ? gradient : zero;
            }
            out += window.width;
        }
    }
}

// How many rows (or columns) of window `p` count in the mean; a window may reach beyond the padding (ceil_mode).
__device__ __forceinline__ int counted(int p, int size, int kernel, int stride, int before, int behind, bool padding) {
    int start = p * stride - before, stop = min(start + kernel, size + behind);
    if (!padding) {
        start = max(start, 0);
        stop = min(stop, size);
    }
    return stop - start;
}

__device__ __forceinline__ float pixels_of(const Window& window, int p, int q, bool padding) {
    return (float)counted(p, window.height, window.kernel_h, window.stride_h, window.pad_top, window.pad_bottom,
                          padding) *
           (float)counted(q, window.width, window.kernel_w, window.stride_w, window.pad_left, window.pad_right, padding);
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    avg_pool(const T* __restrict__ x, T* __restrict__ y, bool padding, Window window, Planes<I> in, Planes<I> out,
             Walk<I> walk) {
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const int top = to.h * window.stride_h - window.pad_top, left = to.w * window.stride_w - window.pad_left;
        const T* image = x + to.n * in.image + to.c * in.channel;
        Wide<T> sum = 0;
        for (int h = max(top, 0); h < min(top + window.kernel_h, window.height); h++)
            for (int w = max(left, 0); w < min(left + window.kernel_w, window.width); w++)
                sum += widen<T>(image[(I)h * window.width + w]);
        y[to.n * out.image + to.c * out.channel + to.at] = narrow<T>(sum / pixels_of(window, to.h, to.w, padding));
    }
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    avg_pool_backward(const T* __restrict__ dy, T* __restrict__ dx, bool padding, Window window, Planes<I> of_dy,
                      Planes<I> of_dx, Walk<I> walk) {
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const T* gradient = dy + to.n * of_dy.image + to.c * of_dy.channel;
        Wide<T> sum = 0;
        for (int i = 0; i < window.kernel_h; i++) {
            const int p = window_of(to.h, i, window.stride_h, window.pad_top, 1, window.out_h);
            if (p < 0) continue;
            for (int j = 0; j < window.kernel_w; j++) {
                const int q = window_of(to.w, j, window.stride_w, window.pad_left, 1, window.out_w);
                if (q >= 0) sum += widen<T>(gradient[(I)p * window.out_w + q]) / pixels_of(window, p, q, padding);
            }
        }
        dx[to.n * of_dx.image + to.c * of_dx.channel + to.at] = narrow<T>(sum);
    }
}

// ---- adaptive average pooling -----------------------------------------------------------------------------------
//
// Bin k of `out` bins over `size` pixels is [floor(k size / out), ceil((k + 1) size / out)); neighbours share a pixel
// unless out divides size. One bin is global pooling. The caller sees to it that (size + 1) * (out + 1) fits into an int.

__device__ __forceinline__ int bin_start(int k, int size, int out) { return k * size / out; }
__device__ __forceinline__ int bin_stop(int k, int size, int out) { return ((k + 1) * size + out - 1) / out; }
// the first bin that holds a pixel, and the one behind the last
__device__ __forceinline__ int first_bin(int pixel, int size, int out) { return pixel * out / size; }
__device__ __forceinline__ int stop_bin(int pixel, int size, int out) { return ((pixel + 1) * out + size - 1) / size; }

// One warp for each bin.
template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    adaptive_avg_pool(const T* __restrict__ x, T* __restrict__ y, int height, int width, int out_h, int out_w,
                      Planes<I> in, Planes<I> out, Walk<I> walk) {
    over_rows_by_warp(walk.count, [&](I bin, int lane) {
        const Pixel<I> to = walk(bin);
        const int top = bin_start(to.h, height, out_h), left = bin_start(to.w, width, out_w);
        const int rows = bin_stop(to.h, height, out_h) - top, columns = bin_stop(to.w, width, out_w) - left;
        const T* image = x + to.n * in.image + to.c * in.channel;
        const I pixels = (I)rows * columns;
        Wide<T> sum = 0;
        for (I i = lane; i < pixels; i += 32) sum += widen<T>(image[(top + i / columns) * width + left + i % columns]);
        sum = warp_sum(sum);
        if (lane == 0) y[to.n * out.image + to.c * out.channel + to.at] = narrow<T>(sum / (Wide<T>)pixels);
    });
}

template <class T, class I>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    adaptive_avg_pool_backward(const T* __restrict__ dy, T* __restrict__ dx, int height, int width, int out_h,
                               int out_w, Planes<I> of_dy, Planes<I> of_dx, Walk<I> walk) {
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const T* gradient = dy + to.n * of_dy.image + to.c * of_dy.channel;
        Wide<T> sum = 0;
        for (int p = first_bin(to.h, height, out_h); p < stop_bin(to.h, height, out_h); p++) {
            const int rows = bin_stop(p, height, out_h) - bin_start(p, height, out_h);
#pragma unroll 1  // more takes more registers than there are for double
            for (int q = first_bin(to.w, width, out_w); q < stop_bin(to.w, width, out_w); q++) {
                const int columns = bin_stop(q, width, out_w) - bin_start(q, width, out_w);
                sum += widen<T>(gradient[(I)p * out_w + q]) / (Wide<T>)(rows * columns);
            }
        }
        dx[to.n * of_dx.image + to.c * of_dx.channel + to.at] = narrow<T>(sum);
    }
}
