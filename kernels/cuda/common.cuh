// What every CUDA kernel of xpconv shares.
//
// One source, three readers: NVRTC at run time, nvcc by hand, and the host compiler in tests (with XPCONV_ON_HOST, where
// xpconv/testing/cuda_host/cuda_on_host.cuh plays the part of CUDA). It includes CUDA's own headers only, and those only
// where an instance needs them.
//
// Template arguments that recur:
//     T   type of the numbers in memory: float, double, __half, __nv_bfloat16
//     I   type of indices: int where every index fits into it, else long long
#pragma once

#ifndef XPCONV_ON_HOST
#ifdef XPCONV_HALF
#include <cuda_fp16.h>
#endif
#ifdef XPCONV_BFLOAT16
#include <cuda_bf16.h>
#endif
#define SHARED_ARRAY(T, name, size) __shared__ T name[size]
#endif

typedef long long int64;
typedef unsigned char uint8;

constexpr int THREADS = 256;  // of a block, in every kernel; launch.py launches no other number

// Blocks that a multiprocessor can hold at the least, which gives a thread 64 registers. Without it the compiler spills
// some registers where that lets one more block in.
constexpr int MIN_BLOCKS = 4;

// Grid-stride loop: a grid of any size covers any number of elements.
//
//     elements   0 1 2 3 4 5 6 7 8 9 ...
//     thread     0 1 2 3 0 1 2 3 0 1 ...       here with 4 threads in the whole grid
#define GRID_STRIDE_LOOP(I, index, count)                                           \
    for (I index = (I)blockIdx.x * (I)blockDim.x + (I)threadIdx.x; index < (count); \
         index += (I)gridDim.x * (I)blockDim.x)

// ---- division ---------------------------------------------------------------------------------------------------

// Division by a number that is the same in the whole launch. Where indices have 32 bits it is a product and a shift, for
// numerators below 2^31 (Granlund, Montgomery 1994): a division takes some twenty instructions, which kernels that move a
// few bytes for each index cannot afford. See xpconv/_gpu/walk.py.
template <class I> struct Divisor {
    I number;
    __device__ __forceinline__ I into(I numerator) const { return numerator / number; }
};
template <> struct Divisor<int> {
    int number;
    unsigned magic;
    int shift;
    __device__ __forceinline__ int into(int numerator) const {
        return (int)((unsigned long long)(unsigned)numerator * magic >> shift);
    }
};

// The quotient of `number` and the stride of a window, which mostly is 1 or 2. Negative numbers may be rounded down or up.
__device__ __forceinline__ int by_stride(int number, int stride) {
    return stride == 1 ? number : stride == 2 ? number >> 1 : number / stride;
}

// ---- numbers ----------------------------------------------------------------------------------------------------

// Sums and functions of T are computed in Wide<T>: double for double, else float.
template <class T> struct WideOf { typedef float type; };
template <> struct WideOf<double> { typedef double type; };
template <class T> using Wide = typename WideOf<T>::type;

template <class T> __device__ __forceinline__ Wide<T> widen(T value) { return value; }
template <class T> __device__ __forceinline__ T narrow(Wide<T> value) { return value; }
#ifdef XPCONV_HALF
template <> __device__ __forceinline__ float widen<__half>(__half value) { return __half2float(value); }
template <> __device__ __forceinline__ __half narrow<__half>(float value) { return __float2half(value); }
#endif
#ifdef XPCONV_BFLOAT16
template <> __device__ __forceinline__ float widen<__nv_bfloat16>(__nv_bfloat16 value) {
    return __bfloat162float(value);
}
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}
#endif

// ---- 16 bytes at a time -----------------------------------------------------------------------------------------
//
// A thread that reads and writes 16 bytes at once takes a quarter of the instructions, and of the arithmetic of indices,
// of one that takes a float:
//
//     elements   0 1 2 3   4 5 6 7   8 9 10 11   ...   left over, one by one
//     thread        0         1          2       ...
//
// CUDA reads and writes them at multiples of 16 bytes only: where a pointer or a step between planes is none, kernels go
// element by element. They see to that themselves, and a call needs to know nothing of it.

template <class T, int N> struct alignas(sizeof(T) * N) Pack { T of[N]; };

template <class T> constexpr int VECTOR = 16 / (int)sizeof(T);  // elements in 16 bytes

template <int N, class T> __device__ __forceinline__ Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T> __device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
template <class T> __device__ __forceinline__ bool aligned(const T* pointer) { return (size_t)pointer % 16 == 0; }

// How many elements a function takes at a time, as an argument of it: `constexpr int N = decltype(width)::value;`
template <int N> struct Width { static constexpr int value = N; };

// Calls take(first, width) for all of `count` elements, in vectors of 16 bytes as far as they go.
template <class T, class I, class Take> __device__ __forceinline__ void over_elements(bool vectors, I count, Take take) {
    constexpr int N = VECTOR<T>;
    const I whole = vectors ? count / N : 0, left = count - whole * N;
    GRID_STRIDE_LOOP(I, i, whole) take(i * N, Width<N>());
    GRID_STRIDE_LOOP(I, i, left) take(whole * N + i, Width<1>());
}

// ---- images -----------------------------------------------------------------------------------------------------

// A window that slides over images, as xpconv._geometry.Window; the order of the members is that of launch.py.
struct Window {
    int height, width;
    int kernel_h, kernel_w;
    int stride_h, stride_w;
    int pad_top, pad_bottom, pad_left, pad_right;
    int dilation_h, dilation_w;
    int out_h, out_w;
};

// Images whose planes (H, W) are contiguous, but images and channels lie anywhere: plane (n, c) of pixels starts at
// n * image + c * channel. It serves batch-first and channel-major memory, and slices of both.
template <class I> struct Planes {
    I image, channel;
    // Whether every vector of 16 bytes in a plane of so many pixels begins at a multiple of 16 bytes, if the array does.
    template <class T> __device__ __forceinline__ bool in_vectors(I length) const {
        return length % VECTOR<T> == 0 && image % VECTOR<T> == 0 && channel % VECTOR<T> == 0;
    }
};

// Which pixel of which image each index is; neighbouring indices are neighbouring pixels, then images, then channels.
template <class I> struct Pixel {
    I c, n, at;  // at: h * width + w
    int h, w;
};
template <class I> struct Walk {
    Divisor<I> batch, pixels, width;
    I count;  // of all pixels in all channels of all images
    __device__ __forceinline__ Pixel<I> operator()(I index) const {
        const I plane = pixels.into(index), at = index - plane * pixels.number;
        const I c = batch.into(plane), h = width.into(at);
        return {c, plane - c * batch.number, at, (int)h, (int)(at - h * width.number)};
    }
};
