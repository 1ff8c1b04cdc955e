// Images to columns and back.
//
//     image (4 wide)      columns of a 2 x 2 kernel, stride 1: one row for each tap, one column for each position
//     a b c d
//     e f g h             tap (0,0)   a b c  e f g ...
//     ...                 tap (0,1)   b c d  f g h ...
//                         tap (1,0)   e f g  ...
//                         tap (1,1)   f g h  ...
//
// Element (c, t, n, p) of the columns, for channel c, tap t = i * kernel_w + j, image n and position p, is at
// (c * taps + t) * row + n * image + p. With that, one kernel writes both orders that are in use:
//     (N, C taps, P)    row = P,      image = C taps P        xpconv.functional.im2col
//     (C taps, N P)     row = N P,    image = P               convolution as one matrix product
//
// KH, KW: size of the kernel, so that the loops over taps unroll; 0, 0 takes it from the window.
#include "common.cuh"

template <class I> struct ColumnsLayout {
    I row, image;
};

// One thread for each (c, n, p); neighbouring threads read and write neighbouring positions.
template <class T, class I, int KH, int KW>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS) im2col(const T* __restrict__ x, T* __restrict__ columns, Window window,
                                                  Planes<I> planes, ColumnsLayout<I> layout, I batch, I channels) {
    const int kernel_h = KH ? KH : window.kernel_h, kernel_w = KW ? KW : window.kernel_w;
    const I positions = (I)window.out_h * window.out_w;
    GRID_STRIDE_LOOP(I, index, channels * batch * positions) {
        const I p = index % positions, plane = index / positions, n = plane % batch, c = plane / batch;
        const int top = (int)(p / window.out_w) * window.stride_h - window.pad_top;
        const int left = (int)(p % window.out_w) * window.stride_w - window.pad_left;
        const T* image = x + n * planes.image + c * planes.channel;
        T* out = columns + c * kernel_h * kernel_w * layout.row + n * layout.image + p;
        constexpr int ROWS_UNROLLED = KH && KH <= 5 ? KH : 1;  // all rows of 7 x 7 take too many registers
#pragma unroll ROWS_UNROLLED
        for (int i = 0; i < kernel_h; i++) {
            const int h = top + i * window.dilation_h;
            const bool row_exists = h >= 0 && h < window.height;
#pragma unroll
            for (int j = 0; j < kernel_w; j++) {
                const int w = left + j * window.dilation_w;
                const bool exists = row_exists && w >= 0 && w < window.width;
                *out = exists ? image[(I)h * window.width + w] : narrow<T>(0);
                out += layout.row;
            }
        }
    }
}

// One thread for each pixel (c, n, h, w) gathers what the windows over it hold, in the order of the taps: no atomics,
// the same bits every time.
template <class T, class I, int KH, int KW>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS) col2im(const T* __restrict__ columns, T* __restrict__ x, Window window,
                                                  Planes<I> planes, ColumnsLayout<I> layout, I batch, I channels) {
    const int kernel_h = KH ? KH : window.kernel_h, kernel_w = KW ? KW : window.kernel_w;
    const I pixels = (I)window.height * window.width;
    GRID_STRIDE_LOOP(I, index, channels * batch * pixels) {
        const I pixel = index % pixels, plane = index / pixels, n = plane % batch, c = plane / batch;
        const int h = (int)(pixel / window.width) + window.pad_top, w = (int)(pixel % window.width) + window.pad_left;
        const T* in = columns + c * kernel_h * kernel_w * layout.row + n * layout.image;
        Wide<T> sum = 0;
#pragma unroll 1  // unrolling the rows too takes more registers than there are for 7 x 7
        for (int i = 0; i < kernel_h; i++) {
            const int below = h - i * window.dilation_h, p = below / window.stride_h;
            const bool row_reads = below >= 0 && p * window.stride_h == below && p < window.out_h;
#pragma unroll
            for (int j = 0; j < kernel_w; j++) {
                const int beside = w - j * window.dilation_w, q = beside / window.stride_w;
                if (row_reads && beside >= 0 && q * window.stride_w == beside && q < window.out_w)
                    sum += widen<T>(in[(I)p * window.out_w + q]);
                in += layout.row;
            }
        }
        x[n * planes.image + c * planes.channel + pixel] = narrow<T>(sum);
    }
}
