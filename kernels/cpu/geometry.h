/* Strided arrays and the arithmetic of sliding windows, shared by all kernels.
 *
 * Arrays come with their strides in bytes, any of them: negative, zero (broadcast), of transposed or Fortran-ordered
 * arrays. All sizes and offsets are ptrdiff_t, 64 bits wide where pointers are.
 */
#ifndef XPC_GEOMETRY_H
#define XPC_GEOMETRY_H

#include <stddef.h>

/* XPC_CLONES makes the compiler build a function for wider vectors too, and the loader pick; the build defines
 * XPC_TARGET_CLONES where both can do so. The loops that it calls are XPC_INLINE, to become part of each clone. */
#ifdef XPC_TARGET_CLONES
#define XPC_CLONES __attribute__((target_clones("avx2", "default")))
#define XPC_INLINE static inline __attribute__((always_inline))
#else
#define XPC_CLONES
#define XPC_INLINE static inline
#endif

/* Where inlining makes the compiler forget `restrict`, and vectors with it. */
#ifdef __GNUC__
#define XPC_NOINLINE __attribute__((noinline))
#else
#define XPC_NOINLINE
#endif

/* Images and results of pooling: axes (N, C, H, W). */
typedef struct {
    char *data;
    ptrdiff_t shape[4], strides[4];
} xpc_array4;

/* Columns: axes (N, C, kernel_h, kernel_w, out_h, out_w) in whatever order of memory. */
typedef struct {
    char *data;
    ptrdiff_t shape[6], strides[6];
} xpc_array6;

/* One axis of a window, here with kernel 3, dilation 2, stride 2, pad 1 and input size 6:
 *
 *     input        .  a  b  c  d  e  f  .       '.' is padding, which is nowhere in memory
 *     output 0     x     x     x                tap k of output o reads o * stride + k * dilation - pad
 *     output 1           x     x     x
 *
 * The pad is negative where a call sees only a part of the outputs. */
typedef struct {
    ptrdiff_t kernel, stride, pad, dilation;
} xpc_axis;

static inline ptrdiff_t xpc_min(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

static inline ptrdiff_t xpc_max(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

static inline ptrdiff_t xpc_ceil_div(ptrdiff_t number, ptrdiff_t divisor)
{
    return number > 0 ? (number - 1) / divisor + 1 : -(-number / divisor);
}

typedef struct {
    ptrdiff_t begin, end;
} xpc_range;

/* The outputs of [first, last) for which tap `k` reads input positions of [low, high): splits border from interior. */
static inline xpc_range xpc_outputs(xpc_axis axis, ptrdiff_t k, ptrdiff_t low, ptrdiff_t high, ptrdiff_t first,
                                    ptrdiff_t last)
{
    ptrdiff_t offset = k * axis.dilation - axis.pad;
    xpc_range range = {first, last};
    /* divisions only where the border cuts */
    if (first * axis.stride + offset < low)
        range.begin = xpc_min(xpc_max(xpc_ceil_div(low - offset, axis.stride), first), last);
    if ((last - 1) * axis.stride + offset >= high)
        range.end = xpc_min(xpc_ceil_div(high - offset, axis.stride), last);
    range.end = xpc_max(range.begin, range.end);
    return range;
}

#endif
