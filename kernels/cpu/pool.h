/* Max and average pooling, float32 and float64.
 *
 *     x of one channel, window 2 x 2, stride 2       y          argmax: taps of the window
 *
 *         1 5 | 2 0                                 9 4         2 3                 0 1
 *         9 3 | 1 4                                 7 8         0 1                 2 3
 *         ----+----
 *         7 7 | 6 8                                 of equal maxima the first one counts
 *         0 2 | 5 8
 *
 * Windows are clipped to the image. Small windows are taken apart, first columns, then rows. A pixel gets its
 * contributions in an order that does not depend on the number of threads: of the maximum, in that of the outputs.
 */
#ifndef XPC_POOL_H
#define XPC_POOL_H

#include "geometry.h"

/* Where an average counts pixels along one axis: positions [low, high) of the image, in pixels; negative and beyond
 * the image where padding counts. */
typedef struct {
    xpc_range vertical, horizontal;
} xpc_counted;

/* y and argmax (N, C, oh, ow). argmax has unsigned elements of 1 byte or signed ones of 4. A NaN in the window is its
 * maximum. A window that sees no pixel gives -inf. */
void xpc_max_pool(const xpc_array4 *x, const xpc_array4 *y, const xpc_array4 *argmax, int argmax_size,
                  xpc_axis vertical, xpc_axis horizontal, int is_double);

/* dx (N, C, H, W), overwritten. Returns 0 if an entry of argmax is no tap of its window inside the image (dx is then
 * wrong, but nothing outside of it was touched), else 1. */
int xpc_max_pool_backward(const xpc_array4 *dy, const xpc_array4 *argmax, int argmax_size, const xpc_array4 *dx,
                          xpc_axis vertical, xpc_axis horizontal, int is_double);

/* Sums of the windows, in double where they are large, divided by the number of their taps inside `counted`. */
void xpc_avg_pool(const xpc_array4 *x, const xpc_array4 *y, xpc_axis vertical, xpc_axis horizontal,
                  xpc_counted counted, int is_double);
void xpc_avg_pool_backward(const xpc_array4 *dy, const xpc_array4 *dx, xpc_axis vertical, xpc_axis horizontal,
                           xpc_counted counted, int is_double);

/* Means of as many bins as y (N, C, oh, ow) has pixels: bin k of n reaches from floor(k * size / n) to
 * ceil((k + 1) * size / n). y has at least one pixel, and so has x. */
void xpc_adaptive_avg_pool(const xpc_array4 *x, const xpc_array4 *y, int is_double);
void xpc_adaptive_avg_pool_backward(const xpc_array4 *dy, const xpc_array4 *dx, int is_double);

#endif
