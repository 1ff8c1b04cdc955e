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
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    im2col(const T* __restrict__ x, T* __restrict__ columns, Window window, Planes<I> planes, ColumnsLayout<I> layout,
           Walk<I> walk) {
    const int kernel_h = KH ? KH : window.kernel_h, kernel_w = KW ? KW : window.kernel_w;
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const int top = to.h * window.stride_h - window.pad_top, left = to.w * window.stride_w - window.pad_left;
        const T* image = x + to.n * planes.image + to.c * planes.channel;
        T* out = columns + to.c * kernel_h * kernel_w * layout.row + to.n * layout.image + to.at;
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

// The same through shared memory, for K x K windows without strides or dilation and rows of whole vectors. A block
// stages `rows` + K - 1 padded rows of each of `images` images of a channel, in vectors of 16 bytes, `pitch` in a row.
// A thread then reads the vectors that hold what N neighbouring positions need of a row, and writes one for each tap:
//
//     row h of a 6 wide image, padding 1     0 a b c | d e f 0 |          N = 4, K = 3
//     positions 0 .. 3      tap (i, 0)       0 a b c
//                           tap (i, 1)         a b c   d
//                           tap (i, 2)           b c   d e
//
// Each pixel is read from memory once or twice instead of K * K times from the caches, and a quarter of the
// instructions write. Pixels are read one by one, since padding moves them away from multiples of 16 bytes.
struct Tile {
    int images, rows, pitch;  // images * (rows + K - 1) * pitch is at most TILE_VECTORS
};

constexpr int TILE_VECTORS = 1024;  // 16 KiB: four blocks fit into the 64 KiB of sm_75

template <class T, class I, int K>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    im2col_tiled(const T* __restrict__ x, T* __restrict__ columns, Window window, Planes<I> planes,
                 ColumnsLayout<I> layout, Tile tile, I batch, I channels) {
    constexpr int N = VECTOR<T>;
    constexpr int NEAR = (N + K - 1 + N - 1) / N;  // vectors that hold what N positions need of a row
    typedef Pack<T, N> Vector;
    SHARED_ARRAY(Vector, staged, TILE_VECTORS);
    const bool whole = aligned(columns) && layout.row % N == 0 && layout.image % N == 0;
    const int staged_rows = tile.rows + K - 1, steps = window.out_w / N;
    const I strips = (window.out_h + tile.rows - 1) / tile.rows, groups = (batch + tile.images - 1) / tile.images;
    for (I at = (I)blockIdx.x; at < channels * groups * strips; at += (I)gridDim.x) {
        const I c = at / strips / groups, first = at / strips % groups * tile.images;
        const int top = (int)(at % strips) * tile.rows, rows = min(tile.rows, window.out_h - top);
        const int images = batch - first < (I)tile.images ? (int)(batch - first) : tile.images;
        __syncthreads();  // the tile before this one has been read
        for (int i = (int)threadIdx.x; i < images * staged_rows * tile.pitch; i += THREADS) {
            const int row = i / tile.pitch, n = row / staged_rows;
            const int h = top + row % staged_rows - window.pad_top, left = i % tile.pitch * N - window.pad_left;
            const bool row_exists = h >= 0 && h < window.height;
            const T* image = x + (first + n) * planes.image + c * planes.channel;
            Vector pack;
#pragma unroll
            for (int k = 0; k < N; k++) {
                const int w = left + k;
                const bool exists = row_exists && w >= 0 && w < window.width;
                pack.of[k] = exists ? image[(I)h * window.width + w] : narrow<T>(0);
            }
            staged[i] = pack;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < images * rows * steps; i += THREADS) {
            const int row = i / steps, n = row / rows, p = row % rows, v = i % steps;
            T* out = columns + c * K * K * layout.row + (first + n) * layout.image;
            out += (I)(top + p) * window.out_w + v * N;
#pragma unroll 1
            for (int tap = 0; tap < K; tap++) {
                T near[NEAR * N];
#pragma unroll
                for (int m = 0; m < NEAR; m++) {
                    const Vector pack = staged[(n * staged_rows + p + tap) * tile.pitch + v + m];
#pragma unroll
                    for (int k = 0; k < N; k++) near[m * N + k] = pack.of[k];
                }
#pragma unroll
                for (int j = 0; j < K; j++) {
                    Vector pack;
#pragma unroll
                    for (int k = 0; k < N; k++) pack.of[k] = near[j + k];
                    if (whole) {
                        store(out, pack);
                    } else {
#pragma unroll
                        for (int k = 0; k < N; k++) out[k] = pack.of[k];
                    }
                    out += layout.row;
                }
            }
        }
    }
}

// One thread for each pixel (c, n, h, w) gathers what the windows over it hold, in the order of the taps: no atomics,
// the same bits every time.
template <class T, class I, int KH, int KW>
__global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    col2im(const T* __restrict__ columns, T* __restrict__ x, Window window, Planes<I> planes, ColumnsLayout<I> layout,
           Walk<I> walk) {
    const int kernel_h = KH ? KH : window.kernel_h, kernel_w = KW ? KW : window.kernel_w;
    GRID_STRIDE_LOOP(I, index, walk.count) {
        const Pixel<I> to = walk(index);
        const int h = to.h + window.pad_top, w = to.w + window.pad_left;
        const T* in = columns + to.c * kernel_h * kernel_w * layout.row + to.n * layout.image;
        Wide<T> sum = 0;
#pragma unroll 1  // unrolling the rows too takes more registers than there are for 7 x 7
        for (int i = 0; i < kernel_h; i++) {
            const int below = h - i * window.dilation_h, p = by_stride(below, window.stride_h);
            const bool row_reads = below >= 0 && p * window.stride_h == below && p < window.out_h;
#pragma unroll
            for (int j = 0; j < kernel_w; j++) {
                const int beside = w - j * window.dilation_w, q = by_stride(beside, window.stride_w);
                if (row_reads && beside >= 0 && q * window.stride_w == beside && q < window.out_w)
                    sum += widen<T>(in[(I)p * window.out_w + q]);
                in += layout.row;
            }
        }
        x[to.n * planes.image + to.c * planes.channel + to.at] = narrow<T>(sum);
    }
}
