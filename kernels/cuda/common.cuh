// What every CUDA kernel of xpconv shares. The text is compiled by NVRTC at run time and must not include host headers.
//
// Grid-stride loop: any grid covers any number of elements, so the launch never limits the size of an array.
//
//     elements   0 1 2 3 4 5 6 7 8 9 ...
//     thread     0 1 2 3 0 1 2 3 0 1 ...       here with 4 threads in the whole grid
//
// Sizes are 64-bit: an activation of 2^31 elements is 8 GB and fits on today's devices.
#pragma once

typedef long long xpc_size;

#define XPC_GRID_STRIDE_LOOP(index, count)                                                  \
    for (xpc_size index = (xpc_size)blockIdx.x * blockDim.x + threadIdx.x; index < (count); \
         index += (xpc_size)gridDim.x * blockDim.x)

// Ceiling division of non-negative numbers, for output ranges and launch sizes.
__host__ __device__ inline xpc_size xpc_ceil_div(xpc_size number, xpc_size divisor) {
    return (number + divisor - 1) / divisor;
}
