/* Images to columns and back, float32 and float64. */
#ifndef XPC_COLUMNS_H
#define XPC_COLUMNS_H

#include "geometry.h"

/* Copy what every tap sees:  cols[n, c, i, j, p, q] = x[n, c, p * stride + i * dilation - pad, ...], zero outside.
 *
 *     x of one channel, kernel 2 x 2        cols of that channel: one shifted image for each tap
 *
 *         a b c                 taps 0 0    a b      0 1    b c      1 0    d e      1 1    e f
 *         d e f                             d e             e f             g h             h i
 *         g h i
 *
 * The 6-D view decides the order of the memory, so that one kernel serves all of them:
 *     (N, C kh kw, oh ow)     torch.nn.functional.unfold
 *     (C kh kw, N oh ow)      channel-major, what the convolution multiplies
 */
void xpc_im2col_f32(const xpc_array4 *x, const xpc_array6 *cols, xpc_axis vertical, xpc_axis horizontal);
void xpc_im2col_f64(const xpc_array4 *x, const xpc_array6 *cols, xpc_axis vertical, xpc_axis horizontal);

/* The adjoint: x[n, c, h, w] = the sum of all column entries that im2col would copy from that pixel. Each pixel adds its
 * taps in the order of (i, j), whatever the number of threads. `accumulate` adds to what x holds instead. */
void xpc_col2im_f32(const xpc_array6 *cols, const xpc_array4 *x, xpc_axis vertical, xpc_axis horizontal,
                    int accumulate);
void xpc_col2im_f64(const xpc_array6 *cols, const xpc_array4 *x, xpc_axis vertical, xpc_axis horizontal,
                    int accumulate);

#endif
