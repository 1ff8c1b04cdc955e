/* Convolution without columns, for images and filters that fit into a core's cache.
 *
 * Every image is laid out once, padded and split by the phases of the stride, so that what a tap sees of one output row
 * is a run of memory, whatever the stride and the dilation:
 *
 *     padded row, stride 2      0 1 2 3 4 5 6
 *     phase 0 / phase 1         0 2 4 6 / 1 3 5      tap j reads phase (j mod 2) from entry j / 2 on
 *
 * The product is then taken straight from there: a tile of MR filters by NV vectors of neighbouring output pixels stays
 * in registers while the K = C kh kw taps go by. The gradient to the image runs the other way round, over the filters,
 * and adds to an image laid out in the same manner; that of the weights keeps a tile of filters by taps in registers
 * while the pixels go by, a lane for every LANES-th of them.
 */
#ifndef XPC_DIRECT_H
#define XPC_DIRECT_H

#include "geometry.h"

typedef struct {
    ptrdiff_t channels, filters, height, width, out_h, out_w;
    xpc_axis vertical, horizontal;
} xpc_direct;

/* Bytes of working memory for a call; -1 where they would exceed `most`, and where this build has no such kernels. */
ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most);

/* y = the convolution of x with w (F, C kh kw, contiguous) plus b (F) if that is not NULL. Along the last axis y, and
 * dy below, are contiguous; all other strides are free. `memory` is aligned to 64 bytes. */
void xpc_direct_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b,
                    const xpc_array4 *y, void *memory);
void xpc_direct_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b,
                    const xpc_array4 *y, void *memory);

/* dw (F, C kh kw, contiguous) and db (F), sums over the images given; dx unless that is NULL. */
void xpc_direct_backward_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                             const xpc_array4 *dx, float *dw, float *db, void *memory);
void xpc_direct_backward_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                             const xpc_array4 *dx, double *dw, double *db, void *memory);

#endif
