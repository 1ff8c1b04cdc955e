/* Convolution without columns, for few channels: lanes are neighbouring output pixels.
 *
 * Each thread lays out a band of an image, padded and split by the phases of the stride, so that what a tap sees of one
 * output row is a run of memory, whatever the stride and the dilation:
 *
 *     padded row, stride 2      0 1 2 3 4 5 6
 *     phase 0 / phase 1         0 2 4 6 / 1 3 5      tap j reads phase (j mod 2) from entry j / 2 on
 *
 * Forward, the product is taken straight from there: a tile of MR filters by NV vectors of output pixels stays in
 * registers while the K = C kh kw taps go by. The gradient of the weights keeps a tile of filters by taps in registers
 * while the pixels go by, a lane for every LANES-th of them.
 *
 * The gradient of the image takes the product the other way round, some rows of dy at a time, tiles of taps by pixels
 * while the filters go by. Each tap has a plane for the result, as wide as a phase of the image, so that what reaches
 * one row of a phase is a sum of runs, and what reaches it from beyond the sides is zero:
 *
 *     a tap's plane             h h h h .      the last rows of the step before: later rows of the image need them
 *                               p p p p .      rows of W^T dy; '.' are zeros, one for every column that the kernel is wider
 *                               p p p p .
 *     phase row r, entry q      sum over taps (i, j) of the phase: plane of the tap, row r - i / stride, entry q - j / stride
 */
#ifndef XPC_DIRECT_H
#define XPC_DIRECT_H

#include "geometry.h"

typedef struct {
    ptrdiff_t channels, filters, height, width, out_h, out_w;
    xpc_axis vertical, horizontal;
} xpc_direct;

/* The least working memory of a thread in bytes, of forward or backward; -1 where it would exceed `most`, and where this
 * build has no such kernels. */
ptrdiff_t xpc_direct_bytes(const xpc_direct *conv, int backward, int itemsize, ptrdiff_t most);

/* y = the convolution of x with w (F, C kh kw, contiguous) plus b (F) if that is not NULL, max(y, 0) if `relu`. Images
 * have contiguous planes, of y and dy too. `most` bounds the working memory of all threads in bytes, as far as one row at
 * a time in one thread allows. Returns 0, or -1 where there is no memory. */
int xpc_direct_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b, int relu,
                   const xpc_array4 *y, ptrdiff_t most);
int xpc_direct_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b, int relu,
                   const xpc_array4 *y, ptrdiff_t most);

/* dx unless that is NULL; it takes w. dw (F, C kh kw, contiguous), and db (F) unless that is NULL, unless dw is NULL; they
 * take x. Sums over the images are taken in shares that depend on the shapes alone, not on the number of threads. */
int xpc_direct_backward_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                            const xpc_array4 *dx, float *dw, float *db, ptrdiff_t most);
int xpc_direct_backward_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                            const xpc_array4 *dx, double *dw, double *db, ptrdiff_t most);

#endif
